//! The promises of the design that are the scheduler's, by number.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use runtime::{Clock, SystemClock};
use scheduler::{
    Page, RunContext, RunOutcome, RunOutput, Scheduler, SchedulerConfig, TaskError, TaskSpec, TaskStatus,
    executor_fn,
};
use serde_json::{Value, json};

use crate::support::{Bench, secs, spec};

/// Schedules of each kind, with spans that are not round.
fn body() -> impl Strategy<Value = Value> {
    let schedule = prop_oneof![
        (1_u64..5000, 0_u64..5000).prop_map(|(every, delay)| json!({"type": "interval",
            "interval": format!("{}ms", every + 20), "delay": format!("{delay}ms")})),
        (20_u64..5000)
            .prop_map(|every| json!({"type": "interval", "mode": "delay", "interval": format!("{every}ms")})),
        (0_u64..9000).prop_map(|delay| json!({"type": "once", "delay": format!("{delay}ms")})),
        Just(json!({"type": "cron", "cron": "*/3 * * * * *", "jitter": "700ms"})),
        Just(json!({"type": "cron", "cron": "@every 1s500ms"})),
    ];
    let overlap = prop::sample::select(vec!["skip", "queue_one", "queue_all", "cancel_previous", "allow"]);
    let misfire = prop::sample::select(vec!["skip", "run_once", "run_all"]);
    (schedule, overlap, misfire, 0_u64..4000, 0_u64..3).prop_map(|(schedule, overlap, misfire, takes, fails)| {
        json!({"id": "", "executor": "work", "schedule": schedule, "overlap": overlap, "misfire": misfire,
            "payload": {"takes": format!("{takes}ms"), "fails": fails}, "retry": {"attempts": 2, "backoff": "100ms"}})
    })
}

/// What is done to the tasks meanwhile.
#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Jump(i64),
    Pause(usize),
    Resume(usize),
    Trigger(usize),
    Replace(usize),
    Cancel(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..4000).prop_map(Step::Pass),
        2 => (-5000_i64..20_000).prop_map(Step::Jump),
        1 => (0_usize..4).prop_map(Step::Pause),
        2 => (0_usize..4).prop_map(Step::Resume),
        1 => (0_usize..4).prop_map(Step::Trigger),
        1 => (0_usize..4).prop_map(Step::Replace),
        1 => (0_usize..4).prop_map(Step::Cancel),
        1 => Just(Step::Restart),
    ]
}

async fn live_through(bodies: Vec<Value>, steps: Vec<Step>) {
    // A time that has come has come, also if the clock is set back before the run begins.
    let set_back: i64 =
        steps.iter().map(|step| if let Step::Jump(ms) = step { -ms.min(&0) } else { 0 }).sum();
    let set_back = jiff::SignedDuration::from_millis(set_back);
    let bench = Bench::new().await;
    let id = |number: usize| format!("t{number}");
    let mut specs = Vec::new();
    for (number, mut body) in bodies.into_iter().enumerate() {
        body["id"] = json!(id(number));
        specs.push(spec(body));
        bench.scheduler.create(specs[number].clone()).await.unwrap();
    }
    for step in steps {
        let scheduler = &bench.scheduler;
        match step {
            Step::Pass(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Jump(ms) => bench.clock.jump(jiff::SignedDuration::from_millis(ms)),
            Step::Pause(number) => drop(scheduler.pause(&id(number)).await),
            Step::Resume(number) => drop(scheduler.resume(&id(number)).await),
            Step::Trigger(number) => drop(scheduler.trigger(&id(number), None).await),
            Step::Cancel(number) => drop(scheduler.cancel(&id(number)).await),
            Step::Replace(number) => {
                if let Some(spec) = specs.get(number) {
                    scheduler.replace(&spec.id, spec.clone(), None).await.unwrap();
                }
            }
            Step::Restart => {
                scheduler.stop(secs(1)).await;
                scheduler.start();
            }
        }
    }
    bench.sleep(secs(30)).await;
    for seen in bench.seen() {
        assert!(seen.at + set_back >= seen.scheduled_for, "promise 2: {seen:?}");
    }
    for spec in &specs {
        let mut keys = HashSet::new();
        let mut page = Page { limit: 1000, cursor: None };
        let mut total = 0;
        loop {
            let runs = bench.scheduler.runs(&spec.id, &page).await.unwrap();
            for run in &runs.items {
                if run.outcome != RunOutcome::Skipped {
                    let key = (run.incarnation, run.scheduled_for, run.origin);
                    assert!(keys.insert(key), "promise 3: {run:?}");
                }
                if let Some(started) = run.started_at {
                    assert!(started + set_back >= run.scheduled_for, "promise 2: {run:?}");
                }
            }
            total += runs.items.len() as u64;
            page.cursor = runs.next_cursor;
            if page.cursor.is_none() {
                assert_eq!(total, runs.total);
                break;
            }
        }
        let view = bench.get(&spec.id).await;
        let under_way = view.active_runs > 0;
        assert!(view.status != TaskStatus::Running || under_way, "{view:?}");
        assert!(view.status != TaskStatus::Completed || !under_way, "{view:?}");
    }
    // All in all nothing is left hanging.
    for spec in &specs {
        bench.scheduler.remove(&spec.id, None).await.unwrap();
    }
    bench.sleep(secs(10)).await;
    let status = bench.scheduler.status();
    assert_eq!((status.active_runs, status.queued_runs, status.waiting_tasks), (0, 0, 0));
}

proptest! {
    // Each lives through minutes of schedules; `PROPTEST_CASES` asks for more of them.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn promises_2_and_3_hold_through_whatever_happens(
        bodies in prop::collection::vec(body(), 1..5),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(live_through(bodies, steps));
    }
}

