//! From the body of a schedule to its compiled form, or to the field that is wrong.

use std::time::Duration;

use runtime::{DurationText, parse_duration};

use super::cron::{CronError, CronPlan, zone_named};
use super::days::{Calendars, Excluded};
use super::{Bounds, Except, Micros, NEVER, Schedule, ceil_micros, floor_micros, pack_delay, span_micros};
use crate::error::TaskError;
use crate::spec::{IntervalMode, ScheduleKind, ScheduleSpec};

/// The shortest interval, and the shortest timeout.
pub(crate) const SPAN_MIN: Duration = Duration::from_millis(1);
/// The longest interval, delay and jitter: ten years.
pub(crate) const SPAN_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);
/// How far in the past the time of a one-off task may lie, for clocks that differ and requests that take long.
const PAST_GRACE: Micros = 60 * 1_000_000;

/// A schedule with its bounds, checked.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) schedule: Schedule,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) max_runs: u32,
    pub(crate) jitter: Micros,
}

impl Admitted {
    pub(crate) fn dependent() -> Self {
        Self { schedule: Schedule::Dependent, start: Micros::MIN, end: NEVER, max_runs: 0, jitter: 0 }
    }

    /// A schedule that is only kept, since it cannot be used.
    pub(crate) fn unusable(spec: &ScheduleSpec) -> Self {
        Self {
            schedule: Schedule::Unusable(spec.clone().into()),
            start: spec.start_at.map_or(Micros::MIN, ceil_micros),
            end: spec.end_at.map_or(NEVER, floor_micros),
            max_runs: spec.max_runs.unwrap_or(0),
            jitter: spec.jitter.map_or(0, |jitter| span_micros(jitter.0)),
        }
    }
}

fn refuse<T>(field: &str, detail: impl Into<String>) -> Result<T, TaskError> {
    Err(TaskError::invalid(format!("schedule.{field}"), detail))
}

/// Checks a schedule that is given at `now`.
pub(crate) fn admit(spec: &ScheduleSpec, calendars: &Calendars, now: Micros) -> Result<Admitted, TaskError> {
    let admitted = compile(spec, calendars, Some(now))?;
    let bounds = Bounds { anchor: now, start: admitted.start, end: admitted.end };
    // A one-off time within the grace lies before `now` and is no less a time.
    let after = if admitted.schedule.is_once() { now.saturating_sub(PAST_GRACE + 1) } else { now };
    if admitted.schedule.next_after(&bounds, after).is_none() {
        let field = match spec.kind {
            _ if spec.end_at.is_some() => "end_at",
            _ if !spec.exclude.is_empty() => "exclude",
            ScheduleKind::Cron => "cron",
            ScheduleKind::Interval => "interval",
            ScheduleKind::Once if spec.at.is_some() => "at",
            ScheduleKind::Once => "delay",
        };
        return refuse(field, "leaves no time at which the task could run");
    }
    Ok(admitted)
}

/// Reads a schedule that was admitted before: its times may have passed.
pub(crate) fn restore(spec: &ScheduleSpec, calendars: &Calendars) -> Result<Admitted, TaskError> {
    compile(spec, calendars, None)
}

fn compile(
    spec: &ScheduleSpec,
    calendars: &Calendars,
    given_at: Option<Micros>,
) -> Result<Admitted, TaskError> {
    refuse_strangers(spec)?;
    let start = spec.start_at.map_or(Micros::MIN, ceil_micros);
    let end = spec.end_at.map_or(NEVER, floor_micros);
    if start > end {
        return refuse("end_at", "is before `start_at`");
    }
    if given_at.is_some_and(|now| end < now) {
        return refuse("end_at", "has passed");
    }
    if spec.max_runs == Some(0) {
        return refuse("max_runs", "must be 1 or more");
    }
    let jitter = spec.jitter.map_or(Ok(0), |jitter| span("jitter", jitter, Duration::ZERO))?;
    let schedule = match spec.kind {
        ScheduleKind::Cron => cron(spec, given_at)?,
        ScheduleKind::Interval => interval(spec)?,
        ScheduleKind::Once => once(spec, given_at)?,
    };
    let schedule = except(schedule, spec, calendars)?;
    Ok(Admitted { schedule, start, end, max_runs: spec.max_runs.unwrap_or(0), jitter })
}

