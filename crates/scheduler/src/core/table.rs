//! The places of tasks: blocks that never move, so that growing copies nothing.

use crate::core::{NONE, Slot};
use crate::view::TaskStatus;

/// Places in a block.
const BLOCK: usize = 4096;

/// All tasks by place. The states stand apart, one byte each, so that looking for the few that run among a
/// million is one pass over a megabyte.
#[derive(Debug, Default)]
pub(crate) struct Table {
    blocks: Vec<Box<[Slot]>>,
    statuses: Vec<u8>,
    free: Vec<u32>,
    used: u32,
    len: usize,
    counts: [u64; TaskStatus::ALL.len()],
}

/// The state byte of a place that has no task.
const VACANT: u8 = u8::MAX;

impl Table {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// One past the last place that was ever used.
    pub(crate) const fn end(&self) -> u32 {
        self.used
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Slot> {
        let slot = self.blocks.get(place as usize / BLOCK)?.get(place as usize % BLOCK)?;
        slot.def.as_ref().map(|_| slot)
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut Slot> {
        let slot = self.blocks.get_mut(place as usize / BLOCK)?.get_mut(place as usize % BLOCK)?;
        if slot.def.is_some() { Some(slot) } else { None }
    }

    /// Puts a task into a free place.
    pub(crate) fn insert(&mut self, slot: Slot, status: TaskStatus) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            let place = self.used;
            self.used += 1;
            if place as usize / BLOCK >= self.blocks.len() {
                self.blocks.push(std::iter::repeat_with(Slot::vacant).take(BLOCK).collect());
            }
            self.statuses.push(VACANT);
            place
        });
        if let Some(at) = self
            .blocks
            .get_mut(place as usize / BLOCK)
            .and_then(|block| block.get_mut(place as usize % BLOCK))
        {
            *at = slot;
        }
        self.len += 1;
        self.set_status(place, status);
        place
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<Slot> {
        let slot = self.get_mut(place)?;
        let slot = std::mem::replace(slot, Slot::vacant());
        if let Some(status) = self.statuses.get_mut(place as usize) {
            if let Some(count) = self.counts.get_mut(*status as usize) {
                *count -= 1;
            }
            *status = VACANT;
        }
        self.len -= 1;
        self.free.push(place);
        Some(slot)
    }

    pub(crate) fn set_status(&mut self, place: u32, status: TaskStatus) {
        let Some(present) = self.statuses.get_mut(place as usize) else { return };
        if *present == status as u8 {
            return;
        }
        if let Some(count) = self.counts.get_mut(*present as usize) {
            *count -= 1;
        }
        *present = status as u8;
        if let Some(count) = self.counts.get_mut(status as usize) {
            *count += 1;
        }
    }

    pub(crate) fn status(&self, place: u32) -> Option<TaskStatus> {
        self.statuses.get(place as usize).and_then(|status| TaskStatus::ALL.get(*status as usize)).copied()
    }

    /// The first place from `from` on whose task is in the state.
    pub(crate) fn find(&self, status: TaskStatus, from: u32) -> Option<u32> {
        let rest = self.statuses.get(from as usize..)?;
        let at = rest.iter().position(|present| *present == status as u8)?;
        Some(from + at as u32)
    }

    pub(crate) fn count(&self, status: TaskStatus) -> u64 {
        self.counts.get(status as usize).copied().unwrap_or(0)
    }
}

impl Slot {
    const fn vacant() -> Self {
        use crate::schedule::{Micros, NEVER};
        Self {
            def: None,
            next: NEVER,
            planned: Micros::MIN,
            anchor: 0,
            created: 0,
            updated: 0,
            last_run: NEVER,
            last_record: 0,
            run_count: 0,
            side: None,
            failure_count: 0,
            fired: 0,
            version: 0,
            active_first: NONE,
            active_count: 0,
            flags: 0,
        }
    }

    /// A task as it begins.
    pub(crate) fn new(def: std::sync::Arc<crate::def::Def>, created: crate::schedule::Micros) -> Self {
        Self { def: Some(def), anchor: created, created, updated: created, version: 1, ..Self::vacant() }
    }
}
