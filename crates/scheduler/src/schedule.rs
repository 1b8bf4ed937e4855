//! When a task runs, compiled: next times as a pure function.
//!
//! Inside the crate a time is a count of microseconds since 1970 ([`Micros`]): eight bytes, compared in one
//! instruction. A time that a caller gives is rounded up to it and the clock is rounded down, so that the
//! rounding never makes a run early.

use std::sync::Arc;
use std::time::Duration;

use runtime::Timestamp;

use crate::spec::{IntervalMode, ScheduleKind, ScheduleSpec};

pub(crate) mod admit;
pub(crate) mod cron;
pub(crate) mod days;
pub(crate) mod describe;

use cron::CronPlan;
use days::Excluded;

/// Microseconds since 1970-01-01T00:00:00Z.
pub(crate) type Micros = i64;

/// No time at all: later than every time.
pub(crate) const NEVER: Micros = Micros::MAX;

/// The clock's reading, rounded down.
pub(crate) fn floor_micros(at: Timestamp) -> Micros {
    at.as_nanosecond().div_euclid(1000) as Micros
}

/// A caller's time, rounded up.
pub(crate) fn ceil_micros(at: Timestamp) -> Micros {
    at.as_nanosecond().div_euclid(1000) as Micros + Micros::from(at.as_nanosecond().rem_euclid(1000) != 0)
}

