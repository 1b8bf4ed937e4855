//! What a caller is shown: the answers of the management API.

use std::collections::BTreeMap;

use runtime::{DurationText, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::RunId;
use crate::spec::{After, FailureBackoff, Group, Misfire, Overlap, Retry, ScheduleSpec};

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Waits for its time, for its executor, or for other tasks.
    Pending,
    /// At least one run is under way.
    Running,
    /// Not scheduled until it is resumed.
    Paused,
    /// Done: no further run is due, and the last one completed.
    Completed,
    /// Done: no further run is due, and the last one failed.
    Failed,
    /// Ended by an operator.
    Canceled,
}

impl TaskStatus {
    /// Every state, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Paused, Self::Completed, Self::Failed, Self::Canceled];

    /// The state as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl std::fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not the name of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a status is one of `pending running paused completed failed canceled`")]
pub struct ParseTaskStatusError;

impl std::str::FromStr for TaskStatus {
    type Err = ParseTaskStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(ParseTaskStatusError)
    }
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskView {
    /// The task's id.
    pub id: String,
    /// The name for people; the id where none was given.
    pub name: String,
    /// What the task is for.
    pub description: String,
    /// When it runs; null for a task that runs only after others.
    pub schedule: Option<ScheduleSpec>,
    /// The name of what runs it.
    pub executor: String,
    /// What the executor gets.
    pub payload: Value,
    /// The task's state.
    pub status: TaskStatus,
    /// Why the task does not run although it is due, such as that its executor is absent.
    pub waiting_for: Option<String>,
    /// When the task was created.
    pub created_at: Timestamp,
    /// When its definition was last changed.
    pub updated_at: Timestamp,
    /// When its latest run started.
    pub last_run_at: Option<Timestamp>,
    /// When it is due next, jitter included.
    pub next_run_at: Option<Timestamp>,
    /// How many runs have ended, as completed or as failed.
    pub run_count: u64,
    /// How many of these have failed.
    pub failure_count: u64,
    /// Why the latest run failed; null after one that completed.
    pub last_error: Option<String>,
    /// Labels.
    pub metadata: BTreeMap<String, Value>,
    /// What happens when it is due while it runs.
    pub overlap: Overlap,
    /// What happens to missed times.
    pub misfire: Misfire,
    /// How a failed run is tried again.
    pub retry: Option<Retry>,
    /// How long one attempt may take.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub timeout: Option<DurationText>,
    /// Rank among runs that are due together.
    pub priority: i16,
    /// The group whose bound it shares.
    pub group: Option<Group>,
    /// The tasks that it runs after.
    pub after: Vec<After>,
    /// After how many failed runs in a row it is paused.
    pub pause_after_failures: Option<u32>,
    /// How its scheduled runs move apart while they fail.
    pub failure_backoff: Option<FailureBackoff>,
    /// How many runs in a row have failed.
    pub consecutive_failures: u32,
    /// No scheduled run starts before this time, since runs have failed.
    pub backoff_until: Option<Timestamp>,
    /// Why it is paused.
    pub pause_reason: Option<String>,
    /// How many runs of a backfill are still to begin.
    pub backfill_runs_left: u32,
    /// The plugin that registered it.
    pub owner: Option<String>,
    /// The version of the definition: one more with each change. Counters do not change it.
    pub version: u64,
    /// Tells this task from an earlier one with the same id.
    pub incarnation: u64,
    /// How many runs are under way or wait in line.
    pub active_runs: u32,
}

/// What made a run happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunOrigin {
    /// The task's schedule.
    Schedule,
    /// A caller.
    Trigger,
    /// The runs of other tasks.
    Dependency,
    /// A caller, for a time of the schedule that was missed.
    Backfill,
}

/// How far a run is, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// Waits for its turn: an earlier run of the task, its group, or the host's bound.
    Queued,
    /// Under way.
    Running,
    /// Has failed and waits for its next attempt.
    Retrying,
    /// Ended well.
    Completed,
    /// Ended in an error, a panic, or past its timeout.
    Failed,
    /// Was ended by a caller, by its task's end or by the host's.
    Canceled,
    /// Never started; the reason is in the record.
    Skipped,
}

impl RunOutcome {
    /// Every outcome, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Completed,
        Self::Failed,
        Self::Canceled,
        Self::Skipped,
    ];

    /// Whether the run has ended, or will never start.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled | Self::Skipped)
    }

    /// The outcome as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Skipped => "skipped",
        }
    }
}

/// The record of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunView {
    /// The run's id.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: RunId,
    /// The id of its task.
    pub task: String,
    /// Tells the task from an earlier one with the same id.
    pub incarnation: u64,
    /// The time that it was due at.
    pub scheduled_for: Timestamp,
    /// When it started; null if it has not.
    pub started_at: Option<Timestamp>,
    /// When it ended; null if it has not.
    pub ended_at: Option<Timestamp>,
    /// The node that ran it.
    pub node: String,
    /// Which attempt this is or was, from 1.
    pub attempt: u32,
    /// What made it happen.
    pub origin: RunOrigin,
    /// How far it is, or how it ended.
    pub outcome: RunOutcome,
    /// Why it failed.
    pub error: Option<String>,
    /// Why it was skipped.
    pub skip_reason: Option<String>,
    /// For how many due times this record stands, where several were missed together.
    pub times: u64,
    /// What the executor gave back, up to 4 KiB.
    pub output: Option<Value>,
    /// The W3C trace id of the run.
    pub trace_id: String,
    /// The first run of the chain that this one belongs to; null where no other run let it go.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub chain: Option<RunId>,
    /// The runs of other tasks that let it go, in the order of its task's `after`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub caused_by: Vec<RunId>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paged<T> {
    /// The entries of the page.
    pub items: Vec<T>,
    /// How many there are on all pages.
    pub total: u64,
    /// What to ask the next page with; null on the last.
    pub next_cursor: Option<String>,
}

