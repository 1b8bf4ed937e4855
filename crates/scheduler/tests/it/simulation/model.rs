//! What should happen, reckoned in the simplest way: the times of a schedule one by one, and which of them
//! somebody must account for.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::{Overlap, RunOrigin, RunOutcome, RunView};
use serde_json::{Value, json};

use super::observer::{BACKOFF_MAX_MS, Rules};

pub(super) const SECOND: i64 = 1_000_000;

/// The times of a schedule, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Grid {
    /// From a first time on, with a span between.
    Every {
        first: i64,
        every: i64,
    },
    /// At each second whose place in the minute is a multiple of this.
    Seconds(i64),
    Once(i64),
    /// A span after the end of each run: known only when it has ended.
    AfterEnd {
        every: i64,
    },
}

impl Grid {
    /// The times in `(after, until]`.
    fn times(&self, after: i64, until: i64) -> Vec<i64> {
        let mut times = Vec::new();
        match self {
            Self::Every { first, every } => {
                let mut at = *first;
                if at <= after {
                    at += (after - at) / every * every;
                }
                while at <= until {
                    if at > after {
                        times.push(at);
                    }
                    at += every;
                }
            }
            Self::Seconds(step) => {
                for second in after.div_euclid(SECOND) + 1..=until.div_euclid(SECOND) {
                    if second.rem_euclid(60) % step == 0 {
                        times.push(second * SECOND);
                    }
                }
            }
            Self::Once(at) if *at > after && *at <= until => times.push(*at),
            Self::Once(_) | Self::AfterEnd { .. } => {}
        }
        times
    }
}

/// A task as it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) schedule: Value,
    pub(super) grid: Grid,
    pub(super) max_runs: usize,
    /// The last time allowed.
    pub(super) end: i64,
    /// Whether its times are moved by a jitter.
    pub(super) jitter: bool,
    pub(super) rules: Rules,
    policies: Value,
}

impl Wanted {
    /// A random task that is given at `now`.
    pub(super) fn random(rng: &mut fastrand::Rng, now: i64) -> Self {
        let mut schedule;
        let grid;
        match rng.u8(..10) {
            0..4 => {
                let every_ms = [700, 1000, 2500, 7000, 30_000, 300_000][rng.usize(..6)];
                schedule = json!({ "type": "interval", "interval": format!("{every_ms}ms") });
                let mut first = every_ms;
                if rng.u8(..4) == 0 {
                    first = rng.i64(0..20_000);
                    schedule["delay"] = json!(format!("{first}ms"));
                }
                let mut anchor = now;
                if rng.u8(..6) == 0 {
                    anchor += rng.i64(1..20) * SECOND;
                    schedule["start_at"] = json!(text(anchor));
                    first = if schedule["delay"].is_null() { 0 } else { first };
                }
                grid = Grid::Every { first: anchor + first * 1000, every: every_ms * 1000 };
            }
            4..7 => {
                let step = [1, 2, 5, 15, 30][rng.usize(..5)];
                schedule = json!({ "type": "cron", "cron": format!("*/{step} * * * * *") });
                grid = Grid::Seconds(step);
            }
            7 => {
                let at = now + rng.i64(1..60) * SECOND;
                schedule = json!({ "type": "once", "at": text(at) });
                grid = Grid::Once(at);
            }
            8 => {
                let delay = rng.i64(0..60_000);
                schedule = json!({ "type": "once", "delay": format!("{delay}ms") });
                grid = Grid::Once(now + delay * 1000);
            }
            _ => {
                let every = rng.i64(500..10_000);
                schedule = json!({ "type": "interval", "interval": format!("{every}ms"), "mode": "delay" });
                grid = Grid::AfterEnd { every: every * 1000 };
            }
        }
        let is_once = matches!(grid, Grid::Once(_));
        let (mut max_runs, mut end, mut jitter) = (0, i64::MAX, false);
        if !is_once && rng.u8(..5) == 0 {
            max_runs = rng.usize(1..8);
            schedule["max_runs"] = json!(max_runs);
        }
        if !is_once && rng.u8(..8) == 0 {
            end = now + rng.i64(320..900) * SECOND;
            schedule["end_at"] = json!(text(end));
        }
        if rng.u8(..8) == 0 {
            jitter = true;
            schedule["jitter"] = json!("3s");
        }
        let (rules, policies) = policies(rng);
        Self { schedule, grid, max_runs, end, jitter, rules, policies }
    }

    /// The same task with other policies.
    pub(super) fn with_other_policies(&self, rng: &mut fastrand::Rng) -> Self {
        let (rules, policies) = policies(rng);
        Self { rules, policies, ..self.clone() }
    }

