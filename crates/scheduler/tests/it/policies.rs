use runtime::Clock;
use scheduler::{Page, RunOutcome, RunView, SchedulerConfig, TaskStatus};
use serde_json::{Value, json};

use crate::support::{Bench, secs, spec};

async fn runs(bench: &Bench, id: &str) -> Vec<RunView> {
    let mut runs = bench.scheduler.runs(id, &Page::default()).await.unwrap().items;
    runs.reverse();
    runs
}

fn outcomes(runs: &[RunView]) -> Vec<RunOutcome> {
    runs.iter().map(|run| run.outcome).collect()
}

/// A task that is due each 10 s and takes 25 s.
async fn slow(overlap: Value) -> Bench {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "25s"}, "overlap": overlap,
            "schedule": {"type": "interval", "interval": "10s", "max_runs": 4}}))
        .await;
    bench
}

#[tokio::test(start_paused = true)]
async fn overlap_skip_leaves_runs_out_and_says_why() {
    let bench = slow(json!("skip")).await;
    bench.sleep(secs(45)).await;
    assert_eq!(bench.seconds("t"), [10.0, 40.0]);
    let runs = runs(&bench, "t").await;
    use RunOutcome::{Completed, Running, Skipped};
    assert_eq!(outcomes(&runs), [Completed, Skipped, Skipped, Running]);
    assert_eq!(runs[1].skip_reason.as_deref(), Some("overlap: the run before has not ended"));
    assert_eq!(runs[1].started_at, None);
}

#[tokio::test(start_paused = true)]
async fn overlap_queue_one_keeps_one_in_line() {
    let bench = slow(json!("queue_one")).await;
    bench.sleep(secs(50)).await;
    assert_eq!(bench.seconds("t"), [10.0, 35.0]);
    let runs = runs(&bench, "t").await;
    use RunOutcome::{Completed, Queued, Running, Skipped};
    assert_eq!(outcomes(&runs), [Completed, Running, Skipped, Queued, Skipped]);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn overlap_queue_all_runs_each_in_turn() {
    let bench = slow(json!("queue_all")).await;
    bench.sleep(secs(200)).await;
    assert_eq!(bench.seconds("t"), [10.0, 35.0, 60.0, 85.0]);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(bench.status("t").await, TaskStatus::Completed);
    let due: Vec<_> = runs(&bench, "t").await.into_iter().map(|run| run.scheduled_for.to_string()).collect();
    assert_eq!(due[3], "2026-03-01T12:00:40Z", "each keeps the time that it was due at");
}

#[tokio::test(start_paused = true)]
async fn overlap_queue_all_is_bounded() {
    let bench = Bench::with(SchedulerConfig { max_queued_runs: 2, ..Default::default() }).await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "1h"}, "overlap": "queue_all",
            "schedule": {"type": "interval", "interval": "1s"}}))
        .await;
    bench.sleep(secs(10)).await;
    let runs = runs(&bench, "t").await;
    assert_eq!(runs.iter().filter(|run| run.outcome == RunOutcome::Queued).count(), 2);
    assert_eq!(runs.last().unwrap().skip_reason.as_deref(), Some("overlap: the queue is full"));
}

#[tokio::test(start_paused = true)]
async fn overlap_cancel_previous_ends_the_one_before() {
    let bench = slow(json!("cancel_previous")).await;
    bench.sleep(secs(100)).await;
    assert_eq!(bench.seconds("t"), [10.0, 20.0, 30.0, 40.0]);
    use RunOutcome::{Canceled, Completed};
    assert_eq!(outcomes(&runs(&bench, "t").await), [Canceled, Canceled, Canceled, Completed]);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1, "never two at once");
}

