//! Runs for times of a schedule that were missed.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Cause, Core, Ready, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::history::Note;
use crate::schedule::{Bounds, Micros, NEVER};
use crate::store::Change;
use crate::view::{RunOrigin, RunOutcome, TaskStatus};

/// What must be read under the lock to plan a backfill.
#[derive(Debug)]
pub(crate) struct BackfillGround {
    pub(crate) def: Arc<Def>,
    pub(crate) bounds: Bounds,
    pub(crate) incarnation: Micros,
    /// Times that have a record of a run.
    ran: HashSet<Micros>,
    /// Times between these may have run without a record being left.
    dark: [Option<(Micros, Micros)>; 2],
    /// From here on the schedule itself takes care.
    ahead: Micros,
}

/// Which times a backfill runs.
#[derive(Debug, Default)]
pub(crate) struct BackfillPlan {
    pub(crate) times: Vec<Micros>,
    pub(crate) ran: u64,
    pub(crate) unknown: u64,
    /// Where to go on, if the limit has been reached.
    pub(crate) more_from: Option<Micros>,
}

/// How many times of a schedule one backfill looks at.
const LOOKS_MAX: u64 = 10_000;

impl BackfillGround {
    /// The times in `[from, until]` that nobody has run, up to `limit`.
    pub(crate) fn plan(&self, from: Micros, until: Micros, limit: usize) -> BackfillPlan {
        let mut plan = BackfillPlan::default();
        let mut at = from - 1;
        let mut looks = 0;
        while let Some(time) = self.def.schedule.next_after(&self.bounds, at) {
            if time > until || time >= self.ahead {
                break;
            }
            looks += 1;
            if looks > LOOKS_MAX || plan.times.len() == limit {
                plan.more_from = Some(time);
                break;
            }
            at = time;
            if self.ran.contains(&time) {
                plan.ran += 1;
            } else if self.dark.iter().flatten().any(|(first, last)| (*first..=*last).contains(&time)) {
                plan.unknown += 1;
            } else {
                plan.times.push(time);
            }
        }
        plan
    }
}

impl Core {
    /// What a plan for the task is made of.
    pub(crate) fn backfill_ground(&self, id: &str) -> Result<BackfillGround, TaskError> {
        let task = self.check_backfill(id)?;
        let Some(slot) = self.table.get(task) else { return Err(TaskError::NotFound(id.to_owned())) };
        let Some(def) = slot.def.clone() else { return Err(TaskError::NotFound(id.to_owned())) };
        let mut ran = HashSet::new();
        let (mut oldest, mut is_cut) = (NEVER, slot.created < self.begun);
        for (_, record) in self.history.chain(slot.last_record) {
            if record.outcome != RunOutcome::Skipped {
                ran.insert(record.scheduled);
            }
            if record.origin == RunOrigin::Schedule {
                oldest = oldest.min(record.scheduled);
            }
            is_cut |= record.previous != 0 && self.history.get(record.previous).is_none();
        }
        let rare = slot.side.as_ref().and_then(|side| side.rare.as_deref());
        // Where records have been given up, a time without one may have run: it is left alone.
        let dark = if is_cut {
            [
                Some((slot.created, slot.planned.min(oldest.saturating_sub(1)))),
                rare.and_then(|rare| rare.backfilled),
            ]
        } else {
            [None, None]
        };
        Ok(BackfillGround {
            bounds: def.bounds(slot.anchor),
            def,
            incarnation: slot.created,
            ran,
            dark,
            ahead: slot.next,
        })
    }

    fn check_backfill(&self, id: &str) -> Result<u32, TaskError> {
        let task = self.place(id)?;
        let Some(slot) = self.table.get(task) else { return Err(TaskError::NotFound(id.to_owned())) };
        let status = self.table.status(task).unwrap_or(TaskStatus::Canceled);
        match status {
            TaskStatus::Paused => return Err(self.conflict(task, "it is to be resumed before a backfill")),
            TaskStatus::Canceled => return Err(self.conflict(task, "it has been canceled")),
            _ if slot.flags & flag::HELD != 0 => return Err(TaskError::NotFound(id.to_owned())),
            _ => {}
        }
        let rare = slot.side.as_ref().and_then(|side| side.rare.as_deref());
        if rare.is_some_and(|rare| !rare.backfill.is_empty()) {
            return Err(self.conflict(task, "a backfill is under way"));
        }
        Ok(task)
    }

    /// The task, if it is still as it was when the plan was made.
    fn check_planned(&self, ground: &BackfillGround) -> Result<u32, TaskError> {
        let task = self.check_backfill(&ground.def.id)?;
        let is_same = self.table.get(task).is_some_and(|slot| {
            slot.created == ground.incarnation
                && slot.def.as_ref().is_some_and(|def| Arc::ptr_eq(def, &ground.def))
        });
        if is_same { Ok(task) } else { Err(self.conflict(task, "it has been changed meanwhile")) }
    }

    /// What a backfill will come to, for the store.
    pub(crate) fn preview_backfill(
        &self,
        ground: &BackfillGround,
        times: &[Micros],
    ) -> Result<Change, TaskError> {
        let task = self.check_planned(ground)?;
        let mut state = self.state(task);
        state.rare.get_or_insert_default().backfill(times);
        Ok(Change::State {
            id: ground.def.id.to_string(),
            incarnation: ground.incarnation.unsigned_abs(),
            state,
        })
    }

    /// Puts the times in line. They run one after the other, and let scheduled runs go first.
    pub(crate) fn backfill(&mut self, ground: &BackfillGround, times: &[Micros]) -> Result<u32, TaskError> {
        let task = self.check_planned(ground)?;
        let Some(slot) = self.table.get_mut(task) else { return Ok(task) };
        Self::side(slot).rare_mut().backfill(times);
        self.start_queued(task);
        self.settle(task);
        Ok(task)
    }

    /// Puts the next run of a backfill in line, if there is one.
    pub(super) fn start_backfill(&mut self, task: u32) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        let incarnation = slot.created;
        let Some(rare) = slot.side.as_mut().and_then(|side| side.rare.as_deref_mut()) else { return };
        let Some(scheduled) = rare.backfill.pop_front() else { return };
        rare.is_backfilling = true;
        slot.active_count += 1;
        let cause = Cause::of(RunOrigin::Backfill);
        let record =
            self.open_record(task, cause.origin, RunOutcome::Queued, scheduled, NEVER, 1, None::<Note>);
        // It is not late: it is due when its turn comes.
        let due = self.last_seen;
        self.store_open(task, record, 1, NEVER, || cause.clone());
        let priority = def.priority;
        self.backlog.push(Ready { priority, task, incarnation, record, scheduled, due, attempts: 0, cause });
    }

    /// Whether the only run under way is one of a backfill, for which scheduled runs are not left out.
    pub(super) fn is_backfilling(slot: &super::Slot) -> bool {
        slot.active_count == 1
            && slot.side.as_ref().and_then(|side| side.rare.as_ref()).is_some_and(|rare| rare.is_backfilling)
    }
}
