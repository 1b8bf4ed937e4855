//! Whether a caller's change may be made, and what it would come to.

use std::sync::Arc;

use super::passed::first_time;
use super::query::{RunSnapshot, TaskSnapshot};
use super::{Action, Core, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::schedule::{Micros, NEVER, Schedule};
use crate::spec::Overlap;
use crate::view::{RunOrigin, RunOutcome, TaskStatus};

impl Core {
    pub(super) fn check_insert(&self, def: &Def) -> Result<(), TaskError> {
        self.check_owner(&def.id)?;
        if self.find(&def.id).is_some() {
            return Err(TaskError::Exists(def.id.to_string()));
        }
        if self.table.len() >= self.config.max_tasks {
            return Err(TaskError::Full(format!("there are {} tasks", self.config.max_tasks)));
        }
        if def.after().is_empty() { Ok(()) } else { self.check_edges(def) }
    }

    /// The task, if an operator may do that to it now.
    pub(super) fn check_control(&self, id: &str, action: Action) -> Result<u32, TaskError> {
        match action {
            Action::Pause => self.check_pause(id),
            Action::Resume => self.check_resume(id),
            Action::Cancel => self.check(id, action),
            Action::Trigger => self.check_trigger(id),
        }
    }

    pub(super) fn check_pause(&self, id: &str) -> Result<u32, TaskError> {
        let task = self.place(id)?;
        // A task that its plugin has suspended shows as paused, and can be paused by an operator as well.
        let is_suspended = self.table.get(task).is_some_and(|slot| {
            slot.flags & flag::SUSPENDED != 0 && slot.flags & (flag::PAUSED | flag::CANCELED) == 0
        });
        if !is_suspended {
            self.check_action(task, Action::Pause)?;
        }
        Ok(task)
    }

    pub(super) fn check_resume(&self, id: &str) -> Result<u32, TaskError> {
        let task = self.check(id, Action::Resume)?;
        let suspended_only = self
            .table
            .get(task)
            .is_some_and(|slot| slot.flags & flag::PAUSED == 0 && slot.flags & flag::SUSPENDED != 0);
        if suspended_only {
            let detail = if self.is_unusable(task) {
                "its schedule cannot be used; it resumes with one that can"
            } else {
                "its plugin has stopped; it resumes when the plugin starts"
            };
            return Err(self.conflict(task, detail));
        }
        Ok(task)
    }

    /// Whether the task rests since its schedule cannot be used.
    pub(super) fn is_unusable(&self, task: u32) -> bool {
        let def = self.table.get(task).and_then(|slot| slot.def.as_ref());
        def.is_some_and(|def| def.owner().is_none() && matches!(def.schedule, Schedule::Unusable(_)))
    }

    pub(super) fn check_trigger(&self, id: &str) -> Result<u32, TaskError> {
        let task = self.check(id, Action::Trigger)?;
        let Some(slot) = self.table.get(task) else { return Err(TaskError::NotFound(id.to_owned())) };
        if slot.flags & (flag::HELD | flag::SUSPENDED) != 0 && !self.is_unusable(task) {
            return Err(self.conflict(task, "its plugin has stopped"));
        }
        let overlap = slot.def.as_ref().map(|def| def.overlap());
        let queued = slot.side.as_ref().map_or(0, |side| side.queue.len());
        let is_busy = slot.active_count > 0 || queued > 0;
        let is_full = match overlap {
            Some(Overlap::Skip) => is_busy,
            Some(Overlap::QueueOne) => queued >= 1,
            Some(Overlap::QueueAll) => queued >= self.config.max_queued_runs,
            Some(Overlap::Allow) => {
                slot.def.as_ref().is_some_and(|def| slot.active_count as usize >= self.allowed_max(def))
            }
            _ => false,
        };
        if is_busy && is_full {
            return Err(self.conflict(task, "a run is under way, and its overlap policy allows no other"));
        }
        Ok(task)
    }

    /// The task as [`Core::insert`] would make it.
    pub(crate) fn dry_insert(&self, def: Arc<Def>, now: Micros) -> Result<TaskSnapshot, TaskError> {
        self.check_insert(&def)?;
        Ok(TaskSnapshot {
            status: TaskStatus::Pending,
            flags: 0,
            next: first_time(&def, now),
            created: now,
            updated: now,
            last_run: NEVER,
            run_count: 0,
            failure_count: 0,
            version: 1,
            active: 0,
            last_error: None,
            after_met: 0,
            failures: 0,
            backoff_until: NEVER,
            resting: None,
            backfill_left: 0,
            is_parked: false,
            def,
        })
    }

    /// The task as [`Core::replace`] would make it.
    pub(crate) fn dry_replace(
        &self,
        def: Arc<Def>,
        if_version: Option<u64>,
        now: Micros,
    ) -> Result<TaskSnapshot, TaskError> {
        self.preview_replace(&def, if_version, now)?;
        let mut task = self.known(&def.id)?;
        if task.def.schedule_spec() != def.schedule_spec() {
            task.next = first_time(&def, now);
        }
        Ok(TaskSnapshot { updated: now, version: task.version + 1, def, ..task })
    }

    /// The task as a control would leave it.
    pub(crate) fn dry_control(&self, id: &str, action: Action) -> Result<TaskSnapshot, TaskError> {
        self.check_control(id, action)?;
        let task = self.known(id)?;
        Ok(match action {
            Action::Pause => TaskSnapshot { status: TaskStatus::Paused, ..task },
            Action::Resume => TaskSnapshot { status: TaskStatus::Pending, ..task },
            Action::Cancel => TaskSnapshot { status: TaskStatus::Canceled, next: NEVER, ..task },
            Action::Trigger => task,
        })
    }

    /// The run that a trigger would begin; no run has its id.
    pub(crate) fn dry_trigger(&self, id: &str, now: Micros) -> Result<RunSnapshot, TaskError> {
        let task = self.dry_control(id, Action::Trigger)?;
        Ok(RunSnapshot {
            id: self.ids.id(0),
            def: task.def,
            incarnation: task.created,
            scheduled: now,
            started: NEVER,
            ended: NEVER,
            attempt: 1,
            times: 1,
            origin: RunOrigin::Trigger,
            outcome: RunOutcome::Queued,
            note: None,
        })
    }

    fn known(&self, id: &str) -> Result<TaskSnapshot, TaskError> {
        let task = self.find(id).and_then(|task| self.snapshot(task));
        task.ok_or_else(|| TaskError::NotFound(id.chars().take(128).collect()))
    }
}
