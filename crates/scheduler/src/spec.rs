//! What a caller says about a task: the body of `POST /scheduler/tasks`.

mod short_form;

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::{DurationText, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The definition of a task. Unknown fields are refused.
///
/// ```
/// use scheduler::{ScheduleSpec, TaskSpec};
/// use std::time::Duration;
///
/// let spec = TaskSpec::new("beat", ScheduleSpec::every(Duration::from_secs(30)));
/// let same: TaskSpec = serde_json::from_str(
///     r#"{"id": "beat", "schedule": {"type": "interval", "interval": "30s"}}"#,
/// )?;
/// assert_eq!(spec, same);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TaskSpec {
    /// 1 to 128 of `A-Za-z0-9._:-`; unique.
    #[cfg_attr(
        feature = "openapi",
        schema(required, min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9._:-]+$")
    )]
    pub id: String,
    /// For people; the id where it is left out. At most 256 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the task is for. At most 4096 characters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// When the task runs. Left out, a task runs whenever what it is `after` has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// The name of what runs the task: `log`, `event`, `http`, or `<plugin>.<name>`.
    #[serde(skip_serializing_if = "is_default_executor")]
    #[cfg_attr(feature = "openapi", schema(default = "log", max_length = 256))]
    pub executor: String,
    /// What the executor gets. At most 64 KiB of JSON.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// What happens when the task is due while it runs.
    #[serde(skip_serializing_if = "is_default")]
    pub overlap: Overlap,
    /// What happens to times that were missed. A policy's name alone is its short form.
    #[serde(skip_serializing_if = "is_default")]
    pub misfire: Misfire,
    /// How a failed run is tried again; left out, it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How long one attempt may take, from 1 ms to 7 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "30s"))]
    pub timeout: Option<DurationText>,
    /// Among runs that are due together, the higher goes first; from -100 to 100.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    pub priority: i16,
    /// The tasks of one group share a bound on how many of them run at once. A name alone means a bound of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// The tasks that must have run before this one does. At most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// After how many failed runs in a row the task is paused, from 1 to 1000; left out, it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub pause_after_failures: Option<u32>,
    /// How the scheduled runs of a recurring task move apart while they fail; left out, they do not. A
    /// duration alone is the first delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_backoff: Option<FailureBackoff>,
    /// Labels for people and tools. At most 64, with 16 KiB in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Value>,
}

/// The executor of a task that names none.
pub(crate) const DEFAULT_EXECUTOR: &str = "log";

fn is_default_executor(name: &str) -> bool {
    name.is_empty() || name == DEFAULT_EXECUTOR
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl TaskSpec {
    /// A task with a schedule, run by the executor `log`.
    #[must_use]
    pub fn new(id: impl Into<String>, schedule: ScheduleSpec) -> Self {
        Self { id: id.into(), schedule: Some(schedule), ..Self::default() }
    }

    /// A task by cron expression, read in UTC.
    #[must_use]
    pub fn cron(id: impl Into<String>, expression: impl Into<String>) -> Self {
        Self::new(id, ScheduleSpec::cron(expression))
    }

    /// A task at a fixed rate.
    #[must_use]
    pub fn every(id: impl Into<String>, interval: Duration) -> Self {
        Self::new(id, ScheduleSpec::every(interval))
    }

    /// A task that runs once, after a delay.
    #[must_use]
    pub fn once(id: impl Into<String>, delay: Duration) -> Self {
        Self::new(id, ScheduleSpec::once_after(delay))
    }

    /// Names the executor.
    #[must_use]
    pub fn executor(mut self, name: impl Into<String>) -> Self {
        self.executor = name.into();
        self
    }

    /// Sets what the executor gets.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }
}

/// When a task runs.
///
/// One struct for all types, so that a refusal names the field; which fields go together is checked when a
/// task is created.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// Which type of schedule this is.
    #[serde(rename = "type")]
    pub kind: ScheduleKind,
    /// `cron`: five fields, or six with seconds before them, or seven with the year after them; or
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`; or `@every 90s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "0 2 * * MON-FRI", max_length = 256))]
    pub cron: Option<String>,
    /// `cron`: the IANA zone that the expression is read in; UTC where it is left out. `interval`: that of the
    /// days in `exclude`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "Asia/Shanghai"))]
    pub timezone: Option<String>,
    /// `interval`: from 1 ms to 10 years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "30s"))]
    pub interval: Option<DurationText>,
    /// `interval`: until the first run, an interval where it is left out. `once`: until the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "5s"))]
    pub delay: Option<DurationText>,
    /// `interval`: what the interval is between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<IntervalMode>,
    /// `once`: the time of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// After how many scheduled runs the task is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub max_runs: Option<u32>,
    /// No run is scheduled before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// No run is scheduled after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    /// `cron`, `interval`: days without a run, in the schedule's zone: weekdays (`SAT`), dates (`2026-12-25`),
    /// days of each year (`12-25`), two of these with `..` between, and names of the host's calendars. Times
    /// on them are left out. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64, example = json!(["SAT", "SUN", "12-24..01-01", "holidays"])))]
    pub exclude: Vec<String>,
    /// Each task's runs are later by a span between zero and this, always the same for the one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "10s"))]
    pub jitter: Option<DurationText>,
}