/// On the machine's clock and on several threads: controls against firing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promises_2_and_3_hold_with_controls_from_many_threads() {
    let scheduler = Scheduler::builder().build().await.unwrap();
    let early = Arc::new(AtomicUsize::new(0));
    let keys = Arc::new(Mutex::new(HashSet::new()));
    let twice = Arc::new(AtomicUsize::new(0));
    let (seen_early, seen_keys, seen_twice) = (early.clone(), keys.clone(), twice.clone());
    let executor = executor_fn(move |run: RunContext| {
        if SystemClock.now() < run.scheduled_for() {
            seen_early.fetch_add(1, Ordering::SeqCst);
        }
        let key = (run.task_id().to_owned(), run.scheduled_for(), run.origin());
        if !seen_keys.lock().unwrap().insert(key) {
            seen_twice.fetch_add(1, Ordering::SeqCst);
        }
        async {
            tokio::task::yield_now().await;
            Ok(RunOutput::none())
        }
    });
    let _guard = scheduler.registry().register("work", None, executor).unwrap();
    for number in 0..20 {
        scheduler
            .create(spec(json!({"id": format!("t{number}"), "executor": "work", "overlap": "allow",
                "schedule": {"type": "interval", "interval": "2ms"}})))
            .await
            .unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..4_usize {
        let (scheduler, done) = (scheduler.clone(), done.clone());
        callers.spawn(async move {
            let mut number = caller;
            while !done.load(Ordering::SeqCst) {
                number += 1;
                let id = format!("t{}", number % 20);
                let _ = match number % 5 {
                    0 => scheduler.pause(&id).await.map(drop),
                    1 => scheduler.trigger(&id, None).await.map(drop),
                    2 if number % 7 == 0 => scheduler.cancel(&id).await.map(drop),
                    3 => {
                        let body = json!({"id": id, "executor": "work", "overlap": "allow",
                            "schedule": {"type": "interval", "interval": "2ms"}});
                        scheduler.replace(&id, spec(body), None).await.map(drop)
                    }
                    _ => scheduler.resume(&id).await.map(drop),
                };
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while keys.lock().unwrap().len() < 3000 {
        assert!(Instant::now() < deadline, "only {} runs", keys.lock().unwrap().len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::SeqCst);
    callers.join_all().await;
    let report = scheduler.stop(secs(10)).await;
    assert_eq!((report.canceled_runs, report.stuck_runs), (0, 0));
    assert_eq!(early.load(Ordering::SeqCst), 0, "promise 2");
    assert_eq!(twice.load(Ordering::SeqCst), 0, "promise 3");
    assert_eq!(scheduler.status().active_runs, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_after_a_withdrawal_no_call_begins() {
    for _ in 0..20 {
        let scheduler = Scheduler::builder().build().await.unwrap();
        let withdrawn = Arc::new(AtomicBool::new(false));
        let after = Arc::new(AtomicUsize::new(0));
        let ran = Arc::new(AtomicUsize::new(0));
        let (is_withdrawn, came_after, count) = (withdrawn.clone(), after.clone(), ran.clone());
        let executor = executor_fn(move |_| {
            if is_withdrawn.load(Ordering::SeqCst) {
                came_after.fetch_add(1, Ordering::SeqCst);
            }
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(RunOutput::none()))
        });
        let guard = scheduler.registry().register("work", None, executor).unwrap();
        for number in 0..50 {
            let body = json!({"id": format!("t{number}"), "executor": "work",
                "schedule": {"type": "interval", "interval": "1ms"}});
            scheduler.create(spec(body)).await.unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while ran.load(Ordering::SeqCst) < 100 {
            assert!(Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        assert_eq!(guard.drain(secs(5)).await, 0);
        withdrawn.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(after.load(Ordering::SeqCst), 0);
        scheduler.stop(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn promise_7_a_stop_ends_within_its_deadline_and_loses_no_task() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "long", "executor": "work", "payload": {"takes": "1h"},
            "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench
        .create(json!({"id": "short", "executor": "work", "payload": {"takes": "2s"},
            "schedule": {"type": "once", "delay": "10s"}}))
        .await;
    bench.sleep(secs(11)).await;
    let began = tokio::time::Instant::now();
    let report = bench.scheduler.stop(secs(30)).await;
    assert!(began.elapsed() <= secs(30));
    assert_eq!((report.canceled_runs, report.stuck_runs), (1, 0));
    assert!(!bench.scheduler.is_running());
    assert_eq!(bench.status("short").await, TaskStatus::Completed, "what could end has ended");
    let run = bench.scheduler.runs("long", &Page::default()).await.unwrap().items.remove(0);
    assert_eq!(run.outcome, RunOutcome::Canceled);
    bench.sleep(secs(100)).await;
    assert_eq!(bench.seconds("long").len(), 1, "nothing starts while it is stopped");
    bench.scheduler.start();
    bench.settle().await;
    assert_eq!(bench.seconds("long").len(), 2, "and what was missed follows the misfire policy");
}

#[tokio::test(start_paused = true)]
async fn promise_8_tasks_and_records_are_bounded() {
    let config = SchedulerConfig { max_tasks: 2, max_records: 5, ..Default::default() };
    let bench = Bench::with(config).await;
    for id in ["a", "b"] {
        bench
            .create(json!({"id": id, "executor": "work", "schedule": {"type": "interval", "interval": "1s"}}))
            .await;
    }
    let third = spec(json!({"id": "c", "schedule": {"type": "interval", "interval": "1s"}}));
    assert!(matches!(bench.scheduler.create(third.clone()).await, Err(TaskError::Full(_))));
    bench.sleep(secs(60)).await;
    let runs = bench.scheduler.runs("a", &Page::default()).await.unwrap();
    assert!(runs.total <= 5, "{}", runs.total);
    assert_eq!(bench.get("a").await.run_count, 60);
    bench.scheduler.remove("a", None).await.unwrap();
    bench.scheduler.create(third).await.unwrap();
}

/// Every field of the body past its bounds, and the field that the refusal names.
#[tokio::test(start_paused = true)]
async fn promise_10_bad_input_names_the_field_and_changes_nothing() {
    let bench = Bench::new().await;
    let good = json!({"id": "t", "executor": "work", "schedule": {"type": "interval", "interval": "30s"}});
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path.rsplit_once('/').unwrap().0).unwrap() =
            match body.pointer(path.rsplit_once('/').unwrap().0).unwrap() {
                Value::Object(object) => {
                    let mut object = object.clone();
                    object.insert(path.rsplit_once('/').unwrap().1.to_owned(), value);
                    Value::Object(object)
                }
                other => other.clone(),
            };
        body
    };
    let schedule = |schedule: Value| with("/schedule", schedule);
    let cron = |cron: &str| schedule(json!({"type": "cron", "cron": cron}));
    let many: Vec<String> = (0..65).map(|number| format!("x{number}")).collect();
    let labels: serde_json::Map<_, _> = (0..65).map(|number| (format!("x{number}"), json!(1))).collect();
    let refused = [
        ("id", with("/id", json!(""))),
        ("id", with("/id", json!("x".repeat(129)))),
        ("id", with("/id", json!("a b"))),
        ("name", with("/name", json!("x".repeat(257)))),
        ("description", with("/description", json!("x".repeat(4097)))),
        ("executor", with("/executor", json!("no such thing"))),
        ("payload", with("/payload", json!("x".repeat(64 * 1024)))),
        ("metadata", with("/metadata", Value::Object(labels))),
        ("metadata", with("/metadata", json!({"x": "y".repeat(16 * 1024)}))),
        ("priority", with("/priority", json!(101))),
        ("priority", with("/priority", json!(-101))),
        ("timeout", with("/timeout", json!("0s"))),
        ("timeout", with("/timeout", json!("169h"))),
        ("retry.attempts", with("/retry", json!({"attempts": 0}))),
        ("retry.attempts", with("/retry", json!({"attempts": 101}))),
        ("retry.factor", with("/retry", json!({"attempts": 2, "factor": 0.5}))),
        ("retry.backoff", with("/retry", json!({"attempts": 2, "backoff": "25h"}))),
        ("retry.max_backoff", with("/retry", json!({"attempts": 2, "max_backoff": "25h"}))),
        ("misfire.limit", with("/misfire", json!({"policy": "run_all", "limit": 0}))),
        ("misfire.limit", with("/misfire", json!({"policy": "run_all", "limit": 1001}))),
        ("misfire.limit", with("/misfire", json!({"policy": "skip", "limit": 1}))),
        ("group.name", with("/group", json!(""))),
        ("group.limit", with("/group", json!({"name": "g", "limit": 0}))),
        ("after[0].task", with("/after", json!(["nobody"]))),
        ("after[1].task", with("/after", json!(["t2", ""]))),
        ("after[1].task", with("/after", json!(["t2", "t2"]))),
        ("after", with("/after", json!(many))),
        ("after[0].into", with("/after", json!([{"task": "t2", "into": "no pointer"}]))),
        ("pause_after_failures", with("/pause_after_failures", json!(0))),
        ("pause_after_failures", with("/pause_after_failures", json!(1001))),
        ("failure_backoff.delay", with("/failure_backoff", json!("0s"))),
        ("failure_backoff.delay", with("/failure_backoff", json!("25h"))),
        ("failure_backoff.factor", with("/failure_backoff", json!({"delay": "1s", "factor": 0.9}))),
        ("failure_backoff.factor", with("/failure_backoff", json!({"delay": "1s", "factor": 10.1}))),
        ("failure_backoff.max_delay", with("/failure_backoff", json!({"delay": "1m", "max_delay": "59s"}))),
        ("failure_backoff.max_delay", with("/failure_backoff", json!({"delay": "1m", "max_delay": "31d"}))),
        (
            "failure_backoff",
            json!({"id": "t", "failure_backoff": "1m", "schedule": {"type": "once", "delay": "1s"}}),
        ),
        ("failure_backoff", json!({"id": "t", "failure_backoff": "1m", "after": ["t2"]})),
        (
            "pause_after_failures",
            json!({"id": "t", "pause_after_failures": 1, "schedule": {"type": "once", "delay": "1s"}}),
        ),
        ("schedule", json!({"id": "t", "executor": "work"})),
        ("schedule.interval", schedule(json!({"type": "interval"}))),
        ("schedule.interval", schedule(json!({"type": "interval", "interval": "0s"}))),
        ("schedule.interval", schedule(json!({"type": "interval", "interval": "999us"}))),
        ("schedule.interval", schedule(json!({"type": "interval", "interval": "100000h"}))),
        ("schedule.delay", schedule(json!({"type": "interval", "interval": "1s", "delay": "100000h"}))),
        ("schedule.cron", schedule(json!({"type": "interval", "interval": "1s", "cron": "* * * * *"}))),
        ("schedule.timezone", schedule(json!({"type": "interval", "interval": "1s", "timezone": "UTC"}))),
        ("schedule.max_runs", schedule(json!({"type": "interval", "interval": "1s", "max_runs": 0}))),
        ("schedule.jitter", schedule(json!({"type": "interval", "interval": "1s", "jitter": "100000h"}))),
        (
            "schedule.end_at",
            schedule(json!({"type": "interval", "interval": "1s", "end_at": "2020-01-01T00:00:00Z"})),
        ),
        (
            "schedule.end_at",
            schedule(json!({"type": "interval", "interval": "1h", "end_at": "2026-03-01T12:10:00Z"})),
        ),
        (
            "schedule.end_at",
            schedule(json!({"type": "interval", "interval": "1s",
            "start_at": "2030-01-02T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"})),
        ),
        ("schedule.at", schedule(json!({"type": "once"}))),
        ("schedule.at", schedule(json!({"type": "once", "at": "2026-03-01T11:58:00Z"}))),
        ("schedule.delay", schedule(json!({"type": "once", "at": "2030-01-01T00:00:00Z", "delay": "1s"}))),
        ("schedule.interval", schedule(json!({"type": "once", "delay": "1s", "interval": "1s"}))),
        ("schedule.mode", schedule(json!({"type": "once", "delay": "1s", "mode": "rate"}))),
        ("schedule.cron", schedule(json!({"type": "cron"}))),
        ("schedule.cron", cron("")),
        ("schedule.cron", cron("* * * *")),
        ("schedule.cron", cron("* * * * * * * *")),
        ("schedule.cron", cron("60 * * * *")),
        ("schedule.cron", cron("0 0 31 2 *")),
        ("schedule.cron", cron("@every")),
        ("schedule.cron", cron("@every 0s")),
        ("schedule.cron", cron("@every -5s")),
        ("schedule.cron", cron("@often")),
        ("schedule.cron", cron(&"1,".repeat(200))),
        ("schedule.cron", cron("０ ０ * * *")),
        (
            "schedule.timezone",
            schedule(json!({"type": "cron", "cron": "@daily", "timezone": "Mars/Olympus"})),
        ),
        ("schedule.timezone", schedule(json!({"type": "cron", "cron": "@daily", "timezone": ""}))),
        (
            "schedule.timezone",
            schedule(json!({"type": "cron", "cron": "@daily", "timezone": "../../etc/passwd"})),
        ),
        (
            "schedule.timezone",
            schedule(json!({"type": "cron", "cron": "@daily", "timezone": "EST5EDT,M3.2.0,M11.1.0"})),
        ),
        ("schedule.timezone", schedule(json!({"type": "cron", "cron": "@every 5s", "timezone": "UTC"}))),
    ];
    bench.create(json!({"id": "t2", "schedule": {"type": "interval", "interval": "1h"}})).await;
    for (field, body) in refused {
        let spec: TaskSpec = serde_json::from_value(body.clone()).unwrap_or_else(|e| panic!("{body}: {e}"));
        match bench.scheduler.create(spec).await {
            Err(TaskError::Invalid { field: named, detail }) => {
                assert_eq!(named, field, "{body}: {detail}");
                assert!(detail.len() < 300 && !detail.is_empty());
            }
            other => panic!("{body}: {other:?}"),
        }
        assert_eq!(bench.scheduler.status().total_tasks, 1, "{body}");
    }
    // What cannot be read at all, and the path of what is wrong.
    for (path, body) in [
        ("surprise", with("/surprise", json!(1))),
        ("schedule.surprise", with("/schedule/surprise", json!(1))),
        ("schedule.type", schedule(json!({"type": "sometimes"}))),
        ("schedule.interval", schedule(json!({"type": "interval", "interval": "soon"}))),
        ("schedule.interval", schedule(json!({"type": "interval", "interval": 30}))),
        ("schedule.at", schedule(json!({"type": "once", "at": "tomorrow"}))),
        ("schedule.max_runs", schedule(json!({"type": "interval", "interval": "1s", "max_runs": -1}))),
        ("overlap", with("/overlap", json!("maybe"))),
        ("misfire", with("/misfire", json!("maybe"))),
        ("misfire.surprise", with("/misfire", json!({"policy": "skip", "surprise": 1}))),
        ("retry.attempts", with("/retry", json!({"attempts": "many"}))),
        ("priority", with("/priority", json!("high"))),
        ("group.limit", with("/group", json!({"name": "g", "limit": "x"}))),
        ("after[0].on", with("/after", json!([{"task": "t2", "on": "maybe"}]))),
        ("after[0].into", with("/after", json!([{"task": "t2", "into": 7}]))),
        ("pause_after_failures", with("/pause_after_failures", json!(-1))),
        ("failure_backoff", with("/failure_backoff", json!("soon"))),
        ("failure_backoff.surprise", with("/failure_backoff", json!({"delay": "1s", "surprise": 1}))),
    ] {
        let text = body.to_string();
        let mut decoder = serde_json::Deserializer::from_str(&text);
        let error = serde_path_to_error::deserialize::<_, TaskSpec>(&mut decoder).unwrap_err();
        assert_eq!(error.path().to_string(), path, "{error}");
    }
    // And at the bounds themselves all is well.
    for (number, mut body) in [
        with("/id", json!("A.b_c:d-9")),
        with("/name", json!("ü".repeat(256))),
        with("/description", json!("ü".repeat(4096))),
        with("/payload", json!("x".repeat(64 * 1024 - 2))),
        with("/priority", json!(100)),
        with("/priority", json!(-100)),
        with("/timeout", json!("1ms")),
        with("/timeout", json!("7d")),
        with("/retry", json!({"attempts": 100, "backoff": "1d", "factor": 10, "max_backoff": "1d"})),
        with("/misfire", json!({"policy": "run_all", "limit": 1000, "window": "1ms"})),
        with("/group", json!({"name": "g", "limit": 100_000})),
        with("/pause_after_failures", json!(1)),
        with("/pause_after_failures", json!(1000)),
        with("/failure_backoff", json!({"delay": "1ms", "factor": 1, "max_delay": "1ms"})),
        with("/failure_backoff", json!({"delay": "1d", "factor": 10, "max_delay": "30d"})),
        with("/after", json!([{"task": "t2", "into": ""}])),
        schedule(json!({"type": "interval", "interval": "1ms", "start_at": "2030-01-01T00:00:00Z"})),
        schedule(json!({"type": "interval", "interval": "3660d"})),
        schedule(json!({"type": "once", "at": "2026-03-01T11:59:30Z"})),
        schedule(json!({"type": "once", "delay": "0s"})),
        cron("@EVERY 90s"),
        cron("  0 2 * * MON-FRI "),
    ]
    .into_iter()
    .enumerate()
    {
        if body["id"] == "t" {
            body["id"] = json!(format!("good{number}"));
        }
        let view = bench.create(body.clone()).await;
        // What is shown can be sent back, and says the same.
        let again: TaskSpec = serde_json::from_value(body).unwrap();
        let replaced = bench.scheduler.replace(&view.id.clone(), again, None).await.unwrap();
        assert_eq!(replaced.schedule, view.schedule);
    }
}

#[tokio::test(start_paused = true)]
async fn a_preview_creates_nothing_and_tells_the_next_times() {
    let bench = Bench::new().await;
    let times = |schedule: Value, times: usize, from: Option<&str>| {
        let schedule = serde_json::from_value(schedule).unwrap();
        let times = bench.scheduler.preview(&schedule, times, from.map(|from| from.parse().unwrap()));
        times.map(|times| times.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let cron = json!({"type": "cron", "cron": "0 2 * * MON-FRI", "timezone": "Asia/Shanghai"});
    assert_eq!(times(cron.clone(), 2, None).unwrap(), ["2026-03-01T18:00:00Z", "2026-03-02T18:00:00Z"]);
    assert_eq!(times(cron.clone(), 1, Some("2026-06-05T18:00:00Z")).unwrap(), ["2026-06-07T18:00:00Z"]);
    let interval = json!({"type": "interval", "interval": "1m", "max_runs": 2});
    assert_eq!(times(interval, 5, None).unwrap(), ["2026-03-01T12:01:00Z", "2026-03-01T12:02:00Z"]);
    assert_eq!(times(json!({"type": "once", "delay": "0s"}), 5, None).unwrap(), ["2026-03-01T12:00:00Z"]);
    assert!(times(cron.clone(), 0, None).unwrap_err().to_string().starts_with("times: "));
    assert!(times(cron, 1001, None).is_err());
    let bad = times(json!({"type": "cron", "cron": "0 0 31 2 *"}), 1, None).unwrap_err();
    assert_eq!(bad.to_string(), "schedule.cron: day 31 does not exist in february");
    assert_eq!(bench.scheduler.status().total_tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_refused_expression_names_its_part() {
    let bench = Bench::new().await;
    for (cron, said) in [
        ("60 * * * *", "`60` is not a minute of an expression"),
        ("0 0 32 * *", "`32` is not a day of month of an expression"),
        ("0 0 * * fri-mon", "`fri-mon` is not a weekday of an expression"),
        ("61 * * * * *", "`61` is not a second of an expression"),
        ("0 0 0 1 1 * 9999", "`9999` is not a year of an expression"),
    ] {
        let refused = bench.scheduler.preview(&scheduler::ScheduleSpec::cron(cron), 1, None).unwrap_err();
        assert_eq!(refused.to_string(), format!("schedule.cron: {said}"));
    }
}
