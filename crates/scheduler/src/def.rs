//! The definition of a task as the scheduler keeps it: checked, compiled, small, and never changed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use runtime::{DurationText, TraceContext};
use serde_json::Value;

use crate::error::TaskError;
use crate::executor::{ExecutorKey, ExecutorRegistry};
use crate::id::is_task_id;
use crate::planner::RUN_ALL_LIMIT_MAX;
use crate::schedule::admit::{Admitted, SPAN_MIN, admit, restore};
use crate::schedule::days::Calendars;
use crate::schedule::{Bounds, Micros, NEVER, Schedule, timestamp};
use crate::spec::{
    After, DEFAULT_EXECUTOR, FailureBackoff, Group, Misfire, Overlap, Retry, ScheduleSpec, TaskSpec,
};
use crate::upstream::is_pointer;

/// A task's definition. There is one allocation for it; what is rarely said stands in a second one.
#[derive(Debug)]
pub(crate) struct Def {
    pub(crate) id: Box<str>,
    /// Empty if the id serves as the name.
    pub(crate) name: Box<str>,
    pub(crate) schedule: Schedule,
    /// The payload as JSON: a tree of values takes ten times the space.
    pub(crate) payload: Option<Box<str>>,
    pub(crate) policy: Option<Box<Policy>>,
    /// The work that gave the definition.
    pub(crate) trace: Option<Box<TraceContext>>,
    pub(crate) executor: ExecutorKey,
    /// After how many scheduled runs the task is done; zero for never.
    pub(crate) max_runs: u32,
    pub(crate) priority: i8,
}

/// What most tasks leave out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) description: Box<str>,
    pub(crate) overlap: Overlap,
    pub(crate) misfire: Misfire,
    pub(crate) retry: Option<Retry>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) group: Option<Group>,
    pub(crate) after: Box<[After]>,
    /// As JSON.
    pub(crate) metadata: Option<Box<str>>,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) jitter: Micros,
    pub(crate) owner: Option<Box<str>>,
    /// After how many failures in a row the task is paused; zero for never.
    pub(crate) pause_after_failures: u32,
    pub(crate) failure_backoff: Option<FailureBackoff>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            description: "".into(),
            overlap: Overlap::default(),
            misfire: Misfire::default(),
            retry: None,
            timeout: None,
            group: None,
            after: Box::default(),
            metadata: None,
            start: Micros::MIN,
            end: NEVER,
            jitter: 0,
            owner: None,
            pause_after_failures: 0,
            failure_backoff: None,
        }
    }
}

const NAME_CHARS_MAX: usize = 256;
const DESCRIPTION_CHARS_MAX: usize = 4096;
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
const METADATA_ENTRIES_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 16 * 1024;
const PRIORITY_MAX: i16 = 100;
const AFTER_MAX: usize = 64;
const GROUP_LIMIT_MAX: u32 = 100_000;
const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const BACKOFF_MAX: Duration = Duration::from_secs(24 * 3600);
const ATTEMPTS_MAX: u32 = 100;
const FAILURES_MAX: u32 = 1000;
const FAILURE_DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const POINTER_LEN_MAX: usize = 256;

impl Def {
    /// Checks a definition that is given at `now`, by the work that the caller is at.
    pub(crate) fn admit(
        spec: &TaskSpec,
        owner: Option<&str>,
        executors: &ExecutorRegistry,
        calendars: &Calendars,
        now: Micros,
    ) -> Result<Self, TaskError> {
        let timing = |schedule: &ScheduleSpec| admit(schedule, calendars, now);
        let payload = || payload_text("payload", &spec.payload);
        let def = Self::compile(spec, payload, owner, executors, timing)?;
        if let Some(present) = executors.present(def.executor) {
            // Foreign code: a panic in it is a refusal, and not the end of whoever asks.
            let checked = catch_unwind(AssertUnwindSafe(|| present.executor.check(&spec.payload)));
            let checked = checked.map_err(|panic| {
                let detail = format!("its executor panicked on it: {}", runtime::panic_message(&*panic));
                TaskError::invalid("payload", detail.chars().take(256).collect::<String>())
            })?;
            checked.map_err(|error| {
                let field = if error.field.is_empty() {
                    "payload".to_owned()
                } else {
                    format!("payload.{}", error.field)
                };
                TaskError::Invalid { field, detail: error.detail }
            })?;
        }
        Ok(def)
    }

