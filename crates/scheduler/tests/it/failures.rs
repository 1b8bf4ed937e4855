//! What failures in a row mean for a task, on paused time.

use scheduler::{RunOutcome, TaskStatus};
use serde_json::json;

use crate::support::{Bench, at, secs};

async fn failing(bench: &Bench, changes: serde_json::Value) {
    let mut body = json!({
        "id": "t", "executor": "work", "payload": {"fails": 100},
        "schedule": {"type": "interval", "interval": "10s", "delay": "0s"},
    });
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    bench.create(body).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_is_paused_after_so_many_failures_in_a_row_and_says_so() {
    let bench = Bench::new().await;
    failing(&bench, json!({"pause_after_failures": 3})).await;
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("t"), [0.0, 10.0, 20.0]);
    let task = bench.get("t").await;
    assert_eq!((task.status, task.consecutive_failures), (TaskStatus::Paused, 3));
    assert_eq!(task.pause_reason.as_deref(), Some("3 failures in a row"));
    // Resumed, it has as many again; a run that completes begins the count anew.
    bench.scheduler.resume("t").await.unwrap();
    let task = bench.get("t").await;
    assert_eq!((task.status, task.consecutive_failures, task.pause_reason), (TaskStatus::Pending, 0, None));
    bench.sleep(secs(25)).await;
    assert_eq!(bench.get("t").await.consecutive_failures, 2);
    bench.scheduler.trigger("t", Some(json!({}))).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.get("t").await.consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn retries_count_as_one_failure() {
    let bench = Bench::new().await;
    let changes = json!({"pause_after_failures": 2, "retry": {"attempts": 3, "backoff": "1s", "factor": 1}});
    failing(&bench, changes).await;
    bench.sleep(secs(5)).await;
    assert_eq!(bench.get("t").await.consecutive_failures, 1);
    bench.sleep(secs(10)).await;
    assert_eq!(bench.seconds("t"), [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    assert_eq!(bench.status("t").await, TaskStatus::Paused);
}

#[tokio::test(start_paused = true)]
async fn the_runs_of_a_failing_task_move_apart_up_to_the_bound() {
    let bench = Bench::new().await;
    failing(&bench, json!({"failure_backoff": {"delay": "15s", "factor": 2, "max_delay": "40s"}})).await;
    bench.sleep(secs(1)).await;
    let task = bench.get("t").await;
    assert_eq!(task.backoff_until, Some(at("2026-03-01T12:00:15Z")));
    assert_eq!(task.next_run_at, Some(at("2026-03-01T12:00:20Z")));
    bench.sleep(secs(149)).await;
    // Delays of 15, 30 and then 40 seconds, each up to the next time of the grid.
    assert_eq!(bench.seconds("t"), [0.0, 20.0, 50.0, 90.0, 130.0]);
    let runs = bench.scheduler.runs("t", &scheduler::Page::default()).await.unwrap().items;
    let skips: Vec<_> = runs.iter().filter(|run| run.outcome == RunOutcome::Skipped).collect();
    let reasons: Vec<_> = skips.iter().map(|run| run.skip_reason.as_deref().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "backoff: 3 times left out after 4 failures in a row",
            "backoff: 3 times left out after 3 failures in a row",
            "backoff: 2 times left out after 2 failures in a row",
            "backoff: 1 time left out after a failure",
        ]
    );
    // Every time of the schedule has run or is accounted for.
    let accounted: u64 = runs.iter().map(|run| run.times).sum();
    assert_eq!(accounted, 14);
}

#[tokio::test(start_paused = true)]
async fn a_backoff_ends_with_success_resumption_and_replacement() {
    for how in ["success", "resume", "replace"] {
        let bench = Bench::new().await;
        failing(&bench, json!({"failure_backoff": "1h"})).await;
        bench.sleep(secs(25)).await;
        assert_eq!(bench.get("t").await.next_run_at, Some(at("2026-03-01T13:00:00Z")));
        match how {
            "success" => drop(bench.scheduler.trigger("t", Some(json!({}))).await.unwrap()),
            "resume" => {
                bench.scheduler.pause("t").await.unwrap();
                bench.scheduler.resume("t").await.unwrap();
            }
            _ => {
                let spec = crate::support::spec(json!({
                    "id": "t", "executor": "work",
                    "schedule": {"type": "interval", "interval": "10s", "delay": "0s"},
                }));
                bench.scheduler.replace("t", spec, None).await.unwrap();
            }
        }
        bench.settle().await;
        let task = bench.get("t").await;
        assert_eq!((task.backoff_until, task.consecutive_failures), (None, 0), "{how}");
        assert_eq!(task.next_run_at, Some(at("2026-03-01T12:00:30Z")), "{how}");
        let runs = bench.scheduler.runs("t", &scheduler::Page::default()).await.unwrap().items;
        let skipped = runs.iter().find(|run| run.outcome == RunOutcome::Skipped).unwrap();
        assert_eq!((skipped.times, skipped.scheduled_for), (2, at("2026-03-01T12:00:10Z")), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_after_the_end_waits_for_the_backoff_too() {
    let bench = Bench::new().await;
    let schedule = json!({"type": "interval", "interval": "10s", "delay": "0s", "mode": "delay"});
    failing(&bench, json!({"schedule": schedule, "failure_backoff": "30s"})).await;
    bench.sleep(secs(100)).await;
    assert_eq!(bench.seconds("t"), [0.0, 30.0, 90.0]);
}