impl ScheduleSpec {
    /// By a cron expression, read in UTC.
    #[must_use]
    pub fn cron(expression: impl Into<String>) -> Self {
        Self { kind: ScheduleKind::Cron, cron: Some(expression.into()), ..Self::default() }
    }

    /// At a fixed rate.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { kind: ScheduleKind::Interval, interval: Some(interval.into()), ..Self::default() }
    }

    /// Once, after a delay.
    #[must_use]
    pub fn once_after(delay: Duration) -> Self {
        Self { kind: ScheduleKind::Once, delay: Some(delay.into()), ..Self::default() }
    }

    /// Once, at a time.
    #[must_use]
    pub fn once_at(at: Timestamp) -> Self {
        Self { kind: ScheduleKind::Once, at: Some(at), ..Self::default() }
    }

    /// Reads the cron expression in an IANA zone.
    #[must_use]
    pub fn timezone(mut self, zone: impl Into<String>) -> Self {
        self.timezone = Some(zone.into());
        self
    }

    /// Leaves out the times on these days: see [`ScheduleSpec::exclude`].
    #[must_use]
    pub fn except<S: Into<String>>(mut self, days: impl IntoIterator<Item = S>) -> Self {
        self.exclude = days.into_iter().map(Into::into).collect();
        self
    }

    /// Ends the schedule after so many runs.
    #[must_use]
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.max_runs = Some(runs);
        self
    }
}

/// The types of schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// By a cron expression.
    #[default]
    Cron,
    /// Again and again, with a span between.
    Interval,
    /// One time.
    Once,
}

/// What the interval is between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum IntervalMode {
    /// Between the starts: times lie on a grid that slow runs do not shift.
    #[default]
    Rate,
    /// Between the end of a run and the start of the next.
    Delay,
}

/// What happens when a task is due while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The new run is left out, and its record says so.
    #[default]
    Skip,
    /// One run waits for the present one; more are left out.
    QueueOne,
    /// Runs wait for each other, up to the host's bound; more are left out.
    QueueAll,
    /// The present run is cancelled, and the new one starts as soon as it has ended.
    CancelPrevious,
    /// Runs go on side by side.
    Allow,
}

/// What happens to times at which nobody could run the task, since the host was away, its clock jumped,
/// or the executor was absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Misfire {
    /// Which of the missed times are made up for.
    pub policy: MisfirePolicy,
    /// `run_all`: how many at the most, the latest ones; 1 to 1000, 100 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// How late a run may start. Left out: 5 s for `skip`, no bound for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "10m"))]
    pub window: Option<DurationText>,
}

