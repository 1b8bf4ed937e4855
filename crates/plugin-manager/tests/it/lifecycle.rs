use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_bus::HistoryFilter;
use plugin_core::{Dependency, Health, Needs, PluginError, PluginName, State};
use plugin_manager::{Change, ManagerConfig, ManagerError, PluginManager, PluginOptions};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::bench::{Log, Sample, builder, manager, topics};

fn cascade() -> Change {
    Change { cascade: true, ..Change::default() }
}

fn alone() -> Change {
    Change::default()
}

fn state(manager: &PluginManager, name: &str) -> State {
    manager.registry().state(name)
}

/// `a <- b <- c`, and `a <- d`.
fn four(log: &Log) -> PluginManager {
    let manager = manager();
    Sample::new("c", log).needs("b").add_to(&manager);
    Sample::new("b", log).needs("a").add_to(&manager);
    Sample::new("d", log).needs("a").add_to(&manager);
    Sample::new("a", log).add_to(&manager);
    manager
}

fn position(log: &[String], what: &str) -> usize {
    log.iter().position(|entry| entry == what).unwrap_or_else(|| panic!("no `{what}` in {log:?}"))
}

#[tokio::test(start_paused = true)]
async fn starts_in_order_and_stops_in_reverse() {
    let log = Log::default();
    let manager = four(&log);
    let report = manager.start_all().await.unwrap();
    assert_eq!(report.running.len(), 4, "{report:?}");
    let started = log.take();
    assert!(position(&started, "start a") < position(&started, "start b"));
    assert!(position(&started, "start b") < position(&started, "start c"));
    let expected = [
        "plugin.registered",
        "plugin.initializing",
        "plugin.initialized",
        "plugin.starting",
        "plugin.started",
    ];
    assert_eq!(topics(&manager, "c"), expected);
    manager.start_all().await.unwrap();
    let of_the_host = manager.host().bus.history(&HistoryFilter::new().limit(10_000));
    let started = of_the_host.iter().filter(|event| event.topic().as_str() == "system.started");
    assert_eq!(started.count(), 1, "a second call only starts what has come since");
    let report = manager.stop_all(Duration::from_secs(5)).await;
    assert!(report.is_clean() && report.stopped.len() == 4, "{report:?}");
    let stopped = log.take();
    assert!(position(&stopped, "stop c") < position(&stopped, "stop b"));
    assert!(position(&stopped, "stop b") < position(&stopped, "stop a"));
    assert!(position(&stopped, "stop d") < position(&stopped, "stop a"));
    assert!(matches!(manager.start("a", alone()).await, Err(ManagerError::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn each_starts_as_soon_as_its_own_dependencies_are_there() {
    let log = Log::default();
    let manager = manager();
    let takes = |seconds| {
        move |_| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(())
        }
    };
    // The critical path is slow-a, b: 10 + 5. By levels it would be 10 + 20.
    Sample::new("slow-a", &log).starts(takes(10)).add_to(&manager);
    Sample::new("fast-a", &log).starts(takes(1)).add_to(&manager);
    Sample::new("b", &log).needs("slow-a").starts(takes(5)).add_to(&manager);
    Sample::new("c", &log).needs("fast-a").starts(takes(14)).add_to(&manager);
    let began = Instant::now();
    manager.start_all().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 15);
    let shown = manager.get("b").unwrap();
    assert_eq!(shown.startup_duration.unwrap().to_string(), "5s");
}

/// Which of the plugins before it each plugin needs, and how long its start takes.
fn any_host() -> impl Strategy<Value = Vec<(Vec<usize>, u64)>> {
    let plugin = (proptest::collection::vec(0_usize..1000, 0..4), 0_u64..50);
    proptest::collection::vec(plugin, 1..40).prop_map(|mut plugins| {
        for (i, (needs, _)) in plugins.iter_mut().enumerate() {
            *needs = if i == 0 { Vec::new() } else { needs.iter().map(|n| n % i).collect() };
            needs.sort_unstable();
            needs.dedup();
        }
        plugins
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_start_takes_its_critical_path_and_no_longer(plugins in any_host()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (log, manager) = (Log::default(), manager());
            let mut done = Vec::new();
            for (i, (needs, takes)) in plugins.iter().enumerate() {
                let span = Duration::from_millis(*takes);
                let mut plugin = Sample::new(&format!("p{i}"), &log).starts(move |_| async move {
                    tokio::time::sleep(span).await;
                    Ok(())
                });
                for need in needs {
                    plugin = plugin.needs(&format!("p{need}"));
                }
                plugin.add_to(&manager);
                done.push(needs.iter().map(|need| done[*need]).max().unwrap_or(0) + takes);
            }
            let began = Instant::now();
            let report = manager.start_all().await.unwrap();
            prop_assert_eq!(report.running.len(), plugins.len());
            prop_assert_eq!(began.elapsed().as_millis(), u128::from(*done.iter().max().unwrap()));
            let report = manager.stop_all(Duration::from_secs(30)).await;
            prop_assert!(report.is_clean() && report.stopped.len() == plugins.len(), "{:?}", report);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_start_share_its_time() {
    let log = Log::default();
    let manager = manager();
    let mut plugin = Sample::new("p", &log).starts(|_| async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        Ok(())
    });
    plugin.on_initialize = Some(Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            Ok(())
        })
    }));
    plugin.add_with(&manager, PluginOptions { restart: Some(never()), ..PluginOptions::default() });
    let began = Instant::now();
    let report = manager.start_all().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 60);
    assert_eq!(report.failed[0].reason, "start plugin `p`: deadline of 1m exceeded");
}

