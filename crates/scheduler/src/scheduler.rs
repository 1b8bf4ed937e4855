//! The handle that callers hold.

use std::sync::Arc;
use std::time::Duration;

use runtime::{SharedClock, SystemClock, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::TaskError;
use crate::executor::ExecutorRegistry;
use crate::id::RunId;
use crate::spec::{ScheduleSpec, TaskSpec};
use crate::view::{ExecutorInfo, Page, Paged, RunView, SchedulerStatus, TaskFilter, TaskView};

/// The bounds of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Whether due tasks are run as soon as the scheduler is there.
    pub auto_start: bool,
    /// How many runs may be under way at once; further ones wait, the higher priority first.
    pub max_concurrent_tasks: usize,
    /// How many tasks there may be.
    pub max_tasks: usize,
    /// How many records of runs are kept.
    pub max_records: usize,
    /// How many runs of one task may wait for each other under `overlap: queue_all`.
    pub max_queued_runs: usize,
    /// How long one attempt may take where the task does not say.
    #[serde(with = "runtime::duration_text")]
    pub default_timeout: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            auto_start: true,
            max_concurrent_tasks: 10_000,
            max_tasks: 5_000_000,
            max_records: 100_000,
            max_queued_runs: 1000,
            default_timeout: Duration::from_secs(24 * 3600),
        }
    }
}

/// Why a scheduler was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of bounds.
    #[error("{field}: {detail}")]
    Invalid {
        /// The setting.
        field: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a stop could not finish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// How many runs were cancelled at the deadline; due tasks and these are run by misfire policy later.
    pub canceled_runs: u64,
    /// How many runs did not yield at all and were left behind.
    pub stuck_runs: u64,
}

/// Makes a [`Scheduler`].
#[derive(Debug)]
pub struct SchedulerBuilder {
    clock: SharedClock,
    executors: ExecutorRegistry,
    config: SchedulerConfig,
    node: String,
}

impl SchedulerBuilder {
    /// Where the time comes from; the machine's clock where it is not said.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The names under which executors are found; the built-in ones are added to them.
    #[must_use]
    pub fn executors(mut self, executors: ExecutorRegistry) -> Self {
        self.executors = executors;
        self
    }

    /// The bounds.
    #[must_use]
    pub fn config(mut self, config: SchedulerConfig) -> Self {
        self.config = config;
        self
    }

    /// The name of this node in records; `local` where it is not said.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Builds the scheduler. Nothing runs before [`Scheduler::start`].
    ///
    /// # Errors
    ///
    /// If a setting is out of bounds.
    pub async fn build(self) -> Result<Scheduler, BuildError> {
        Ok(Scheduler { inner: Arc::new(Inner { executors: self.executors }) })
    }
}

/// Schedules tasks and runs them. A clone is the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    executors: ExecutorRegistry,
}

#[allow(unused_variables, clippy::unused_async, clippy::missing_errors_doc, reason = "the bodies follow")]
#[allow(missing_docs, reason = "the bodies follow")]
impl Scheduler {
    #[must_use]
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder {
            clock: SystemClock::shared(),
            executors: ExecutorRegistry::new(),
            config: SchedulerConfig::default(),
            node: "local".to_owned(),
        }
    }
    pub fn start(&self) {}
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        StopReport::default()
    }
    #[must_use]
    pub fn is_running(&self) -> bool {
        false
    }
    pub async fn create(&self, spec: TaskSpec) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn create_many(&self, specs: Vec<TaskSpec>) -> Vec<Result<(), TaskError>> {
        Vec::new()
    }
    pub async fn replace(
        &self,
        id: &str,
        spec: TaskSpec,
        if_version: Option<u64>,
    ) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn get(&self, id: &str) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn remove(&self, id: &str, if_version: Option<u64>) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn pause(&self, id: &str) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn resume(&self, id: &str) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn cancel(&self, id: &str) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    /// Runs the task now; `payload` stands in for its own.
    pub async fn trigger(&self, id: &str, payload: Option<Value>) -> Result<RunView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn list(&self, filter: &TaskFilter, page: &Page) -> Result<Paged<TaskView>, TaskError> {
        Err(TaskError::Stopped)
    }
    /// Newest first.
    pub async fn runs(&self, id: &str, page: &Page) -> Result<Paged<RunView>, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn run(&self, id: RunId) -> Result<RunView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub fn preview(
        &self,
        schedule: &ScheduleSpec,
        times: usize,
        from: Option<Timestamp>,
    ) -> Result<Vec<Timestamp>, TaskError> {
        Err(TaskError::Stopped)
    }
    pub fn status(&self) -> SchedulerStatus {
        SchedulerStatus {
            running: false,
            total_tasks: 0,
            status_counts: std::collections::BTreeMap::new(),
            active_runs: 0,
            queued_runs: 0,
            waiting_tasks: 0,
            due_rate: 0.0,
            lateness: crate::view::Lateness::default(),
            runs: crate::view::RunTotals::default(),
            store: crate::view::StoreStatus::default(),
            cluster: crate::view::ClusterStatus::default(),
            next_run_at: None,
        }
    }
    #[must_use]
    pub fn executors(&self) -> Vec<ExecutorInfo> {
        self.inner.executors.list()
    }
    #[must_use]
    pub fn registry(&self) -> &ExecutorRegistry {
        &self.inner.executors
    }
    pub fn report_metrics(&self) {}
    pub async fn upsert_owned(&self, plugin: &str, spec: TaskSpec) -> Result<TaskView, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn suspend_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        Err(TaskError::Stopped)
    }
    pub async fn remove_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        Err(TaskError::Stopped)
    }
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").finish_non_exhaustive()
    }
}
