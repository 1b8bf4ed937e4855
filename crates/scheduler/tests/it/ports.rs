//! The ports: their contract suites on the embedded implementations, and schedulers that share them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use runtime::{SharedClock, Timestamp};
use scheduler::store::contract as store_contract;
use scheduler::{
    Commit, ExecutorRegistry, FileTaskStore, Grant, Loaded, MemoryCoordinator, MemoryTaskStore, Records,
    Retention, RunContext, RunOutput, RunView, Scheduler, StoreError, TaskError, TaskStatus, TaskStore,
    executor_fn, shard_of,
};
use serde_json::json;

use crate::support::{Bench, secs, spec};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    store_contract::run(async |retention| MemoryTaskStore::with_retention(retention)).await;
}

#[tokio::test]
async fn the_file_store_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let number = std::cell::Cell::new(0);
    let open = |name: &str, retention| FileTaskStore::open(&root.path().join(name), retention).unwrap();
    store_contract::run(async |retention| {
        number.set(number.get() + 1);
        open(&number.get().to_string(), retention)
    })
    .await;
    let again = async || open("again", Retention::default());
    store_contract::survives(again().await, again).await;
}

#[tokio::test]
async fn the_memory_coordinator_keeps_the_contract() {
    for shards in [1, 2, 7, 64] {
        scheduler::coordinator::contract::run(|| async move { MemoryCoordinator::new(shards, 5) }).await;
    }
}

/// What the store has of a task's runs.
async fn records(store: &impl TaskStore, task: &str) -> Vec<RunView> {
    let shards: Vec<u32> = (0..64).collect();
    let all = store.history(&shards, None, 1000).await.unwrap();
    all.runs.into_iter().filter(|run| run.task == task).collect()
}

type Ran = Arc<Mutex<Vec<(String, String, Timestamp)>>>;