    /// The same for one that was admitted before and has been stored since. Where its schedule cannot be used
    /// any more, since a calendar or a zone is gone, it is kept, and told beside what is wrong with it.
    pub(crate) fn restore(
        spec: &TaskSpec,
        payload: Option<Box<str>>,
        owner: Option<&str>,
        executors: &ExecutorRegistry,
        calendars: &Calendars,
    ) -> Result<(Self, Option<String>), TaskError> {
        let mut wrong = None;
        let timing = |schedule: &ScheduleSpec| {
            Ok(restore(schedule, calendars).unwrap_or_else(|error| {
                wrong = Some(error.to_string());
                Admitted::unusable(schedule)
            }))
        };
        let def = Self::compile(spec, || Ok(payload), owner, executors, timing)?;
        Ok((def, wrong))
    }

    fn compile(
        spec: &TaskSpec,
        payload: impl FnOnce() -> Result<Option<Box<str>>, TaskError>,
        owner: Option<&str>,
        executors: &ExecutorRegistry,
        timing: impl FnOnce(&ScheduleSpec) -> Result<Admitted, TaskError>,
    ) -> Result<Self, TaskError> {
        if !is_task_id(&spec.id) {
            let detail =
                if spec.id.is_empty() { "is required" } else { "must be 1 to 128 of `A-Za-z0-9._:-`" };
            return Err(TaskError::invalid("id", detail));
        }
        check_len("name", &spec.name, NAME_CHARS_MAX)?;
        check_len("description", &spec.description, DESCRIPTION_CHARS_MAX)?;
        let timing = match &spec.schedule {
            Some(schedule) => timing(schedule)?,
            None if spec.after.is_empty() => {
                return Err(TaskError::invalid("schedule", "is required, unless `after` names a task"));
            }
            None => Admitted::dependent(),
        };
        let executor = match spec.executor.as_str() {
            "" => DEFAULT_EXECUTOR,
            name => name,
        };
        let executor =
            executors.key_of(executor).map_err(|error| TaskError::invalid("executor", error.to_string()))?;
        let payload = payload()?;
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&spec.priority) {
            return Err(TaskError::invalid("priority", "must be from -100 to 100"));
        }
        let policy = Policy {
            description: spec.description.as_str().into(),
            overlap: spec.overlap,
            misfire: checked_misfire(spec.misfire)?,
            retry: spec.retry.map(checked_retry).transpose()?,
            timeout: spec.timeout.map(checked_timeout).transpose()?,
            group: spec.group.clone().map(checked_group).transpose()?,
            after: checked_after(spec)?,
            metadata: metadata_text(spec)?,
            start: timing.start,
            end: timing.end,
            jitter: timing.jitter,
            owner: owner.map(Into::into),
            pause_after_failures: checked_pause(spec, &timing)?,
            failure_backoff: spec
                .failure_backoff
                .map(|it| checked_failure_backoff(it, &timing))
                .transpose()?,
        };
        Ok(Self {
            id: spec.id.as_str().into(),
            name: if spec.name == spec.id { "".into() } else { spec.name.as_str().into() },
            schedule: timing.schedule,
            payload,
            policy: (policy != Policy::default()).then(|| policy.into()),
            trace: TraceContext::current().map(Box::new),
            executor,
            max_runs: timing.max_runs,
            priority: spec.priority as i8,
        })
    }

    pub(crate) fn name(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }

    pub(crate) fn bounds(&self, anchor: Micros) -> Bounds {
        let (start, end) =
            self.policy.as_ref().map_or((Micros::MIN, NEVER), |policy| (policy.start, policy.end));
        Bounds { anchor, start, end }
    }

    pub(crate) fn misfire(&self) -> Misfire {
        self.policy.as_ref().map_or_else(Misfire::default, |policy| policy.misfire)
    }

    pub(crate) fn overlap(&self) -> Overlap {
        self.policy.as_ref().map_or_else(Overlap::default, |policy| policy.overlap)
    }

    pub(crate) fn retry(&self) -> Option<&Retry> {
        self.policy.as_ref().and_then(|policy| policy.retry.as_ref())
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.policy.as_ref().and_then(|policy| policy.timeout)
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        self.policy.as_ref().and_then(|policy| policy.group.as_ref())
    }

    pub(crate) fn after(&self) -> &[After] {
        self.policy.as_ref().map_or(&[], |policy| &policy.after)
    }

    /// After how many failures in a row the task is paused.
    pub(crate) fn pause_after_failures(&self) -> Option<u32> {
        self.policy.as_ref().map(|policy| policy.pause_after_failures).filter(|failures| *failures > 0)
    }

    pub(crate) fn failure_backoff(&self) -> Option<&FailureBackoff> {
        self.policy.as_ref().and_then(|policy| policy.failure_backoff.as_ref())
    }

    pub(crate) fn owner(&self) -> Option<&str> {
        self.policy.as_ref().and_then(|policy| policy.owner.as_deref())
    }

    /// The trace that a scheduled run goes on with: that of the work that gave a task which runs once. What
    /// recurs would make a trace of months.
    pub(crate) fn run_trace(&self) -> Option<Box<TraceContext>> {
        self.trace.clone().filter(|_| self.schedule.is_once())
    }

    /// By how much this task's runs are late on purpose: always the same, and evenly spread over tasks.
    pub(crate) fn jitter(&self) -> Micros {
        let Some(span) = self.policy.as_ref().map(|policy| policy.jitter).filter(|span| *span > 0) else {
            return 0;
        };
        // FNV-1a and a final mix: the standard hasher is seeded anew in each process.
        let mut hash = self.id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(hash) * (span.unsigned_abs() as u128 + 1)) >> 64) as Micros
    }

    /// The schedule as it was given.
    pub(crate) fn schedule_spec(&self) -> Option<ScheduleSpec> {
        let mut spec = self.schedule.describe()?;
        spec.max_runs = (self.max_runs > 0).then_some(self.max_runs);
        if let Some(policy) = &self.policy {
            spec.start_at = (policy.start != Micros::MIN).then(|| timestamp(policy.start));
            spec.end_at = (policy.end != NEVER).then(|| timestamp(policy.end));
            spec.jitter =
                (policy.jitter > 0).then(|| Duration::from_micros(policy.jitter.unsigned_abs()).into());
        }
        Some(spec)
    }

    pub(crate) fn payload_value(&self) -> Value {
        self.payload.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
    }

    /// The body that makes this definition again.
    pub(crate) fn to_spec(&self, executor: &str) -> TaskSpec {
        TaskSpec { payload: self.payload_value(), ..self.to_spec_without_payload(executor) }
    }

    /// The same, but for the payload, of which the text is at hand.
    pub(crate) fn to_spec_without_payload(&self, executor: &str) -> TaskSpec {
        let policy = self.policy.as_deref().cloned().unwrap_or_default();
        TaskSpec {
            id: self.id.to_string(),
            name: self.name.to_string(),
            description: policy.description.into(),
            schedule: self.schedule_spec(),
            executor: executor.to_owned(),
            payload: Value::Null,
            overlap: policy.overlap,
            misfire: policy.misfire,
            retry: policy.retry,
            timeout: policy.timeout.map(DurationText),
            priority: i16::from(self.priority),
            group: policy.group,
            after: policy.after.into_vec(),
            pause_after_failures: (policy.pause_after_failures > 0).then_some(policy.pause_after_failures),
            failure_backoff: policy.failure_backoff,
            metadata: policy.metadata.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        }
    }
}

