//! What the links of a cluster are doing, in one place, since several states apply to one connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::LinkState;

/// A place on a board: a link's, or a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// The states of links and members, and who is told when one changes.
#[derive(Debug)]
pub(crate) struct Board {
    states: Mutex<Vec<LinkState>>,
    members: Mutex<Vec<(Slot, u32)>>,
    changed: watch::Sender<()>,
}

impl Default for Board {
    fn default() -> Self {
        let (changed, _) = watch::channel(());
        Self { states: Mutex::default(), members: Mutex::default(), changed }
    }
}

impl Board {
    /// A new slot, open.
    pub(crate) fn slot(&self) -> Slot {
        let mut states = lock(&self.states);
        states.push(LinkState::Open);
        Slot(states.len() - 1)
    }

    pub(crate) fn get(&self, slot: Slot) -> LinkState {
        lock(&self.states).get(slot.0).copied().unwrap_or_default()
    }

    pub(crate) fn set(&self, slot: Slot, state: LinkState) {
        if let Some(place) = lock(&self.states).get_mut(slot.0) {
            *place = state;
        }
        self.changed.send_replace(());
    }

    /// What applies to a connection that concerns these slots: the worst of them.
    pub(crate) fn worst(&self, slots: &[Slot]) -> LinkState {
        slots.iter().map(|slot| self.get(*slot)).max().unwrap_or_default()
    }

    /// Wakes at every change.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn belongs_to(&self, member: Slot, pid: u32) {
        let mut members = lock(&self.members);
        members.retain(|(slot, _)| *slot != member);
        members.push((member, pid));
    }

    pub(crate) fn members(&self) -> Vec<(Slot, u32)> {
        lock(&self.members).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_worst_state_applies() {
        let board = Board::default();
        let slots = [board.slot(), board.slot(), board.slot()];
        let check = |state| assert_eq!(board.worst(&slots), state);
        check(LinkState::Open);
        board.set(slots[0], LinkState::Delayed(Duration::from_millis(5)));
        board.set(slots[1], LinkState::Delayed(Duration::from_millis(9)));
        check(LinkState::Delayed(Duration::from_millis(9)));
        board.set(slots[2], LinkState::BlackHole);
        check(LinkState::BlackHole);
        board.set(slots[0], LinkState::Cut);
        check(LinkState::Cut);
        slots.iter().for_each(|slot| board.set(*slot, LinkState::Open));
        check(LinkState::Open);
    }
}
