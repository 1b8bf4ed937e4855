//! What every [`TaskStore`] must do. An adapter's tests call [`run`] with a maker of empty stores, and
//! [`survives`] with one that is opened again.

#![expect(clippy::expect_used, reason = "a failed expectation is the suite's answer")]

use std::sync::Arc;

use runtime::{SpanId, Timestamp, TraceContext, TraceId};

use super::{Change, Commit, OpenRun, Retention, StoreError, StoredTask, TaskState, TaskStore};
use crate::coordinator::Grant;
use crate::id::RunId;
use crate::spec::TaskSpec;
use crate::upstream::UpstreamRun;
use crate::view::{RunOrigin, RunOutcome, RunView};

/// Runs the whole suite; `make` gives an empty store each time, which keeps so many records.
///
/// # Panics
///
/// Where the store does not keep the contract.
pub async fn run<S, F, Fut>(make: F)
where
    S: TaskStore,
    F: Fn(Retention) -> Fut,
    Fut: Future<Output = S>,
{
    let empty = || make(Retention::default());
    keeps_what_it_took(&empty().await).await;
    refuses_what_does_not_fit(&empty().await).await;
    takes_the_same_again(&empty().await).await;
    promise_3_commits_a_run_once(&empty().await).await;
    keeps_open_runs(&empty().await).await;
    fences_off_old_owners(&empty().await).await;
    loads_shards_in_pages(&empty().await).await;
    gives_records_newest_first(&empty().await).await;
    bounds_records_and_keeps_dead_runs_longer(&make(Retention { records: 20, dead_runs: 5 }).await).await;
}