/// The time for people.
pub(crate) fn timestamp(at: Micros) -> Timestamp {
    Timestamp::from_microsecond(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// A span, rounded up.
pub(crate) fn span_micros(span: Duration) -> Micros {
    Micros::try_from(span.as_nanos().div_ceil(1000)).unwrap_or(NEVER)
}

/// The type of a schedule, with what it needs and nothing else: there may be a million of them.
#[derive(Debug, Clone)]
pub(crate) enum Schedule {
    /// None: the task runs after others only.
    Dependent,
    /// By expression, in a zone.
    Cron(Arc<CronPlan>),
    /// `@every`, which is an interval that was written as an expression.
    Every { every: Micros, text: Arc<str> },
    /// With a span between the starts.
    Rate { every: Micros, delay: Option<std::num::NonZeroU64>, explicit: bool },
    /// With a span between an end and the next start.
    Delay { every: Micros, delay: Option<std::num::NonZeroU64> },
    /// At a time.
    OnceAt(Micros),
    /// A span after the anchor.
    OnceAfter(Micros),
    /// One that cannot be used here, as it was given: it has no times.
    Unusable(Box<ScheduleSpec>),
    /// Another one, without the times that lie on certain days.
    Except(Box<Except>),
}

/// A schedule that leaves days out.
#[derive(Debug, Clone)]
pub(crate) struct Except {
    pub(crate) schedule: Schedule,
    pub(crate) days: Excluded,
}

/// How many stretches of days are passed over in search of a time that is not left out.
const STRETCHES_MAX: usize = 1000;

impl Except {
    fn next_after(&self, bounds: &Bounds, mut after: Micros) -> Option<Micros> {
        for _ in 0..STRETCHES_MAX {
            let next = self.schedule.next_after(bounds, after)?;
            if !self.days.covers(next) {
                return Some(next);
            }
            let end = self.days.end_after(next)?;
            if self.schedule.waits_for_end() {
                // It has no times of its own: it goes on as soon as it may.
                return (end <= bounds.end).then_some(end);
            }
            after = end - 1;
        }
        None
    }

    fn latest_until(&self, bounds: &Bounds, after: Micros, mut at: Micros) -> Option<Micros> {
        for _ in 0..STRETCHES_MAX {
            let latest = self.schedule.latest_until(bounds, after, at)?;
            if !self.days.covers(latest) {
                return Some(latest);
            }
            at = self.days.begin_before(latest)? - 1;
        }
        None
    }
}

/// Between which times a schedule is in force, and where it counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// When the schedule was given.
    pub(crate) anchor: Micros,
    pub(crate) start: Micros,
    /// The last time allowed.
    pub(crate) end: Micros,
}

/// A delay of zero is stored as one more than it, so that "none given" costs no space.
pub(crate) fn pack_delay(delay: Micros) -> Option<std::num::NonZeroU64> {
    std::num::NonZeroU64::new(delay.unsigned_abs().saturating_add(1))
}

fn unpack_delay(delay: Option<std::num::NonZeroU64>) -> Option<Micros> {
    delay.map(|delay| Micros::try_from(delay.get() - 1).unwrap_or(NEVER))
}

impl Schedule {
    /// The first time of the schedule that is later than `after`.
    pub(crate) fn next_after(&self, bounds: &Bounds, after: Micros) -> Option<Micros> {
        let after = after.max(bounds.start.saturating_sub(1));
        let next = match self {
            Self::Dependent | Self::Unusable(_) => None,
            Self::Cron(plan) => plan.next_after(after),
            Self::Every { every, .. } => on_grid(first_of(bounds, *every, None), *every, after),
            Self::Rate { every, delay, .. } => {
                on_grid(first_of(bounds, *every, unpack_delay(*delay)), *every, after)
            }
            Self::Delay { every, delay } => {
                let first = first_of(bounds, *every, unpack_delay(*delay));
                Some(if after < first { first } else { after.saturating_add(*every) })
            }
            Self::OnceAt(at) => (*at > after).then_some(*at),
            Self::OnceAfter(delay) => {
                let at = bounds.anchor.saturating_add(*delay).max(bounds.start);
                (at > after).then_some(at)
            }
            Self::Except(except) => except.next_after(bounds, after),
        };
        next.filter(|next| *next <= bounds.end && *next < MICROS_LAST)
    }

    /// The latest time of the schedule that is not later than `at` and later than `after`.
    pub(crate) fn latest_until(&self, bounds: &Bounds, after: Micros, at: Micros) -> Option<Micros> {
        let at = at.min(bounds.end);
        let floor = after.max(bounds.start.saturating_sub(1));
        let latest = match self {
            Self::Cron(plan) => plan.latest_until(at),
            Self::Every { every, .. } => grid_until(first_of(bounds, *every, None), *every, at),
            Self::Rate { every, delay, .. } => {
                grid_until(first_of(bounds, *every, unpack_delay(*delay)), *every, at)
            }
            Self::Except(except) if !except.schedule.waits_for_end() => {
                except.latest_until(bounds, floor, at)
            }
            Self::Except(_)
            | Self::Dependent
            | Self::Unusable(_)
            | Self::Delay { .. }
            | Self::OnceAt(_)
            | Self::OnceAfter(_) => self.next_after(bounds, after).filter(|next| *next <= at),
        };
        latest.filter(|latest| *latest > floor)
    }

    /// How many times lie in `(after, until]`, where arithmetic tells.
    pub(crate) fn count_between(&self, bounds: &Bounds, after: Micros, until: Micros) -> Option<u64> {
        let (every, delay) = match self {
            Self::Every { every, .. } => (*every, None),
            Self::Rate { every, delay, .. } => (*every, unpack_delay(*delay)),
            _ => return None,
        };
        let first = first_of(bounds, every, delay);
        let until = until.min(bounds.end);
        let from = on_grid(first, every, after.max(bounds.start.saturating_sub(1)))?;
        if from > until { Some(0) } else { Some((until.abs_diff(from) / every.unsigned_abs()) + 1) }
    }

    /// The schedule with the times on the days that it leaves out.
    pub(crate) fn whole(&self) -> &Self {
        if let Self::Except(except) = self { &except.schedule } else { self }
    }

    /// The days that it leaves out.
    pub(crate) fn excluded(&self) -> Option<&Excluded> {
        if let Self::Except(except) = self { Some(&except.days) } else { None }
    }

    /// Whether the next time depends on when the present run ends.
    pub(crate) fn waits_for_end(&self) -> bool {
        matches!(self.whole(), Self::Delay { .. })
    }

    /// Whether no time is known before the one before has ended.
    pub(crate) fn has_no_times(&self) -> bool {
        matches!(self.whole(), Self::Dependent | Self::Unusable(_) | Self::Delay { .. })
    }

    /// Whether there is one time only.
    pub(crate) const fn is_once(&self) -> bool {
        matches!(self, Self::OnceAt(_) | Self::OnceAfter(_))
    }

    /// The body that this was made of, without what all types have in common.
    pub(crate) fn describe(&self) -> Option<ScheduleSpec> {
        let micros = |span: Micros| Duration::from_micros(span.unsigned_abs()).into();
        let interval = |every, delay: Option<_>, mode| ScheduleSpec {
            kind: ScheduleKind::Interval,
            interval: Some(micros(every)),
            delay: unpack_delay(delay).map(micros),
            mode,
            ..ScheduleSpec::default()
        };
        Some(match self {
            Self::Dependent => return None,
            Self::Unusable(spec) => ScheduleSpec::clone(spec),
            Self::Except(except) => {
                let mut spec = except.schedule.describe()?;
                spec.exclude = except.days.entries().to_vec();
                spec.timezone = spec.timezone.or_else(|| except.days.zone_name().map(str::to_owned));
                spec
            }
            Self::Cron(plan) => ScheduleSpec {
                timezone: plan.zone_name().map(str::to_owned),
                ..ScheduleSpec::cron(plan.text())
            },
            Self::Every { text, .. } => ScheduleSpec::cron(&**text),
            Self::Rate { every, delay, explicit } => {
                interval(*every, *delay, explicit.then_some(IntervalMode::Rate))
            }
            Self::Delay { every, delay } => interval(*every, *delay, Some(IntervalMode::Delay)),
            Self::OnceAt(at) => ScheduleSpec::once_at(timestamp(*at)),
            Self::OnceAfter(delay) => {
                ScheduleSpec { kind: ScheduleKind::Once, delay: Some(micros(*delay)), ..Default::default() }
            }
        })
    }
}

/// Past this nothing is planned: the end of the year 9998, before the calendar's own end.
const MICROS_LAST: Micros = 253_370_764_800 * 1_000_000;

/// The first time of an interval: a delay after the anchor, or after `start_at` where that is later. The
/// delay is an interval where it is not given, and nothing where `start_at` says when to begin.
fn first_of(bounds: &Bounds, every: Micros, delay: Option<Micros>) -> Micros {
    if bounds.start > bounds.anchor {
        bounds.start.saturating_add(delay.unwrap_or(0))
    } else {
        bounds.anchor.saturating_add(delay.unwrap_or(every))
    }
}

fn on_grid(first: Micros, every: Micros, after: Micros) -> Option<Micros> {
    if after < first {
        return Some(first);
    }
    let steps = (after - first) / every + 1;
    first.checked_add(steps.checked_mul(every)?)
}

fn grid_until(first: Micros, every: Micros, at: Micros) -> Option<Micros> {
    (at >= first).then(|| first + (at - first) / every * every)
}

#[cfg(test)]
mod tests;
