//! A scheduler on a clock of its own, for the tests of those who use one: a day of schedules passes in a
//! millisecond, and always in the same way.
//!
//! ```
//! use std::time::Duration;
//! use scheduler::{RunOutput, TaskSpec, testing};
//!
//! testing::run("2030-03-30T22:00:00Z", async |test| {
//!     test.executor("report", |run| async move {
//!         Ok(RunOutput::from(serde_json::json!({ "for": run.scheduled_for().to_string() })))
//!     });
//!     let mut nightly = TaskSpec::cron("nightly", "30 2 * * *").executor("report");
//!     nightly.schedule = nightly.schedule.map(|schedule| schedule.timezone("Europe/Berlin"));
//!     test.scheduler().create(nightly).await?;
//!
//!     test.advance(Duration::from_secs(48 * 3600)).await;
//!
//!     // On the 31st the clock goes from 2:00 to 3:00, so that the run of 2:30 is at 3:00.
//!     let times: Vec<_> = test.runs("nightly").await.iter().map(|run| run.scheduled_for.to_string()).collect();
//!     assert_eq!(times, ["2030-03-31T01:00:00Z", "2030-04-01T00:30:00Z"]);
//!     Ok::<_, scheduler::TaskError>(())
//! })?;
//! # Ok::<_, scheduler::TaskError>(())
//! ```
//!
//! What the executors do should wait on `tokio::time` only: time moves on when everything waits, and what
//! waits for something else, a socket say, does not hold it up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::{Clock, Timestamp, VirtualClock};

use crate::builder::SchedulerBuilder;
use crate::executor::{ExecutorGuard, RunContext, RunError, RunOutput, executor_fn};
use crate::scheduler::Scheduler;
use crate::view::{Page, RunView};

/// Runs a test with a scheduler whose clock begins at `start`, an RFC 3339 time in UTC.
///
/// # Panics
///
/// If `start` is no time, and where a runtime cannot be nested: within another one.
#[expect(clippy::expect_used, reason = "so that a test fails")]
pub fn run<T>(start: &str, test: impl AsyncFnOnce(TestScheduler) -> T) -> T {
    let start: Timestamp = start.parse().expect("`start` is an RFC 3339 time in UTC");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async { test(TestScheduler::start(start, Scheduler::builder()).await).await })
}

/// A scheduler, and the clock that it goes by.
#[derive(Debug)]
pub struct TestScheduler {
    scheduler: Scheduler,
    clock: Arc<VirtualClock>,
    executors: Mutex<Vec<ExecutorGuard>>,
}

impl TestScheduler {
    /// A scheduler with settings of one's own, in a test that has paused tokio's time by itself, such as with
    /// `#[tokio::test(start_paused = true)]`. The builder's clock is replaced.
    ///
    /// # Panics
    ///
    /// If a setting is out of bounds.
    #[expect(clippy::expect_used, reason = "so that a test fails")]
    pub async fn start(start: Timestamp, builder: SchedulerBuilder) -> Self {
        let clock = VirtualClock::starting_at(start);
        let scheduler = builder.clock(clock.clone()).build().await.expect("the settings are within bounds");
        Self { scheduler, clock, executors: Mutex::default() }
    }

    /// The scheduler.
    #[must_use]
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// The clock, to be handed to others.
    #[must_use]
    pub fn clock(&self) -> Arc<VirtualClock> {
        Arc::clone(&self.clock)
    }

    /// The time on the clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Registers an executor for as long as the test runs.
    ///
    /// # Panics
    ///
    /// If the name is none: see [`ExecutorRegistry::register`](crate::ExecutorRegistry::register).
    #[expect(clippy::expect_used, reason = "so that a test fails")]
    pub fn executor<F, Fut>(&self, name: &str, run: F)
    where
        F: Fn(RunContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<RunOutput, RunError>> + Send + 'static,
    {
        let guard = self.scheduler.registry().register(name, None, executor_fn(run)).expect("a good name");
        self.executors.lock().unwrap_or_else(PoisonError::into_inner).push(guard);
    }

    /// Lets time pass, and everything run that is due until then.
    pub async fn advance(&self, span: Duration) {
        tokio::time::sleep(span).await;
        // What is due at this very instant gets its turn first.
        tokio::time::sleep(Duration::from_micros(1)).await;
    }

    /// Lets time pass up to a time; returns at once if it has come.
    pub async fn advance_to(&self, at: Timestamp) {
        self.advance(Duration::try_from(at.duration_since(self.now())).unwrap_or_default()).await;
    }

    /// The records of a task's runs, the oldest first; none for a task that is not there.
    pub async fn runs(&self, task: &str) -> Vec<RunView> {
        let (mut runs, mut cursor) = (Vec::new(), None);
        while let Ok(page) = self.scheduler.runs(task, &Page { limit: 1000, cursor }).await {
            runs.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        runs.reverse();
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::TaskSpec;

    /// The same day twice, with a hundred tasks: all runs, and in the same order.
    #[test]
    fn a_day_passes_at_once_and_always_in_the_same_way() {
        let day = || {
            run("2030-01-01T00:00:00Z", async |test| {
                let order = Arc::new(Mutex::new(Vec::new()));
                let seen = Arc::clone(&order);
                test.executor("note", move |run| {
                    seen.lock().unwrap().push((run.scheduled_for(), run.task_id().to_owned()));
                    async { Ok(RunOutput::none()) }
                });
                for number in 0..100_u64 {
                    let every = Duration::from_secs(600 + number * 30);
                    let task = TaskSpec::every(format!("t{number}"), every).executor("note");
                    test.scheduler().create(task).await.unwrap();
                }
                test.advance(Duration::from_secs(24 * 3600)).await;
                assert_eq!(test.runs("t0").await.len(), 144);
                assert_eq!(test.now().to_string().get(..19), Some("2030-01-02T00:00:00"));
                std::mem::take(&mut *order.lock().unwrap())
            })
        };
        let (one, other) = (day(), day());
        assert!(one.len() > 4000 && one.is_sorted_by_key(|run| run.0), "{}", one.len());
        assert!(one == other, "two days were not the same");
    }
}
