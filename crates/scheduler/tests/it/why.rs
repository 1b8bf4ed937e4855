//! "Why did it (not) run?" always has an answer.

use std::collections::HashSet;

use proptest::prelude::*;
use runtime::{Clock, Timestamp};
use scheduler::{Page, RunFilter, RunOutcome, SchedulerConfig, Why, WhyAnswer};
use serde_json::{Value, json};

use crate::support::{Bench, NOON, at, secs};

async fn why(bench: &Bench, id: &str, time: &str) -> Why {
    bench.scheduler.why(id, at(time)).await.unwrap()
}

async fn assert_why(bench: &Bench, id: &str, time: &str, answer: WhyAnswer, detail: &str) {
    let why = why(bench, id, time).await;
    assert_eq!(why.answer, answer, "{id} at {time}: {}", why.detail);
    assert!(why.detail.contains(detail), "{id} at {time}: {}", why.detail);
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_given_where_it_should_be() {
    use WhyAnswer as W;
    let config = SchedulerConfig { max_concurrent_tasks: 2, ..SchedulerConfig::default() };
    let bench = Bench::with(config).await;
    let minutely = |id: &str, changes: Value| {
        let mut body =
            json!({"id": id, "executor": "work", "schedule": {"type": "cron", "cron": "* * * * *"}});
        for (key, value) in changes.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    bench.sleep(secs(30)).await;
    for body in [
        minutely("ok", json!({})),
        minutely("slow", json!({"payload": {"takes": "90s"}})),
        minutely("bad", json!({"payload": {"fails": 9}, "failure_backoff": "10m"})),
        minutely("absent", json!({"executor": "nobody"})),
        minutely("twice", json!({"schedule": {"type": "cron", "cron": "* * * * *", "max_runs": 2}})),
    ] {
        bench.create(body).await;
    }
    bench
        .create(json!({"id": "follows", "executor": "work", "after": [{"task": "bad", "on": "success"}]}))
        .await;
    bench.sleep(secs(5 * 60)).await;
    let ran = why(&bench, "ok", "2026-03-01T12:03:00Z").await;
    assert_eq!((ran.answer, ran.run.unwrap().outcome), (W::Ran, RunOutcome::Completed));
    assert_eq!(
        (ran.previous, ran.next),
        (Some(at("2026-03-01T12:02:00Z")), Some(at("2026-03-01T12:04:00Z")))
    );
    assert_why(&bench, "ok", "2026-03-01T12:03:01Z", W::NotScheduled, "does not have this time").await;
    assert_why(&bench, "ok", "2026-03-01T11:59:00Z", W::NotCreated, "created at 2026-03-01T12:00:30").await;
    assert_why(&bench, "ok", "2026-03-02T12:00:00Z", W::NotYet, "due at").await;
    assert_why(&bench, "slow", "2026-03-01T12:02:00Z", W::Skipped, "overlap: ").await;
    assert_why(&bench, "bad", "2026-03-01T12:01:00Z", W::Ran, "as asked").await;
    assert_why(&bench, "bad", "2026-03-01T12:03:00Z", W::BackedOff, "none is started before").await;
    assert_why(&bench, "absent", "2026-03-01T12:02:00Z", W::ExecutorAbsent, "`nobody`").await;
    assert_why(&bench, "twice", "2026-03-01T12:04:00Z", W::Done, "run 2 times").await;
    assert_why(&bench, "follows", "2026-03-01T12:04:00Z", W::WaitsForTasks, "`bad` (success)").await;

    bench.scheduler.pause("ok").await.unwrap();
    bench.sleep(secs(120)).await;
    assert_why(&bench, "ok", "2026-03-01T12:07:00Z", W::Paused, "by an operator").await;
    bench.scheduler.resume("ok").await.unwrap();
    bench.sleep(secs(60)).await;
    assert_why(&bench, "ok", "2026-03-01T12:07:00Z", W::Paused, "until 2026-03-01T12:07:30").await;
    assert_why(&bench, "ok", "2026-03-01T12:08:00Z", W::Ran, "completed").await;
    bench.scheduler.cancel("ok").await.unwrap();
    assert_why(&bench, "ok", "2026-03-01T13:00:00Z", W::Paused, "canceled by an operator").await;

    // What the absent executor cost is told when it has come.
    let guard = bench.register("nobody");
    bench.settle().await;
    assert_why(&bench, "absent", "2026-03-01T12:02:00Z", W::Skipped, "executor `nobody` was absent").await;
    drop(guard);
    assert!(bench.scheduler.why("nobody", at(NOON)).await.is_err());
}

/// Found by the test below: the time had come before the pause, and was lost with it.
#[tokio::test(start_paused = true)]
async fn a_time_that_waited_for_its_executor_when_the_task_was_paused_is_accounted_for() {
    let mut bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "schedule": {"type": "cron", "cron": "* * * * *"}}))
        .await;
    bench.guard = None;
    bench.sleep(secs(60)).await;
    bench.scheduler.pause("t").await.unwrap();
    bench.sleep(secs(60)).await;
    bench.scheduler.resume("t").await.unwrap();
    assert_why(&bench, "t", "2026-03-01T12:01:00Z", WhyAnswer::Skipped, "executor `work` was absent").await;
    assert_why(&bench, "t", "2026-03-01T12:02:00Z", WhyAnswer::Paused, "by an operator").await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_line_says_for_what() {
    use WhyAnswer as W;
    let config = SchedulerConfig { max_concurrent_tasks: 2, ..SchedulerConfig::default() };
    let bench = Bench::with(config).await;
    let once = |id: &str, changes: Value| {
        let mut body = json!({"id": id, "executor": "work", "payload": {"takes": "1h"},
            "schedule": {"type": "once", "at": "2026-03-01T12:00:10Z"}});
        for (key, value) in changes.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    for body in [
        once("g1", json!({"group": "g", "priority": 9})),
        once("g2", json!({"group": "g", "priority": 8})),
        once("fills", json!({"priority": 7})),
        once("waits", json!({"priority": 6})),
    ] {
        bench.create(body).await;
    }
    bench.sleep(secs(20)).await;
    assert_why(&bench, "g1", "2026-03-01T12:00:10Z", W::Ran, "has not ended").await;
    assert_why(&bench, "g2", "2026-03-01T12:00:10Z", W::Queued, "the group `g`").await;
    let waits = why(&bench, "waits", "2026-03-01T12:00:10Z").await;
    assert!(matches!(waits.answer, W::Queued | W::Due), "{waits:?}");
    assert!(waits.detail.contains("2 of 2 runs are under way"), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_not_kept_any_more_says_so() {
    let config = SchedulerConfig { max_records: 10, ..SchedulerConfig::default() };
    let bench = Bench::with(config).await;
    let every = |id: &str, interval: &str| {
        json!({"id": id, "executor": "work",
        "schedule": {"type": "interval", "interval": interval, "delay": "0s"}})
    };
    bench.create(every("busy", "1s")).await;
    bench.create(every("rare", "1m")).await;
    bench.sleep(secs(330)).await;
    assert_why(&bench, "busy", "2026-03-01T12:00:05Z", WhyAnswer::NotKept, "not kept").await;
    // The busy one has not taken the latest few of the rare one away.
    for minute in 1..=5 {
        assert_why(&bench, "rare", &format!("2026-03-01T12:0{minute}:00Z"), WhyAnswer::Ran, "completed")
            .await;
    }
    assert_why(&bench, "rare", NOON, WhyAnswer::NotKept, "not kept").await;
}

#[tokio::test(start_paused = true)]
async fn records_age_and_are_bounded_for_each_task() {
    let config = SchedulerConfig {
        max_records_per_task: 7,
        record_retention: secs(3600),
        ..SchedulerConfig::default()
    };
    let bench = Bench::with(config).await;
    bench
        .create(json!({"id": "busy", "executor": "work", "schedule": {"type": "interval", "interval": "1m"}}))
        .await;
    bench
        .create(json!({"id": "once", "executor": "work", "schedule": {"type": "once", "delay": "1s"}}))
        .await;
    bench.sleep(secs(1800)).await;
    let runs = async |id: &str| bench.scheduler.runs(id, &Page::default()).await.unwrap();
    assert_eq!((runs("busy").await.total, runs("once").await.total), (7, 1));
    bench.sleep(secs(1802)).await;
    assert_eq!((runs("busy").await.total, runs("once").await.total), (7, 0));
}

#[tokio::test(start_paused = true)]
async fn runs_are_listed_across_tasks_by_chain_and_outcome() {
    let bench = Bench::new().await;
    let once = |id: &str, fails: u64| {
        json!({"id": id, "executor": "work", "payload": {"fails": fails},
        "schedule": {"type": "once", "delay": "1s"}})
    };
    bench.create(once("a", 0)).await;
    bench.create(once("x", 9)).await;
    bench.create(json!({"id": "b", "executor": "work", "after": ["a"]})).await;
    bench.create(json!({"id": "c", "executor": "work", "payload": {"fails": 9}, "after": ["b"]})).await;
    bench.sleep(secs(5)).await;
    let list = async |filter: RunFilter, page: Page| bench.scheduler.list_runs(&filter, &page).await.unwrap();
    let all = list(RunFilter::default(), Page::default()).await;
    assert_eq!(all.total, 4);
    let root = all.items.iter().find(|run| run.task == "a").unwrap().id;
    let chain = RunFilter { chain: Some(root), ..RunFilter::default() };
    let names = |runs: &[scheduler::RunView]| runs.iter().map(|run| run.task.clone()).collect::<Vec<_>>();
    assert_eq!(names(&list(chain.clone(), Page::default()).await.items), ["c", "b", "a"]);
    let first = list(chain.clone(), Page { limit: 2, cursor: None }).await;
    assert_eq!((names(&first.items), first.total), (vec!["c".to_owned(), "b".to_owned()], 3));
    let rest = list(chain.clone(), Page { limit: 2, cursor: first.next_cursor }).await;
    assert_eq!((names(&rest.items), rest.next_cursor), (vec!["a".to_owned()], None));
    let failed = RunFilter { outcome: Some(RunOutcome::Failed), ..chain };
    assert_eq!(names(&list(failed, Page::default()).await.items), ["c"]);
}

/// What happens between two looks.
#[derive(Debug, Clone)]
enum Step {
    Sleep(u16),
    Jump(i32),
    Pause,
    Resume,
    Trigger(bool),
    Withdraw,
    Register,
    Backfill,
    Stop(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u16..400).prop_map(Step::Sleep),
        1 => (-300_i32..900).prop_map(Step::Jump),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Trigger),
        1 => Just(Step::Withdraw),
        2 => Just(Step::Register),
        1 => Just(Step::Backfill),
        1 => (1_u8..200).prop_map(Step::Stop),
    ]
}

fn body() -> impl Strategy<Value = Value> {
    let schedule = prop_oneof![
        Just(json!({"type": "cron", "cron": "* * * * *"})),
        Just(json!({"type": "interval", "interval": "20s"})),
        Just(json!({"type": "interval", "interval": "50s", "max_runs": 7})),
        Just(json!({"type": "once", "delay": "3m"})),
    ];
    let overlap = prop_oneof![
        Just("skip"),
        Just("queue_one"),
        Just("queue_all"),
        Just("cancel_previous"),
        Just("allow")
    ];
    let misfire = prop_oneof![
        Just(json!("skip")),
        Just(json!("run_once")),
        Just(json!({"policy": "run_all", "limit": 3})),
        Just(json!({"policy": "run_once", "window": "30s"})),
    ];
    let payload = prop_oneof![Just(json!({})), Just(json!({"takes": "70s"})), Just(json!({"fails": 99}))];
    let limits = prop_oneof![
        Just(json!({})),
        Just(json!({"pause_after_failures": 3})),
        Just(json!({"failure_backoff": "40s"})),
    ];
    (schedule, overlap, misfire, payload, limits).prop_map(|(schedule, overlap, misfire, payload, limits)| {
        let mut body = json!({"id": "t", "executor": "work", "schedule": schedule, "overlap": overlap,
            "misfire": misfire, "payload": payload});
        if schedule["type"] != "once" {
            for (key, value) in limits.as_object().unwrap() {
                body[key] = value.clone();
            }
        }
        body
    })
}

async fn ask_through(body: Value, steps: Vec<Step>) {
    let mut bench = Bench::new().await;
    let created = bench.create(body.clone()).await.created_at;
    let spec: scheduler::ScheduleSpec = serde_json::from_value(body["schedule"].clone()).unwrap();
    let times = bench.scheduler.preview(&spec, 1000, None).unwrap();
    // Then times lie ahead that have been dealt with.
    let mut was_set_back = false;
    for step in steps {
        was_set_back |= matches!(step, Step::Jump(seconds) if seconds < 0);
        match step {
            Step::Sleep(seconds) => bench.sleep(secs(seconds.into())).await,
            Step::Jump(seconds) => bench.clock.jump(jiff::SignedDuration::from_secs(seconds.into())),
            Step::Pause => drop(bench.scheduler.pause("t").await),
            Step::Resume => drop(bench.scheduler.resume("t").await),
            Step::Trigger(ok) => {
                let payload = ok.then(|| json!({}));
                drop(bench.scheduler.trigger("t", payload).await);
            }
            Step::Withdraw => bench.guard = None,
            Step::Register => bench.guard = Some(bench.register("work")),
            Step::Backfill => {
                let request = scheduler::BackfillRequest { from: created, until: None, limit: None };
                drop(bench.scheduler.backfill("t", &request, false).await);
            }
            Step::Stop(seconds) => {
                bench.scheduler.stop(secs(1)).await;
                tokio::time::sleep(secs(seconds.into())).await;
                bench.scheduler.start();
            }
        }
        bench.settle().await;
        let now = bench.clock.now();
        let ran: HashSet<Timestamp> = bench.seen().iter().map(|seen| seen.scheduled_for).collect();
        for time in &times {
            let why = bench.scheduler.why("t", *time).await.unwrap();
            assert_ne!(why.answer, WhyAnswer::Unknown, "{time} at {now}: {why:?}");
            if ran.contains(time) {
                assert_eq!(why.answer, WhyAnswer::Ran, "{time} at {now}: {why:?}");
            } else if *time > now && !was_set_back {
                let ahead = [WhyAnswer::NotYet, WhyAnswer::Paused, WhyAnswer::BackedOff, WhyAnswer::Done];
                assert!(ahead.contains(&why.answer), "{time} at {now}: {why:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn there_is_an_answer_for_every_time_through_whatever_happens(
        body in body(),
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(ask_through(body, steps));
    }
}
