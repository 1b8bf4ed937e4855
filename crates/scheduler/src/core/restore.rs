//! Tasks on their way back from the store.

use std::sync::Arc;

use super::passed::given_at;
use super::{Cause, Core, Ready, Slot, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::executor::ExecutorRegistry;
use crate::rare::Rare;
use crate::schedule::days::Calendars;
use crate::schedule::{Micros, NEVER, Schedule, floor_micros};
use crate::store::{OpenRun, StoredTask};
use crate::timer::{Entry, Kind};
use crate::upstream::Caused;
use crate::view::{RunOutcome, TaskStatus};

/// A stored task as the scheduler holds it. It is made without the lock, and on several threads.
#[derive(Debug)]
pub(crate) struct Restored {
    slot: Slot,
    def: Arc<Def>,
    open: Vec<OpenRun>,
}

impl Restored {
    /// Reads a task.
    ///
    /// # Errors
    ///
    /// If its definition is none that could have been admitted.
    pub(crate) fn read(
        stored: StoredTask,
        executors: &ExecutorRegistry,
        calendars: &Calendars,
        now: Micros,
    ) -> Result<Self, (String, TaskError)> {
        let owner = stored.owner.as_deref();
        let (mut def, wrong) = match Def::restore(&stored.spec, stored.payload, owner, executors, calendars) {
            Ok(restored) => restored,
            Err(error) => return Err((stored.spec.id, error)),
        };
        def.trace = stored.state.rare.as_ref().and_then(|rare| rare.trace).map(Box::new);
        let def = Arc::new(def);
        let anchor = floor_micros(stored.anchor);
        let state = stored.state;
        let planned = state.planned.map_or(Micros::MIN, floor_micros);
        let mut slot = Slot::new(Arc::clone(&def), stored.incarnation.cast_signed());
        slot.anchor = anchor;
        slot.updated = floor_micros(stored.updated_at);
        slot.version = u32::try_from(stored.version).unwrap_or(u32::MAX);
        slot.planned = planned;
        slot.fired = state.fired;
        slot.run_count = state.run_count;
        slot.failure_count = u32::try_from(state.failure_count).unwrap_or(u32::MAX);
        slot.last_run = state.last_run_at.map_or(NEVER, floor_micros);
        for (is_set, bit) in [
            (state.paused, flag::PAUSED),
            // A plugin that runs registers its tasks again, which lifts this; a schedule that can be used
            // again does so too.
            (stored.owner.is_some() || wrong.is_some(), flag::SUSPENDED),
            (state.canceled, flag::CANCELED),
            (state.last_failed, flag::LAST_FAILED),
        ] {
            slot.flags |= if is_set { bit } else { 0 };
        }
        if let Some(error) = state.last_error {
            Core::side(&mut slot).last_error = Some(error.into());
        }
        let backoff_until = state.rare.as_ref().and_then(|rare| rare.backoff_until).map(floor_micros);
        if let Some(rare) = state.rare {
            let side = Core::side(&mut slot);
            side.failures = rare.consecutive_failures;
            side.rare = Some(Box::new(Rare::restore(*rare, def.after())));
        }
        if let Some(wrong) = wrong {
            Core::side(&mut slot).rare_mut().rest(now, format!("its schedule cannot be used: {wrong}"));
        } else if slot.flags & flag::AT_REST == 0
            && let Some(rare) = slot.side.as_mut().and_then(|side| side.rare.as_mut())
        {
            rare.end_rest(now);
        }
        let is_done = state.canceled || (def.max_runs > 0 && slot.fired >= def.max_runs);
        if !is_done {
            slot.next = match *def.schedule.whole() {
                // What was planned may have been by the schedule before.
                Schedule::OnceAt(at) => {
                    Some(at.max(def.bounds(anchor).start)).filter(|at| *at > planned).unwrap_or(NEVER)
                }
                // It is reckoned from the end of the run that is taken up again.
                Schedule::Delay { .. } if !stored.open.is_empty() => {
                    slot.flags |= flag::AWAITS_END;
                    NEVER
                }
                Schedule::Delay { .. } if planned != Micros::MIN && state.next.is_some() => {
                    state.next.map_or(NEVER, floor_micros)
                }
                Schedule::Delay { .. } if planned != Micros::MIN => {
                    let ended = state.last_run_at.map_or(now, floor_micros);
                    def.schedule.next_after(&def.bounds(anchor), ended.max(planned)).unwrap_or(NEVER)
                }
                _ => {
                    let after = planned.max(given_at(&def.schedule, anchor));
                    def.schedule.next_after(&def.bounds(anchor), after).unwrap_or(NEVER)
                }
            };
        }
        if let Some(until) = backoff_until
            && slot.next < until
        {
            slot.next = if def.schedule.waits_for_end() {
                until
            } else {
                def.schedule.next_after(&def.bounds(anchor), until - 1).unwrap_or(NEVER)
            };
        }
        Ok(Self { slot, def, open: stored.open })
    }
}

impl Core {
    /// Takes a task in that the store has kept, unless it is there.
    pub(crate) fn restore(&mut self, restored: Restored, now: Micros) {
        let Restored { slot, def, open } = restored;
        if self.find(&def.id).is_some() {
            return;
        }
        self.last_unique = self.last_unique.max(slot.created);
        let task = self.table.insert(slot, TaskStatus::Pending);
        self.index.insert(&def.id, task);
        for open in open {
            self.resume_run(task, open, now);
        }
        self.arm(task);
        self.settle(task);
    }

    /// Ties restored tasks to those that they run after, once all are there.
    pub(crate) fn link_restored(&mut self) {
        self.dependents.clear();
        for task in 0..self.table.end() {
            let def = self.table.get(task).and_then(|slot| slot.def.clone());
            if let Some(def) = def.filter(|def| !def.after().is_empty()) {
                self.link_edges(task, &def);
                // What it waits for may all have run before the host died.
                self.release_if_met(task, self.last_seen);
            }
            // So may what a backfill had in line.
            self.start_queued(task);
        }
    }

    /// Takes up a run that had begun before the process ended: it stands in line, and what was under way is
    /// done again.
    fn resume_run(&mut self, task: u32, open: OpenRun, now: Micros) {
        let scheduled = floor_micros(open.scheduled_for);
        let by = open.chain.map(|chain| {
            let by = open.upstream.into_iter().map(Arc::new).collect();
            Arc::new(Caused { by, chain })
        });
        let payload = open.payload.map(|payload| Arc::from(payload.to_string()));
        let cause = Cause { origin: open.origin, payload, by, trace: open.trace.map(Box::new) };
        let note = cause.note();
        let record = self.open_record(task, open.origin, RunOutcome::Queued, scheduled, NEVER, 1, note);
        self.history.name(record, open.id);
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        let ready = Ready {
            priority: def.priority,
            task,
            incarnation: slot.created,
            record,
            scheduled,
            due: scheduled.saturating_add(def.jitter()),
            // An attempt that was under way did not end, and counts as none.
            attempts: match open.retry_at {
                Some(_) => u16::try_from(open.attempt).unwrap_or(u16::MAX),
                None => u16::try_from(open.attempt.saturating_sub(1)).unwrap_or(u16::MAX),
            },
            cause,
        };
        let retry_at = open.retry_at.map(floor_micros).filter(|at| *at > now);
        let Some(retry_at) = retry_at else {
            Self::side(slot).queue.push_back(ready);
            return;
        };
        slot.active_count += 1;
        if let Some(group) = def.group() {
            let state = self.groups.entry(group.name.as_str().into()).or_default();
            state.limit = group.limit;
            state.active += 1;
        }
        if let Some(record) = self.history.get_mut(record) {
            record.outcome = RunOutcome::Retrying;
        }
        let rank = super::rank(def.priority);
        let attempts = ready.attempts;
        let (run, _) = self.activate(ready, def, attempts, retry_at);
        self.timer.insert(Entry { at: retry_at, rank, kind: Kind::Attempt, index: run });
    }
}
