//! What the tests share: a scheduler on a virtual clock, and an executor that tells what it did.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use runtime::{Clock, Timestamp, VirtualClock};
use scheduler::{
    ExecutorGuard, RunContext, RunError, Scheduler, SchedulerConfig, TaskSpec, TaskStatus, TaskView,
    executor_fn,
};
use serde_json::{Value, json};

pub(crate) const NOON: &str = "2026-03-01T12:00:00Z";

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A run that an executor has seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) task: String,
    pub(crate) at: Timestamp,
    pub(crate) scheduled_for: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) payload: Value,
}

pub(crate) struct Bench {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) scheduler: Scheduler,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    /// How many runs of `work` are under way, and the most there have been.
    pub(crate) under_way: Arc<AtomicUsize>,
    pub(crate) most: Arc<AtomicUsize>,
    pub(crate) guard: Option<ExecutorGuard>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(SchedulerConfig::default()).await
    }

    pub(crate) async fn with(config: SchedulerConfig) -> Self {
        let clock = VirtualClock::starting_at(at(NOON));
        let scheduler =
            Scheduler::builder().clock(clock.clone()).config(config).node("n1").build().await.unwrap();
        let mut bench = Self {
            clock,
            scheduler,
            seen: Arc::default(),
            under_way: Arc::default(),
            most: Arc::default(),
            guard: None,
        };
        bench.guard = Some(bench.register("work"));
        bench
    }

    /// An executor that notes its runs, then does what the payload says: `takes` a time, `fails` a number
    /// of attempts, `panics`.
    pub(crate) fn register(&self, name: &str) -> ExecutorGuard {
        let (clock, seen) = (self.clock.clone(), self.seen.clone());
        let (under_way, most) = (self.under_way.clone(), self.most.clone());
        let executor = executor_fn(move |run: RunContext| {
            let payload = run.payload();
            seen.lock().unwrap().push(Seen {
                task: run.task_id().to_owned(),
                at: clock.now(),
                scheduled_for: run.scheduled_for(),
                attempt: run.attempt(),
                payload: payload.clone(),
            });
            let present = Present::new(&under_way, &most);
            async move {
                let _present = present;
                if let Some(takes) = payload["takes"].as_str() {
                    tokio::time::sleep(runtime::parse_duration(takes).unwrap()).await;
                }
                if payload["panics"] == true {
                    panic!("as asked");
                }
                if u64::from(run.attempt()) <= payload["fails"].as_u64().unwrap_or(0) {
                    return Err(RunError::new("as asked"));
                }
                Ok(json!({ "attempt": run.attempt() }).into())
            }
        });
        self.scheduler.registry().register(name, None, executor).unwrap()
    }

    pub(crate) async fn create(&self, body: Value) -> TaskView {
        self.scheduler.create(spec(body)).await.unwrap()
    }

    pub(crate) async fn get(&self, id: &str) -> TaskView {
        self.scheduler.get(id).await.unwrap()
    }

    pub(crate) async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
        // What is due at this very instant gets its turn first.
        self.settle().await;
    }

    /// Lets everything that can run now run.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_micros(1)).await;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// At which seconds after the start a task's runs were seen.
    pub(crate) fn seconds(&self, task: &str) -> Vec<f64> {
        let base = at(NOON);
        self.seen()
            .iter()
            .filter(|seen| seen.task == task)
            .map(|seen| seen.at.duration_since(base).as_secs_f64())
            .map(|seconds| (seconds * 100.0).round() / 100.0)
            .collect()
    }

    pub(crate) async fn status(&self, id: &str) -> TaskStatus {
        self.get(id).await.status
    }
}

/// Counts a run as under way until it is dropped.
struct Present(Arc<AtomicUsize>);

impl Present {
    fn new(under_way: &Arc<AtomicUsize>, most: &AtomicUsize) -> Self {
        let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        Self(under_way.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn spec(body: Value) -> TaskSpec {
    serde_json::from_value(body).unwrap()
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
