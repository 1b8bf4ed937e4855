//! What runs pass on to the runs after them, on paused time.

use std::sync::{Arc, Mutex};

use scheduler::{Page, RunContext, RunOrigin, RunOutcome, RunOutput, RunView, TaskError, executor_fn};
use serde_json::{Value, json};

use crate::support::{Bench, secs, spec};

/// The payloads that tasks were run with.
type Given = Arc<Mutex<Vec<(String, Value)>>>;

/// An executor that gives back what its payload says, and notes what it was given.
fn giver(bench: &Bench, name: &str) -> (scheduler::ExecutorGuard, Given) {
    let given = Arc::new(Mutex::new(Vec::new()));
    let notes = given.clone();
    let executor = executor_fn(move |run: RunContext| {
        notes.lock().unwrap().push((run.task_id().to_owned(), run.payload()));
        async move {
            let payload = run.payload();
            if payload["fails"] == true {
                return Err(scheduler::RunError::permanent("as asked"));
            }
            Ok(RunOutput::from(payload["gives"].clone()))
        }
    });
    (bench.scheduler.registry().register(name, None, executor).unwrap(), given)
}

async fn only_run(bench: &Bench, task: &str) -> RunView {
    let runs = bench.scheduler.runs(task, &Page::default()).await.unwrap().items;
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.into_iter().next().unwrap()
}

fn once(id: &str, delay: &str, payload: Value) -> Value {
    json!({"id": id, "executor": "give", "payload": payload, "schedule": {"type": "once", "delay": delay}})
}

#[tokio::test(start_paused = true)]
async fn outputs_are_put_where_the_definition_says() {
    let bench = Bench::new().await;
    let (_guard, given) = giver(&bench, "give");
    bench.create(once("a", "1s", json!({"gives": {"id": 7, "tags": ["x"]}}))).await;
    bench.create(once("b", "2s", json!({"gives": "text"}))).await;
    bench.create(once("quiet", "2s", json!({}))).await;
    let after = |id: &str, payload: Value, after: Value| json!({"id": id, "executor": "give", "payload": payload, "after": after});
    for body in [
        after("whole", json!({"keep": 1, "id": 0}), json!([{"task": "a", "into": ""}])),
        after("part", json!({"order": {"note": "n"}}), json!([{"task": "a", "into": "/order"}])),
        after("deep", Value::Null, json!([{"task": "a", "into": "/x/y~1z"}, {"task": "b", "into": "/t"}])),
        after("plain", json!({"p": 1}), json!(["a"])),
        after("nothing", json!({"p": 1}), json!([{"task": "quiet", "into": "/q"}])),
    ] {
        bench.create(body).await;
    }
    bench.sleep(secs(5)).await;
    let of = |task: &str| {
        let given = given.lock().unwrap();
        let found: Vec<_> =
            given.iter().filter(|(id, _)| id == task).map(|(_, payload)| payload.clone()).collect();
        assert_eq!(found.len(), 1, "{task}: {found:?}");
        found[0].clone()
    };
    assert_eq!(of("whole"), json!({"keep": 1, "id": 7, "tags": ["x"]}));
    assert_eq!(of("part"), json!({"order": {"note": "n", "id": 7, "tags": ["x"]}}));
    assert_eq!(of("deep"), json!({"x": {"y/z": {"id": 7, "tags": ["x"]}}, "t": "text"}));
    assert_eq!(of("plain"), json!({"p": 1}));
    assert_eq!(of("nothing"), json!({"p": 1}));
    assert_eq!(bench.get("whole").await.payload, json!({"keep": 1, "id": 0}), "the definition stays");
}

