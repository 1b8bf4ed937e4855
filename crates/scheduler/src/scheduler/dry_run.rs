//! Changes that are only tried.

use std::sync::Arc;

use serde_json::Value;

use super::Scheduler;
use crate::core::{Action, TaskSnapshot};
use crate::def::{Def, payload_text};
use crate::error::TaskError;
use crate::spec::TaskSpec;
use crate::view::{RunView, TaskView};

/// The changes of a [`Scheduler`], only tried: each is refused as it would be and answers as it would, and
/// nothing changes. The store is not asked. Made by [`Scheduler::dry_run`].
#[derive(Debug)]
pub struct DryRun<'a> {
    scheduler: &'a Scheduler,
}

impl<'a> DryRun<'a> {
    pub(super) fn new(scheduler: &'a Scheduler) -> Self {
        Self { scheduler }
    }

    /// See [`Scheduler::create`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create(&self, spec: &TaskSpec) -> Result<TaskView, TaskError> {
        let inner = &self.scheduler.inner;
        let now = inner.now();
        let def = Arc::new(Def::admit(spec, None, &inner.executors, &inner.calendars, now)?);
        let task = inner.core().dry_insert(def, now)?;
        self.view(task)
    }

    /// See [`Scheduler::replace`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn replace(&self, id: &str, spec: TaskSpec, if_version: Option<u64>) -> Result<TaskView, TaskError> {
        let inner = &self.scheduler.inner;
        let now = inner.now();
        let def = self.scheduler.admit_replacement(id, spec, now)?;
        let task = inner.core().dry_replace(def, if_version, now)?;
        self.view(task)
    }

    /// See [`Scheduler::remove`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove(&self, id: &str, if_version: Option<u64>) -> Result<TaskView, TaskError> {
        let task = {
            let core = self.scheduler.inner.core();
            let task = core.check_remove(id, if_version)?;
            core.snapshot(task)
        };
        self.scheduler.view(task, id)
    }

    /// See [`Scheduler::pause`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn pause(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Pause)
    }

    /// See [`Scheduler::resume`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn resume(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Resume)
    }

    /// See [`Scheduler::cancel`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn cancel(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Cancel)
    }

    /// See [`Scheduler::trigger`]. No run has the id that it answers.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn trigger(&self, id: &str, payload: Option<&Value>) -> Result<RunView, TaskError> {
        payload.map(|payload| payload_text("payload", payload)).transpose()?;
        let inner = &self.scheduler.inner;
        let now = inner.now();
        let run = inner.core().dry_trigger(id, now)?;
        Ok(run.view(&inner.node))
    }

    fn control(&self, id: &str, action: Action) -> Result<TaskView, TaskError> {
        let task = self.scheduler.inner.core().dry_control(id, action)?;
        self.view(task)
    }

    fn view(&self, task: TaskSnapshot) -> Result<TaskView, TaskError> {
        let id = task.def.id.to_string();
        self.scheduler.view(Some(task), &id)
    }
}
