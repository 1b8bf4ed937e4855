//! The executor of a simulated life: what its runs do follows from the seed, and what they may not do is
//! seen by them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use runtime::{Clock, VirtualClock};
use scheduler::{Executor, Overlap, RunContext, RunError, RunId, RunOrigin, RunOutput, executor_fn};
use tokio::time::Instant;

/// What the runs of a task are held to.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) overlap: Overlap,
    pub(super) group: Option<(&'static str, u32)>,
    pub(super) attempts: u32,
    /// The wait before the second attempt, in milliseconds; it doubles after that.
    pub(super) backoff_ms: i64,
    pub(super) timeout: Duration,
}

/// Whether runs of a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Paused: only triggered runs, and further attempts of those under way.
    Paused,
    /// Canceled, removed, or the scheduler has stopped.
    Closed,
}

#[derive(Debug)]
struct Seen {
    task: String,
    attempts: u32,
    is_over: bool,
    /// The earliest time of the next attempt.
    not_before: i64,
}

/// What has been seen in one life.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) violations: Vec<String>,
    pub(super) rules: HashMap<String, Rules>,
    pub(super) gates: HashMap<String, Gate>,
    pub(super) stopped: bool,
    runs_max: usize,
    executing: HashMap<String, u32>,
    in_group: HashMap<&'static str, u32>,
    total: usize,
    runs: HashMap<RunId, Seen>,
    keys: HashMap<(String, i64, RunOrigin), RunId>,
    /// The latest time that the wall's clock has shown.
    latest: i64,
    pub(super) started: u64,
}

impl Observed {
    pub(super) fn new(runs_max: usize) -> Self {
        Self { runs_max, ..Self::default() }
    }

    /// A task of this name begins anew.
    pub(super) fn forget(&mut self, task: &str) {
        self.keys.retain(|(other, ..), _| other != task);
    }

    pub(super) fn shown(&mut self, now: i64) {
        self.latest = self.latest.max(now);
    }

