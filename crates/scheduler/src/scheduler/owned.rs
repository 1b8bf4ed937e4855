//! The tasks that plugins register.

use std::sync::Arc;

use super::Scheduler;
use crate::core::{Insert, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::executor::ExecutorRegistry;
use crate::spec::TaskSpec;
use crate::view::TaskView;

impl Scheduler {
    /// Inserts a plugin's task, or updates it: by (plugin, id). A task that was suspended with its plugin
    /// runs again; what an operator paused stays paused.
    ///
    /// # Errors
    ///
    /// If a field is wrong, or the id is that of somebody else's task.
    pub async fn upsert_owned(&self, plugin: &str, spec: TaskSpec) -> Result<TaskView, TaskError> {
        let id = spec.id.clone();
        self.apply_owned(plugin, spec, 0)?;
        self.get(&id).await
    }

    /// Whether [`Scheduler::upsert_owned`] would take the task.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "plugin")]
    pub(crate) fn check_owned(&self, plugin: &str, spec: &TaskSpec) -> Result<(), TaskError> {
        let inner = &self.inner;
        let def = Def::admit(spec, Some(plugin), &inner.executors, &inner.calendars, inner.now())?;
        inner.core().check_owned(plugin, &def)
    }

    /// Inserts or updates a plugin's task; `registration` numbers the plugin's incarnation, so that an old
    /// one that goes does not take away what its successor has made its own.
    pub(crate) fn apply_owned(
        &self,
        plugin: &str,
        spec: TaskSpec,
        registration: u64,
    ) -> Result<(), TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let def = Arc::new(Def::admit(&spec, Some(plugin), &inner.executors, &inner.calendars, now)?);
        let wanted = {
            let mut core = inner.core();
            core.check_owned(plugin, &def)?;
            let task = match core.find(&spec.id) {
                None => {
                    let task = core.insert(def, Insert::Ready, now)?;
                    core.store_task(task, true);
                    task
                }
                Some(task) => {
                    let present = core.snapshot(task);
                    let is_same =
                        present.is_some_and(|present| same_definition(&present.def, &def, &inner.executors));
                    if !is_same {
                        core.replace(def, None, now)?;
                    }
                    task
                }
            };
            core.registrations.insert(task, registration);
            core.lift(task, flag::SUSPENDED, now);
            core.store_task(task, false);
            core.wanted_at(now)
        };
        inner.nudge(wanted);
        inner.tell();
        Ok(())
    }

    /// A plugin's incarnation stops: its task rests, unless another incarnation has it by now.
    #[cfg(feature = "plugin")]
    pub(crate) fn suspend_registered(&self, plugin: &str, id: &str, registration: u64) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        if let Some(task) = core.registered(plugin, id, registration) {
            core.suspend(task, now);
            core.store_state(task);
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin is gone for good: what it left suspended goes too. A successor of its name has lifted that
    /// from what it has.
    #[cfg(feature = "plugin")]
    pub(crate) fn remove_left_by(&self, plugin: &str) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        for task in core.owned_by(plugin) {
            if core.is_suspended(task) {
                core.store_removal(task);
                core.remove(task, now);
            }
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin's incarnation goes, and its task with it, unless another incarnation has it by now.
    #[cfg(feature = "plugin")]
    pub(crate) fn remove_registered(&self, plugin: &str, id: &str, registration: u64) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        if let Some(task) = core.registered(plugin, id, registration) {
            core.store_removal(task);
            core.remove(task, now);
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin has stopped: its tasks rest, and their runs are cancelled. Tells how many tasks it has.
    ///
    /// # Errors
    ///
    /// If the store does not take the change.
    pub async fn suspend_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        let now = self.inner.now();
        let mut core = self.inner.core();
        let tasks = core.owned_by(plugin);
        for task in &tasks {
            core.suspend(*task, now);
            core.store_state(*task);
        }
        drop(core);
        self.inner.tell();
        Ok(tasks.len())
    }

    /// A plugin has been unloaded: its tasks go. Tells how many there were.
    ///
    /// # Errors
    ///
    /// If the store does not take the change.
    pub async fn remove_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        let now = self.inner.now();
        let mut core = self.inner.core();
        let tasks = core.owned_by(plugin);
        for task in &tasks {
            core.store_removal(*task);
            core.remove(*task, now);
        }
        drop(core);
        self.inner.tell();
        Ok(tasks.len())
    }
}

/// Whether two definitions say the same.
fn same_definition(a: &Def, b: &Def, executors: &ExecutorRegistry) -> bool {
    a.executor == b.executor && {
        let executor = executors.name_of(a.executor);
        a.to_spec(&executor) == b.to_spec(&executor)
    }
}
