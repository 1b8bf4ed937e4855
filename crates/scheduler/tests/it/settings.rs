//! Tasks whose schedule the settings or the machine do not allow any more, and changes beside that.

use std::collections::BTreeMap;
use std::sync::Arc;

use scheduler::{
    Change, Commit, MemoryTaskStore, Scheduler, SchedulerConfig, TaskError, TaskSpec, TaskStatus, TaskStore,
    WhyAnswer,
};
use serde_json::json;

use crate::support::{Bench, at, secs, spec};

async fn scheduler(bench: &Bench, store: &MemoryTaskStore, calendars: &[(&str, &str)]) -> Scheduler {
    let calendars: BTreeMap<_, _> =
        calendars.iter().map(|(name, day)| ((*name).to_owned(), vec![(*day).to_owned()])).collect();
    let config = SchedulerConfig { calendars, ..SchedulerConfig::default() };
    let builder = Scheduler::builder().clock(bench.clock.clone()).store(Arc::new(store.clone()));
    builder.config(config).build().await.unwrap()
}

fn paid() -> TaskSpec {
    spec(json!({
        "id": "paid", "payload": {"order": [1, 2.5, null, "é"]}, "priority": 3,
        "schedule": {"type": "cron", "cron": "0 12 * * *", "exclude": ["holidays"], "max_runs": 5, "jitter": "1s"},
    }))
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_calendar_is_gone_rests_until_it_is_back() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::new();
    let first = scheduler(&bench, &store, &[("holidays", "2026-03-02")]).await;
    let created = first.create(paid()).await.unwrap();
    assert_eq!(created.next_run_at.unwrap().to_string()[..10], *"2026-03-03");
    first.stop(secs(5)).await;

    let second = scheduler(&bench, &store, &[]).await;
    let task = second.get("paid").await.unwrap();
    assert_eq!((task.status, task.next_run_at), (TaskStatus::Paused, None));
    let reason = task.pause_reason.unwrap();
    assert!(reason.contains("schedule.exclude[0]") && reason.contains("holidays"), "{reason}");
    assert_eq!((task.schedule, task.payload), (created.schedule.clone(), created.payload.clone()));
    assert_eq!(task.waiting_for, None);
    let refused = second.resume("paid").await.unwrap_err().to_string();
    assert!(refused.contains("schedule cannot be used"), "{refused}");
    bench.sleep(secs(3 * 24 * 3600)).await;
    assert_eq!(second.get("paid").await.unwrap().run_count, 0, "it may be a holiday");
    let why = second.why("paid", at("2026-03-03T12:00:00Z")).await.unwrap();
    assert_eq!(why.answer, WhyAnswer::Paused);
    assert!(why.detail.contains("holidays"), "{}", why.detail);
    second.trigger("paid", None).await.unwrap();
    bench.sleep(secs(1)).await;
    assert_eq!(second.get("paid").await.unwrap().run_count, 1);
    second.stop(secs(5)).await;

    let third = scheduler(&bench, &store, &[("holidays", "2026-03-02")]).await;
    let task = third.get("paid").await.unwrap();
    assert_eq!((task.status, task.pause_reason), (TaskStatus::Pending, None));
    assert_eq!((task.schedule, task.payload), (created.schedule, created.payload));
    bench.sleep(secs(2)).await;
    assert_eq!(third.get("paid").await.unwrap().run_count, 2, "one run for the times that were missed");
    third.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_zone_is_gone_is_given_another_schedule() {
    let bench = Bench::new().await;
    let store = MemoryTaskStore::new();
    let first = scheduler(&bench, &store, &[("holidays", "2026-03-02")]).await;
    first.create(paid()).await.unwrap();
    first.stop(secs(5)).await;
    let all: Vec<u32> = (0..64).collect();
    let mut task = store.load(&all, None, 10).await.unwrap().tasks.remove(0);
    let schedule = task.spec.schedule.as_mut().unwrap();
    schedule.exclude.clear();
    schedule.timezone = Some("Mars/Olympus".to_owned());
    let shard = scheduler::shard_of("paid", 64);
    let change = Change::Replace(Box::new(task));
    let commits: Arc<[Commit]> = Arc::new([Commit { shard, epoch: u64::MAX >> 1, change }]);
    assert_eq!(store.commit(commits).await, [Ok(())]);

    let second = scheduler(&bench, &store, &[]).await;
    let task = second.get("paid").await.unwrap();
    assert!(task.pause_reason.unwrap().contains("`Mars/Olympus` is not an IANA time zone"));
    let present = TaskSpec { schedule: task.schedule, ..paid() };
    let refused = second.replace("paid", present, None).await.unwrap_err();
    assert!(matches!(refused, TaskError::Invalid { field, .. } if field == "schedule.timezone"));
    let mut good = paid();
    good.schedule.as_mut().unwrap().exclude.clear();
    let task = second.replace("paid", good, None).await.unwrap();
    assert_eq!((task.status, task.pause_reason), (TaskStatus::Pending, None));
    assert!(task.next_run_at.is_some());
    second.stop(secs(5)).await;

    let third = scheduler(&bench, &store, &[]).await;
    assert_eq!(third.get("paid").await.unwrap().status, TaskStatus::Pending);
    third.stop(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn why_names_the_calendar_that_leaves_a_day_out() {
    let bench = Bench::with(SchedulerConfig {
        calendars: BTreeMap::from([("holidays".to_owned(), vec!["2026-03-02".to_owned()])]),
        ..SchedulerConfig::default()
    })
    .await;
    let schedule = json!({"type": "cron", "cron": "0 13 * * *", "exclude": ["TUE", "holidays"]});
    bench.create(json!({"id": "t", "executor": "work", "schedule": schedule})).await;
    for (day, entry) in [("2026-03-02", "the calendar `holidays`"), ("2026-03-03", "`TUE`")] {
        let why = bench.scheduler.why("t", at(&format!("{day}T13:00:00Z"))).await.unwrap();
        assert_eq!(why.answer, WhyAnswer::NotScheduled);
        assert!(why.detail.ends_with(&format!("by {entry}")), "{}", why.detail);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_replaced_by_its_own_definition_when_its_time_has_passed() {
    let bench = Bench::new().await;
    let body = json!({
        "id": "t", "executor": "work",
        "schedule": {"type": "once", "at": "2026-03-01T12:00:10Z", "end_at": "2026-03-01T12:00:20Z"},
    });
    bench.create(body.clone()).await;
    bench.sleep(secs(600)).await;
    assert_eq!(bench.status("t").await, TaskStatus::Completed);
    let same = TaskSpec { description: "changed".to_owned(), ..spec(body.clone()) };
    let task = bench.scheduler.replace("t", same, None).await.unwrap();
    assert_eq!((task.status, task.next_run_at), (TaskStatus::Completed, None));
    bench.sleep(secs(60)).await;
    assert_eq!(bench.seconds("t"), [10.0], "it has run, and does not run again");
    let mut other = spec(body);
    other.schedule.as_mut().unwrap().at = Some(at("2026-03-01T12:00:11Z"));
    let refused = bench.scheduler.replace("t", other, None).await.unwrap_err();
    assert!(matches!(refused, TaskError::Invalid { field, .. } if field == "schedule.end_at"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_room_is_not_missed() {
    let bench = Bench::with(SchedulerConfig { max_concurrent_tasks: 1, ..SchedulerConfig::default() }).await;
    let long = json!({"id": "long", "executor": "work", "schedule": {"type": "once", "delay": "1s"},
        "payload": {"takes": "60s"}});
    bench.create(long).await;
    let tick = json!({"id": "tick", "executor": "work", "schedule": {"type": "interval", "interval": "10s"},
        "misfire": "skip"});
    bench.create(tick).await;
    bench.sleep(secs(75)).await;
    assert_eq!(bench.seconds("tick"), [61.0, 70.0], "the latest of those that waited, then the next");
}
