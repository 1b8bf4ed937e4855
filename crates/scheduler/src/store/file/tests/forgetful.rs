//! A disk that forgets what was not synced when its power fails, and refuses work when it is told to.
//!
//! It is a page cache above a medium. A write changes the cache; its pages reach the medium at a sync, or
//! before, whenever the disk likes. A loss of power leaves of each page that had not got there the old one,
//! the new one, or the beginning of the new one; of a file's length and of each name one or the other. A sync
//! that fails leaves pages unwritten that no later sync writes, as Linux does it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::file::disk::{Disk, DiskFile};

/// Small, so that frames of a test take several.
const PAGE: usize = 64;

/// What is asked of a disk, and can be refused or left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sync {
    /// Of a segment whose first frame was written.
    NewSegment,
    /// Of a segment to which was written.
    Append,
    /// Of a segment of which was written again what was found.
    Found,
    Snapshot,
    /// Of the names, after a segment was made, a snapshot put in its place, a segment taken away, or nothing.
    SegmentMade,
    SnapshotPlaced,
    SegmentTaken,
    NamesFound,
}

impl Sync {
    pub(super) const ALL: [Self; 8] = [
        Self::NewSegment,
        Self::Append,
        Self::Found,
        Self::Snapshot,
        Self::SegmentMade,
        Self::SnapshotPlaced,
        Self::SegmentTaken,
        Self::NamesFound,
    ];
}

#[derive(Debug, Clone, Default)]
struct Content {
    cache: Vec<u8>,
    medium: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// What was done last, for telling one sync from another.
    last: Last,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Last {
    #[default]
    Found,
    Begun,
    Synced,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    names_on_medium: BTreeMap<String, usize>,
    last_name: Option<Sync>,
    /// One in so many calls fails; never where it is 0.
    fails_one_in: u32,
    /// How many calls are answered before the power fails.
    calls_left: u32,
    left_out: Option<Sync>,
    seen: BTreeSet<Sync>,
}

/// The disk. A clone is the same one.
#[derive(Debug, Clone)]
pub(super) struct Forgetful(Arc<Mutex<State>>);

struct OpenFile {
    disk: Forgetful,
    file: usize,
    is_snapshot: bool,
    is_log: bool,
}

impl Forgetful {
    /// A disk that lets a kind of sync pass without doing it, if it is told to.
    pub(super) fn new(seed: u64, left_out: Option<Sync>) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            names_on_medium: BTreeMap::new(),
            last_name: None,
            fails_one_in: 0,
            calls_left: u32::MAX,
            left_out,
            seen: BTreeSet::new(),
        })))
    }

    /// A copy with its own fate.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new(0, None);
        {
            let (of, mut to) = (self.state(), copy.state());
            to.files.clone_from(&of.files);
            to.names.clone_from(&of.names);
            to.names_on_medium.clone_from(&of.names_on_medium);
        }
        copy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on one in so many calls fails; none if it is 0.
    pub(super) fn fail_one_in(&self, calls: u32) {
        self.state().fails_one_in = calls;
    }

    /// The power fails after so many calls more: whatever comes then is an error.
    pub(super) fn power_fails_after(&self, calls: u32) {
        self.state().calls_left = calls;
    }

    /// Calls are answered again, as after the end of a process that was cut off: nothing is forgotten.
    pub(super) fn answer_again(&self) {
        let mut state = self.state();
        (state.calls_left, state.last_name) = (u32::MAX, None);
    }

    /// The power comes back, and what had not got to the medium is forgotten.
    pub(super) fn lose_power(&self) {
        let mut state = self.state();
        (state.calls_left, state.last_name) = (u32::MAX, None);
        let State { rng, files, names, names_on_medium, .. } = &mut *state;
        for file in files.iter_mut() {
            file.forget(rng);
        }
        // Each name by itself is the old one or the new one.
        let all: BTreeSet<String> = names.keys().chain(names_on_medium.keys()).cloned().collect();
        for name in all {
            let survivor = if rng.bool() { &*names } else { &*names_on_medium };
            match survivor.get(&name).copied() {
                Some(file) => names_on_medium.insert(name, file),
                None => names_on_medium.remove(&name),
            };
        }
        names.clone_from(names_on_medium);
    }

    /// Which syncs there have been.
    pub(super) fn seen(&self) -> BTreeSet<Sync> {
        self.state().seen.clone()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].cache.clone()
    }

    /// Puts other bytes into a file.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        state.files.push(Content { cache: bytes.to_vec(), medium: bytes.to_vec(), ..Content::default() });
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.names_on_medium.insert(name.to_owned(), file);
    }

    pub(super) fn take_away(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.names_on_medium.remove(name);
    }

    /// Begins a call, which may fail.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.calls_left == 0 {
            return Err(io::Error::other("no power"));
        }
        state.calls_left = state.calls_left.saturating_sub(u32::from(state.calls_left < u32::MAX));
        // The disk writes back what it likes.
        let State { rng, files, names, names_on_medium, .. } = &mut *state;
        match rng.u8(..32) {
            0..4 => {
                if let Some(file) = rng.choice(files.iter_mut()) {
                    file.write_back(rng);
                }
            }
            4 => {
                if let Some((name, file)) = rng.choice(names.iter()) {
                    names_on_medium.insert(name.clone(), *file);
                }
            }
            _ => {}
        }
        let one_in = state.fails_one_in;
        if one_in > 0 && state.rng.u32(..one_in) == 0 {
            drop(state);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(state)
    }

    fn synced(state: &mut State, sync: Sync) -> bool {
        state.seen.insert(sync);
        state.left_out == Some(sync)
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / PAGE..end.div_ceil(PAGE));
    }

    fn truncate(&mut self, len: usize) {
        self.cache.resize(len, 0);
        self.dirty.retain(|page| page * PAGE < len);
        if !len.is_multiple_of(PAGE) {
            self.dirty.insert(len / PAGE);
        }
    }

    /// A page gets to the medium, up to `upto` bytes of it.
    fn flush(&mut self, page: usize, upto: usize) {
        let from = page * PAGE;
        let until = (from + upto).min(self.cache.len());
        if from < until {
            if self.medium.len() < until {
                self.medium.resize(until, 0);
            }
            self.medium[from..until].copy_from_slice(&self.cache[from..until]);
        }
    }

    fn write_back(&mut self, rng: &mut fastrand::Rng) {
        if let Some(page) = rng.choice(self.dirty.iter().copied().collect::<Vec<_>>()) {
            self.flush(page, PAGE);
            self.dirty.remove(&page);
        }
    }

    fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.flush(page, PAGE);
        }
        self.medium.resize(self.cache.len(), 0);
    }

    /// The pages count as written, and some are not.
    fn fail_to_sync(&mut self, rng: &mut fastrand::Rng) {
        for page in std::mem::take(&mut self.dirty) {
            if rng.bool() {
                self.flush(page, PAGE);
            }
        }
    }

    fn forget(&mut self, rng: &mut fastrand::Rng) {
        for page in std::mem::take(&mut self.dirty) {
            match rng.u8(..4) {
                0 => self.flush(page, PAGE),
                1 => self.flush(page, rng.usize(..PAGE)),
                _ => {}
            }
        }
        if rng.bool() {
            // The length got there, and what lies within it and did not is zeros or what was there before.
            self.medium.resize(self.cache.len(), 0);
        }
        self.cache.clone_from(&self.medium);
        self.last = Last::Found;
    }
}