/// Which page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// At most so many entries; 1 to 1000.
    pub limit: usize,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: 100, cursor: None }
    }
}

/// Which tasks to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TaskFilter {
    /// In this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// Run by this executor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// With this text in their id or name, whatever the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// Registered by this plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Of this group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Which runs to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunFilter {
    /// That belong to the chain of this run: it, what it let go, and so on.
    pub chain: Option<RunId>,
    /// That have got so far, or ended so.
    pub outcome: Option<RunOutcome>,
}

/// A text that is not the name of an outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an outcome is one of `queued running retrying completed failed canceled skipped`")]
pub struct ParseRunOutcomeError;

impl std::str::FromStr for RunOutcome {
    type Err = ParseRunOutcomeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(ParseRunOutcomeError)
    }
}

/// Which times of a schedule to run that were missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// The first time.
    pub from: Timestamp,
    /// The last time; now where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// At most so many runs; 1 to 1000, 100 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000, default = 100))]
    pub limit: Option<u32>,
}

/// Which times of a schedule a backfill runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackfillReport {
    /// The task.
    pub task: String,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How many runs there are to be.
    pub count: u64,
    /// The times that they stand for.
    pub times: Vec<Timestamp>,
    /// How many times of the range have run before.
    pub already_run: u64,
    /// How many times of the range may have run before, since records of them are not kept any more. They
    /// are not run again.
    pub not_known: u64,
    /// Where to go on, if the limit was reached before the end of the range.
    pub next_from: Option<Timestamp>,
}

/// What can run tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecutorInfo {
    /// The name that tasks use.
    pub name: String,
    /// The plugin that registered it; null for a built-in one.
    pub owner: Option<String>,
    /// Whether it is there now. False where tasks name what nobody has registered.
    pub available: bool,
    /// What it does.
    pub description: String,
    /// The JSON schema (2020-12) of its payloads; null where it says nothing of them.
    pub payload_schema: Option<serde_json::Value>,
    /// How many of its runs are under way.
    pub active_runs: u64,
}

/// How late runs start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lateness {
    /// Half of the runs are not later than this.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub p50: DurationText,
    /// Nine of ten.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub p90: DurationText,
    /// Ninety-nine of a hundred.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub p99: DurationText,
    /// None was later.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub max: DurationText,
    /// Over how many runs.
    pub count: u64,
}

/// How many runs have ended in which way since the scheduler was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunTotals {
    /// First attempts.
    pub started: u64,
    /// Ended well.
    pub completed: u64,
    /// Ended badly.
    pub failed: u64,
    /// Were ended.
    pub canceled: u64,
    /// Never started.
    pub skipped: u64,
    /// Further attempts.
    pub retried: u64,
}

/// The state of the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoreStatus {
    /// Which engine: `memory`, …
    pub kind: String,
    /// Whether what is acknowledged survives the process.
    pub durable: bool,
    /// Whether the store took the latest commit.
    pub healthy: bool,
    /// Why the latest commit that failed did.
    pub last_error: Option<String>,
    /// How many commits have failed since the start.
    #[serde(default)]
    pub errors: u64,
    /// How many changes wait to be written.
    #[serde(default)]
    pub pending: u64,
    /// When it last took changes, as safe by then as the engine makes them.
    #[serde(default)]
    pub last_commit_at: Option<Timestamp>,
    /// Where it keeps things: a folder, or the addresses of servers.
    #[serde(default)]
    pub location: Option<String>,
    /// How much room it takes there, in bytes.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// Who runs which share of the tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterStatus {
    /// This node.
    pub node: String,
    /// The nodes that share the tasks.
    pub members: Vec<String>,
    /// Into how many shards the tasks are divided.
    pub shards: u32,
    /// How many of the shards this node owns.
    pub owned: u32,
}

/// The scheduler as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SchedulerStatus {
    /// Whether due tasks are run.
    pub running: bool,
    /// How many tasks there are.
    pub total_tasks: u64,
    /// How many tasks are in each state that any task is in.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub status_counts: BTreeMap<TaskStatus, u64>,
    /// How many runs are under way.
    pub active_runs: u64,
    /// How many runs should have ended, since they are out of time or cancelled, and do not yield.
    pub stuck_runs: u64,
    /// How many runs wait for their turn.
    pub queued_runs: u64,
    /// How many due tasks wait for an executor that is absent.
    pub waiting_tasks: u64,
    /// Runs started per second, over the last minute.
    pub due_rate: f64,
    /// How late runs started, over the last minutes.
    pub lateness: Lateness,
    /// What has been run.
    pub runs: RunTotals,
    /// Where tasks are kept.
    pub store: StoreStatus,
    /// Who runs them.
    pub cluster: ClusterStatus,
    /// When the next task is due.
    pub next_run_at: Option<Timestamp>,
}
