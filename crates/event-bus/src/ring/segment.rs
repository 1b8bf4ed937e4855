//! A stretch of a ring: written once, slot by slot, and read without a lock.

use std::sync::{Arc, OnceLock};

use crate::ack::AckTicket;
use crate::event::Event;

/// The first segment of a ring that had none; each further one is twice as long.
const FIRST_SLOTS: usize = 4;
/// The longest segment. A reader at rest keeps at most one alive.
pub(crate) const MAX_SLOTS: usize = 64;

/// An event on its way, and who waits for it to be handled.
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) ack: Option<Arc<AckTicket>>,
}

/// Consecutive entries of a ring.
pub(crate) struct Segment {
    base: u64,
    slots: Box<[OnceLock<Entry>]>,
}

impl Segment {
    /// The segment after `previous`, whose first entry has the number `base`.
    pub(crate) fn after(previous: Option<&Self>, base: u64) -> Self {
        let slots = previous.map_or(FIRST_SLOTS, |p| (p.slots.len() * 2).min(MAX_SLOTS));
        Self { base, slots: (0..slots).map(|_| OnceLock::new()).collect() }
    }

    /// The number of its first entry.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// The number after its last slot's.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// The entry of that number, if it lies here and is written.
    pub(crate) fn get(&self, number: u64) -> Option<&Entry> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.slots.get(index)?.get()
    }

    /// Writes the entry of that number; each is written once, by the holder of the ring's lock.
    pub(crate) fn set(&self, number: u64, entry: Entry) {
        let index = usize::try_from(number - self.base).unwrap_or(usize::MAX);
        if let Some(slot) = self.slots.get(index) {
            let refused = slot.set(entry);
            debug_assert!(refused.is_ok(), "a slot is written once");
        }
    }
}