impl Misfire {
    /// What it means for times that only waited for room: they have not been missed, and the latest is run.
    pub(crate) fn when_crowded(self) -> Self {
        match self.policy {
            MisfirePolicy::Skip => Self { policy: MisfirePolicy::RunOnce, ..self },
            MisfirePolicy::RunOnce | MisfirePolicy::RunAll => self,
        }
    }
}

/// Which missed times are made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// None.
    Skip,
    /// All of them together, by one run for the latest.
    #[default]
    RunOnce,
    /// Each of them, up to the limit.
    RunAll,
}

/// How a failed run is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many times a run is tried in all, the first time included; 1 to 100.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    pub attempts: u32,
    /// The wait before the second attempt; 1 s where it is left out, at most 1 day.
    #[serde(default = "default_backoff")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "1s"))]
    pub backoff: DurationText,
    /// By what each wait is longer than the one before; 1 to 10, 2 where it is left out.
    #[serde(default = "default_factor")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10, default = 2))]
    pub factor: f64,
    /// The longest wait; 1 h where it is left out, at most 1 day.
    #[serde(default = "default_max_backoff")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "1h"))]
    pub max_backoff: DurationText,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: default_backoff(),
            factor: default_factor(),
            max_backoff: default_max_backoff(),
        }
    }
}

const fn default_backoff() -> DurationText {
    DurationText(Duration::from_secs(1))
}

const fn default_factor() -> f64 {
    2.0
}

const fn default_max_backoff() -> DurationText {
    DurationText(Duration::from_secs(3600))
}

/// How the scheduled runs of a recurring task move apart while they fail: after the n-th failed run in a row
/// none is started for `delay` times `factor` to the power of n - 1. Retries come before: a run has failed
/// when its last attempt has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FailureBackoff {
    /// The delay after the first failure; from 1 ms to 1 day.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "1m"))]
    pub delay: DurationText,
    /// By what each delay is longer than the one before; 1 to 10, 2 where it is left out.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10, default = 2))]
    pub factor: f64,
    /// The longest delay; 1 h where it is left out, or `delay` where that is longer; at most 30 days.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "1h"))]
    pub max_delay: DurationText,
}

impl FailureBackoff {
    /// Delays that begin with this one, double, and end at an hour.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        let max_delay = default_max_backoff().0.max(delay).into();
        Self { delay: delay.into(), factor: default_factor(), max_delay }
    }
}

/// A set of tasks that share a bound on how many of them run at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Group {
    /// 1 to 128 of `A-Za-z0-9._:-`.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 128))]
    pub name: String,
    /// This task waits while so many of the group run; 1 to 100000.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100_000, default = 1))]
    pub limit: u32,
}

/// An edge to a task that must have run before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct After {
    /// The id of that task.
    pub task: String,
    /// How its run must have ended.
    pub on: AfterCondition,
    /// Where in this task's payload the output of that run goes: a JSON Pointer (RFC 6901), with which it is
    /// put in as by JSON Merge Patch (RFC 7396); the empty one is the whole payload. Left out, the payload
    /// stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "/order", max_length = 256))]
    pub into: Option<String>,
}

impl After {
    /// After a run of the task that has completed.
    #[must_use]
    pub fn success(task: impl Into<String>) -> Self {
        Self { task: task.into(), on: AfterCondition::Success, into: None }
    }

    /// The same, with another condition.
    #[must_use]
    pub fn on(mut self, condition: AfterCondition) -> Self {
        self.on = condition;
        self
    }

    /// The same, with the output of that run put into this task's payload.
    #[must_use]
    pub fn into_payload(mut self, pointer: impl Into<String>) -> Self {
        self.into = Some(pointer.into());
        self
    }
}

/// How the run of another task must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AfterCondition {
    /// As completed.
    #[default]
    Success,
    /// As failed.
    Failure,
    /// In whatever way.
    Always,
}

impl AfterCondition {
    /// The condition as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Always => "always",
        }
    }
}