#[tokio::test(start_paused = true)]
async fn a_run_knows_the_runs_before_it_and_the_chain_is_traceable() {
    let bench = Bench::new().await;
    let (_guard, _) = giver(&bench, "give");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let look = executor_fn(move |run: RunContext| {
        let upstream: Vec<_> = run
            .upstream()
            .iter()
            .map(|up| (up.task.clone(), up.outcome, up.output(), up.error.clone()))
            .collect();
        notes.lock().unwrap().push((upstream, run.chain(), run.attempt()));
        async move {
            if run.attempt() == 1 {
                Err(scheduler::RunError::new("once more"))
            } else {
                Ok(RunOutput::none())
            }
        }
    });
    let _look = bench.scheduler.registry().register("look", None, look).unwrap();
    bench.create(once("root", "1s", json!({"gives": 1}))).await;
    bench.create(json!({"id": "left", "executor": "give", "payload": {"gives": 2}, "after": ["root"]})).await;
    bench
        .create(json!({"id": "right", "executor": "give", "payload": {"fails": true},
            "after": [{"task": "root", "on": "always"}]}))
        .await;
    bench
        .create(json!({"id": "join", "executor": "look", "retry": {"attempts": 2},
            "after": [{"task": "right", "on": "failure"}, "left"]}))
        .await;
    bench.sleep(secs(10)).await;
    let (root, left, right) =
        (only_run(&bench, "root").await, only_run(&bench, "left").await, only_run(&bench, "right").await);
    let join = only_run(&bench, "join").await;
    assert_eq!((root.chain, root.caused_by.len()), (None, 0));
    assert_eq!((left.chain, left.caused_by.clone()), (Some(root.id), vec![root.id]));
    assert_eq!((join.chain, join.caused_by.clone()), (Some(root.id), vec![right.id, left.id]));
    assert_eq!((join.origin, join.outcome, join.attempt), (RunOrigin::Dependency, RunOutcome::Completed, 2));
    let upstream = vec![
        ("right".to_owned(), RunOutcome::Failed, Value::Null, Some("as asked".to_owned())),
        ("left".to_owned(), RunOutcome::Completed, json!(2), None),
    ];
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, [(upstream.clone(), root.id, 1), (upstream, root.id, 2)], "a retry gets the same");
}

#[tokio::test(start_paused = true)]
async fn an_output_too_large_to_pass_on_skips_the_run_and_says_so() {
    let bench = Bench::new().await;
    let (_guard, _) = giver(&bench, "give");
    bench.create(once("big", "1s", json!({"gives": "x".repeat(5000)}))).await;
    bench.create(once("fits", "1s", json!({"gives": "x".repeat(4000)}))).await;
    let filled = "y".repeat(62 * 1024);
    for (id, after, payload) in [
        ("needs", json!([{"task": "big", "into": "/big"}]), Value::Null),
        ("knows", json!(["big"]), Value::Null),
        ("full", json!([{"task": "fits", "into": "/fits"}]), json!({"filled": filled})),
    ] {
        bench.create(json!({"id": id, "executor": "give", "after": after, "payload": payload})).await;
    }
    bench.sleep(secs(5)).await;
    let run = only_run(&bench, "needs").await;
    assert_eq!(run.outcome, RunOutcome::Skipped);
    assert_eq!(run.skip_reason.as_deref(), Some("dependency: the output of `big` is larger than 4 KiB"));
    assert_eq!(run.caused_by, [only_run(&bench, "big").await.id]);
    assert_eq!(only_run(&bench, "knows").await.outcome, RunOutcome::Completed);
    let reason = only_run(&bench, "full").await.skip_reason.unwrap();
    assert!(reason.starts_with("dependency: the payload is larger than 64 KiB"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_pointer_that_is_none_is_refused() {
    let bench = Bench::new().await;
    bench.create(json!({"id": "a", "schedule": {"type": "interval", "interval": "1h"}})).await;
    for into in ["order", "/~", "/".repeat(257).as_str()] {
        let body = json!({"id": "b", "executor": "work", "after": [{"task": "a", "into": into}]});
        match bench.scheduler.create(spec(body)).await {
            Err(TaskError::Invalid { field, .. }) => assert_eq!(field, "after[0].into", "{into}"),
            other => panic!("{other:?}"),
        }
    }
}
