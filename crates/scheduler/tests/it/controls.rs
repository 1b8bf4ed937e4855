use std::sync::{Arc, Mutex};

use runtime::VirtualClock;
use scheduler::{
    Executor, Page, RunContext, RunError, RunOutcome, RunOutput, Scheduler, Task, TaskError, TaskFilter,
    TaskStatus, executor_fn,
};
use serde_json::json;

use crate::support::{Bench, NOON, at, secs, spec};

fn interval(id: &str) -> serde_json::Value {
    json!({"id": id, "executor": "work", "schedule": {"type": "interval", "interval": "10s"}})
}

#[tokio::test(start_paused = true)]
async fn a_paused_task_rests_until_it_is_resumed() {
    let bench = Bench::new().await;
    bench.create(interval("t")).await;
    bench.sleep(secs(15)).await;
    let view = bench.scheduler.pause("t").await.unwrap();
    assert_eq!((view.status, view.next_run_at), (TaskStatus::Paused, None));
    assert!(matches!(bench.scheduler.pause("t").await, Err(TaskError::Conflict { .. })));
    bench.sleep(secs(40)).await;
    assert_eq!(bench.seconds("t"), [10.0]);
    let view = bench.scheduler.resume("t").await.unwrap();
    assert_eq!(view.status, TaskStatus::Pending);
    assert!(matches!(bench.scheduler.resume("t").await, Err(TaskError::Conflict { .. })));
    bench.sleep(secs(10)).await;
    assert_eq!(bench.seconds("t"), [10.0, 60.0], "what passed meanwhile is not made up for");
}