    pub(super) fn body(&self, id: &str) -> Value {
        let mut body = self.policies.clone();
        body["id"] = json!(id);
        body["executor"] = json!("work");
        body["schedule"] = self.schedule.clone();
        body
    }
}

fn policies(rng: &mut fastrand::Rng) -> (Rules, Value) {
    let overlaps = [
        ("skip", Overlap::Skip),
        ("queue_one", Overlap::QueueOne),
        ("queue_all", Overlap::QueueAll),
        ("cancel_previous", Overlap::CancelPrevious),
        ("allow", Overlap::Allow),
    ];
    let (name, overlap) = overlaps[rng.usize(..overlaps.len())];
    let mut body = json!({ "overlap": name });
    match rng.u8(..6) {
        0 => body["misfire"] = json!("skip"),
        1 => body["misfire"] = json!({ "policy": "skip", "window": "20s" }),
        2 => body["misfire"] = json!("run_all"),
        3 => body["misfire"] = json!({ "policy": "run_all", "limit": rng.u32(1..6), "window": "40s" }),
        4 => body["misfire"] = json!({ "policy": "run_once", "window": "10s" }),
        _ => {}
    }
    let mut rules = Rules {
        overlap,
        group: None,
        attempts: 1,
        backoff_ms: 0,
        timeout: std::time::Duration::from_secs(20),
    };
    if rng.u8(..2) == 0 {
        rules.attempts = rng.u32(1..5);
        rules.backoff_ms = rng.i64(0..3000);
        body["retry"] = json!({
            "attempts": rules.attempts,
            "backoff": format!("{}ms", rules.backoff_ms),
            "max_backoff": format!("{BACKOFF_MAX_MS}ms"),
        });
    }
    if rng.u8(..2) == 0 {
        let timeout_ms = rng.u64(500..6000);
        rules.timeout = std::time::Duration::from_millis(timeout_ms);
        body["timeout"] = json!(format!("{timeout_ms}ms"));
    }
    if rng.u8(..4) == 0 {
        let group = [("one", 1), ("two", 2)][rng.usize(..2)];
        rules.group = Some(group);
        body["group"] = json!({ "name": group.0, "limit": group.1 });
    }
    if rng.u8(..4) == 0 {
        body["priority"] = json!(rng.i8(-100..=100));
    }
    (rules, body)
}

pub(super) fn text(at: i64) -> String {
    runtime::Timestamp::from_microsecond(at).unwrap().to_string()
}

/// A task, and what must be accounted for of the schedule that it has now.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) wanted: Wanted,
    pub(super) incarnation: u64,
    pub(super) paused: bool,
    pub(super) canceled: bool,
    /// Its times count from here, exclusively.
    pub(super) from: i64,
    /// Up to where the scheduler has had its chance at every time.
    pub(super) seen: i64,
    /// Spans in which it was paused or canceled: their times were meant to pass.
    pub(super) void: Vec<(i64, i64)>,
    /// The same without the moments at which it began and ended to be: nothing may come of these times.
    pub(super) dead: Vec<(i64, i64)>,
    /// Since when it has been one of these, as soon as the call had been answered.
    pub(super) rests_since: i64,
    /// What happened to it is not known for certain: a crash came while it was changed.
    pub(super) is_loose: bool,
    pub(super) triggered: usize,
}

impl Task {
    /// It has been paused or canceled, unless it was one of these before. What the clock had shown by then
    /// had come, even if it has been set back since.
    pub(super) fn rests(&mut self, latest: i64) {
        if !self.paused && !self.canceled {
            self.rests_since = latest;
        }
    }

    /// Times that came while the task was paused were meant to pass, but for that of a one-off task.
    pub(super) fn resumed(&mut self, before: i64, after: i64) {
        self.paused = false;
        if !matches!(self.wanted.grid, Grid::Once(_)) {
            self.void.push((self.seen + 1, after));
            self.dead.push((self.rests_since + 1, before - 1));
        }
    }

