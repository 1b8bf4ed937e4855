//! What a scheduler finds again in its store: records, dead runs, and runs that had begun.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runtime::SharedClock;
use scheduler::{
    Commit, ExecutorGuard, Grant, Loaded, MemoryTaskStore, Page, Records, Retention, RunContext, RunError,
    RunFilter, RunId, RunOutcome, RunOutput, RunView, Scheduler, SchedulerConfig, StoreError, TaskError,
    TaskStore, executor_fn,
};
use serde_json::json;

use crate::support::{Bench, secs, spec};

/// A scheduler whose executor `work` fails, hangs or gives something back, as the payload says.
struct Node {
    scheduler: Scheduler,
    ran: Arc<Mutex<Vec<RunId>>>,
    _guard: ExecutorGuard,
}

async fn node(name: &str, clock: SharedClock, store: Arc<dyn TaskStore>, config: SchedulerConfig) -> Node {
    let builder = Scheduler::builder().clock(clock).store(store).node(name).config(config);
    let scheduler = builder.build().await.unwrap();
    let ran = Arc::<Mutex<Vec<RunId>>>::default();
    let seen = Arc::clone(&ran);
    let executor = executor_fn(move |run: RunContext| {
        seen.lock().unwrap().push(run.run_id());
        async move {
            match run.payload().as_str() {
                Some("fail") => Err(RunError::new("as asked")),
                Some("hang") => std::future::pending().await,
                _ => Ok(RunOutput::from(json!({"attempt": run.attempt()}))),
            }
        }
    });
    let guard = scheduler.registry().register("work", None, executor).unwrap();
    Node { scheduler, ran, _guard: guard }
}

async fn create(node: &Node, body: serde_json::Value) {
    node.scheduler.create(spec(body)).await.unwrap();
}

async fn all_runs(node: &Node, filter: &RunFilter) -> Vec<RunView> {
    node.scheduler.list_runs(filter, &Page { limit: 1000, cursor: None }).await.unwrap().items
}

async fn runs_of(node: &Node, task: &str, page: &Page) -> (Vec<RunView>, Option<String>) {
    let page = node.scheduler.runs(task, page).await.unwrap();
    (page.items, page.next_cursor)
}

#[tokio::test(start_paused = true)]
async fn records_are_there_after_a_restart_as_they_were() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::new();
    let make = |name: &'static str| {
        node(name, bench.clock.clone(), Arc::new(store.clone()), SchedulerConfig::default())
    };
    let first = make("n1").await;
    let each = json!({"type": "interval", "interval": "10s"});
    create(&first, json!({"id": "good", "executor": "work", "schedule": each})).await;
    create(&first, json!({"id": "bad", "executor": "work", "schedule": each, "payload": "fail"})).await;
    create(&first, json!({"id": "after", "executor": "work", "after": ["good"]})).await;
    create(&first, json!({"id": "gone", "executor": "work", "schedule": each})).await;
    bench.sleep(secs(35)).await;
    first.scheduler.remove("gone", None).await.unwrap();
    let before = all_runs(&first, &RunFilter::default()).await;
    assert_eq!(before.len(), 9, "three of each of three tasks");
    first.scheduler.stop(secs(5)).await;

    let second = make("n2").await;
    let mut after = all_runs(&second, &RunFilter::default()).await;
    let of = |runs: &[RunView], task: &str| {
        runs.iter().filter(|run| run.task == task).map(|run| run.id).collect::<Vec<_>>()
    };
    for task in ["good", "bad", "after"] {
        assert_eq!(of(&after, task), of(&before, task), "in their order");
    }
    after.sort_by_key(|run| run.id);
    let mut sorted = before.clone();
    sorted.sort_by_key(|run| run.id);
    assert_eq!(after, sorted, "with id, node, output, error and cause");
    for run in &before {
        assert_eq!(second.scheduler.run(run.id).await.unwrap(), *run);
    }
    let failed = all_runs(&second, &RunFilter { outcome: Some(RunOutcome::Failed), chain: None }).await;
    assert_eq!(failed.len(), 3);
    let chained = before.iter().find(|run| run.chain.is_some()).unwrap();
    let chain = all_runs(&second, &RunFilter { outcome: None, chain: chained.chain }).await;
    assert_eq!(chain.len(), 2, "what let it go, and what ran after it");

    // Pages go on from what this process has run to what the one before has.
    bench.sleep(secs(20)).await;
    let mut page = Page { limit: 2, cursor: None };
    let mut found = Vec::new();
    loop {
        let (runs, next) = runs_of(&second, "good", &page).await;
        found.extend(runs);
        page.cursor = next;
        if page.cursor.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 5);
    assert!(found.is_sorted_by_key(|run| std::cmp::Reverse(run.scheduled_for)));
    assert_eq!(found.iter().filter(|run| run.node == "n1").count(), 3);
    second.scheduler.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_records_come_back_than_there_is_room_for_and_none_that_are_too_old() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::with_retention(Retention { records: 1000, dead_runs: 10 });
    let config = |max_records, retention| SchedulerConfig {
        max_records,
        record_retention: Duration::from_secs(retention),
        ..SchedulerConfig::default()
    };
    let make = |config| node("n1", bench.clock.clone(), Arc::new(store.clone()), config);
    let first = make(SchedulerConfig::default()).await;
    create(
        &first,
        json!({"id": "t", "executor": "work", "schedule": {"type": "interval", "interval": "10s"}}),
    )
    .await;
    bench.sleep(secs(205)).await;
    first.scheduler.pause("t").await.unwrap();
    first.scheduler.stop(secs(5)).await;

    let second = make(config(7, 3600)).await;
    let found = all_runs(&second, &RunFilter::default()).await;
    assert_eq!(found.len(), 7);
    assert!(found.iter().all(|run| run.scheduled_for > found[0].scheduled_for - secs(70)), "the latest");
    second.scheduler.stop(secs(5)).await;
    let third = make(config(1000, 52)).await;
    assert_eq!(all_runs(&third, &RunFilter::default()).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_had_begun_goes_on_under_its_id() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::new();
    let make = || node("n1", bench.clock.clone(), Arc::new(store.clone()), SchedulerConfig::default());
    let first = make().await;
    create(
        &first,
        json!({"id": "hangs", "executor": "work", "payload": "hang", "overlap": "queue_all",
            "schedule": {"type": "once", "at": "2030-01-01T00:00:00Z"}}),
    )
    .await;
    let retry = json!({"attempts": 3, "backoff": "1h"});
    create(
        &first,
        json!({"id": "tries", "executor": "work", "payload": "fail", "retry": retry,
            "schedule": {"type": "once", "delay": "1s"}}),
    )
    .await;
    let running = first.scheduler.trigger("hangs", None).await.unwrap();
    let queued = first.scheduler.trigger("hangs", Some(json!("fine"))).await.unwrap();
    bench.sleep(secs(5)).await;
    let tried = runs_of(&first, "tries", &Page::default()).await.0.remove(0);
    assert_eq!(tried.outcome, RunOutcome::Retrying);
    // As in a crash: nothing is written any more.
    drop(first);

    let second = make().await;
    bench.sleep(secs(1)).await;
    assert_eq!(second.scheduler.run(running.id).await.unwrap().outcome, RunOutcome::Running);
    assert_eq!(second.scheduler.run(queued.id).await.unwrap().outcome, RunOutcome::Queued);
    assert_eq!(second.scheduler.run(tried.id).await.unwrap().outcome, RunOutcome::Retrying);
    assert_eq!(*second.ran.lock().unwrap(), [running.id], "what an executor is told is the same id");
    bench.sleep(secs(4000)).await;
    assert_eq!(second.scheduler.run(tried.id).await.unwrap().attempt, 2);
    second.scheduler.cancel("hangs").await.unwrap();
    bench.sleep(secs(1)).await;
    for run in [&running, &queued] {
        let ended = second.scheduler.run(run.id).await.unwrap();
        assert_eq!((ended.outcome, ended.scheduled_for), (RunOutcome::Canceled, run.scheduled_for));
    }
    let stored = store.history(&(0..64).collect::<Vec<_>>(), None, 10).await.unwrap();
    assert_eq!(stored.runs.iter().filter(|run| [running.id, queued.id].contains(&run.id)).count(), 2);
}

