//! Tasks by cron expression, at intervals and once, for Gantry and for programs without it.
//!
//! Layer 3: knows `runtime`, `event-bus` and, behind the feature `plugin`, `plugin-core`; no engine, no
//! transport. A task names its executor and carries a JSON payload, so that it can outlive its process.
//!
//! Invariants:
//!
//! - A task never runs early (promise 2). Times are whole microseconds: what a caller gives is rounded up,
//!   the clock's reading down. A time that has come stays come if the clock is set back afterwards.
//! - No two runs with one key (task, incarnation, scheduled time, origin) both commit (promise 3). Within a
//!   node no time is planned twice; between nodes the store compares the owner's epoch with each commit.
//! - Planning is a pure function of a task and the time; everything that decides stands behind one lock,
//!   without a clock, a thread or a wait; the loop around it sleeps, polls and reports.
//! - There is one timer for all tasks and no task of the runtime for a scheduled one. A run that ends at its
//!   first poll never becomes one either.
//! - Whatever waits has a bound: tasks, records, queued runs, notices, changes on their way to the store.
//!
//! ```
//! use scheduler::{RunOutput, ScheduleSpec, Scheduler, TaskSpec, executor_fn};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let scheduler = Scheduler::builder().build().await?;
//! let (sender, mut greeted) = tokio::sync::mpsc::channel(1);
//! let greet = executor_fn(move |run| {
//!     let sender = sender.clone();
//!     async move {
//!         let _ = sender.try_send(run.payload()["name"].to_string());
//!         Ok(RunOutput::none())
//!     }
//! });
//! let _registered = scheduler.registry().register("greet", None, greet)?;
//! let soon = ScheduleSpec::once_after(Duration::from_millis(5));
//! scheduler
//!     .create(TaskSpec::new("hello", soon).executor("greet").payload(serde_json::json!({"name": "world"})))
//!     .await?;
//! assert_eq!(greeted.recv().await.as_deref(), Some("\"world\""));
//! scheduler.stop(Duration::from_secs(1)).await;
//! # Ok(()) }
//! ```
//!
//! # What runs when
//!
//! **Schedules.** Cron expressions are read by [`croner`], in an IANA zone: five, six or seven fields,
//! `L W #`, names, Sunday as 0 or 7, day-of-month *or* weekday where both are given. Where the clock changes,
//! a fixed time of day that is left out runs once, at the first instant after the gap, and one that comes
//! twice runs once, the first time; an expression with a wildcard in its time of day (`*`, `*/15`) follows
//! the clock on the wall, through both passes. `@every` and intervals at a fixed rate lie on a grid that
//! begins when the schedule was given (or at `start_at`) and is kept by replacements that leave the schedule
//! as it is; with `mode: delay` the span counts from the end of a run. Times on days that `exclude` names do
//! not exist.
//!
//! **Missed times** are those at which nobody could run the task. By default one run makes up for all of
//! them. Times that pass while a task is paused were meant to pass, except for a one-off task, which runs
//! when it is resumed.
//!
//! **`after`.** A task runs when each task that it names has ended a run in the way asked for since its own
//! last run. With a schedule too, its time must have come as well; without one it runs at once.
//!
//! **States.** See [`TaskStatus`]. A recurring task is `pending` between runs; a trigger runs a task beside
//! its schedule, does not count for `max_runs`, and is refused where the overlap policy would leave it out.
//!
//! # Features
//!
//! - `plugin`: the scheduler as a plugin, and executors and tasks for the contexts of others.
//! - `http`: the executor `http`. It takes TLS from the process's `rustls` provider.
//! - `openapi`: `ToSchema` for the wire types.
//! - `testing`: a scheduler on a clock of its own, for the tests of those who use one.
//! - `test-util`: contract suites for those who implement a [`TaskStore`] or a [`Coordinator`].

mod builder;
mod bulk;
pub mod coordinator;
mod core;
mod def;
mod dispatch;
mod error;
mod executor;
mod executors;
mod graph;
mod history;
mod id;
mod notice;
mod persist;
mod planner;
#[cfg(feature = "plugin")]
mod plugin;
mod publish;
mod rare;
mod schedule;
mod scheduler;
mod spec;
mod stats;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod timer;
mod transfer;
mod upstream;
mod view;
mod why;

pub use builder::{BuildError, SchedulerBuilder, SchedulerConfig, StoreKind};
pub use bulk::{BulkAction, BulkRefusal, BulkReport, BulkRequest};
pub use coordinator::{Assignment, Coordinator, CoordinatorError, Grant, Membership, MemoryCoordinator};
pub use core::TaskSnapshot;
pub use error::TaskError;
pub use executor::{
    Executor, ExecutorGuard, ExecutorRegistry, PayloadError, RegisterError, RunContext, RunError, RunOutput,
    executor_fn,
};
pub use graph::{GRAPH_NODES_MAX, TaskEdge, TaskGraph, TaskNode};
pub use id::{ParseRunIdError, RunId};
#[cfg(feature = "plugin")]
pub use plugin::{PluginTasks, SCHEDULER, SchedulerPlugin};
pub use publish::TaskEvent;
pub use rare::{RareState, Rest};
pub use schedule::describe::{Description, Language, describe_cron};
pub use scheduler::{DryRun, Import, Scheduler, StopReport};
pub use spec::{
    After, AfterCondition, FailureBackoff, Group, IntervalMode, Misfire, MisfirePolicy, Overlap, Retry,
    ScheduleKind, ScheduleSpec, TaskSpec, TaskSpec as Task,
};
pub use store::{
    Change, Commit, FileStoreError, FileTaskStore, Loaded, MemoryTaskStore, OpenRun, Records, Retention,
    RunKey, StoreError, StorePlace, StoredTask, TaskState, TaskStore, shard_of,
};
pub use transfer::{ImportReport, OnConflict, ParseOnConflictError, TaskLine};
pub use upstream::UpstreamRun;
pub use view::{
    BackfillReport, BackfillRequest, ClusterStatus, ExecutorInfo, Lateness, Page, Paged,
    ParseRunOutcomeError, ParseTaskStatusError, RunFilter, RunOrigin, RunOutcome, RunTotals, RunView,
    SchedulerStatus, StoreStatus, TaskFilter, TaskStatus, TaskView,
};
pub use why::{Why, WhyAnswer};