/// Fields of another type of schedule are refused, not ignored.
fn refuse_strangers(spec: &ScheduleSpec) -> Result<(), TaskError> {
    use ScheduleKind::{Cron, Interval, Once};
    let given: [(&str, bool, &[ScheduleKind]); 7] = [
        ("cron", spec.cron.is_some(), &[Cron]),
        // An interval has a zone only for the days that it leaves out.
        ("timezone", spec.timezone.is_some() && (spec.kind == Once || spec.exclude.is_empty()), &[Cron]),
        ("exclude", !spec.exclude.is_empty(), &[Cron, Interval]),
        ("interval", spec.interval.is_some(), &[Interval]),
        ("delay", spec.delay.is_some(), &[Interval, Once]),
        ("mode", spec.mode.is_some(), &[Interval]),
        ("at", spec.at.is_some(), &[Once]),
    ];
    for (field, is_given, kinds) in given {
        if is_given && !kinds.contains(&spec.kind) {
            let kind = match spec.kind {
                Cron => "cron",
                Interval => "interval",
                Once => "once",
            };
            return refuse(field, format!("does not go with type `{kind}`"));
        }
    }
    Ok(())
}

/// Leaves out the days that the caller names.
fn except(schedule: Schedule, spec: &ScheduleSpec, calendars: &Calendars) -> Result<Schedule, TaskError> {
    if spec.exclude.is_empty() {
        return Ok(schedule);
    }
    let zone = spec.timezone.as_deref();
    let tz = zone_named(zone).or_else(|detail| refuse("timezone", detail))?;
    let is_for_days_alone = zone.is_some() && !matches!(schedule, Schedule::Cron(_));
    match Excluded::new(&spec.exclude, calendars, tz, is_for_days_alone) {
        Ok(days) => Ok(Schedule::Except(Except { schedule, days }.into())),
        Err((field, detail)) => refuse(&field, detail),
    }
}

fn cron(spec: &ScheduleSpec, given_at: Option<Micros>) -> Result<Schedule, TaskError> {
    let Some(text) = &spec.cron else { return refuse("cron", "is required for type `cron`") };
    let trimmed = text.trim();
    let mut words = trimmed.split_ascii_whitespace();
    if words.next().is_some_and(|word| word.eq_ignore_ascii_case("@every")) {
        if spec.timezone.is_some() && spec.exclude.is_empty() {
            return refuse("timezone", "does not go with `@every`, which counts from the task's creation");
        }
        let rest: Vec<&str> = words.collect();
        let every = match rest.as_slice() {
            [every] => parse_duration(every).map_err(|error| error.to_string()),
            _ => Err("`@every` takes one duration, such as `@every 90s`".to_owned()),
        };
        let every = every.or_else(|detail| refuse("cron", detail))?;
        let every = span("cron", every.into(), SPAN_MIN)?;
        return Ok(Schedule::Every { every, text: trimmed.into() });
    }
    match CronPlan::new(text, spec.timezone.as_deref(), given_at) {
        Ok(plan) => Ok(Schedule::Cron(plan.into())),
        Err(CronError::Expression(detail)) => refuse("cron", detail),
        Err(CronError::Zone(detail)) => refuse("timezone", detail),
    }
}

fn interval(spec: &ScheduleSpec) -> Result<Schedule, TaskError> {
    let Some(every) = spec.interval else { return refuse("interval", "is required for type `interval`") };
    let every = span("interval", every, SPAN_MIN)?;
    let delay = spec.delay.map(|delay| span("delay", delay, Duration::ZERO)).transpose()?.map(pack_delay);
    let delay = delay.flatten();
    Ok(match spec.mode {
        Some(IntervalMode::Delay) => Schedule::Delay { every, delay },
        mode => Schedule::Rate { every, delay, explicit: mode.is_some() },
    })
}

fn once(spec: &ScheduleSpec, given_at: Option<Micros>) -> Result<Schedule, TaskError> {
    match (spec.at, spec.delay) {
        (Some(_), Some(_)) => refuse("delay", "does not go with `at`"),
        (None, None) => refuse("at", "is required for type `once`, or `delay` instead of it"),
        (Some(at), None) => {
            let at = ceil_micros(at);
            if given_at.is_some_and(|now| at < now.saturating_sub(PAST_GRACE)) {
                return refuse("at", "lies in the past");
            }
            Ok(Schedule::OnceAt(at))
        }
        (None, Some(delay)) => Ok(Schedule::OnceAfter(span("delay", delay, Duration::ZERO)?)),
    }
}

fn span(field: &str, span: DurationText, min: Duration) -> Result<Micros, TaskError> {
    if span.0 < min {
        return refuse(field, format!("must be {} or more", DurationText(min)));
    }
    if span.0 > SPAN_MAX {
        return refuse(field, "must be 10 years or less");
    }
    Ok(span_micros(span.0))
}