impl Disk for Forgetful {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.call()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.call()?;
        let file = match state.names.get(name) {
            Some(file) => *file,
            None => {
                state.files.push(Content::default());
                let file = state.files.len() - 1;
                state.names.insert(name.to_owned(), file);
                if name.ends_with(".log") {
                    state.last_name = Some(Sync::SegmentMade);
                }
                file
            }
        };
        state.files[file].last = Last::Found;
        let (is_snapshot, is_log) = (name.contains(".snap"), name.ends_with(".log"));
        Ok(Box::new(OpenFile { disk: self.clone(), file, is_snapshot, is_log }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.call()?;
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.last_name = Some(Sync::SnapshotPlaced);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.call()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.last_name = Some(Sync::SegmentTaken);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.call()?;
        let sync = state.last_name.take().unwrap_or(Sync::NamesFound);
        if !Self::synced(&mut state, sync) {
            let names = state.names.clone();
            state.names_on_medium = names;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/disk").join(name)
    }
}

impl DiskFile for OpenFile {
    fn len(&mut self) -> io::Result<u64> {
        Ok(self.disk.call()?.files[self.file].cache.len() as u64)
    }

    fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let state = self.disk.call()?;
        let cache = &state.files[self.file].cache;
        let from = (offset as usize).min(cache.len());
        Ok(cache[from..(from + len).min(cache.len())].to_vec())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let called = self.disk.call().map(drop);
        let mut state = self.disk.state();
        let offset = offset as usize;
        // One that fails has got somewhere as a rule.
        let done = if called.is_ok() { bytes.len() } else { state.rng.usize(..=bytes.len()) };
        let file = &mut state.files[self.file];
        file.write(offset, &bytes[..done]);
        called
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let file = &mut state.files[self.file];
        file.truncate(len as usize);
        if len == 0 {
            file.last = Last::Begun;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let called = self.disk.call().map(drop);
        let mut state = self.disk.state();
        let sync = match state.files[self.file].last {
            _ if self.is_snapshot => Sync::Snapshot,
            Last::Begun => Sync::NewSegment,
            Last::Synced => Sync::Append,
            Last::Found => Sync::Found,
        };
        assert!(self.is_log || self.is_snapshot, "nothing else is synced");
        let is_left_out = Forgetful::synced(&mut state, sync);
        let State { rng, files, calls_left, .. } = &mut *state;
        let file = &mut files[self.file];
        match called {
            Ok(()) if is_left_out => {}
            Ok(()) => file.sync(),
            // One that the end has cut off may get somewhere still.
            Err(_) if *calls_left == 0 => {}
            Err(_) => file.fail_to_sync(rng),
        }
        if called.is_ok() {
            file.last = Last::Synced;
        }
        called
    }
}
