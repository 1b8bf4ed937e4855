//! What a ring holds under its lock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::{CHUNK, Entries, Entry, Hands, Leftovers, Member, RingClass, Wakes};

/// Empty chunks that a thread keeps for their memory, a KiB each at the most.
const SPARES: usize = 256;

/// Consecutive entries that are shared by the readers.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(super) base: u64,
    pub(super) entries: Entries,
}

/// In this order in memory: what an event that comes alone needs stands on three cache lines.
#[repr(C)]
pub(crate) struct Log {
    pub(super) tail: u64,
    /// Up to this number there is room, whatever the cursors say now.
    pub(super) gate: u64,
    /// The number of the first open entry.
    pub(super) open_base: u64,
    pub(super) members: SmallVec<[Arc<Member>; 1]>,
    /// Who sleeps; a vacant place is one whose member left.
    pub(super) sleepers: Wakes,
    /// Counts how often all sleepers were woken, so that a member knows whether its place still holds.
    pub(super) round: u64,
    pub(super) open: Entries,
    pub(super) vacant: Vec<usize>,
    pub(super) sealed: VecDeque<Arc<Chunk>>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            sealed: VecDeque::new(),
            open: Entries::new(),
            open_base: 0,
            tail: 0,
            members: SmallVec::new(),
            gate: 0,
            sleepers: Wakes::new(),
            vacant: Vec::new(),
            round: 1,
        }
    }

    pub(super) fn has_room(&mut self, class: RingClass) -> bool {
        if class == RingClass::Free || self.tail < self.gate {
            return true;
        }
        // The cursors only grow, so the gate stays true until it is reached again.
        self.gate = self.members.iter().map(|member| member.gate()).min().unwrap_or(u64::MAX);
        self.tail < self.gate
    }

    /// Seals the open end: into the last chunk, if no reader has that in its hands now, there is room, and
    /// none between the two was taken.
    pub(super) fn seal(&mut self) {
        if let Some(chunk) = self.sealed.back_mut().and_then(Arc::get_mut)
            && chunk.entries.len() + self.open.len() <= CHUNK
            && chunk.end() == self.open_base
        {
            chunk.entries.append(&mut self.open);
        } else {
            let mut chunk = Chunk::spare();
            if let Some(chunk) = Arc::get_mut(&mut chunk) {
                chunk.base = self.open_base;
                std::mem::swap(&mut chunk.entries, &mut self.open);
            }
            self.sealed.push_back(chunk);
        }
        self.open_base = self.tail;
    }

    /// Takes out what no member needs any more, to be dropped without the lock.
    pub(super) fn trim(&mut self, garbage: &mut Vec<Arc<Chunk>>) {
        let tail = self.tail;
        let needed = self.members.iter().map(|member| member.bound(tail)).min().unwrap_or(tail);
        while self.sealed.front().is_some_and(|chunk| chunk.end() <= needed) {
            garbage.extend(self.sealed.pop_front());
        }
    }

    /// Puts what begins at `from` into a reader's hands.
    pub(super) fn give(&mut self, from: u64, hands: &mut Hands) {
        if from >= self.open_base {
            if self.members.len() == 1 && self.open.len() < CHUNK / 4 {
                // Few that nobody else wants: without the detour by a chunk.
                hands.take(&mut self.open, self.open_base, from);
                self.open_base = self.tail;
                return;
            }
            self.seal();
        }
        let at = self.sealed.partition_point(|chunk| chunk.end() <= from);
        if let Some(chunk) = self.sealed.get(at) {
            hands.share(chunk.clone(), from, u64::MAX);
        }
    }

    /// The entries of a range, as far as they are here.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        let overlaps = move |chunk: &&Arc<Chunk>| chunk.base < to && from < chunk.end();
        let sealed = self.sealed.iter().filter(overlaps).flat_map(|chunk| chunk.numbered());
        let open = (self.open_base..).zip(&self.open);
        sealed.chain(open).filter(move |(number, _)| (from..to).contains(number)).map(|(_, entry)| entry)
    }

    pub(super) fn sleep(&mut self, member: &Member, waker: &Waker) {
        if let Some(place) = member.place_in(self.round) {
            match self.sleepers.get_mut(place) {
                Some(Some(kept)) => kept.clone_from(waker),
                Some(none) => *none = Some(waker.clone()),
                None => {}
            }
            return;
        }
        let place = match self.vacant.pop() {
            Some(place) => {
                self.sleepers[place] = Some(waker.clone());
                place
            }
            None => {
                self.sleepers.push(Some(waker.clone()));
                self.sleepers.len() - 1
            }
        };
        member.sleeps_at(place, self.round);
    }

    /// Once everyone sleeps nothing needs the entries, and a ring at rest keeps no event alive: puts them
    /// into a reader's hands and among the leftovers, which drop them without the lock.
    pub(super) fn rest(&mut self, hands: &mut Hands, leftovers: &mut Option<Leftovers>) {
        let asleep = self.sleepers.len() - self.vacant.len();
        let tail = self.tail;
        if asleep < self.members.len() || self.members.iter().any(|member| member.cursor() < tail) {
            return;
        }
        if !self.sealed.is_empty() {
            leftovers.get_or_insert_with(Leftovers::begin).garbage.extend(self.sealed.drain(..));
        }
        if !self.open.is_empty() {
            hands.drop_later(&mut self.open);
        }
        self.open_base = tail;
    }

    pub(super) fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.append(&mut self.sleepers);
        self.vacant.clear();
        self.round += 1;
    }
}

impl Chunk {
    pub(super) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.base..).zip(&self.entries)
    }

    /// Lets go of a chunk; if nobody else holds it, its entries are dropped and its memory is kept. Runs
    /// foreign code.
    pub(super) fn release(mut chunk: Arc<Self>) {
        if let Some(held) = Arc::get_mut(&mut chunk) {
            held.entries.clear();
            // Not where the thread is about to end.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARES {
                    spare.push(chunk);
                }
            });
        }
    }

    /// An empty chunk, with the memory of an earlier one if there is one.
    fn spare() -> Arc<Self> {
        SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
    }
}

thread_local! {
    /// Empty chunks.
    static SPARE: RefCell<Vec<Arc<Chunk>>> = const { RefCell::new(Vec::new()) };
}
