//! What callers do to tasks.

use std::sync::Arc;

use runtime::TraceContext;

use super::finish::Ended;
use super::passed::{first_time, passed_at_rest, passed_while_over};
use super::{Cause, Core, NONE, Slot, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::notice::NoticeKind;
use crate::rare::{BY_OPERATOR, CANCELED};
use crate::schedule::{Micros, NEVER, timestamp};
use crate::store::Change;
use crate::view::{RunOrigin, RunOutcome, TaskStatus};

/// What an operator asks of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Pause,
    Resume,
    Cancel,
    Trigger,
}

/// Which actions each state allows: the one table of it.
pub(crate) const fn allows(status: TaskStatus, action: Action) -> Result<(), &'static str> {
    use Action::{Cancel, Pause, Resume, Trigger};
    use TaskStatus::{Canceled, Completed, Failed, Paused, Pending, Running};
    match (status, action) {
        (Pending | Running, Pause | Cancel)
        | (Paused, Resume | Cancel)
        | (Pending | Running | Paused | Completed | Failed, Trigger) => Ok(()),
        (Pending | Running, Resume) => Err("only a paused task can be resumed"),
        (Paused, Pause) => Err("it is paused already"),
        (Completed | Failed, Pause | Resume | Cancel) => Err("it is done"),
        (Canceled, Cancel) => Err("it is canceled already"),
        (Canceled, Pause | Resume | Trigger) => Err("it has been canceled"),
    }
}

/// What a new task begins as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Insert {
    /// Ready to run.
    Ready,
    /// Not to be run before [`Core::release`]: the store has not taken it yet.
    Held,
}

impl Core {
    pub(super) fn place(&self, id: &str) -> Result<u32, TaskError> {
        let found = self.find(id);
        if found.is_none() && crate::id::is_task_id(id) {
            self.check_owner(id)?;
        }
        found.ok_or_else(|| TaskError::NotFound(id.chars().take(128).collect()))
    }

    fn seen(&mut self, now: Micros) -> Micros {
        self.last_seen = self.last_seen.max(now);
        now
    }

    pub(super) fn check_action(&self, task: u32, action: Action) -> Result<(), TaskError> {
        let status = self.table.status(task).unwrap_or(TaskStatus::Canceled);
        allows(status, action).map_err(|detail| self.conflict(task, detail))
    }

    pub(super) fn conflict(&self, task: u32, detail: &str) -> TaskError {
        let id = self.table.get(task).and_then(|slot| slot.def.as_ref()).map(|def| def.id.to_string());
        TaskError::Conflict {
            id: id.unwrap_or_default(),
            state: self.table.status(task).unwrap_or(TaskStatus::Canceled),
            detail: detail.to_owned(),
        }
    }

    /// Takes a new task in.
    pub(crate) fn insert(&mut self, def: Arc<Def>, how: Insert, now: Micros) -> Result<u32, TaskError> {
        self.check_insert(&def)?;
        self.seen(now);
        let created = self.unique(now);
        let mut slot = Slot::new(Arc::clone(&def), created);
        slot.anchor = now;
        slot.next = first_time(&def, now);
        if how == Insert::Held {
            slot.flags |= flag::HELD;
        }
        let task = self.table.insert(slot, TaskStatus::Pending);
        self.index.insert(&def.id, task);
        if !def.after().is_empty() {
            self.link_edges(task, &def);
        }
        if how == Insert::Ready {
            self.arm(task);
            self.tell_task(task, NoticeKind::Scheduled, now, None);
        }
        Ok(task)
    }

