//! What every [`TaskStore`] must do. An adapter's tests call [`run`] with a maker of empty stores.

#![expect(clippy::expect_used, reason = "a failed expectation is the suite's answer")]

use std::sync::Arc;

use runtime::Timestamp;

use super::{Change, Commit, StoreError, StoredTask, TaskState, TaskStore};
use crate::coordinator::Grant;
use crate::id::RunId;
use crate::spec::TaskSpec;
use crate::view::{RunOrigin, RunOutcome, RunView};

/// Runs the whole suite; `make` gives an empty store each time.
///
/// # Panics
///
/// Where the store does not keep the contract.
pub async fn run<S, F, Fut>(make: F)
where
    S: TaskStore,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    keeps_what_it_took(&make().await).await;
    refuses_what_does_not_fit(&make().await).await;
    promise_3_commits_a_run_once(&make().await).await;
    fences_off_old_owners(&make().await).await;
    loads_shards_in_pages(&make().await).await;
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time in range")
}

fn task(id: &str, incarnation: u64) -> StoredTask {
    StoredTask {
        spec: TaskSpec::cron(id, "@daily"),
        owner: Some("greeter".to_owned()),
        incarnation,
        version: 1,
        anchor: at(0),
        updated_at: at(0),
        state: TaskState::default(),
        open: Vec::new(),
    }
}

fn run_of(task: &str, incarnation: u64, seconds: i64, origin: RunOrigin) -> RunView {
    let id = RunId::from_u128(u128::from(seconds.unsigned_abs()));
    RunView {
        id,
        task: task.to_owned(),
        incarnation,
        scheduled_for: at(seconds),
        started_at: Some(at(seconds)),
        ended_at: Some(at(seconds + 1)),
        node: "n1".to_owned(),
        attempt: 1,
        origin,
        outcome: RunOutcome::Completed,
        error: None,
        skip_reason: None,
        times: 1,
        output: Some(serde_json::json!({"rows": 3})),
        trace_id: id.trace_id(),
        chain: None,
        caused_by: Vec::new(),
    }
}

async fn claim(store: &impl TaskStore, shard: u32, epoch: u64) -> Result<(), StoreError> {
    store.claim(&[Grant { shard, epoch }]).await
}

async fn load(store: &impl TaskStore, shard: u32) -> Vec<StoredTask> {
    store.load(&[shard], None, 10).await.expect("load").tasks
}

async fn one(store: &impl TaskStore, epoch: u64, change: Change) -> Result<(), StoreError> {
    let answers = store.commit(Arc::new([Commit { shard: 0, epoch, change }])).await;
    assert_eq!(answers.len(), 1, "an answer for each change");
    answers.into_iter().next().expect("one answer")
}

fn insert(id: &str, incarnation: u64) -> Change {
    Change::Insert(Box::new(task(id, incarnation)))
}

async fn only(store: &impl TaskStore) -> StoredTask {
    let mut tasks = load(store, 0).await;
    assert_eq!(tasks.len(), 1);
    tasks.remove(0)
}

async fn keeps_what_it_took(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 7)).await.expect("insert");
    assert_eq!(only(store).await, task("a", 7));
    let state =
        TaskState { paused: true, fired: 3, last_error: Some("why".to_owned()), ..TaskState::default() };
    let change = Change::State { id: "a".to_owned(), incarnation: 7, state: state.clone() };
    one(store, 1, change).await.expect("state");
    assert_eq!(only(store).await.state, state);
    let mut replaced = task("a", 7);
    replaced.version = 2;
    replaced.spec.description = "new".to_owned();
    one(store, 1, Change::Replace(Box::new(replaced.clone()))).await.expect("replace");
    assert_eq!(only(store).await, replaced);
    let run = run_of("a", 7, 5, RunOrigin::Schedule);
    let change = Change::Run { run: Box::new(run.clone()), state: Some(Box::new(state.clone())) };
    one(store, 1, change).await.expect("run");
    assert_eq!(store.runs("a", 10).await.expect("runs"), [run]);
    assert_eq!(only(store).await.state, state, "a run brings its task's state");
    one(store, 1, Change::Remove { id: "a".to_owned(), incarnation: 7 }).await.expect("remove");
    assert!(load(store, 0).await.is_empty());
    assert!(store.runs("a", 10).await.expect("runs").is_empty(), "records go with their task");
}