#[tokio::test(start_paused = true)]
async fn the_transport_that_carries_the_request_is_not_stopped_unless_forced() {
    let log = Log::default();
    let manager = four(&log);
    manager.start_all().await.unwrap();
    let carried = |force| Change { cascade: true, force, carried_by: Some(PluginName::new("c").unwrap()) };
    for refused in [manager.stop("a", carried(false)).await, manager.restart("b", carried(false)).await] {
        assert!(matches!(refused, Err(ManagerError::CarriesRequest(name)) if name == "c"));
    }
    assert_eq!(state(&manager, "c"), State::Running);
    manager.stop("d", carried(false)).await.unwrap();
    manager.restart("b", carried(true)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_is_busy() {
    let log = Log::default();
    let manager = manager();
    Sample::new("p", &log)
        .starts(|_| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok(())
        })
        .add_to(&manager);
    let requests: Vec<_> = (0..200).map(|_| manager.start("p", alone())).collect();
    let outcomes = futures_util::future::join_all(requests).await;
    let busy = outcomes.iter().filter(|outcome| matches!(outcome, Err(ManagerError::Busy(_)))).count();
    assert!(busy > 100, "{busy}");
    assert!(outcomes.iter().any(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_named_in_full_before_anything_starts() {
    let log = Log::default();
    let manager = manager();
    Sample::new("a", &log).needs("b").add_to(&manager);
    Sample::new("b", &log).needs("a").add_to(&manager);
    Sample::new("c", &log).needs("gone").add_to(&manager);
    Sample::new("fine", &log).add_to(&manager);
    let error = manager.start_all().await.unwrap_err().to_string();
    assert_eq!(error, "plugin `c` needs `gone` (*), which is not there; dependency cycle: a -> b -> a");
    assert!(log.take().is_empty());
    assert_eq!(manager.graph().problems.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_check_the_others_start() {
    let log = Log::default();
    let config = ManagerConfig { dependency_check: false, ..ManagerConfig::default() };
    let manager = builder().config(config).build();
    Sample::new("c", &log).needs("gone").add_to(&manager);
    Sample::new("fine", &log).add_to(&manager);
    let report = manager.start_all().await.unwrap();
    assert_eq!((report.running.len(), report.waiting.len()), (1, 1));
    assert_eq!(manager.get("c").unwrap().waiting_for, [PluginName::new("gone").unwrap()]);
    // And it starts by itself once what it waits for is there.
    Sample::new("gone", &log).add_to(&manager);
    manager.start("gone", alone()).await.unwrap();
    assert!(manager.wait_ready(&["c"], Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn what_others_use_is_not_stopped_without_the_cascade() {
    let log = Log::default();
    let manager = four(&log);
    manager.start_all().await.unwrap();
    log.take();
    let error = manager.stop("a", alone()).await.unwrap_err();
    assert!(
        matches!(&error, ManagerError::HasDependents { dependents, .. } if dependents.len() == 2),
        "{error}"
    );
    assert!(log.take().is_empty(), "nothing was touched");
    assert_eq!(state(&manager, "a"), State::Running);
    manager.stop("a", cascade()).await.unwrap();
    let stopped = log.take();
    assert_eq!(stopped.last().unwrap(), "stop a");
    assert_eq!(stopped.len(), 4);
    let error = manager.start("c", alone()).await.unwrap_err();
    assert!(matches!(error, ManagerError::DependenciesDown { .. }), "{error}");
    manager.start("c", cascade()).await.unwrap();
    assert_eq!(
        log.take(),
        ["start a", "start b", "start c"],
        "a stopped plugin need not be initialized again"
    );
    assert_eq!(state(&manager, "d"), State::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_dependents_down_and_brings_them_back() {
    let log = Log::default();
    let manager = four(&log);
    manager.start_all().await.unwrap();
    log.take();
    manager.restart("b", alone()).await.unwrap();
    assert_eq!(log.take(), ["stop c", "stop b", "initialize b", "start b", "start c"]);
    assert_eq!(state(&manager, "c"), State::Running);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_is_running_and_not_ready_while_its_server_is_away() {
    let log = Log::default();
    let manager = manager();
    let there = Arc::new(AtomicBool::new(false));
    let seen = there.clone();
    Sample::new("client", &log)
        .health(move || {
            if seen.load(Ordering::SeqCst) { Health::healthy() } else { Health::not_ready("server away") }
        })
        .add_to(&manager);
    Sample::new("user", &log).needs("client").add_to(&manager);
    let mut patient = Sample::new("patient", &log);
    patient.manifest = patient.manifest.dependency(Dependency {
        name: PluginName::new("client").unwrap(),
        version: semver::VersionReq::STAR,
        needs: Needs::Running,
        optional: false,
    });
    patient.add_to(&manager);
    let report = manager.start_all().await.unwrap();
    assert_eq!((report.running.len(), report.waiting.len()), (2, 1), "{report:?}");
    let client = manager.get("client").unwrap();
    assert!(client.status == State::Running && !client.ready && client.health.healthy);
    let user = manager.get("user").unwrap();
    assert_eq!(
        (user.status, user.waiting_for),
        (State::Registered, vec![PluginName::new("client").unwrap()])
    );
    there.store(true, Ordering::SeqCst);
    assert!(manager.wait_ready(&["client", "user"], Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_nothing_behind_and_says_why() {
    let log = Log::default();
    let manager = manager();
    let options = || PluginOptions { restart: Some(never()), ..PluginOptions::default() };
    Sample::new("bad", &log)
        .may("service:provide:x")
        .starts(|ctx| async move {
            ctx.provide::<str>("x", Arc::from("x"))?;
            Err(PluginError::new("no luck"))
        })
        .add_with(&manager, options());
    Sample::new("good", &log).add_to(&manager);
    let report = manager.start_all().await.unwrap();
    assert_eq!(report.failed[0].reason, "start plugin `bad`: no luck");
    assert_eq!(report.running.len(), 1);
    let view = manager.get("bad").unwrap();
    assert_eq!((view.status, view.last_error.unwrap().message.as_str()), (State::Failed, "no luck"));
    assert!(manager.directory().services().is_empty());
    assert_eq!(topics(&manager, "bad").last().unwrap(), "plugin.failed");
}

pub(crate) fn never() -> plugin_manager::RestartConfig {
    plugin_manager::RestartConfig::default().with_policy(plugin_manager::RestartPolicy::Never)
}

#[tokio::test(start_paused = true)]
async fn requests_that_the_state_does_not_allow_are_refused() {
    let log = Log::default();
    let manager = manager();
    Sample::new("a", &log).add_to(&manager);
    assert!(matches!(manager.start("nobody", alone()).await, Err(ManagerError::NotFound(_))));
    assert!(matches!(manager.stop("a", alone()).await, Err(ManagerError::InvalidTransition { .. })));
    assert_eq!(manager.initialize("a").await.unwrap().status, State::Initialized);
    assert!(matches!(manager.initialize("a").await, Err(ManagerError::InvalidTransition { .. })));
    assert_eq!(manager.start("a", alone()).await.unwrap().status, State::Running);
    assert!(matches!(manager.start("a", alone()).await, Err(ManagerError::InvalidTransition { .. })));
    assert_eq!(manager.stop("a", alone()).await.unwrap().status, State::Stopped);
    manager.unload("a", alone()).await.unwrap();
    assert!(matches!(manager.get("a"), Err(ManagerError::NotFound(_))));
    assert_eq!(log.take(), ["initialize a", "start a", "stop a", "destroy a"]);
    Sample::new("a", &log).add_to(&manager);
    assert_eq!(state(&manager, "a"), State::Registered, "the name is free again");
}