    /// A new task that is held is to be paused once it is not.
    pub(crate) fn pause_held(&mut self, task: u32, now: Micros) {
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags |= flag::PAUSED;
            Self::side(slot).rare_mut().rest(now, BY_OPERATOR);
        }
        self.settle(task);
    }

    /// Tells a task from others that have had or will have its place.
    pub(crate) fn incarnation(&self, task: u32) -> Option<Micros> {
        self.table.get(task).map(|slot| slot.created)
    }

    /// The store has taken the task: it may run.
    pub(crate) fn release(&mut self, task: u32, now: Micros) {
        if let Some(slot) = self.table.get_mut(task).filter(|slot| slot.flags & flag::HELD != 0) {
            slot.flags &= !flag::HELD;
            self.arm(task);
            self.tell_task(task, NoticeKind::Scheduled, now, None);
        }
    }

    /// Puts another definition in place of the task's. Runs under way go on as they began.
    pub(crate) fn replace(
        &mut self,
        def: Arc<Def>,
        if_version: Option<u64>,
        now: Micros,
    ) -> Result<u32, TaskError> {
        let task = self.place(&def.id)?;
        self.check_version(task, if_version)?;
        if !def.after().is_empty() {
            self.check_edges(&def)?;
        }
        self.seen(now);
        let before = self.table.get(task).and_then(|slot| slot.def.clone());
        let Some(before) = before else { return Err(TaskError::NotFound(def.id.to_string())) };
        self.unlink_edges(task, &before);
        self.end_backoff(task, now);
        let is_same_schedule = before.schedule_spec() == def.schedule_spec();
        let is_same_after = before.after() == def.after();
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags &= !(flag::CANCELED | flag::WAITS_EXECUTOR | flag::WAITS_AFTER | flag::AWAITS_END);
            if def.owner().is_none() {
                // It rested for a schedule that could not be used; this one can.
                slot.flags &= !flag::SUSPENDED;
            }
            if !is_same_schedule {
                slot.anchor = now;
                slot.fired = 0;
                slot.next = first_time(&def, now);
                if slot.next <= slot.planned {
                    slot.next = def.schedule.next_after(&def.bounds(now), slot.planned).unwrap_or(NEVER);
                }
            } else if slot.next == NEVER {
                let is_done = def.max_runs > 0 && slot.fired >= def.max_runs;
                slot.planned = passed_while_over(slot, &def, now);
                let next = def.schedule.next_after(&def.bounds(slot.anchor), slot.planned.max(now));
                slot.next = if is_done { NEVER } else { next.unwrap_or(NEVER) };
            }
            let rests = slot.flags & flag::AT_REST != 0;
            if let Some(side) = &mut slot.side {
                side.failures = 0;
                if let Some(rare) = &mut side.rare {
                    if !rests {
                        rare.end_rest(now);
                    }
                    if !is_same_after {
                        rare.upstream.clear();
                    }
                }
            }
            slot.def = Some(Arc::clone(&def));
            slot.version = slot.version.saturating_add(1);
            slot.updated = now.max(slot.created);
        }
        self.table.redefined(task);
        self.link_edges(task, &def);
        if before.executor != def.executor {
            self.unpark(task, before.executor);
        }
        self.arm(task);
        self.settle(task);
        self.tell_task(task, NoticeKind::Scheduled, now, None);
        Ok(task)
    }

    /// Puts the task's runs that wait for an executor back in line: it has another one now.
    fn unpark(&mut self, task: u32, executor: crate::executor::ExecutorKey) {
        let Some(parked) = self.parked.remove(&executor) else { return };
        let (back, rest): (Vec<_>, Vec<_>) = parked.into_iter().partition(|ready| ready.task == task);
        self.parked_count -= back.len();
        self.backlog.extend(back);
        if !rest.is_empty() {
            self.parked.insert(executor, rest);
        }
    }

    pub(crate) fn check_version(&self, task: u32, expected: Option<u64>) -> Result<(), TaskError> {
        let Some(slot) = self.table.get(task) else { return Ok(()) };
        let present = u64::from(slot.version);
        match expected {
            Some(expected) if expected != present => Err(TaskError::VersionMismatch {
                id: slot.def.as_ref().map(|def| def.id.to_string()).unwrap_or_default(),
                expected,
                present,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the task may be removed, and its place.
    pub(crate) fn check_remove(&self, id: &str, if_version: Option<u64>) -> Result<u32, TaskError> {
        let task = self.place(id)?;
        self.check_version(task, if_version)?;
        let dependents = self.dependents_of(task);
        if dependents.is_empty() { Ok(task) } else { Err(TaskError::InUse { id: id.to_owned(), dependents }) }
    }

    /// Takes the task out with all that waits for it; its runs under way are cancelled.
    pub(crate) fn remove(&mut self, task: u32, now: Micros) {
        self.seen(now);
        let Some(def) = self.table.get(task).and_then(|slot| slot.def.clone()) else { return };
        let is_live = !matches!(
            self.table.status(task),
            Some(TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Canceled)
        );
        self.drop_queued(task, now, "the task has been removed");
        self.drop_waiting(task, now, "the task has been removed");
        if is_live {
            self.tell_task(task, NoticeKind::Canceled, now, None);
        }
        self.unlink_edges(task, &def);
        self.dependents.remove(&task);
        self.registrations.remove(&task);
        // The runs go on without a task until their executors have let go.
        let mut next = self.table.get(task).map_or(NONE, |slot| slot.active_first);
        let mut resting = Vec::new();
        while let Some(active) = self.active_run_mut(next) {
            active.cell.cancel.cancel();
            active.task = NONE;
            let after = active.after;
            active.before = NONE;
            active.after = NONE;
            if active.retry_at != NEVER {
                resting.push(next);
            }
            next = after;
        }
        for run in resting {
            self.end(run, Ended::Canceled("the task has been removed".into()), None, now);
        }
        self.index.remove(&def.id, task);
        self.table.remove(task);
    }

    pub(crate) fn check(&self, id: &str, action: Action) -> Result<u32, TaskError> {
        let task = self.place(id)?;
        self.check_action(task, action)?;
        Ok(task)
    }

    pub(crate) fn pause(&mut self, id: &str, now: Micros) -> Result<u32, TaskError> {
        let task = self.check_pause(id)?;
        self.seen(now);
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags |= flag::PAUSED;
            Self::side(slot).rare_mut().rest(now, BY_OPERATOR);
        }
        self.settle(task);
        self.tell_task(task, NoticeKind::Paused, now, None);
        Ok(task)
    }

    pub(crate) fn resume(&mut self, id: &str, now: Micros) -> Result<u32, TaskError> {
        let task = self.check_resume(id)?;
        self.seen(now);
        self.lift(task, flag::PAUSED, now);
        self.tell_task(task, NoticeKind::Resumed, now, None);
        Ok(task)
    }

    /// Takes a reason for resting away, and lets the task run if none is left.
    pub(crate) fn lift(&mut self, task: u32, reason: u16, now: Micros) {
        let Some(slot) = self.table.get_mut(task) else { return };
        slot.flags &= !reason;
        if slot.flags & flag::AT_REST == 0 {
            let Some(def) = slot.def.clone() else { return };
            let mut rested_from = now;
            if let Some(side) = &mut slot.side {
                side.failures = 0;
                if let Some(rare) = &mut side.rare {
                    rested_from = rare.end_rest(now).unwrap_or(now);
                }
                self.end_backoff(task, now);
            }
            let passed = self.table.get(task).and_then(|slot| passed_at_rest(slot, &def, now));
            if let (Some(passed), Some(slot)) = (passed, self.table.get_mut(task)) {
                // What had come before the rest has come, even if the clock has been set back since.
                let passed = passed.max(rested_from - 1);
                slot.planned = passed;
                self.skip_due_before(task, rested_from, now);
                let Some(slot) = self.table.get_mut(task) else { return };
                slot.flags &= !(flag::WAITS_EXECUTOR | flag::WAITS_AFTER);
                let bounds = def.bounds(slot.anchor);
                slot.next = def.schedule.next_after(&bounds, passed.max(now)).unwrap_or(NEVER);
            }
            self.arm(task);
            self.start_queued(task);
            self.release_if_met(task, now);
        }
        self.settle(task);
    }

    pub(crate) fn cancel(&mut self, id: &str, now: Micros) -> Result<u32, TaskError> {
        let task = self.check(id, Action::Cancel)?;
        self.seen(now);
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags |= flag::CANCELED;
            slot.flags &= !(flag::WAITS_EXECUTOR | flag::WAITS_AFTER | flag::AWAITS_END);
            slot.next = NEVER;
            let rare = Self::side(slot).rare_mut();
            rare.rest(now, CANCELED);
            rare.backfill.clear();
        }
        self.drop_queued(task, now, "canceled");
        self.drop_waiting(task, now, "canceled");
        self.cancel_active(task);
        self.settle(task);
        self.tell_task(task, NoticeKind::Canceled, now, None);
        Ok(task)
    }

    /// Closes the records of the task's runs that stand in line for room. What stands in the line itself is
    /// passed over when its turn comes.
    fn drop_waiting(&mut self, task: u32, now: Micros, reason: &str) {
        let Some(slot) = self.table.get(task) else { return };
        let under_way = {
            let mut count = 0;
            let mut next = slot.active_first;
            while let Some(active) = self.active_run(next) {
                count += 1;
                next = active.after;
            }
            count
        };
        let left = slot.active_count.saturating_sub(under_way);
        let records: Vec<u64> = self
            .history
            .chain(slot.last_record)
            .filter(|(_, record)| record.outcome == RunOutcome::Queued)
            .map(|(number, _)| number)
            .take(left as usize)
            .collect();
        for record in records {
            self.close_queued(task, record, now, reason);
            if let Some(slot) = self.table.get_mut(task) {
                slot.active_count -= 1;
                if slot.active_count == 0
                    && let Some(rare) = slot.side.as_mut().and_then(|side| side.rare.as_deref_mut())
                {
                    rare.is_backfilling = false;
                }
            }
        }
    }

    /// A time for a caller's run that no other has: now, or a little later.
    pub(crate) fn trigger_time(&mut self, now: Micros) -> Micros {
        // A clock that was set back far does not hold callers up until it has caught up.
        let is_near = self.last_trigger.saturating_sub(now) < 1_000_000;
        self.last_trigger = if is_near { now.max(self.last_trigger + 1) } else { now };
        self.last_trigger
    }

    /// Begins a run now. Tells the number of its record, and whether it will be run.
    pub(crate) fn trigger(
        &mut self,
        id: &str,
        payload: Option<Arc<str>>,
        at: Micros,
        now: Micros,
    ) -> Result<(u64, bool), TaskError> {
        let task = self.check_trigger(id)?;
        self.seen(now);
        let trace = TraceContext::current().map(Box::new);
        let cause = Cause { payload, trace, ..Cause::of(RunOrigin::Trigger) };
        let begun = self.begin(task, at, at, cause, now);
        self.settle(task);
        Ok(begun)
    }

    /// What a replacement will come to, for the store.
    pub(crate) fn preview_replace(
        &self,
        def: &Def,
        if_version: Option<u64>,
        now: Micros,
    ) -> Result<Change, TaskError> {
        let task = self.place(&def.id)?;
        self.check_version(task, if_version)?;
        self.check_edges(def)?;
        let mut stored = self.stored(task).ok_or_else(|| TaskError::NotFound(def.id.to_string()))?;
        let spec = def.to_spec_without_payload(&self.executors.name_of(def.executor));
        let slot = self.table.get(task);
        if stored.spec.schedule != spec.schedule {
            stored.anchor = timestamp(now);
            stored.state.fired = 0;
        } else if let Some(slot) = slot.filter(|slot| slot.next == NEVER) {
            let planned = passed_while_over(slot, def, now);
            stored.state.planned = (planned != Micros::MIN).then(|| timestamp(planned));
        }
        stored.version += 1;
        stored.updated_at = timestamp(now);
        stored.state.canceled = false;
        if let Some(rare) = &mut stored.state.rare {
            rare.forget_failures();
            if !stored.state.paused && (!stored.state.suspended || stored.owner.is_none()) {
                rare.resume(now);
            }
            rare.upstream.retain(|run| spec.after.iter().any(|edge| edge.task == run.task));
            rare.trace = None;
        }
        if let Some(trace) = def.trace.as_deref() {
            stored.state.rare.get_or_insert_default().trace = Some(*trace);
        }
        stored.spec = spec;
        stored.payload.clone_from(&def.payload);
        Ok(Change::Replace(Box::new(stored)))
    }

    /// What a removal will come to, for the store.
    pub(crate) fn preview_remove(&self, id: &str, if_version: Option<u64>) -> Result<Change, TaskError> {
        let task = self.check_remove(id, if_version)?;
        let incarnation = self.table.get(task).map_or(0, |slot| slot.created.unsigned_abs());
        Ok(Change::Remove { id: id.to_owned(), incarnation })
    }

    /// What a control will come to, for the store.
    pub(crate) fn preview_control(&self, id: &str, action: Action, now: Micros) -> Result<Change, TaskError> {
        let task = self.place(id)?;
        if action != Action::Pause {
            self.check_action(task, action)?;
        }
        let incarnation = self.table.get(task).map_or(0, |slot| slot.created.unsigned_abs());
        let mut state = self.state(task);
        match action {
            Action::Pause => {
                state.paused = true;
                state.rare.get_or_insert_default().rest(now, BY_OPERATOR);
            }
            Action::Resume => {
                state.paused = false;
                state.rare.get_or_insert_default().resume(now);
                let slot = self.table.get(task).and_then(|slot| Some((slot, slot.def.as_ref()?)));
                if let Some(passed) = slot.and_then(|(slot, def)| passed_at_rest(slot, def, now)) {
                    state.planned = Some(timestamp(passed));
                }
            }
            Action::Cancel => {
                state.canceled = true;
                state.rare.get_or_insert_default().rest(now, CANCELED);
            }
            Action::Trigger => {}
        }
        Ok(Change::State { id: id.to_owned(), incarnation, state })
    }

    /// Whether the plugin may insert or update this task.
    pub(crate) fn check_owned(&self, plugin: &str, def: &Def) -> Result<(), TaskError> {
        match self.find(&def.id) {
            Some(task) => {
                let present = self.table.get(task).and_then(|slot| slot.def.as_ref());
                if present.is_none_or(|present| present.owner() != Some(plugin)) {
                    return Err(TaskError::Exists(def.id.to_string()));
                }
            }
            None if self.table.len() >= self.config.max_tasks => {
                return Err(TaskError::Full(format!("there are {} tasks", self.config.max_tasks)));
            }
            None => {}
        }
        self.check_edges(def)
    }

    /// The task, if this incarnation of its plugin was the last to register it.
    #[cfg(feature = "plugin")]
    pub(crate) fn registered(&self, plugin: &str, id: &str, registration: u64) -> Option<u32> {
        let task = self.find(id)?;
        let owner = self.table.get(task).and_then(|slot| slot.def.as_ref()?.owner());
        let is_last = self.registrations.get(&task) == Some(&registration);
        (owner == Some(plugin) && is_last).then_some(task)
    }

    /// Whether the task rests since its plugin has stopped.
    #[cfg(feature = "plugin")]
    pub(crate) fn is_suspended(&self, task: u32) -> bool {
        self.table.get(task).is_some_and(|slot| slot.flags & flag::SUSPENDED != 0)
    }

    /// The plugin's tasks.
    pub(crate) fn owned_by(&self, plugin: &str) -> Vec<u32> {
        (0..self.table.end())
            .filter(|task| {
                self.table.get(*task).and_then(|slot| slot.def.as_ref()).and_then(|def| def.owner())
                    == Some(plugin)
            })
            .collect()
    }

    /// The plugin has stopped: its task rests until it comes back.
    pub(crate) fn suspend(&mut self, task: u32, now: Micros) {
        self.seen(now);
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags |= flag::SUSPENDED;
            Self::side(slot).rare_mut().rest(now, "its plugin has stopped");
        }
        self.drop_queued(task, now, "its plugin has stopped");
        self.drop_waiting(task, now, "its plugin has stopped");
        self.cancel_active(task);
        self.settle(task);
    }

    /// Asks every run that is under way to end. Those that wait for an attempt go on waiting.
    pub(crate) fn cancel_all(&mut self) {
        for active in self.active.iter().flatten().filter(|active| active.retry_at == NEVER) {
            active.cell.cancel.cancel();
        }
    }

    /// The task's definition, and when its schedule was given.
    pub(crate) fn given(&self, id: &str) -> Result<(Arc<Def>, Micros), TaskError> {
        let slot = self.table.get(self.place(id)?);
        let given = slot.and_then(|slot| Some((slot.def.clone()?, slot.anchor)));
        given.ok_or_else(|| TaskError::NotFound(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_says_what_it_allows() {
        let allowed: Vec<_> = TaskStatus::ALL
            .into_iter()
            .map(|status| {
                [Action::Pause, Action::Resume, Action::Cancel, Action::Trigger]
                    .map(|action| u8::from(allows(status, action).is_ok()))
            })
            .collect();
        assert_eq!(
            allowed,
            [[1, 0, 1, 1], [1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
        );
    }
}