async fn refuses_what_does_not_fit(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    let commits =
        [insert("a", 1), insert("a", 2), insert("b", 3)].map(|change| Commit { shard: 0, epoch: 1, change });
    let answers = store.commit(commits.into()).await;
    let exists = Err(StoreError::Exists("a".to_owned()));
    assert_eq!(answers, [Ok(()), exists, Ok(())], "each by itself, in order");
    let absent = |id: &str| Err(StoreError::NotFound(id.to_owned()));
    let other = Change::Remove { id: "a".to_owned(), incarnation: 2 };
    assert_eq!(one(store, 1, other).await, absent("a"), "another incarnation");
    let nobody = Change::State { id: "c".to_owned(), incarnation: 1, state: TaskState::default() };
    assert_eq!(one(store, 1, nobody).await, absent("c"));
    assert_eq!(one(store, 1, Change::Replace(Box::new(task("a", 9)))).await, absent("a"));
    assert_eq!(load(store, 0).await, [task("a", 1), task("b", 3)]);
}

async fn promise_3_commits_a_run_once(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 1)).await.expect("insert");
    let commit =
        |seconds, origin| Change::Run { run: Box::new(run_of("a", 1, seconds, origin)), state: None };
    one(store, 1, commit(1, RunOrigin::Schedule)).await.expect("first");
    let twice = one(store, 1, commit(1, RunOrigin::Schedule)).await;
    assert_eq!(twice, Err(StoreError::Duplicate("a".to_owned())));
    one(store, 1, commit(1, RunOrigin::Trigger)).await.expect("another origin");
    one(store, 1, commit(2, RunOrigin::Schedule)).await.expect("another time");
    let mut later = run_of("a", 2, 1, RunOrigin::Schedule);
    later.incarnation = 2;
    let stale = Change::Run { run: Box::new(later), state: None };
    assert!(one(store, 1, stale).await.is_err(), "a run of another incarnation");
    // However many have come since, what was committed is not committed again.
    for seconds in 3..400 {
        one(store, 1, commit(seconds, RunOrigin::Schedule)).await.expect("further");
    }
    assert!(one(store, 1, commit(1, RunOrigin::Schedule)).await.is_err());
}

async fn fences_off_old_owners(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 1)).await.expect("insert");
    claim(store, 0, 2).await.expect("takeover");
    let fenced = |ours| Err(StoreError::Fenced { shard: 0, ours, theirs: 2 });
    let run = Change::Run { run: Box::new(run_of("a", 1, 1, RunOrigin::Schedule)), state: None };
    assert_eq!(one(store, 1, run.clone()).await, fenced(1), "promise 3: the old owner commits nothing");
    assert_eq!(one(store, 1, insert("b", 2)).await, fenced(1));
    assert_eq!(claim(store, 0, 1).await, fenced(1));
    one(store, 2, run).await.expect("the new owner");
    claim(store, 1, 1).await.expect("another shard has its own epoch");
}

async fn loads_shards_in_pages(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    claim(store, 1, 1).await.expect("claim");
    let commits: Vec<_> = (0..25)
        .map(|number| Commit { shard: number % 2, epoch: 1, change: insert(&format!("t{number:02}"), 1) })
        .collect();
    assert!(store.commit(commits.into()).await.iter().all(Result::is_ok));
    let mut ids: Vec<String> = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.load(&[1, 2], cursor.as_deref(), 5).await.expect("load");
        assert!(page.tasks.len() <= 5);
        ids.extend(page.tasks.into_iter().map(|task| task.spec.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    ids.sort_unstable();
    let expected: Vec<String> = (0..25).filter(|n| n % 2 == 1).map(|n| format!("t{n:02}")).collect();
    assert_eq!(ids, expected, "each once");
}
