//! Ids of runs that other processes have given.

use std::collections::HashMap;

use crate::id::RunId;

/// The ids of this process follow from the numbers of their records; these do not.
#[derive(Debug, Default)]
pub(super) struct ForeignIds {
    by_number: HashMap<u64, RunId>,
    by_id: HashMap<RunId, u64>,
}

impl ForeignIds {
    pub(super) fn insert(&mut self, number: u64, id: RunId) {
        self.by_number.insert(number, id);
        self.by_id.insert(id, number);
    }

    pub(super) fn id(&self, number: u64) -> Option<RunId> {
        if self.by_number.is_empty() { None } else { self.by_number.get(&number).copied() }
    }

    pub(super) fn number(&self, id: RunId) -> Option<u64> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn remove(&mut self, number: u64) {
        if !self.by_number.is_empty()
            && let Some(id) = self.by_number.remove(&number)
        {
            self.by_id.remove(&id);
        }
    }
}