fn check_len(field: &str, text: &str, chars_max: usize) -> Result<(), TaskError> {
    // Bytes first: they are counted already.
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(TaskError::invalid(field, format!("must be {chars_max} characters or less")));
    }
    Ok(())
}

/// A payload as text, or nothing for null.
pub(crate) fn payload_text(field: &str, payload: &Value) -> Result<Option<Box<str>>, TaskError> {
    if payload.is_null() {
        return Ok(None);
    }
    // Three times as fast as the text of its `Display`.
    let text =
        serde_json::to_string(payload).map_err(|error| TaskError::invalid(field, error.to_string()))?;
    if text.len() > PAYLOAD_BYTES_MAX {
        return Err(TaskError::invalid(field, "must be 64 KiB or less"));
    }
    Ok(Some(text.into()))
}

fn metadata_text(spec: &TaskSpec) -> Result<Option<Box<str>>, TaskError> {
    if spec.metadata.is_empty() {
        return Ok(None);
    }
    if spec.metadata.len() > METADATA_ENTRIES_MAX {
        return Err(TaskError::invalid("metadata", "must have 64 entries or less"));
    }
    let text = serde_json::to_string(&spec.metadata)
        .map_err(|error| TaskError::invalid("metadata", error.to_string()))?;
    if text.len() > METADATA_BYTES_MAX {
        return Err(TaskError::invalid("metadata", "must be 16 KiB or less"));
    }
    Ok(Some(text.into()))
}

