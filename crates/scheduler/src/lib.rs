//! Cron, interval and one-off tasks.

pub mod coordinator;
mod core;
mod def;
mod dispatch;
mod error;
mod executor;
mod executors;
mod history;
mod id;
mod notice;
mod persist;
mod planner;
#[cfg(feature = "plugin")]
mod plugin;
mod publish;
mod schedule;
mod scheduler;
mod spec;
mod stats;
pub mod store;
mod timer;
mod view;

pub use coordinator::{Assignment, Coordinator, CoordinatorError, Grant, Membership, MemoryCoordinator};
pub use error::TaskError;
pub use executor::{
    Executor, ExecutorGuard, ExecutorRegistry, PayloadError, RegisterError, RunContext, RunError, RunOutput,
    executor_fn,
};
pub use id::{ParseRunIdError, RunId};
#[cfg(feature = "plugin")]
pub use plugin::{PluginTasks, SCHEDULER, SchedulerPlugin};
pub use publish::TaskEvent;
pub use scheduler::{BuildError, Scheduler, SchedulerBuilder, SchedulerConfig, StopReport};
pub use spec::{
    After, AfterCondition, Group, IntervalMode, Misfire, MisfirePolicy, Overlap, Retry, ScheduleKind,
    ScheduleSpec, TaskSpec, TaskSpec as Task,
};
pub use store::{
    Change, Commit, MemoryTaskStore, RunKey, StoreError, StoredTask, TaskState, TaskStore, shard_of,
};
pub use view::{
    ClusterStatus, ExecutorInfo, Lateness, Page, Paged, ParseTaskStatusError, RunOrigin, RunOutcome,
    RunTotals, RunView, SchedulerStatus, StoreStatus, TaskFilter, TaskStatus, TaskView,
};
