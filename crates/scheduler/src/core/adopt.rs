//! Records that earlier processes have left in the store.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Core, FIRST_NTH};
use crate::history::{Note, Record};
use crate::schedule::{Micros, NEVER, floor_micros};
use crate::upstream::Caused;
use crate::view::RunView;

/// The oldest known record of each task, while records are taken in from the newest to the oldest.
#[derive(Debug, Default)]
pub(crate) struct Tails(HashMap<u32, u64>);

impl Core {
    /// Takes in records of tasks that are here, the newest first, behind those of earlier calls and before
    /// those of this process. Tells whether there is room for more.
    pub(crate) fn adopt(&mut self, runs: Vec<RunView>, tails: &mut Tails, node: &str, now: Micros) -> bool {
        for run in runs {
            if self.history.is_full() {
                return false;
            }
            self.adopt_one(run, tails, node, now);
        }
        true
    }

    fn adopt_one(&mut self, run: RunView, tails: &mut Tails, node: &str, now: Micros) {
        let Some(task) = self.find(&run.task) else { return };
        let Some(slot) = self.table.get(task) else { return };
        let incarnation = run.incarnation.cast_signed();
        if slot.created != incarnation {
            return;
        }
        let is_once = slot.def.as_ref().is_some_and(|def| def.schedule.is_once());
        let newest = slot.last_record;
        let tail =
            tails.0.get(&task).copied().or_else(|| self.history.chain(newest).last().map(|(at, _)| at));
        let nth = match tail.and_then(|tail| self.history.get(tail)) {
            _ if is_once => 0,
            Some(tail) => tail.nth.saturating_sub(1).max(1),
            None => FIRST_NTH,
        };
        let id = run.id;
        let known = self.record_number(id).filter(|number| self.history.get(*number).is_some());
        let number = match known {
            // This node has had the task before, and has the record from then.
            Some(number) if tail.is_none_or(|tail| number < tail) => number,
            Some(_) => return,
            None => {
                let record = record_of(run, task, nth, node);
                if self.history.is_expired(&record, now) {
                    return;
                }
                let Some(number) = self.history.adopt(record, id) else { return };
                number
            }
        };
        if let Some(record) = self.history.get_mut(number) {
            record.task = task;
        }
        match tail.and_then(|tail| self.history.get_mut(tail)) {
            Some(tail) => tail.previous = number,
            None => {
                if let Some(slot) = self.table.get_mut(task) {
                    slot.last_record = number;
                }
            }
        }
        tails.0.insert(task, number);
    }
}

fn record_of(run: RunView, task: u32, nth: u32, node: &str) -> Record {
    let RunView {
        id,
        task: _,
        incarnation,
        scheduled_for,
        started_at,
        ended_at,
        node: ran_on,
        attempt,
        origin,
        outcome,
        error,
        skip_reason,
        times,
        output,
        trace_id,
        chain,
        caused_by,
    } = run;
    let note = Note {
        error: error.map(Into::into),
        skip_reason: skip_reason.map(Into::into),
        output: output.map(|output| output.to_string().into()),
        caused: chain.map(|chain| Arc::new(Caused::known_by_ids(chain, &caused_by))),
        trace: (trace_id != id.trace_id()).then(|| trace_id.parse().ok().map(Box::new)).flatten(),
        node: (ran_on != node).then(|| ran_on.into()),
    };
    let is_bare = note.error.is_none()
        && note.skip_reason.is_none()
        && note.output.is_none()
        && note.caused.is_none()
        && note.trace.is_none()
        && note.node.is_none();
    Record {
        previous: 0,
        scheduled: floor_micros(scheduled_for),
        started: started_at.map_or(NEVER, floor_micros),
        ended: ended_at.map_or(NEVER, floor_micros),
        incarnation: incarnation.cast_signed(),
        task,
        times: u32::try_from(times).unwrap_or(u32::MAX),
        nth,
        attempt: u16::try_from(attempt).unwrap_or(u16::MAX),
        outcome,
        origin,
        note: (!is_bare).then(|| Box::new(note)),
    }
}
