use scheduler::{Page, RunOrigin, RunOutcome, TaskStatus};
use serde_json::json;

use crate::support::{Bench, secs};

#[tokio::test(start_paused = true)]
async fn an_interval_runs_on_its_grid_until_max_runs() {
    let bench = Bench::new().await;
    let view = bench
        .create(json!({
            "id": "beat", "executor": "work", "payload": {"message": "hello"},
            "schedule": {"type": "interval", "interval": "30s", "max_runs": 3},
        }))
        .await;
    assert_eq!(view.status, TaskStatus::Pending);
    assert_eq!(view.name, "beat");
    bench.sleep(secs(600)).await;
    assert_eq!(bench.seconds("beat"), [30.0, 60.0, 90.0]);
    let view = bench.get("beat").await;
    assert_eq!(view.status, TaskStatus::Completed);
    assert_eq!((view.run_count, view.failure_count), (3, 0));
    assert_eq!(view.next_run_at, None);
    let runs = bench.scheduler.runs("beat", &Page::default()).await.unwrap();
    assert_eq!(runs.total, 3);
    assert!(runs.items.iter().all(|run| run.outcome == RunOutcome::Completed && run.node == "n1"));
    assert_eq!(runs.items[0].output, Some(json!({"attempt": 1})));
    let one = bench.scheduler.run(runs.items[1].id).await.unwrap();
    assert_eq!(one, runs.items[1]);
}

#[tokio::test(start_paused = true)]
async fn the_first_run_of_an_interval_may_have_its_own_delay() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work",
            "schedule": {"type": "interval", "interval": "30s", "delay": "5s"}}))
        .await;
    bench.sleep(secs(70)).await;
    assert_eq!(bench.seconds("t"), [5.0, 35.0, 65.0]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_counts_from_the_end_of_the_run() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "4s"},
            "schedule": {"type": "interval", "interval": "10s", "mode": "delay", "delay": "0s"}}))
        .await;
    bench.sleep(secs(40)).await;
    assert_eq!(bench.seconds("t"), [0.0, 14.0, 28.0]);
}

#[tokio::test(start_paused = true)]
async fn a_one_off_task_runs_once_and_is_done() {
    let bench = Bench::new().await;
    bench.create(json!({"id": "a", "executor": "work", "schedule": {"type": "once", "delay": "10s"}})).await;
    bench
        .create(json!({"id": "b", "executor": "work",
            "schedule": {"type": "once", "at": "2026-03-01T12:00:20Z"}}))
        .await;
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("a"), [10.0]);
    assert_eq!(bench.seconds("b"), [20.0]);
    assert_eq!(bench.status("a").await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn cron_and_every_run_on_time() {
    let bench = Bench::new().await;
    for (id, cron) in
        [("every", "@every 90s"), ("six", "*/20 * * * * *"), ("five", "1 * * * *"), ("hourly", "@hourly")]
    {
        bench.create(json!({"id": id, "executor": "work", "schedule": {"type": "cron", "cron": cron}})).await;
    }
    bench.sleep(secs(185)).await;
    assert_eq!(bench.seconds("every"), [90.0, 180.0]);
    assert_eq!(bench.seconds("six"), [20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0, 180.0]);
    assert_eq!(bench.seconds("five"), [60.0]);
    bench.sleep(secs(3600)).await;
    assert_eq!(bench.seconds("hourly"), [3600.0]);
}

#[tokio::test(start_paused = true)]
async fn a_day_in_a_zone() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work",
            "schedule": {"type": "cron", "cron": "0 2 * * MON-FRI", "timezone": "Asia/Shanghai"}}))
        .await;
    bench.sleep(secs(24 * 3600)).await;
    // 2026-03-02 is a Monday; 02:00 in Shanghai is 18:00 UTC the day before.
    assert_eq!(bench.seconds("t"), [6.0 * 3600.0]);
}

