//! Runs that do not start before the store has them: what a caller has asked for is as safe as a task when
//! he is answered.

use super::{Core, Pending, Ready, Then};
use crate::schedule::Micros;
use crate::view::RunOutcome;

impl Core {
    /// Keeps a run that has just begun from starting until [`Core::let_go`]; `then` is done once the store
    /// has answered.
    pub(crate) fn hold_run(&mut self, record: u64, then: Then) {
        let open = self.pending.iter_mut().rev().find_map(|pending| match pending {
            Pending::Open { record: of, then, .. } if *of == record => Some(then),
            _ => None,
        });
        if let Some(open) = open {
            *open = Some(then);
            self.held_runs.insert(record, None);
        }
    }

    /// Whether the run is held; it is kept here then, in its turn.
    pub(super) fn is_held(&mut self, ready: Ready) -> Result<(), Ready> {
        match self.held_runs.get_mut(&ready.record) {
            Some(held) => {
                *held = Some(ready);
                Ok(())
            }
            None => Err(ready),
        }
    }

    /// The store has the run: it may start.
    pub(crate) fn let_go(&mut self, record: u64) {
        if let Some(Some(ready)) = self.held_runs.remove(&record) {
            self.backlog.push(ready);
        }
    }

    /// The store has not taken the run: it does not start.
    pub(crate) fn call_off(&mut self, record: u64, now: Micros) {
        self.held_runs.remove(&record);
        let Some(known) = self.history.get(record).filter(|known| known.outcome == RunOutcome::Queued) else {
            return;
        };
        let (task, incarnation) = (known.task, known.incarnation);
        self.close_queued(task, record, now, "the store has not taken it");
        let Some(slot) = self.table.get_mut(task).filter(|slot| slot.created == incarnation) else { return };
        let queue = slot.side.as_mut().map(|side| &mut side.queue);
        let place = queue.as_ref().and_then(|queue| queue.iter().position(|ready| ready.record == record));
        match (queue, place) {
            (Some(queue), Some(place)) => drop(queue.remove(place)),
            // It was in line, and what stands there is passed over.
            _ => slot.active_count -= 1,
        }
        self.start_queued(task);
        self.settle(task);
    }
}