/// A store that takes a second for a commit, and may fail.
#[derive(Clone, Default)]
struct Slow {
    store: MemoryTaskStore,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl TaskStore for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError> {
        self.store.claim(grants).await
    }

    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError> {
        self.store.load(shards, cursor, limit).await
    }

    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>> {
        tokio::time::sleep(secs(1)).await;
        if self.fails.load(Ordering::SeqCst) {
            return commits.iter().map(|_| Err(StoreError::Engine("disk full".to_owned()))).collect();
        }
        self.store.commit(commits).await
    }

    async fn history(
        &self,
        shards: &[u32],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        self.store.history(shards, cursor, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn promise_1_a_triggered_run_is_stored_before_it_is_answered_for_and_before_it_starts() {
    let bench = Bench::new().await;
    let store = Slow::default();
    let node = node("n1", bench.clock.clone(), Arc::new(store.clone()), SchedulerConfig::default()).await;
    let later = json!({"type": "once", "at": "2030-01-01T00:00:00Z"});
    create(&node, json!({"id": "t", "executor": "work", "schedule": later})).await;
    let mut trigger = pin!(node.scheduler.trigger("t", Some(json!({"n": 1}))));
    assert!(tokio::time::timeout(Duration::from_millis(900), &mut trigger).await.is_err());
    assert!(node.ran.lock().unwrap().is_empty());
    let run = trigger.await.unwrap();
    let shards: Vec<u32> = (0..64).collect();
    let stored = store.load(&shards, None, 10).await.unwrap().tasks.remove(0);
    assert_eq!(stored.open.iter().map(|open| open.id).collect::<Vec<_>>(), [run.id]);
    assert_eq!(stored.open[0].payload, Some(json!({"n": 1})));
    bench.sleep(secs(5)).await;
    assert_eq!(*node.ran.lock().unwrap(), [run.id]);
    assert_eq!(node.scheduler.run(run.id).await.unwrap().outcome, RunOutcome::Completed);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_triggered_run_that_is_not_stored_does_not_take_place() {
    let bench = Bench::new().await;
    let store = Slow::default();
    let node = node("n1", bench.clock.clone(), Arc::new(store.clone()), SchedulerConfig::default()).await;
    let later = json!({"type": "once", "at": "2030-01-01T00:00:00Z"});
    create(&node, json!({"id": "t", "executor": "work", "schedule": later, "overlap": "queue_all"})).await;
    store.fails.store(true, Ordering::SeqCst);
    // One that would run at once, and one that would wait for it.
    let (first, second) = tokio::join!(node.scheduler.trigger("t", None), node.scheduler.trigger("t", None));
    for answer in [first, second] {
        assert!(matches!(answer, Err(TaskError::Store(_))), "{answer:?}");
    }
    store.fails.store(false, Ordering::SeqCst);
    bench.sleep(secs(30)).await;
    assert!(node.ran.lock().unwrap().is_empty());
    assert_eq!(node.scheduler.get("t").await.unwrap().active_runs, 0);
    let run = node.scheduler.trigger("t", None).await.unwrap();
    bench.sleep(secs(5)).await;
    assert_eq!(*node.ran.lock().unwrap(), [run.id], "and the next one does");
}
