//! What a due task does: a pure function of its schedule, its policy and the time.

use crate::schedule::{Bounds, Micros, NEVER, Schedule, span_micros};
use crate::spec::{Misfire, MisfirePolicy};

/// How late a run may start under `misfire: skip` where no window is given.
pub(crate) const SKIP_WINDOW: Micros = 5 * 1_000_000;
/// How many missed times `run_all` makes up for where no limit is given.
pub(crate) const RUN_ALL_LIMIT: u32 = 100;
/// The greatest limit.
pub(crate) const RUN_ALL_LIMIT_MAX: u32 = 1000;
/// Times that are missed together are counted one by one up to here, where arithmetic does not tell.
const COUNT_MAX: u64 = 16;

/// Due times that nobody will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The first of them.
    pub(crate) from: Micros,
    /// How many there are, or at least so many where `at_least` is set.
    pub(crate) times: u64,
    pub(crate) at_least: bool,
}

impl Missed {
    /// How many, in words.
    pub(crate) fn times_text(self) -> String {
        match (self.times, self.at_least) {
            (1, _) => "1 time".to_owned(),
            (times, false) => format!("{times} times"),
            (times, true) => format!("{times} times or more"),
        }
    }
}

/// What is to be done about a task that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The time to run for, if any.
    pub(crate) run: Option<Micros>,
    /// Further ones, later than it.
    pub(crate) more: Vec<Micros>,
    pub(crate) missed: Option<Missed>,
    /// The latest time that this deals with, as a run or as missed.
    pub(crate) until: Micros,
    /// When the task is due next.
    pub(crate) next: Micros,
}

/// Decides about a task that is due since `due`, at `now`. `runs_left` bounds how many runs there may be.
///
/// `now` is not earlier than `due`. With jitter both are meant without it.
pub(crate) fn plan(
    schedule: &Schedule,
    bounds: &Bounds,
    misfire: &Misfire,
    runs_left: u32,
    due: Micros,
    now: Micros,
) -> Plan {
    let next = if schedule.waits_for_end() { None } else { schedule.next_after(bounds, due) };
    let window = match (misfire.window, misfire.policy) {
        (Some(window), _) => span_micros(window.0),
        (None, MisfirePolicy::Skip) => SKIP_WINDOW,
        (None, _) => NEVER,
    };
    let is_late = now.saturating_sub(due) > window;
    // Nearly always: one time has come, and it has only just come.
    if next.is_none_or(|next| next > now) {
        let missed = is_late.then_some(Missed { from: due, times: 1, at_least: false });
        let run = if is_late { None } else { Some(due) };
        let next = match (next, run) {
            // What waits for an end that does not come is due again after its span.
            (None, None) if schedule.waits_for_end() => schedule.next_after(bounds, now),
            (next, _) => next,
        };
        return Plan { run, more: Vec::new(), missed, until: due, next: next.unwrap_or(NEVER) };
    }
    // Several times have come. All that lie within the window are candidates, the latest ones first.
    let floor = now.saturating_sub(window);
    let limit = match misfire.policy {
        MisfirePolicy::Skip | MisfirePolicy::RunOnce => 1,
        MisfirePolicy::RunAll => misfire.limit.unwrap_or(RUN_ALL_LIMIT).min(RUN_ALL_LIMIT_MAX),
    };
    let limit = limit.min(runs_left).max(1) as usize;
    let before_due = due.saturating_sub(1);
    let latest = schedule.latest_until(bounds, before_due, now);
    let mut candidate = latest;
    let mut runs = Vec::new();
    while let Some(at) = candidate.filter(|at| *at >= floor && runs.len() < limit) {
        runs.push(at);
        candidate = schedule.latest_until(bounds, before_due, at - 1);
    }
    runs.reverse();
    let next = schedule.next_after(bounds, now);
    let missed_until = runs.first().map_or(now, |first| first - 1);
    let missed = count_missed(schedule, bounds, due, missed_until);
    let mut runs = runs.into_iter();
    let until = latest.unwrap_or(due);
    Plan { run: runs.next(), more: runs.collect(), missed, until, next: next.unwrap_or(NEVER) }
}

/// How many times lie in `[from, until]`.
pub(crate) fn count_missed(
    schedule: &Schedule,
    bounds: &Bounds,
    from: Micros,
    until: Micros,
) -> Option<Missed> {
    if until < from {
        return None;
    }
    if let Some(times) = schedule.count_between(bounds, from - 1, until) {
        return (times > 0).then_some(Missed { from, times, at_least: false });
    }
    let mut times = 1;
    let mut at = from;
    while let Some(next) = schedule.next_after(bounds, at).filter(|next| *next <= until) {
        if times == COUNT_MAX {
            return Some(Missed { from, times, at_least: true });
        }
        at = next;
        times += 1;
    }
    Some(Missed { from, times, at_least: false })
}

#[cfg(test)]
mod tests;