#[tokio::test(start_paused = true)]
async fn bounds_hold() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "schedule": {"type": "interval", "interval": "10s",
            "start_at": "2026-03-01T12:01:00Z", "end_at": "2026-03-01T12:01:25Z"}}))
        .await;
    bench.sleep(secs(300)).await;
    assert_eq!(bench.seconds("t"), [60.0, 70.0, 80.0]);
    assert_eq!(bench.status("t").await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn jitter_is_stable_for_a_task_and_spreads_tasks() {
    let bench = Bench::new().await;
    for number in 0..20 {
        bench
            .create(json!({"id": format!("t{number}"), "executor": "work",
                "schedule": {"type": "interval", "interval": "60s", "jitter": "30s"}}))
            .await;
    }
    bench.sleep(secs(300)).await;
    let mut offsets = Vec::new();
    for number in 0..20 {
        let seconds = bench.seconds(&format!("t{number}"));
        let offset = seconds[0] - 60.0;
        assert!((0.0..=30.1).contains(&offset), "{offset}");
        assert!(seconds.windows(2).all(|pair| (pair[1] - pair[0] - 60.0).abs() < 0.02), "{seconds:?}");
        offsets.push((offset * 10.0) as i64);
    }
    offsets.sort_unstable();
    offsets.dedup();
    assert!(offsets.len() > 10, "{offsets:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_tried_again_with_growing_waits() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"fails": 2},
            "retry": {"attempts": 3, "backoff": "1s"}, "schedule": {"type": "once", "delay": "10s"}}))
        .await;
    bench.sleep(secs(10)).await;
    assert_eq!(bench.status("t").await, TaskStatus::Running);
    let run = bench.scheduler.runs("t", &Page::default()).await.unwrap().items.remove(0);
    assert_eq!((run.outcome, run.error.as_deref()), (RunOutcome::Retrying, Some("as asked")));
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("t"), [10.0, 11.0, 13.0]);
    assert_eq!(bench.seen().iter().map(|seen| seen.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    let view = bench.get("t").await;
    assert_eq!((view.status, view.run_count, view.failure_count), (TaskStatus::Completed, 1, 0));
    let run = bench.scheduler.run(run.id).await.unwrap();
    assert_eq!((run.outcome, run.attempt, run.error), (RunOutcome::Completed, 3, None));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_or_panics_is_that_runs_failure() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "p", "executor": "work", "payload": {"panics": true},
            "schedule": {"type": "interval", "interval": "10s", "max_runs": 2}}))
        .await;
    bench
        .create(json!({"id": "late", "executor": "work", "payload": {"panics": true, "takes": "1s"},
            "schedule": {"type": "once", "delay": "10s"}}))
        .await;
    bench.sleep(secs(12)).await;
    assert_eq!(bench.status("p").await, TaskStatus::Pending, "a recurring task goes on");
    bench.sleep(secs(60)).await;
    for id in ["p", "late"] {
        let view = bench.get(id).await;
        assert_eq!(view.status, TaskStatus::Failed);
        assert_eq!(view.last_error.as_deref(), Some("panicked: as asked"));
    }
    assert_eq!(bench.get("p").await.failure_count, 2);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_run() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "1h"}, "timeout": "5s",
            "schedule": {"type": "once", "delay": "1s"}}))
        .await;
    bench.sleep(secs(10)).await;
    let run = bench.scheduler.runs("t", &Page::default()).await.unwrap().items.remove(0);
    assert_eq!(run.outcome, RunOutcome::Failed);
    assert_eq!(run.error.as_deref(), Some("deadline of 5s exceeded"));
    assert_eq!(bench.under_way.load(std::sync::atomic::Ordering::SeqCst), 0, "the work was dropped");
}

