//! From a task's id to its place.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{Core, Table};

/// Parts of the index: each grows on its own, so that no single insertion pays for moving a million.
const PARTS: usize = 64;

/// An index that holds eight bytes for each task, since the id itself stands in the definition. With the
/// place goes half of the hash, so that growing and most comparisons do not touch the task.
pub(super) struct Index {
    parts: Vec<HashTable<(u32, u32)>>,
    hasher: RandomState,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            parts: std::iter::repeat_with(HashTable::new).take(PARTS).collect(),
            hasher: RandomState::new(),
        }
    }

    fn hash(&self, id: &str) -> (usize, u32) {
        let hash = self.hasher.hash_one(id);
        ((hash >> 58) as usize, hash as u32)
    }

    pub(super) fn get(&self, table: &Table, id: &str) -> Option<u32> {
        let (part, hash) = self.hash(id);
        let found =
            self.parts.get(part)?.find(spread(hash), |(h, place)| *h == hash && has_id(table, *place, id))?;
        Some(found.1)
    }

    pub(super) fn insert(&mut self, id: &str, place: u32) {
        let (part, hash) = self.hash(id);
        if let Some(part) = self.parts.get_mut(part) {
            part.insert_unique(spread(hash), (hash, place), |(h, _)| spread(*h));
        }
    }

    pub(super) fn remove(&mut self, id: &str, place: u32) {
        let (part, hash) = self.hash(id);
        if let Some(part) = self.parts.get_mut(part)
            && let Ok(entry) = part.find_entry(spread(hash), |(_, at)| *at == place)
        {
            entry.remove();
        }
    }
}

fn has_id(table: &Table, place: u32, id: &str) -> bool {
    table.get(place).and_then(|slot| slot.def.as_ref()).is_some_and(|def| &*def.id == id)
}

/// The table takes its bucket from the low bits and its tag from the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Core {
    /// The place of the task with this id.
    pub(crate) fn find(&self, id: &str) -> Option<u32> {
        self.index.get(&self.table, id)
    }
}
