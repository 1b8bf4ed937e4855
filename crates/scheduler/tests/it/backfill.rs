//! Runs for times that were missed, on paused time.

use runtime::Timestamp;
use scheduler::{
    BackfillReport, BackfillRequest, Page, RunOrigin, RunOutcome, RunView, SchedulerConfig, TaskError,
};
use serde_json::{Value, json};

use crate::support::{Bench, at, secs};

fn request(body: Value) -> BackfillRequest {
    serde_json::from_value(body).unwrap()
}

async fn backfill(bench: &Bench, id: &str, body: Value) -> Result<BackfillReport, TaskError> {
    bench.scheduler.backfill(id, &request(body), false).await
}

async fn runs(bench: &Bench, id: &str) -> Vec<RunView> {
    bench.scheduler.runs(id, &Page { limit: 1000, cursor: None }).await.unwrap().items
}

/// For which times a task has run, however.
fn scheduled(bench: &Bench, task: &str) -> Vec<Timestamp> {
    bench.seen().iter().filter(|seen| seen.task == task).map(|seen| seen.scheduled_for).collect()
}

fn hourly(id: &str) -> Value {
    json!({"id": id, "executor": "work", "payload": {"takes": "1m"}, "schedule": {"type": "cron", "cron": "@hourly"}})
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_the_times_and_changes_nothing() {
    let bench = Bench::new().await;
    bench.create(hourly("t")).await;
    let range = json!({"from": "2026-03-01T03:30:00Z", "until": "2026-03-01T06:00:00Z"});
    let report = bench.scheduler.backfill("t", &request(range), true).await.unwrap();
    assert_eq!((report.dry_run, report.count, report.next_from), (true, 3, None));
    assert_eq!(report.times, ["04", "05", "06"].map(|hour| at(&format!("2026-03-01T{hour}:00:00Z"))));
    bench.sleep(secs(600)).await;
    assert!(bench.seen().is_empty());
    assert_eq!(bench.get("t").await.backfill_runs_left, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_3_a_backfill_runs_each_time_once_in_order_one_after_the_other() {
    let bench = Bench::new().await;
    bench.create(hourly("t")).await;
    let range = json!({"from": "2026-03-01T00:00:00Z", "limit": 5});
    let report = backfill(&bench, "t", range.clone()).await.unwrap();
    assert_eq!((report.count, report.next_from), (5, Some(at("2026-03-01T05:00:00Z"))));
    bench.settle().await;
    assert_eq!(bench.get("t").await.backfill_runs_left, 4);
    let again = backfill(&bench, "t", range.clone()).await.unwrap_err();
    assert!(matches!(again, TaskError::Conflict { .. }), "{again}");
    bench.sleep(secs(600)).await;
    let first: Vec<_> = (0..5).map(|hour| at(&format!("2026-03-01T0{hour}:00:00Z"))).collect();
    assert_eq!(scheduled(&bench, "t"), first);
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert!(runs(&bench, "t").await.iter().all(|run| run.origin == RunOrigin::Backfill));
    // The same range again has what is left of it, and nothing twice.
    let report = backfill(&bench, "t", json!({"from": "2026-03-01T00:00:00Z"})).await.unwrap();
    assert_eq!((report.count, report.already_run, report.not_known), (8, 5, 0));
    bench.sleep(secs(1200)).await;
    let report = backfill(&bench, "t", json!({"from": "2026-03-01T00:00:00Z"})).await.unwrap();
    assert_eq!((report.count, report.already_run), (0, 13));
    let mut times = scheduled(&bench, "t");
    times.dedup();
    assert_eq!(times.len(), 13, "midnight to noon, noon itself too: the task was made at noon");
}

#[tokio::test(start_paused = true)]
async fn promise_3_times_whose_records_are_gone_are_not_run_again() {
    let config = SchedulerConfig { max_records: 4, ..SchedulerConfig::default() };
    let bench = Bench::with(config).await;
    bench
        .create(json!({"id": "t", "executor": "work", "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench.sleep(secs(200)).await;
    let ran = bench.seen().len();
    // It runs on the grid of its creation, so that there is nothing before that.
    let report = backfill(&bench, "t", json!({"from": "2026-02-01T00:00:00Z"})).await.unwrap();
    assert_eq!(report.count, 0);
    assert!(report.not_known > 0, "{report:?}");
    assert_eq!(report.already_run + report.not_known, ran as u64);
}

#[tokio::test(start_paused = true)]
async fn what_overlap_left_out_is_made_up_for() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "25s"},
            "schedule": {"type": "interval", "interval": "10s", "end_at": "2026-03-01T12:01:00Z"}}))
        .await;
    bench.sleep(secs(90)).await;
    assert_eq!(scheduled(&bench, "t").len(), 2, "at 10 s and at 40 s");
    let report = backfill(&bench, "t", json!({"from": "2026-03-01T12:00:00Z"})).await.unwrap();
    assert_eq!((report.count, report.already_run), (4, 2));
    bench.sleep(secs(200)).await;
    let mut times = scheduled(&bench, "t");
    times.sort_unstable();
    let all: Vec<_> =
        (1..=6).map(|ten| at("2026-03-01T12:00:00Z") + std::time::Duration::from_secs(ten * 10)).collect();
    assert_eq!(times, all);
}

#[tokio::test(start_paused = true)]
async fn scheduled_runs_go_before_a_backfill_and_are_not_left_out_for_it() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "40s"},
            "schedule": {"type": "cron", "cron": "* * * * *"}}))
        .await;
    let report = backfill(&bench, "t", json!({"from": "2026-03-01T11:51:00Z"})).await.unwrap();
    assert_eq!(report.count, 10);
    bench.sleep(secs(3600)).await;
    let runs = runs(&bench, "t").await;
    let skipped: Vec<_> = runs.iter().filter(|run| run.outcome == RunOutcome::Skipped).collect();
    // Two runs of 40 s do not fit into a minute; but none is left out for a run of the backfill alone.
    assert_eq!(runs.iter().filter(|run| run.origin == RunOrigin::Backfill).count(), 10);
    assert!(skipped.is_empty() || skipped.iter().all(|run| run.origin == RunOrigin::Schedule));
    assert_eq!(bench.most.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(bench.get("t").await.backfill_runs_left, 0);
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_a_backfill_up_and_a_cancellation_ends_it() {
    let bench = Bench::new().await;
    bench.create(hourly("t")).await;
    backfill(&bench, "t", json!({"from": "2026-03-01T02:00:00Z"})).await.unwrap();
    bench.sleep(secs(90)).await;
    bench.scheduler.pause("t").await.unwrap();
    bench.sleep(secs(600)).await;
    let held = bench.seen().len();
    assert_eq!(held, 2);
    let paused = backfill(&bench, "t", json!({"from": "2026-03-01T02:00:00Z"})).await.unwrap_err();
    assert!(matches!(paused, TaskError::Conflict { .. }), "{paused}");
    bench.scheduler.resume("t").await.unwrap();
    bench.sleep(secs(90)).await;
    assert_eq!(bench.seen().len(), held + 2);
    bench.scheduler.cancel("t").await.unwrap();
    bench.sleep(secs(600)).await;
    assert_eq!(bench.seen().len(), held + 2);
    assert_eq!(bench.get("t").await.backfill_runs_left, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_wrong_range_is_refused_and_names_the_field() {
    let bench = Bench::new().await;
    bench.create(hourly("t")).await;
    bench.create(json!({"id": "after", "executor": "work", "after": ["t"]})).await;
    let delay = json!({"type": "interval", "interval": "1h", "mode": "delay"});
    bench.create(json!({"id": "delay", "executor": "work", "schedule": delay})).await;
    for (id, body, field) in [
        ("t", json!({"from": "2026-03-01T13:00:00Z"}), "from"),
        ("t", json!({"from": "2026-03-01T02:00:00Z", "until": "2026-03-01T01:00:00Z"}), "from"),
        ("t", json!({"from": "2026-03-01T02:00:00Z", "until": "2026-03-01T12:00:01Z"}), "until"),
        ("t", json!({"from": "2026-03-01T02:00:00Z", "limit": 0}), "limit"),
        ("t", json!({"from": "2026-03-01T02:00:00Z", "limit": 1001}), "limit"),
        ("after", json!({"from": "2026-03-01T02:00:00Z"}), "from"),
        ("delay", json!({"from": "2026-03-01T02:00:00Z"}), "from"),
    ] {
        match backfill(&bench, id, body.clone()).await {
            Err(TaskError::Invalid { field: named, .. }) => assert_eq!(named, field, "{id} {body}"),
            other => panic!("{id} {body}: {other:?}"),
        }
    }
    let absent = backfill(&bench, "nobody", json!({"from": "2026-03-01T02:00:00Z"})).await.unwrap_err();
    assert!(matches!(absent, TaskError::NotFound(_)));
    bench.scheduler.cancel("t").await.unwrap();
    let canceled = backfill(&bench, "t", json!({"from": "2026-03-01T02:00:00Z"})).await.unwrap_err();
    assert!(matches!(canceled, TaskError::Conflict { .. }));
}