#[tokio::test(start_paused = true)]
async fn overlap_allow_runs_side_by_side() {
    let bench = slow(json!("allow")).await;
    bench.sleep(secs(100)).await;
    assert_eq!(bench.seconds("t"), [10.0, 20.0, 30.0, 40.0]);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn promise_8_overlap_allow_is_bounded_too() {
    let config = SchedulerConfig { max_queued_runs: 3, ..Default::default() };
    let bench = Bench::with(config).await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "1h"}, "overlap": "allow",
            "group": {"name": "g", "limit": 2}, "schedule": {"type": "interval", "interval": "1s"}}))
        .await;
    bench.sleep(secs(60)).await;
    assert_eq!(bench.get("t").await.active_runs, 5);
    let runs = runs(&bench, "t").await;
    assert_eq!(runs.last().unwrap().skip_reason.as_deref(), Some("overlap: the queue is full"));
    let refused = bench.scheduler.trigger("t", None).await.unwrap_err();
    assert!(matches!(refused, scheduler::TaskError::Conflict { .. }), "{refused}");
}

/// A task that is due each 10 s, and a clock that jumps ahead by 61 s after 15 s.
async fn jumped(misfire: Value) -> Bench {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "misfire": misfire, "overlap": "queue_all",
            "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench.sleep(secs(15)).await;
    bench.clock.jump(jiff::SignedDuration::from_secs(61));
    bench.sleep(secs(1)).await;
    bench
}

#[tokio::test(start_paused = true)]
async fn misfire_by_default_makes_up_once() {
    let bench = jumped(json!("run_once")).await;
    let runs = runs(&bench, "t").await;
    use RunOutcome::{Completed, Skipped};
    assert_eq!(outcomes(&runs), [Completed, Skipped, Completed]);
    assert_eq!(runs[1].times, 5);
    assert_eq!(runs[1].scheduled_for.to_string(), "2026-03-01T12:00:20Z");
    assert_eq!(runs[2].scheduled_for.to_string(), "2026-03-01T12:01:10Z", "for the latest time");
    bench.sleep(secs(5)).await;
    assert_eq!(bench.seconds("t").len(), 3, "the next one is on its grid");
}

#[tokio::test(start_paused = true)]
async fn misfire_skip_makes_up_for_nothing_that_is_late() {
    let bench = jumped(json!("skip")).await;
    let runs = runs(&bench, "t").await;
    // 70 s is 6 s late at 76 s, which is past the window of 5 s.
    use RunOutcome::{Completed, Skipped};
    assert_eq!(outcomes(&runs), [Completed, Skipped]);
    assert_eq!(runs[1].times, 6);
    assert_eq!(runs[1].skip_reason.as_deref(), Some("missed: 6 times could not be run in time"));
}