    pub(super) fn executing(&self, task: &str) -> u32 {
        self.executing.get(task).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    fn blame(&mut self, run: &RunContext, what: &str) {
        let (task, attempt, origin) = (run.task_id(), run.attempt(), run.origin());
        self.violations
            .push(format!("{task} for {} ({origin:?}, attempt {attempt}): {what}", run.scheduled_for()));
    }

    /// An attempt begins. Tells the rules that it began by, where they are known for certain.
    fn begin(&mut self, run: &RunContext, now: i64) -> Option<Rules> {
        self.started += 1;
        self.shown(now);
        let task = run.task_id().to_owned();
        let scheduled = run.scheduled_for().as_microsecond();
        if scheduled > self.latest {
            self.blame(run, &format!("promise 2: early by {} us", scheduled - self.latest));
        }
        let key = (task.clone(), scheduled, run.origin());
        if *self.keys.entry(key).or_insert(run.run_id()) != run.run_id() {
            self.blame(run, "promise 3: a second run of one key");
        }
        // An attempt that was planned before a crash is made, though the task allows fewer by now.
        let was_planned = !self.runs.contains_key(&run.run_id());
        let seen = self.runs.entry(run.run_id()).or_insert(Seen {
            task: task.clone(),
            // A run that a crash has cut off goes on with the attempt that was under way.
            attempts: run.attempt() - 1,
            is_over: false,
            not_before: i64::MIN,
        });
        seen.attempts += 1;
        let (expected, is_over, not_before) = (seen.attempts, seen.is_over, seen.not_before);
        if expected != run.attempt() || is_over {
            self.blame(run, &format!("attempt {expected} was to come, over: {is_over}"));
        }
        if self.latest < not_before {
            self.blame(run, "tried again before its wait was over");
        }
        let gate = self.gates.get(&task).copied().unwrap_or(Gate::Closed);
        let is_new = run.attempt() == 1 && run.origin() != RunOrigin::Trigger;
        if self.stopped || gate == Gate::Closed || (gate == Gate::Paused && is_new) {
            self.blame(run, &format!("started while {gate:?}, stopped: {}", self.stopped));
        }
        let rules = self.rules.get(&task).cloned();
        let executing = self.executing.entry(task).or_default();
        *executing += 1;
        let executing = *executing;
        self.total += 1;
        if self.total > self.runs_max {
            self.blame(run, "more runs than there may be");
        }
        if let Some(rules) = &rules {
            if rules.overlap != Overlap::Allow && executing > 1 {
                self.blame(run, &format!("{executing} at once under {:?}", rules.overlap));
            }
            if run.attempt() > rules.attempts && !was_planned {
                self.blame(run, "tried too often");
            }
            if let Some((group, limit)) = rules.group {
                let count = self.in_group.entry(group).or_default();
                *count += 1;
                if *count > limit {
                    self.blame(run, "more of its group than there may be");
                }
            }
        }
        rules
    }

    fn end(&mut self, attempt: &Attempt, now: i64, spent: Duration) {
        let Attempt { run, fate, rules, .. } = attempt;
        self.shown(now);
        self.total -= 1;
        let task = run.task_id();
        if let Some(count) = self.executing.get_mut(task) {
            *count -= 1;
        }
        let Some(rules) = rules else { return };
        if let Some((group, _)) = rules.group
            && let Some(count) = self.in_group.get_mut(group)
        {
            *count -= 1;
        }
        // Timers of the runtime tick each millisecond.
        if spent > rules.timeout + Duration::from_millis(2) {
            self.blame(run, &format!("ran for {spent:?}, longer than its timeout"));
        }
        if let Some(seen) = self.runs.get_mut(&run.run_id()) {
            debug_assert_eq!(seen.task, task);
            match *fate {
                Fate::Completed | Fate::Refused => seen.is_over = true,
                Fate::Failed => {
                    let doubled = rules.backoff_ms << (seen.attempts - 1).min(20);
                    seen.not_before = now + doubled.min(BACKOFF_MAX_MS) * 1000;
                }
                // By a caller or by the timeout, which may be tried again.
                Fate::Dropped => {}
            }
        }
    }
}

/// The longest wait that the simulated tasks ask for.
pub(super) const BACKOFF_MAX_MS: i64 = 8000;

#[derive(Debug, Clone, Copy)]
enum Fate {
    Completed,
    Failed,
    /// With an error that no further attempt can mend.
    Refused,
    Dropped,
}

/// Says how an attempt ended, even if it was dropped or has panicked.
struct Attempt {
    observed: Arc<Mutex<Observed>>,
    clock: Arc<VirtualClock>,
    run: RunContext,
    began: Instant,
    fate: Fate,
    rules: Option<Rules>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = self.clock.now().as_microsecond();
        lock(&self.observed).end(self, now, self.began.elapsed());
    }
}

pub(super) fn lock(observed: &Mutex<Observed>) -> MutexGuard<'_, Observed> {
    observed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs that do what the seed says.
pub(super) fn work(seed: u64, clock: Arc<VirtualClock>, observed: Arc<Mutex<Observed>>) -> Arc<dyn Executor> {
    executor_fn(move |run: RunContext| {
        let mut hasher = DefaultHasher::new();
        (seed, run.task_id(), run.scheduled_for().as_microsecond(), run.attempt()).hash(&mut hasher);
        let dice = hasher.finish();
        let rules = lock(&observed).begin(&run, clock.now().as_microsecond());
        let attempt = Attempt {
            observed: observed.clone(),
            clock: clock.clone(),
            run,
            began: Instant::now(),
            fate: Fate::Dropped,
            rules,
        };
        behave(dice, attempt)
    })
}

async fn behave(dice: u64, mut attempt: Attempt) -> Result<RunOutput, RunError> {
    let span = Duration::from_millis(1 + dice / 1000 % 3000);
    match dice % 100 {
        0..55 => {}
        55..70 => tokio::time::sleep(span).await,
        70..80 => {
            attempt.fate = Fate::Failed;
            return Err(RunError::new("as the seed says"));
        }
        80..88 => {
            tokio::time::sleep(span).await;
            attempt.fate = Fate::Failed;
            return Err(RunError::new("as the seed says, later"));
        }
        88..91 => {
            attempt.fate = Fate::Refused;
            return Err(RunError::permanent("as the seed says, for good"));
        }
        91 => {
            attempt.fate = Fate::Failed;
            panic!("as the seed says");
        }
        92..95 => std::future::pending().await,
        _ => tokio::time::sleep(span * 5).await,
    }
    attempt.fate = Fate::Completed;
    Ok(RunOutput::none())
}
