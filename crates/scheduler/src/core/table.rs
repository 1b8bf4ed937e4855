//! The places of tasks: blocks that never move, so that growing copies nothing.

use memchr::memmem::Finder;

use super::facets::{Facets, Wanted};
use super::query::Filter;
use crate::core::{NONE, Slot};
use crate::view::TaskStatus;

/// Places in a block.
pub(super) const BLOCK: usize = 4096;

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
    facets: Facets,
}

/// How many places one look goes through.
const STRETCH: u32 = 16 * BLOCK as u32;

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
        if let Some(def) = &slot.def {
            self.facets.set(place, def);
        }
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
        self.facets.clear(place);
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

    /// The task has another definition.
    pub(crate) fn redefined(&mut self, place: u32) {
        let def = self
            .blocks
            .get(place as usize / BLOCK)
            .and_then(|block| block.get(place as usize % BLOCK))
            .and_then(|slot| slot.def.as_ref());
        if let Some(def) = def {
            self.facets.set(place, def);
        }
    }

    /// What a filter asks for, in numbers; nothing if no task can have it.
    pub(super) fn wanted(&self, filter: &Filter) -> Option<Wanted> {
        let name = |name: &Option<String>| match name {
            Some(name) => self.facets.name(name).map(Some),
            None => Some(None),
        };
        let executor = match filter.executor {
            Some(executor) => Some(executor?.0),
            None => None,
        };
        Some(Wanted { executor, owner: name(&filter.owner)?, group: name(&filter.group)? })
    }

    /// The places from `from` on, in their order, of tasks that match. Tells where it has stopped: after a
    /// stretch that takes a fraction of a millisecond.
    pub(super) fn matching(
        &mut self,
        filter: &Filter,
        wanted: &Wanted,
        from: u32,
        out: &mut Vec<u32>,
    ) -> u32 {
        let until = match &filter.text {
            None => {
                let until = from.saturating_add(STRETCH).min(self.used);
                self.facets.matching(wanted, from, until, out);
                until
            }
            Some(needle) => self.matching_text(needle, wanted, from, out),
        };
        let statuses = &self.statuses;
        out.retain(|place| match (statuses.get(*place as usize), filter.status) {
            (Some(present), Some(status)) => *present == status as u8,
            (Some(present), None) => *present != VACANT,
            (None, _) => false,
        });
        until
    }

    fn matching_text(&mut self, needle: &Finder<'_>, wanted: &Wanted, from: u32, out: &mut Vec<u32>) -> u32 {
        let first = from as usize / BLOCK;
        for block in first..first + STRETCH as usize / BLOCK {
            let Some(slots) = self.blocks.get(block) else { return self.used };
            let begin = (block * BLOCK) as u32;
            let (texts, is_new) = self.facets.texts(block, slots.iter().map(|slot| slot.def.as_deref()));
            let before = out.len();
            texts.find(needle, |place| out.push(begin + place));
            let mut found = out.split_off(before);
            found.retain(|place| *place >= from && self.facets.has(wanted, *place));
            out.append(&mut found);
            if is_new || block + 1 == first + STRETCH as usize / BLOCK {
                return (begin + BLOCK as u32).min(self.used);
            }
        }
        self.used
    }

    /// The first place from `from` on whose task is in the state.
    pub(crate) fn find(&self, status: TaskStatus, from: u32) -> Option<u32> {
        let rest = self.statuses.get(from as usize..)?;
        let at = memchr::memchr(status as u8, rest)?;
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