/// A node that writes down what it ran.
async fn node(
    name: &str,
    clock: SharedClock,
    store: Arc<dyn TaskStore>,
    cluster: Option<MemoryCoordinator>,
    ran: &Ran,
) -> Scheduler {
    let executors = ExecutorRegistry::new();
    let (name, ran) = (name.to_owned(), ran.clone());
    let mut builder = Scheduler::builder().clock(clock).store(store).node(&name).executors(executors.clone());
    if let Some(cluster) = cluster {
        builder = builder.coordinator(Arc::new(cluster));
    }
    let executor = executor_fn(move |run: RunContext| {
        let entry = (name.clone(), run.task_id().to_owned(), run.scheduled_for());
        ran.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        async { Ok(RunOutput::none()) }
    });
    // For as long as the test lives.
    std::mem::forget(executors.register("work", None, executor).unwrap());
    builder.build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_restart_resumes_tasks_counts_and_pauses() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::new();
    let ran = Ran::default();
    let make = || node("n1", bench.clock.clone(), Arc::new(store.clone()), None, &ran);
    let first = make().await;
    for (id, schedule) in [
        ("beat", json!({"type": "interval", "interval": "10s", "max_runs": 4})),
        ("rests", json!({"type": "interval", "interval": "10s"})),
        ("once", json!({"type": "once", "delay": "25s"})),
        ("done", json!({"type": "once", "delay": "5s"})),
        ("ended", json!({"type": "interval", "interval": "10s"})),
        ("gone", json!({"type": "interval", "interval": "10s"})),
    ] {
        first.create(spec(json!({"id": id, "executor": "work", "schedule": schedule}))).await.unwrap();
    }
    first.create(spec(json!({"id": "follows", "executor": "work", "after": ["beat"]}))).await.unwrap();
    first.pause("rests").await.unwrap();
    first.cancel("ended").await.unwrap();
    first.remove("gone", None).await.unwrap();
    let again = spec(json!({"id": "once", "executor": "work", "schedule": {"type": "once", "delay": "25s"}}));
    assert!(matches!(first.create(again).await, Err(TaskError::Exists(_))));
    bench.sleep(secs(12)).await;
    assert_eq!(first.status().store.kind, "memory");
    first.stop(secs(5)).await;
    let before = first.get("beat").await.unwrap();
    drop(first);
    bench.sleep(secs(20)).await;

    let second = make().await;
    bench.settle().await;
    let beat = second.get("beat").await.unwrap();
    assert_eq!(beat.incarnation, before.incarnation);
    assert_eq!(beat.run_count, 2, "one before, and one for the two times that were missed");
    assert_eq!(second.get("rests").await.unwrap().status, TaskStatus::Paused);
    assert_eq!(second.get("ended").await.unwrap().status, TaskStatus::Canceled);
    assert_eq!(second.get("done").await.unwrap().status, TaskStatus::Completed);
    assert_eq!(second.get("once").await.unwrap().status, TaskStatus::Completed, "run late");
    assert!(second.get("gone").await.is_err());
    bench.sleep(secs(100)).await;
    let of = |task: &str| ran.lock().unwrap().iter().filter(|run| run.1 == task).count();
    assert_eq!((of("beat"), of("follows"), of("once"), of("done"), of("rests")), (4, 4, 1, 1, 0));
    assert_eq!(second.get("beat").await.unwrap().status, TaskStatus::Completed);
    let runs = records(&store, "beat").await;
    assert_eq!(runs.iter().filter(|run| run.started_at.is_some()).count(), 4);
    second.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_share_tasks_and_take_over_from_one_that_leaves() {
    let bench = Bench::new().await;
    let (store, cluster) = (MemoryTaskStore::new(), MemoryCoordinator::new(8, 1));
    let ran = Ran::default();
    let make = |name: &'static str| {
        node(name, bench.clock.clone(), Arc::new(store.clone()), Some(cluster.clone()), &ran)
    };
    let a = make("a").await;
    for number in 0..40 {
        let body = json!({"id": format!("t{number}"), "executor": "work",
            "schedule": {"type": "interval", "interval": "10s"}});
        a.create(spec(body)).await.unwrap();
    }
    let b = make("b").await;
    bench.sleep(secs(1)).await;
    let (of_a, of_b) = (a.status(), b.status());
    assert_eq!((of_a.cluster.owned, of_b.cluster.owned), (4, 4));
    assert_eq!(of_a.cluster.members, ["a", "b"]);
    assert_eq!(of_a.total_tasks + of_b.total_tasks, 40);
    assert!(of_b.total_tasks > 0);
    bench.sleep(secs(30)).await;
    let elsewhere = (0..40).map(|n| format!("t{n}")).find(|id| shard_of(id, 8) == 7).unwrap();
    let answers = [a.get(&elsewhere).await.is_ok(), b.get(&elsewhere).await.is_ok()];
    assert_eq!(answers.iter().filter(|found| **found).count(), 1, "one owner");
    let stranger = if answers[0] { &b } else { &a };
    assert!(matches!(stranger.pause(&elsewhere).await, Err(TaskError::NotOwner(_))));
    b.stop(secs(5)).await;
    drop(b);
    bench.sleep(secs(30)).await;
    assert_eq!((a.status().total_tasks, a.status().cluster.owned), (40, 8));
    let mut keys: Vec<_> = ran.lock().unwrap().iter().map(|run| (run.1.clone(), run.2)).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "promise 3: no time of a task was run twice");
    assert_eq!(all, 40 * 6, "and none was left out");
    a.stop(secs(5)).await;
}

/// A store that refuses everything while it is told to.
#[derive(Clone, Default)]
struct Flaky {
    store: MemoryTaskStore,
    fails: Arc<AtomicBool>,
}

#[async_trait]
impl TaskStore for Flaky {
    fn kind(&self) -> &'static str {
        "flaky"
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
async fn promise_1_what_the_store_refuses_is_not_acknowledged() {
    let bench = Bench::new().await;
    let store = Flaky::default();
    let ran = Ran::default();
    let node = node("n1", bench.clock.clone(), Arc::new(store.clone()), None, &ran).await;
    let body = |id: &str| {
        spec(json!({"id": id, "executor": "work", "schedule": {"type": "interval", "interval": "10s"}}))
    };
    node.create(body("kept")).await.unwrap();
    store.fails.store(true, Ordering::SeqCst);
    assert!(matches!(node.create(body("lost")).await, Err(TaskError::Store(_))));
    assert!(matches!(node.get("lost").await, Err(TaskError::NotFound(_))), "promise 10");
    assert!(matches!(node.pause("kept").await, Err(TaskError::Store(_))));
    assert_eq!(node.get("kept").await.unwrap().status, TaskStatus::Pending);
    assert!(matches!(node.remove("kept", None).await, Err(TaskError::Store(_))));
    assert!(!node.status().store.healthy);
    bench.sleep(secs(25)).await;
    assert_eq!(ran.lock().unwrap().len(), 2, "runs go on meanwhile");
    store.fails.store(false, Ordering::SeqCst);
    bench.sleep(secs(10)).await;
    let stored = records(&store.store, "kept").await;
    assert_eq!(stored.len(), 3, "and are written when the store is back");
    assert!(node.status().store.healthy);
    node.create(body("lost")).await.unwrap();
    node.stop(secs(5)).await;
}