/// Checks that what a store has taken is there when it is opened again, as after the end of the process.
/// `first` is empty, and `again` opens the same one.
///
/// # Panics
///
/// Where something is missing.
pub async fn survives<S, Fut>(first: S, again: impl FnOnce() -> Fut)
where
    S: TaskStore,
    Fut: Future<Output = S>,
{
    assert!(first.is_durable(), "what does not survive its process says so");
    claim(&first, 0, 7).await.expect("claim");
    let state = TaskState {
        fired: 3,
        last_error: Some("why".to_owned()),
        planned: Some(at(1)),
        ..Default::default()
    };
    let commits = [
        insert("a", 1),
        insert("b", 2),
        Change::Remove { id: "b".to_owned(), incarnation: 2 },
        open("a", 1, &open_run(1, RunOrigin::Schedule)),
        end(&run_of("a", 1, 1, RunOrigin::Schedule), Some(&state)),
        open("a", 1, &open_run(2, RunOrigin::Trigger)),
        open("a", 1, &open_run(3, RunOrigin::Trigger)),
    ];
    let answers = first.commit(commits.map(|change| Commit { shard: 0, epoch: 7, change }).into()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    drop(first);

    let store = again().await;
    let mut expected = task("a", 1);
    expected.state = state;
    expected.open = vec![open_run(2, RunOrigin::Trigger), open_run(3, RunOrigin::Trigger)];
    assert_eq!(load(&store, 0).await, [expected]);
    assert_eq!(history(&store, &[0]).await, [run_of("a", 1, 1, RunOrigin::Schedule)]);
    let fenced = Err(StoreError::Fenced { shard: 0, ours: 6, theirs: 7 });
    assert_eq!(one(&store, 6, insert("c", 3)).await, fenced, "the epoch is kept");
    let twice = one(&store, 7, end(&run_of("a", 1, 1, RunOrigin::Schedule), None)).await;
    assert_eq!(twice, Err(StoreError::Duplicate("a".to_owned())), "promise 3");
    one(&store, 7, end(&run_of("a", 1, 2, RunOrigin::Trigger), None)).await.expect("it was open");
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time in range")
}

fn task(id: &str, incarnation: u64) -> StoredTask {
    StoredTask {
        spec: TaskSpec::cron(id, "@daily"),
        payload: Some(r#"{"a":1}"#.into()),
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

fn open_run(seconds: i64, origin: RunOrigin) -> OpenRun {
    OpenRun {
        id: RunId::from_u128(u128::from(seconds.unsigned_abs())),
        scheduled_for: at(seconds),
        origin,
        attempt: 1,
        retry_at: None,
        payload: None,
        upstream: Vec::new(),
        chain: None,
        trace: Some(TraceContext::new(
            TraceId::from_bytes([7; 16]).expect("an id"),
            SpanId::from_bytes([7; 8]).expect("an id"),
            true,
        )),
    }
}

fn open(id: &str, incarnation: u64, run: &OpenRun) -> Change {
    Change::Open { id: id.to_owned(), incarnation, run: Box::new(run.clone()) }
}

fn end(run: &RunView, state: Option<&TaskState>) -> Change {
    Change::Run { run: Box::new(run.clone()), state: state.map(|state| Box::new(state.clone())) }
}

/// All records, read in pages of three.
async fn history(store: &impl TaskStore, shards: &[u32]) -> Vec<RunView> {
    let mut runs = Vec::new();
    let mut cursor = None;
    loop {
        let page = store.history(shards, cursor.as_deref(), 3).await.expect("history");
        assert!(page.runs.len() <= 3, "a page has its limit");
        runs.extend(page.runs);
        cursor = page.next;
        if cursor.is_none() {
            return runs;
        }
    }
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
    assert_eq!(history(store, &[0]).await, [run]);
    assert_eq!(only(store).await.state, state, "a run brings its task's state");
    one(store, 1, Change::Remove { id: "a".to_owned(), incarnation: 7 }).await.expect("remove");
    assert!(load(store, 0).await.is_empty());
    assert!(history(store, &[0]).await.is_empty(), "records go with their task");
    one(store, 1, insert("a", 8)).await.expect("the id again");
    assert!(history(store, &[0]).await.is_empty(), "and are not those of its successor");
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

async fn takes_the_same_again(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 1)).await.expect("insert");
    let run = run_of("a", 1, 1, RunOrigin::Schedule);
    let state = TaskState { fired: 1, ..TaskState::default() };
    one(store, 1, end(&run, Some(&state))).await.expect("run");
    one(store, 1, insert("a", 1)).await.expect("an insert that was answered for before");
    assert_eq!(only(store).await.state, state, "it undoes nothing");
    assert_eq!(one(store, 1, end(&run, None)).await, Err(StoreError::Duplicate("a".to_owned())));
    assert_eq!(history(store, &[0]).await.len(), 1, "one record");
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

async fn keeps_open_runs(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 1)).await.expect("insert");
    let mut first = open_run(5, RunOrigin::Schedule);
    first.payload = Some(serde_json::json!({"n": 1}));
    first.chain = Some(RunId::from_u128(9));
    first.upstream = vec![UpstreamRun {
        task: "b".to_owned(),
        run: RunId::from_u128(8),
        chain: RunId::from_u128(9),
        outcome: RunOutcome::Completed,
        error: None,
        output_json: Some("[1]".to_owned()),
        output_too_large: false,
    }];
    let (second, third) = (open_run(5, RunOrigin::Trigger), open_run(4, RunOrigin::Schedule));
    for run in [&first, &second, &third] {
        one(store, 1, open("a", 1, run)).await.expect("open");
    }
    first.attempt = 2;
    first.retry_at = Some(at(9));
    one(store, 1, open("a", 1, &first)).await.expect("another attempt");
    let expected = [first.clone(), second.clone(), third.clone()];
    assert_eq!(only(store).await.open, expected, "in the order in which they began, each once");

    let mut replaced = task("a", 1);
    replaced.version = 2;
    one(store, 1, Change::Replace(Box::new(replaced))).await.expect("replace");
    assert_eq!(only(store).await.open, expected, "they outlive the definition");

    one(store, 1, end(&run_of("a", 1, 5, RunOrigin::Schedule), None)).await.expect("end");
    assert_eq!(only(store).await.open, [second, third.clone()], "an end closes the run of its key");
    one(store, 1, end(&run_of("a", 1, 4, RunOrigin::Schedule), None))
        .await
        .expect("it is open, though a later one has ended");
    let again = one(store, 1, end(&run_of("a", 1, 4, RunOrigin::Schedule), None)).await;
    assert_eq!(again, Err(StoreError::Duplicate("a".to_owned())), "promise 3: it is not open any more");
    let stale = one(store, 1, open("a", 2, &third)).await;
    assert_eq!(stale, Err(StoreError::NotFound("a".to_owned())), "of another incarnation");
    one(store, 1, Change::Remove { id: "a".to_owned(), incarnation: 1 }).await.expect("remove");
    one(store, 1, insert("a", 2)).await.expect("insert");
    assert!(only(store).await.open.is_empty(), "they go with their task");
    one(store, 1, end(&run_of("a", 2, 1, RunOrigin::Schedule), None)).await.expect("a key of its own");
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

async fn gives_records_newest_first(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    claim(store, 1, 1).await.expect("claim");
    let of = |task: &str, seconds| run_of(task, 1, seconds, RunOrigin::Schedule);
    let mut commits = vec![(0, insert("a", 1)), (1, insert("b", 1)), (0, insert("c", 1))];
    for seconds in 0..8 {
        commits.push((0, end(&of("a", seconds), None)));
        commits.push((1, end(&of("b", seconds), None)));
    }
    commits.push((0, end(&of("c", 100), None)));
    let commits: Vec<_> =
        commits.into_iter().map(|(shard, change)| Commit { shard, epoch: 1, change }).collect();
    let answers = store.commit(commits.into()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");

    let expected = |task: &str| (0..8).rev().map(|seconds| of(task, seconds)).collect::<Vec<_>>();
    let both = history(store, &[0, 1]).await;
    assert_eq!(both.len(), 17, "each once");
    for task in ["a", "b"] {
        let found: Vec<_> = both.iter().filter(|run| run.task == task).cloned().collect();
        assert_eq!(found, expected(task));
    }
    assert_eq!(history(store, &[1]).await, expected("b"), "only those of the shard");
    assert!(history(store, &[2]).await.is_empty());
    one(store, 1, Change::Remove { id: "a".to_owned(), incarnation: 1 }).await.expect("remove");
    assert_eq!(history(store, &[0]).await, [of("c", 100)], "only those of tasks that are there");
}

async fn bounds_records_and_keeps_dead_runs_longer(store: &impl TaskStore) {
    claim(store, 0, 1).await.expect("claim");
    one(store, 1, insert("a", 1)).await.expect("insert");
    let of = |seconds: i64| {
        let mut run = run_of("a", 1, seconds, RunOrigin::Schedule);
        if seconds % 10 == 0 {
            run.outcome = RunOutcome::Failed;
            run.error = Some("refused".to_owned());
            run.output = None;
        }
        run
    };
    // Each by itself: what is given up must not depend on how they come.
    for seconds in 0..200 {
        one(store, 1, end(&of(seconds), None)).await.expect("run");
    }
    let kept = history(store, &[0]).await;
    let (newest, older) = kept.split_at_checked(20).expect("as many as are to be kept");
    let expected: Vec<_> = (180..200).rev().map(of).collect();
    assert_eq!(newest, expected, "the latest, in their order");
    let mut dead = older.iter().filter(|run| run.outcome == RunOutcome::Failed);
    for seconds in [170, 160, 150, 140, 130] {
        assert_eq!(dead.next(), Some(&of(seconds)), "dead runs are kept longer");
    }
    assert!(kept.len() <= 2 * (20 + 5), "twice the bound at the most, not {}", kept.len());
    assert!(one(store, 1, end(&of(3), None)).await.is_err(), "promise 3: its key is not forgotten");
}