    /// Compares the records of the present schedule with its times.
    ///
    /// `lost` are runs that a crash has cut off, by their times.
    pub(super) fn check(
        &self,
        records: &BTreeMap<String, RunView>,
        lost: &BTreeSet<i64>,
    ) -> Result<(), String> {
        let mut runs: Vec<&RunView> = records
            .values()
            .filter(|run| run.incarnation == self.incarnation && run.origin == RunOrigin::Schedule)
            .filter(|run| run.scheduled_for.as_microsecond() > self.from)
            .collect();
        runs.sort_by_key(|run| run.scheduled_for);
        for run in &runs {
            check_record(run)?;
        }
        if self.is_loose {
            return Ok(());
        }
        let admitted: BTreeSet<i64> = runs
            .iter()
            .filter(|run| run.outcome != RunOutcome::Skipped)
            .map(|run| run.scheduled_for.as_microsecond())
            .collect();
        let max_runs = self.wanted.max_runs;
        if max_runs > 0 && admitted.len() > max_runs {
            return Err(format!("{} runs of {max_runs}", admitted.len()));
        }
        if let Grid::AfterEnd { every } = self.wanted.grid {
            return spaced(&runs, every);
        }
        self.check_times(&runs, &admitted, lost)
    }

    fn is_dead(&self, at: i64) -> bool {
        self.dead.iter().any(|(from, until)| *from <= at && at <= *until)
    }

    fn check_times(
        &self,
        runs: &[&RunView],
        admitted: &BTreeSet<i64>,
        lost: &BTreeSet<i64>,
    ) -> Result<(), String> {
        let wanted = &self.wanted;
        let last = runs.iter().map(|run| run.scheduled_for.as_microsecond()).max().unwrap_or(self.from);
        let until = self.seen.max(last).min(wanted.end);
        let mut due: BTreeSet<i64> = wanted.grid.times(self.from, until).into_iter().collect();
        let mut covered = BTreeSet::new();
        let mut cover = |at: i64| {
            if !due.contains(&at) {
                return Err(format!("{} is no time of it", text(at)));
            }
            if self.is_dead(at) {
                return Err(format!("{} was meant to pass", text(at)));
            }
            if covered.insert(at) { Ok(()) } else { Err(format!("{} is accounted for twice", text(at))) }
        };
        for (number, run) in runs.iter().enumerate() {
            let at = run.scheduled_for.as_microsecond();
            let is_open = run.skip_reason.as_ref().is_some_and(|reason| reason.contains("or more"));
            let later = runs.get(number + 1).map_or(i64::MAX, |next| next.scheduled_for.as_microsecond());
            let times = if is_open {
                // So many that they were not counted: all up to the next record, or to a pause.
                let mut times = wanted.grid.times(at - 1, (later - 1).min(until));
                times.retain(|at| !self.is_dead(*at));
                times
            } else {
                let mut times = wanted.grid.times(at - 1, until);
                times.truncate(run.times as usize);
                times
            };
            if times.len() < run.times as usize {
                return Err(format!("{} times from {} on, of {}", run.times, text(at), times.len()));
            }
            times.into_iter().try_for_each(&mut cover)?;
        }
        // Those that were cut off may have been counted.
        let counted: BTreeSet<i64> = admitted.union(lost).copied().filter(|at| *at > self.from).collect();
        if wanted.max_runs > 0 && counted.len() >= wanted.max_runs {
            let last = counted.last().copied().unwrap_or(self.from);
            due.retain(|at| *at <= last);
        }
        due.retain(|at| *at <= self.seen && !self.void.iter().any(|(from, until)| from <= at && at <= until));
        match due.iter().find(|at| !covered.contains(*at) && !lost.contains(*at)) {
            Some(at) if !wanted.jitter => Err(format!("nothing accounts for {}", text(*at))),
            _ => Ok(()),
        }
    }
}

/// What every record of an ended run says.
fn check_record(run: &RunView) -> Result<(), String> {
    let is_skipped = run.outcome == RunOutcome::Skipped;
    let reason = run.skip_reason.as_deref().unwrap_or_default();
    if is_skipped == reason.is_empty() {
        return Err(format!("{} {:?} with the reason `{reason}`", run.scheduled_for, run.outcome));
    }
    if run.times == 0 || (!is_skipped && run.times != 1) {
        return Err(format!("{} {:?} for {} times", run.scheduled_for, run.outcome, run.times));
    }
    if matches!(run.outcome, RunOutcome::Completed | RunOutcome::Failed) && run.started_at.is_none() {
        return Err(format!("{} {:?} and has not started", run.scheduled_for, run.outcome));
    }
    Ok(())
}

/// Times that are reckoned from an end are at least that far from each other.
fn spaced(runs: &[&RunView], every: i64) -> Result<(), String> {
    let times: Vec<i64> = runs.iter().map(|run| run.scheduled_for.as_microsecond()).collect();
    match times.windows(2).find(|pair| pair[1] - pair[0] < every) {
        Some(pair) => Err(format!("{} and {} are too close", text(pair[0]), text(pair[1]))),
        None => Ok(()),
    }
}