#[tokio::test(start_paused = true)]
async fn a_one_off_task_whose_time_passed_while_paused_runs_when_resumed() {
    let bench = Bench::new().await;
    bench.create(json!({"id": "t", "executor": "work", "schedule": {"type": "once", "delay": "10s"}})).await;
    bench.scheduler.pause("t").await.unwrap();
    bench.sleep(secs(30)).await;
    bench.scheduler.resume("t").await.unwrap();
    bench.settle().await;
    assert_eq!(bench.seconds("t"), [30.0]);
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_the_runs_too() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "1h"}, "overlap": "queue_all",
            "schedule": {"type": "interval", "interval": "10s"}}))
        .await;
    bench.sleep(secs(35)).await;
    assert_eq!(bench.status("t").await, TaskStatus::Running);
    let view = bench.scheduler.cancel("t").await.unwrap();
    assert_eq!(view.status, TaskStatus::Canceled);
    bench.sleep(secs(100)).await;
    let runs = bench.scheduler.runs("t", &Page::default()).await.unwrap();
    assert_eq!(runs.total, 3);
    assert!(runs.items.iter().all(|run| run.outcome == RunOutcome::Canceled), "{runs:?}");
    assert_eq!(bench.under_way.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(bench.get("t").await.active_runs, 0);
    for refused in [
        bench.scheduler.cancel("t").await.map(drop),
        bench.scheduler.resume("t").await.map(drop),
        bench.scheduler.pause("t").await.map(drop),
        bench.scheduler.trigger("t", None).await.map(drop),
    ] {
        assert!(matches!(refused, Err(TaskError::Conflict { state: TaskStatus::Canceled, .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn cancel_ends_a_run_that_waits_for_its_next_attempt() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"fails": 9},
            "retry": {"attempts": 9, "backoff": "1h"}, "schedule": {"type": "once", "delay": "1s"}}))
        .await;
    bench.sleep(secs(5)).await;
    assert_eq!(bench.status("t").await, TaskStatus::Running);
    bench.scheduler.cancel("t").await.unwrap();
    let run = bench.scheduler.runs("t", &Page::default()).await.unwrap().items.remove(0);
    assert_eq!(run.outcome, RunOutcome::Canceled);
    bench.sleep(secs(20_000)).await;
    assert_eq!(bench.seconds("t").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_removed_task_is_gone_and_its_id_is_free() {
    let bench = Bench::new().await;
    let first = bench.create(interval("t")).await;
    bench.sleep(secs(15)).await;
    let run = bench.scheduler.runs("t", &Page::default()).await.unwrap().items.remove(0);
    bench.scheduler.remove("t", None).await.unwrap();
    assert!(matches!(bench.scheduler.get("t").await, Err(TaskError::NotFound(_))));
    assert!(matches!(bench.scheduler.remove("t", None).await, Err(TaskError::NotFound(_))));
    assert!(matches!(bench.scheduler.run(run.id).await, Err(TaskError::RunNotFound(_))));
    bench.sleep(secs(30)).await;
    assert_eq!(bench.seconds("t").len(), 1);
    let second = bench.create(interval("t")).await;
    assert_ne!(first.incarnation, second.incarnation);
    assert_eq!(bench.scheduler.runs("t", &Page::default()).await.unwrap().total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_removed_in_mid_run_leaves_nothing_behind() {
    let bench = Bench::new().await;
    bench
        .create(json!({"id": "t", "executor": "work", "payload": {"takes": "1h"}, "group": "g",
            "schedule": {"type": "once", "delay": "1s"}}))
        .await;
    bench.sleep(secs(5)).await;
    bench.scheduler.remove("t", None).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.scheduler.status().active_runs, 0);
    bench
        .create(
            json!({"id": "u", "executor": "work", "group": "g", "schedule": {"type": "once", "delay": "1s"}}),
        )
        .await;
    bench.sleep(secs(5)).await;
    assert_eq!(bench.status("u").await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_second_task_with_the_id_is_refused() {
    let bench = Bench::new().await;
    bench.create(interval("t")).await;
    let error = bench.scheduler.create(spec(interval("t"))).await.unwrap_err();
    assert!(matches!(error, TaskError::Exists(id) if id == "t"));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_keeps_counters_pause_and_grid() {
    let bench = Bench::new().await;
    let view = bench.create(interval("t")).await;
    bench.sleep(secs(15)).await;
    let mut body = interval("t");
    body["payload"] = json!({"new": true});
    let replaced = bench.scheduler.replace("t", spec(body.clone()), Some(view.version)).await.unwrap();
    assert_eq!((replaced.version, replaced.run_count), (2, 1));
    assert_eq!(replaced.incarnation, view.incarnation);
    let stale = bench.scheduler.replace("t", spec(body.clone()), Some(1)).await.unwrap_err();
    assert!(matches!(stale, TaskError::VersionMismatch { expected: 1, present: 2, .. }));
    bench.sleep(secs(6)).await;
    assert_eq!(bench.seconds("t"), [10.0, 20.0], "the same schedule keeps its grid");
    bench.scheduler.pause("t").await.unwrap();
    body["schedule"]["interval"] = json!("1s");
    let paused = bench.scheduler.replace("t", spec(body.clone()), None).await.unwrap();
    assert_eq!(paused.status, TaskStatus::Paused);
    bench.sleep(secs(10)).await;
    assert_eq!(bench.seconds("t").len(), 2);
    body["schedule"]["interval"] = json!("0s");
    let refused = bench.scheduler.replace("t", spec(body), None).await.unwrap_err();
    assert!(refused.to_string().starts_with("schedule.interval: "), "{refused}");
    assert_eq!(bench.get("t").await.version, 3, "promise 10: a refusal changes nothing");
    let other = bench.scheduler.replace("t", spec(interval("u")), None).await.unwrap_err();
    assert!(other.to_string().starts_with("id: "));
}

#[tokio::test(start_paused = true)]
async fn lists_page_and_filter() {
    let bench = Bench::new().await;
    for number in 0..25 {
        let executor = if number % 5 == 0 { "log" } else { "work" };
        bench
            .create(json!({"id": format!("t{number:02}"), "executor": executor, "name": format!("Task Nr {number}"),
                "schedule": {"type": "interval", "interval": "1h"}}))
            .await;
    }
    for number in 0..4 {
        bench.scheduler.pause(&format!("t{number:02}")).await.unwrap();
    }
    let list = |filter: TaskFilter, limit: usize| {
        let scheduler = bench.scheduler.clone();
        async move {
            let mut ids = Vec::new();
            let mut page = Page { limit, cursor: None };
            loop {
                let part = scheduler.list(&filter, &page).await.unwrap();
                assert!(part.items.len() <= limit);
                ids.extend(part.items.into_iter().map(|task| task.id));
                page.cursor = part.next_cursor;
                if page.cursor.is_none() {
                    return (ids, part.total);
                }
            }
        }
    };
    let all: Vec<String> = (0..25).map(|number| format!("t{number:02}")).collect();
    assert_eq!(list(TaskFilter::default(), 7).await, (all.clone(), 25));
    assert_eq!(list(TaskFilter::default(), 25).await, (all.clone(), 25));
    let paused = TaskFilter { status: Some(TaskStatus::Paused), ..Default::default() };
    assert_eq!(list(paused, 3).await, (all[..4].to_vec(), 4));
    let log = TaskFilter { executor: Some("log".into()), ..Default::default() };
    assert_eq!(list(log, 2).await.1, 5);
    let unknown = TaskFilter { executor: Some("nobody".into()), ..Default::default() };
    assert_eq!(list(unknown, 2).await, (vec![], 0));
    let q = TaskFilter { q: Some("nR 2".into()), ..Default::default() };
    assert_eq!(list(q, 2).await.0, ["t02", "t20", "t21", "t22", "t23", "t24"]);
    let both = TaskFilter { q: Some("t2".into()), executor: Some("log".into()), ..Default::default() };
    assert_eq!(list(both, 10).await.0, ["t20"]);
    for page in [Page { limit: 0, cursor: None }, Page { limit: 1001, cursor: None }] {
        assert!(bench.scheduler.list(&TaskFilter::default(), &page).await.is_err());
    }
    let page = Page { limit: 5, cursor: Some("x".into()) };
    let error = bench.scheduler.list(&TaskFilter::default(), &page).await.unwrap_err();
    assert!(error.to_string().starts_with("cursor: "), "{error}");
    let counts = bench.scheduler.status().status_counts;
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(TaskStatus::Pending, 21), (TaskStatus::Paused, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_plugins_tasks_follow_it() {
    let bench = Bench::new().await;
    let owned = |id: &str| spec(interval(id));
    bench.scheduler.upsert_owned("greeter", owned("a")).await.unwrap();
    bench.scheduler.upsert_owned("greeter", owned("b")).await.unwrap();
    bench.create(interval("mine")).await;
    assert!(matches!(
        bench.scheduler.upsert_owned("greeter", owned("mine")).await,
        Err(TaskError::Exists(_))
    ));
    assert!(matches!(bench.scheduler.upsert_owned("other", owned("a")).await, Err(TaskError::Exists(_))));
    bench.scheduler.pause("b").await.unwrap();
    assert_eq!(bench.scheduler.suspend_owned("greeter").await.unwrap(), 2);
    let view = bench.get("a").await;
    assert_eq!(view.status, TaskStatus::Paused);
    assert_eq!(view.waiting_for.as_deref(), Some("plugin `greeter` has stopped"));
    assert!(matches!(bench.scheduler.resume("a").await, Err(TaskError::Conflict { .. })));
    bench.sleep(secs(25)).await;
    assert!(bench.seconds("a").is_empty());
    let view = bench.scheduler.upsert_owned("greeter", owned("a")).await.unwrap();
    assert_eq!((view.status, view.version), (TaskStatus::Pending, 1), "the same definition is no change");
    let view = bench.scheduler.upsert_owned("greeter", owned("b")).await.unwrap();
    assert_eq!(view.status, TaskStatus::Paused, "what an operator paused stays paused");
    bench.sleep(secs(10)).await;
    assert_eq!(bench.seconds("a"), [30.0]);
    let filter = TaskFilter { owner: Some("greeter".into()), ..Default::default() };
    assert_eq!(bench.scheduler.list(&filter, &Page::default()).await.unwrap().total, 2);
    assert_eq!(bench.scheduler.remove_owned("greeter").await.unwrap(), 2);
    assert!(bench.scheduler.get("a").await.is_err());
    assert!(bench.scheduler.get("mine").await.is_ok());
}

/// Runs that are due together are taken together; one that holds its thread must not let the others begin
/// after they have been cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_run_that_was_cancelled_before_its_turn_never_begins() {
    let scheduler = Scheduler::builder().start_later().build().await.unwrap();
    let began = Arc::new(Mutex::new(Vec::new()));
    let (release, held) = std::sync::mpsc::sync_channel::<()>(1);
    let held = Arc::new(Mutex::new(held));
    let seen = began.clone();
    let hold = executor_fn(move |run| {
        let is_first = {
            let mut seen = seen.lock().unwrap();
            seen.push(run.task_id().to_owned());
            seen.len() == 1
        };
        if is_first {
            held.lock().unwrap().recv().unwrap();
        }
        async { Ok(RunOutput::none()) }
    });
    let _guard = scheduler.registry().register("hold", None, hold).unwrap();
    for id in ["a", "b"] {
        let body = json!({"id": id, "executor": "hold", "schedule": {"type": "once", "delay": "0s"}});
        scheduler.create(spec(body)).await.unwrap();
    }
    scheduler.start();
    let first = loop {
        if let Some(first) = began.lock().unwrap().first().cloned() {
            break first;
        }
        tokio::task::yield_now().await;
    };
    let other = if first == "a" { "b" } else { "a" };
    let state = scheduler.cancel(other).await.unwrap().status;
    release.send(()).unwrap();
    scheduler.stop(secs(5)).await;
    assert_eq!(state, TaskStatus::Canceled);
    assert_eq!(*began.lock().unwrap(), [first]);
    let runs = scheduler.runs(other, &Page::default()).await.unwrap().items;
    assert!(runs.iter().all(|run| run.outcome == RunOutcome::Canceled), "{runs:?}");
}

/// Of three that share a group of one, the second is cancelled while it waits: the third has its turn.
#[tokio::test(start_paused = true)]
async fn a_run_cancelled_while_its_group_is_full_gives_its_place_to_the_next() {
    let bench = Bench::new().await;
    for (id, delay) in [("a", "1s"), ("b", "2s"), ("c", "3s")] {
        bench
            .create(json!({"id": id, "executor": "work", "payload": {"takes": "10s"},
                "group": {"name": "g", "limit": 1}, "schedule": {"type": "once", "delay": delay}}))
            .await;
    }
    bench.sleep(secs(5)).await;
    bench.scheduler.cancel("b").await.unwrap();
    bench.sleep(secs(20)).await;
    assert_eq!((bench.seconds("b"), bench.seconds("c")), (vec![], vec![11.0]));
}

#[tokio::test(start_paused = true)]
async fn a_task_paused_while_its_run_is_in_line_does_not_start_before_it_is_resumed() {
    let bench = Bench::new().await;
    for (id, delay) in [("a", "1s"), ("b", "2s")] {
        bench
            .create(json!({"id": id, "executor": "work", "payload": {"takes": "10s"},
                "group": {"name": "g", "limit": 1}, "schedule": {"type": "once", "delay": delay}}))
            .await;
    }
    bench.sleep(secs(5)).await;
    bench.scheduler.pause("b").await.unwrap();
    bench.sleep(secs(25)).await;
    assert_eq!(bench.seconds("b"), Vec::<f64>::new());
    bench.scheduler.resume("b").await.unwrap();
    bench.sleep(secs(20)).await;
    assert_eq!(bench.seconds("b"), [30.0]);
    assert_eq!(bench.status("b").await, TaskStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_an_executor_goes_to_the_one_that_takes_its_place() {
    let bench = Bench::new().await;
    let mut body = json!({"id": "t", "executor": "absent", "schedule": {"type": "once", "delay": "1h"}});
    bench.create(body.clone()).await;
    bench.scheduler.trigger("t", None).await.unwrap();
    bench.settle().await;
    assert!(bench.seen().is_empty());
    body["executor"] = json!("work");
    bench.scheduler.replace("t", spec(body), None).await.unwrap();
    bench.sleep(secs(1)).await;
    assert_eq!(bench.seconds("t"), [0.0]);
    assert_eq!(bench.status("t").await, TaskStatus::Pending);
}

/// An executor that asks the scheduler something when it goes.
struct Curious(Option<Scheduler>, std::sync::mpsc::SyncSender<bool>);

#[async_trait::async_trait]
impl Executor for Curious {
    async fn execute(&self, _: RunContext) -> Result<RunOutput, RunError> {
        Ok(RunOutput::none())
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        let scheduler = self.0.take().unwrap();
        self.1.send(scheduler.status().running).unwrap();
    }
}

#[test]
fn an_executor_that_goes_may_use_the_scheduler() {
    let (sender, dropped) = std::sync::mpsc::sync_channel(1);
    // On a thread of its own, since a failure is a deadlock.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scheduler = Scheduler::builder().build().await.unwrap();
            let curious = Arc::new(Curious(Some(scheduler.clone()), sender));
            let guard = scheduler.registry().register("curious", None, curious).unwrap();
            let body = json!({"id": "t", "executor": "curious", "schedule": {"type": "once", "delay": "0s"}});
            scheduler.create(spec(body)).await.unwrap();
            while scheduler.get("t").await.unwrap().status != TaskStatus::Completed {
                tokio::task::yield_now().await;
            }
            drop(guard);
            tokio::time::sleep(secs(1)).await;
        });
    });
    assert_eq!(dropped.recv_timeout(secs(20)), Ok(true));
}

/// An executor whose look at a payload goes wrong.
struct Clumsy;

#[async_trait::async_trait]
impl Executor for Clumsy {
    async fn execute(&self, _: RunContext) -> Result<RunOutput, RunError> {
        Ok(RunOutput::none())
    }

    fn check(&self, _: &serde_json::Value) -> Result<(), scheduler::PayloadError> {
        panic!("as asked")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_check_of_a_payload_refuses_the_task() {
    let bench = Bench::new().await;
    let _guard = bench.scheduler.registry().register("clumsy", None, Arc::new(Clumsy)).unwrap();
    let body = json!({"id": "t", "executor": "clumsy", "schedule": {"type": "once", "delay": "1s"}});
    let refused = bench.scheduler.create(spec(body)).await.unwrap_err();
    assert_eq!(refused.to_string(), "payload: its executor panicked on it: as asked");
    assert!(bench.scheduler.get("t").await.is_err());
}

/// A dry run is refused as the change would be, answers as it would, and changes nothing.
#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_a_change_would_come_to() {
    let scheduler = Scheduler::builder().clock(VirtualClock::starting_at(at(NOON))).build().await.unwrap();
    let dry = scheduler.dry_run();
    let spec = || Task::every("t", secs(60));
    let tried = dry.create(&spec()).unwrap();
    assert!(matches!(scheduler.get("t").await, Err(TaskError::NotFound(_))));
    let made = scheduler.create(spec()).await.unwrap();
    assert_eq!(
        (&tried.id, tried.status, tried.version, tried.next_run_at),
        (&made.id, made.status, made.version, made.next_run_at)
    );
    assert!(matches!(dry.create(&spec()), Err(TaskError::Exists(_))));
    assert!(dry.create(&Task::cron("u", "never")).is_err());

    let other = || Task::every("t", secs(90));
    assert!(matches!(dry.replace("t", other(), Some(7)), Err(TaskError::VersionMismatch { .. })));
    let tried = dry.replace("t", other(), Some(1)).unwrap();
    assert_eq!(scheduler.get("t").await.unwrap().version, 1);
    let replaced = scheduler.replace("t", other(), Some(1)).await.unwrap();
    assert_eq!((tried.version, tried.next_run_at), (replaced.version, replaced.next_run_at));

    assert_eq!(dry.trigger("t", None).unwrap().task, "t");
    assert_eq!(dry.pause("t").unwrap().status, TaskStatus::Paused);
    assert!(matches!(dry.resume("t"), Err(TaskError::Conflict { .. })));
    assert_eq!(dry.cancel("t").unwrap().status, TaskStatus::Canceled);
    assert_eq!(dry.remove("t", None).unwrap().id, "t");
    assert!(matches!(dry.remove("t", Some(9)), Err(TaskError::VersionMismatch { .. })));
    let now = scheduler.get("t").await.unwrap();
    assert_eq!((now.status, now.run_count, now.version), (TaskStatus::Pending, 0, 2));
    scheduler.cancel("t").await.unwrap();
    assert!(matches!(dry.trigger("t", None), Err(TaskError::Conflict { .. })));
    assert!(matches!(dry.pause("absent"), Err(TaskError::NotFound(_))));
}