fn checked_misfire(misfire: Misfire) -> Result<Misfire, TaskError> {
    use crate::spec::MisfirePolicy::RunAll;
    match misfire.limit {
        Some(_) if misfire.policy != RunAll => {
            return Err(TaskError::invalid("misfire.limit", "goes with the policy `run_all` only"));
        }
        Some(limit) if !(1..=RUN_ALL_LIMIT_MAX).contains(&limit) => {
            return Err(TaskError::invalid("misfire.limit", "must be from 1 to 1000"));
        }
        _ => {}
    }
    Ok(misfire)
}

fn checked_retry(retry: Retry) -> Result<Retry, TaskError> {
    if !(1..=ATTEMPTS_MAX).contains(&retry.attempts) {
        return Err(TaskError::invalid("retry.attempts", "must be from 1 to 100"));
    }
    if !(1.0..=10.0).contains(&retry.factor) {
        return Err(TaskError::invalid("retry.factor", "must be from 1 to 10"));
    }
    for (field, span) in [("retry.backoff", retry.backoff), ("retry.max_backoff", retry.max_backoff)] {
        if span.0 > BACKOFF_MAX {
            return Err(TaskError::invalid(field, "must be 1 day or less"));
        }
    }
    Ok(retry)
}

fn checked_timeout(timeout: DurationText) -> Result<Duration, TaskError> {
    if (SPAN_MIN..=TIMEOUT_MAX).contains(&timeout.0) {
        Ok(timeout.0)
    } else {
        Err(TaskError::invalid("timeout", "must be from 1ms to 7 days"))
    }
}

fn checked_pause(spec: &TaskSpec, timing: &Admitted) -> Result<u32, TaskError> {
    let field = "pause_after_failures";
    match spec.pause_after_failures {
        None => Ok(0),
        Some(_) if timing.schedule.is_once() => {
            Err(TaskError::invalid(field, "goes with a task that runs more than once"))
        }
        Some(failures) if (1..=FAILURES_MAX).contains(&failures) => Ok(failures),
        Some(_) => Err(TaskError::invalid(field, "must be from 1 to 1000")),
    }
}

fn checked_failure_backoff(backoff: FailureBackoff, timing: &Admitted) -> Result<FailureBackoff, TaskError> {
    let refuse = |field: &str, detail: &str| Err(TaskError::invalid(field, detail));
    if timing.schedule.is_once() || matches!(timing.schedule, Schedule::Dependent) {
        return refuse("failure_backoff", "goes with a schedule that recurs");
    }
    if !(SPAN_MIN..=BACKOFF_MAX).contains(&backoff.delay.0) {
        return refuse("failure_backoff.delay", "must be from 1ms to 1 day");
    }
    if !(1.0..=10.0).contains(&backoff.factor) {
        return refuse("failure_backoff.factor", "must be from 1 to 10");
    }
    if !(backoff.delay.0..=FAILURE_DELAY_MAX).contains(&backoff.max_delay.0) {
        return refuse("failure_backoff.max_delay", "must be from `delay` to 30 days");
    }
    Ok(backoff)
}

fn checked_group(group: Group) -> Result<Group, TaskError> {
    if !is_task_id(&group.name) {
        return Err(TaskError::invalid("group.name", "must be 1 to 128 of `A-Za-z0-9._:-`"));
    }
    if !(1..=GROUP_LIMIT_MAX).contains(&group.limit) {
        return Err(TaskError::invalid("group.limit", "must be from 1 to 100000"));
    }
    Ok(group)
}

fn checked_after(spec: &TaskSpec) -> Result<Box<[After]>, TaskError> {
    if spec.after.len() > AFTER_MAX {
        return Err(TaskError::invalid("after", "must name 64 tasks or less"));
    }
    for (at, edge) in spec.after.iter().enumerate() {
        let field = format!("after[{at}].task");
        if !is_task_id(&edge.task) {
            return Err(TaskError::invalid(field, "must be 1 to 128 of `A-Za-z0-9._:-`"));
        }
        if edge.task == spec.id {
            return Err(TaskError::invalid(field, format!("makes a cycle: {} -> {}", spec.id, spec.id)));
        }
        if spec.after.iter().take(at).any(|earlier| earlier.task == edge.task) {
            return Err(TaskError::invalid(field, format!("names `{}` twice", edge.task)));
        }
        if let Some(into) = &edge.into
            && (into.len() > POINTER_LEN_MAX || !is_pointer(into))
        {
            let detail = "must be a JSON Pointer such as `/order`, of 256 bytes or less";
            return Err(TaskError::invalid(format!("after[{at}].into"), detail));
        }
    }
    Ok(spec.after.clone().into())
}