/// A run that blocks its thread past its timeout is told, and what else there is goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn code_that_does_not_yield_is_reported() {
    let scheduler = scheduler::Scheduler::builder().build().await.unwrap();
    let gate = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let closed = gate.clone();
    let blocks = scheduler::executor_fn(move |_| {
        let closed = closed.clone();
        async move {
            tokio::task::yield_now().await;
            let (open, changed) = &*closed;
            drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            tokio::task::yield_now().await;
            Ok(scheduler::RunOutput::none())
        }
    });
    let _blocks = scheduler.registry().register("blocks", None, blocks).unwrap();
    let body = json!({"id": "late", "executor": "blocks", "timeout": "20ms",
        "schedule": {"type": "once", "delay": "0s"}});
    scheduler.create(crate::support::spec(body)).await.unwrap();
    let until = async |stuck: u64| {
        let counted = async {
            while scheduler.status().stuck_runs != stuck {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(secs(60), counted).await.expect("stuck runs are counted");
    };
    until(1).await;
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until(0).await;
    let ended = async {
        loop {
            let run = scheduler.runs("late", &Page::default()).await.unwrap().items.remove(0);
            if run.outcome.is_final() {
                return run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let run = tokio::time::timeout(secs(60), ended).await.expect("the run ends");
    // Its time was over when it yielded at last.
    assert_eq!(run.outcome, RunOutcome::Failed, "{run:?}");
    assert!(run.error.as_deref().unwrap().contains("20ms"), "{run:?}");
    scheduler.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_for_its_executor_and_says_so() {
    let bench = Bench::new().await;
    bench
        .create(
            json!({"id": "t", "executor": "later.job", "schedule": {"type": "interval", "interval": "10s"}}),
        )
        .await;
    bench.sleep(secs(35)).await;
    let view = bench.get("t").await;
    assert_eq!(view.status, TaskStatus::Pending);
    assert_eq!(view.waiting_for.as_deref(), Some("executor `later.job` is not registered"));
    assert_eq!(bench.scheduler.status().waiting_tasks, 1);
    let guard = bench.register("later.job");
    bench.sleep(secs(1)).await;
    assert_eq!(bench.seconds("t").len(), 1, "one run for all that was missed");
    assert_eq!(bench.get("t").await.waiting_for, None);
    bench.sleep(secs(10)).await;
    assert_eq!(bench.seconds("t").len(), 2);
    drop(guard);
    bench.sleep(secs(30)).await;
    assert_eq!(bench.seconds("t").len(), 2);
    let info = bench.scheduler.executors().into_iter().find(|info| info.name == "later.job").unwrap();
    assert!(!info.available);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_runs_beside_the_schedule_with_its_own_payload() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"n": 1},
            "schedule": {"type": "interval", "interval": "1h", "max_runs": 1}}))
        .await;
    let run = bench.scheduler.trigger("t", Some(json!({"n": 2}))).await.unwrap();
    assert_eq!(run.origin, RunOrigin::Trigger);
    assert!(!run.outcome.is_final());
    bench.settle().await;
    assert_eq!(bench.scheduler.run(run.id).await.unwrap().outcome, RunOutcome::Completed);
    bench.sleep(secs(3601)).await;
    let payloads: Vec<_> = bench.seen().into_iter().map(|seen| seen.payload["n"].clone()).collect();
    assert_eq!(payloads, [2, 1], "the trigger does not count for max_runs");
    let run = bench.scheduler.trigger("t", None).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.scheduler.run(run.id).await.unwrap().outcome, RunOutcome::Completed);
    assert_eq!(bench.status("t").await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn the_bus_is_told_of_every_run_in_order() {
    use event_bus::{EventBus, HistoryFilter};
    use scheduler::{Scheduler, TaskEvent};
    let bench = Bench::new().await;
    let bus = EventBus::builder().clock(bench.clock.clone()).history(1000).build();
    let scheduler = Scheduler::builder()
        .clock(bench.clock.clone())
        .bus(bus.clone())
        .executors(bench.scheduler.registry().clone())
        .build()
        .await
        .unwrap();
    let body = json!({"id": "t", "executor": "work", "payload": {"fails": 1, "takes": "1s"},
        "retry": {"attempts": 2}, "schedule": {"type": "interval", "interval": "10s", "max_runs": 1}});
    scheduler.create(crate::support::spec(body)).await.unwrap();
    let body = json!({"id": "e", "executor": "event", "payload": {"topic": "orders.created", "data": {"n": 1}},
        "schedule": {"type": "once", "delay": "1s"}});
    scheduler.create(crate::support::spec(body)).await.unwrap();
    scheduler.pause("e").await.unwrap();
    scheduler.resume("e").await.unwrap();
    bench.sleep(secs(60)).await;
    let events = bus.history(&HistoryFilter::default());
    let kinds = |task: &str| -> Vec<String> {
        let of_task =
            |event: &&event_bus::Event| event.downcast::<TaskEvent>().is_some_and(|e| e.task() == task);
        let topic = |event: &event_bus::Event| event.topic().as_str().replace("scheduler.task.", "");
        events.iter().filter(of_task).map(topic).collect()
    };
    assert_eq!(kinds("t"), ["scheduled", "started", "retrying", "completed"]);
    assert_eq!(kinds("e"), ["scheduled", "paused", "resumed", "started", "completed"]);
    let published = events.iter().find(|event| event.topic().as_str() == "orders.created").unwrap();
    assert_eq!(published.data()["n"], 1);
    let completed =
        events.iter().rev().find(|event| event.topic().as_str() == "scheduler.task.completed").unwrap();
    assert_eq!(completed.data()["task"], "t");
    assert_eq!(completed.data()["attempt"], 2);
    for (payload, field) in [
        (json!({"topic": "scheduler.task.completed"}), "payload.topic: "),
        (json!({"topic": "a..b"}), "payload.topic: "),
        (json!({"data": 1}), "payload: "),
    ] {
        let body = json!({"id": "x", "executor": "event", "payload": payload,
            "schedule": {"type": "once", "delay": "1s"}});
        let error = scheduler.create(crate::support::spec(body)).await.unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
    }
    scheduler.stop(secs(5)).await;
}