#[tokio::test(start_paused = true)]
async fn misfire_run_all_makes_up_for_each_up_to_its_limit_and_window() {
    let bench = jumped(json!("run_all")).await;
    assert_eq!(bench.seen().len(), 7);
    let bench = jumped(json!({"policy": "run_all", "limit": 2})).await;
    let due: Vec<_> = bench.seen().iter().map(|seen| seen.scheduled_for.to_string()).collect();
    assert_eq!(due, ["2026-03-01T12:00:10Z", "2026-03-01T12:01:00Z", "2026-03-01T12:01:10Z"]);
    let bench = jumped(json!({"policy": "run_all", "window": "30s"})).await;
    assert_eq!(bench.seen().len(), 1 + 3, "50, 60 and 70 s");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_repeats_nothing() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench.sleep(secs(25)).await;
    bench.clock.jump(jiff::SignedDuration::from_secs(-20));
    bench.sleep(secs(24)).await;
    assert_eq!(bench.seen().len(), 2);
    bench.sleep(secs(2)).await;
    let due: Vec<_> = bench.seen().iter().map(|seen| seen.scheduled_for.to_string()).collect();
    assert_eq!(due, ["2026-03-01T12:00:10Z", "2026-03-01T12:00:20Z", "2026-03-01T12:00:30Z"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_bounds_its_tasks_together() {
    let bench = Bench::new().await;
    for number in 0..6 {
        bench
            .create(json!({"id": format!("t{number}"), "executor": "work", "payload": {"takes": "10s"},
                "group": {"name": "db", "limit": 2}, "schedule": {"type": "once", "delay": "1s"}}))
            .await;
    }
    bench.sleep(secs(2)).await;
    let status = bench.scheduler.status();
    assert_eq!((status.active_runs, status.queued_runs), (2, 4));
    bench.sleep(secs(60)).await;
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert_eq!(bench.seen().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn max_concurrent_tasks_lets_the_higher_priority_go_first() {
    let bench = Bench::with(SchedulerConfig { max_concurrent_tasks: 1, ..Default::default() }).await;
    for (id, priority) in [("low", -5), ("mid", 0), ("high", 50)] {
        bench
            .create(json!({"id": id, "executor": "work", "payload": {"takes": "10s"}, "priority": priority,
                "schedule": {"type": "once", "delay": "5s"}}))
            .await;
    }
    bench
        .create(json!({"id": "first", "executor": "work", "payload": {"takes": "10s"},
            "schedule": {"type": "once", "delay": "1s"}}))
        .await;
    bench.sleep(secs(100)).await;
    let order: Vec<_> = bench.seen().into_iter().map(|seen| seen.task).collect();
    assert_eq!(order, ["first", "high", "mid", "low"]);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn tasks_run_after_tasks() {
    let bench = Bench::new().await;
    let once = |id: &str, delay: &str, fails: u64| {
        json!({"id": id, "executor": "work", "payload": {"fails": fails},
            "schedule": {"type": "interval", "interval": delay, "max_runs": 1}})
    };
    bench.create(once("extract", "10s", 0)).await;
    bench.create(once("check", "20s", 9)).await;
    for (id, after) in [
        ("load", json!(["extract"])),
        ("report", json!([{"task": "extract"}, {"task": "check", "on": "always"}])),
        ("alarm", json!([{"task": "check", "on": "failure"}])),
        ("never", json!([{"task": "check", "on": "success"}])),
        ("chain", json!(["load"])),
    ] {
        bench.create(json!({"id": id, "executor": "work", "after": after})).await;
    }
    let waiting = bench.get("report").await;
    assert_eq!(waiting.status, TaskStatus::Pending);
    assert_eq!(waiting.waiting_for.as_deref(), Some("runs of `extract`, `check`"));
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("load"), [10.0]);
    assert_eq!(bench.seconds("chain"), [10.0]);
    assert_eq!(bench.seconds("report"), [20.0]);
    assert_eq!(bench.seconds("alarm"), [20.0]);
    assert!(bench.seconds("never").is_empty());
    let needed = bench.scheduler.remove("extract", None).await.unwrap_err();
    assert!(needed.to_string().contains("load"), "{needed}");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_and_after_go_together() {
    let bench = Bench::new().await;
    bench.create(json!({"id": "a", "executor": "work", "schedule": {"type": "once", "delay": "25s"}})).await;
    bench
        .create(json!({"id": "b", "executor": "work", "after": ["a"],
            "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench.sleep(secs(22)).await;
    assert_eq!(bench.get("b").await.waiting_for.as_deref(), Some("runs of `a`"));
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("b"), [25.0], "due at 10 s, and runs when the other has");
}

#[tokio::test(start_paused = true)]
async fn cycles_are_refused_with_their_path() {
    let bench = Bench::new().await;
    let after = |id: &str, after: &[&str]| {
        json!({"id": id, "executor": "work", "after": after,
        "schedule": {"type": "interval", "interval": "1h"}})
    };
    bench.create(json!({"id": "a", "schedule": {"type": "interval", "interval": "1h"}})).await;
    bench.create(after("b", &["a"])).await;
    bench.create(after("c", &["b"])).await;
    let error = bench.scheduler.replace("a", spec(after("a", &["c"])), None).await.unwrap_err();
    assert_eq!(error.to_string(), "after[0].task: makes a cycle: a -> c -> b -> a");
    let error = bench.scheduler.create(spec(after("d", &["d"]))).await.unwrap_err();
    assert_eq!(error.to_string(), "after[0].task: makes a cycle: d -> d");
    let error = bench.scheduler.create(spec(after("d", &["a", "nobody"]))).await.unwrap_err();
    assert_eq!(error.to_string(), "after[1].task: no task `nobody`");
    assert!(bench.scheduler.get("d").await.is_err(), "a body that is refused leaves no task");
    let _ = bench.clock.now();
}
