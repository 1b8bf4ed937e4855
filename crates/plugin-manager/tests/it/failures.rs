use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use event_bus::SubscribeOptions;
use http::Method;
use plugin_core::{Endpoint, Health, PluginError, Reply, RouteRequest, State};
use plugin_manager::{
    Change, ManagerConfig, ManagerError, PluginManager, PluginOptions, RestartConfig, RestartPolicy,
};
use registry::Lookup;
use tokio::time::Instant;

use crate::bench::{Log, Sample, brisk, builder, events, manager, topics};
use crate::lifecycle::never;

const PATIENCE: Duration = Duration::from_secs(200);

/// Takes a thread of the plugins' runtime, until what it gives is dropped.
async fn block_a_thread(plugins: &tokio::runtime::Runtime) -> mpsc::SyncSender<()> {
    let (release, gate) = mpsc::sync_channel::<()>(0);
    let (blocked, blocks) = tokio::sync::oneshot::channel();
    plugins.spawn(async move {
        let _ = blocked.send(());
        let _ = gate.recv();
    });
    blocks.await.unwrap();
    release
}

fn with(policy: RestartPolicy) -> PluginOptions {
    PluginOptions { restart: Some(RestartConfig::default().with_policy(policy)), ..PluginOptions::default() }
}

async fn failed(manager: &PluginManager, name: &str) -> String {
    let is_failed = || manager.registry().state(name) == State::Failed;
    assert!(manager.wait_until(PATIENCE, is_failed).await, "{:?}", manager.get(name));
    manager.get(name).unwrap().last_error.unwrap().message
}

#[tokio::test(start_paused = true)]
async fn a_panic_a_hang_and_an_error_on_start_are_the_plugins_own() {
    let log = Log::default();
    let manager = manager();
    let panics = Sample::new("panics", &log).starts(|_| async { panic!("oh no") });
    panics.add_with(&manager, with(RestartPolicy::Never));
    let hangs = Sample::new("hangs", &log).starts(|_| std::future::pending());
    hangs.add_with(&manager, with(RestartPolicy::Never));
    Sample::new("unhealthy", &log)
        .health(|| Health::unhealthy("no heartbeat"))
        .add_with(&manager, with(RestartPolicy::Never));
    Sample::new("health-panics", &log)
        .health(|| panic!("in health"))
        .add_with(&manager, with(RestartPolicy::Never));
    Sample::new("good", &log).add_to(&manager);
    let began = Instant::now();
    let report = manager.start_all().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 60, "max_startup_time");
    assert_eq!(report.running.len(), 1);
    let reason = |name: &str| manager.get(name).unwrap().last_error.unwrap().message;
    assert_eq!(reason("panics"), "panicked: oh no");
    assert_eq!(reason("hangs"), "deadline of 1m exceeded");
    assert_eq!(reason("unhealthy"), "unhealthy after start: no heartbeat");
    assert_eq!(reason("health-panics"), "panicked: in health");
    let again = manager.start("hangs", Change::default()).await.unwrap_err();
    assert!(matches!(again, ManagerError::DeadlineExceeded { .. }), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn code_that_blocks_its_thread_is_stuck_and_counted_and_starves_nobody() {
    let log = Log::default();
    let manager = builder().config(brisk()).build();
    let (release, gate) = mpsc::sync_channel::<()>(0);
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let blocks = Sample::new("blocks", &log).starts(move |_| {
        let gate = gate.clone();
        async move {
            let _ = gate.lock().unwrap().recv();
            Ok(())
        }
    });
    blocks.add_with(&manager, with(RestartPolicy::Never));
    Sample::new("good", &log).add_to(&manager);
    let report = manager.start_all().await.unwrap();
    assert_eq!(report.running.len(), 1);
    assert!(report.failed[0].reason.contains("deadline"), "{report:?}");
    let view = manager.get("blocks").unwrap();
    assert_eq!((view.status, view.stuck_calls), (State::Failed, 1));
    assert!(view.last_error.unwrap().message.starts_with("stuck"));
    release.send(()).unwrap();
    let free = || manager.get("blocks").unwrap().stuck_calls == 0;
    let deadline = Instant::now() + PATIENCE;
    while !free() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What came back late was not published.
    assert_eq!(manager.registry().state("blocks"), State::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_4_blocked_threads_keep_neither_the_hosts_own_parts_nor_a_withdrawal() {
    let plugins = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let log = Log::default();
    let manager = builder().runtime(plugins.handle().clone()).build();
    let here = Some(tokio::runtime::Handle::current());
    let own = PluginOptions { runtime: here, ..with(RestartPolicy::Never) };
    Sample::new("own", &log).add_with(&manager, own);
    let provides = Sample::new("provides", &log).may("service:provide:x").starts(|ctx| async move {
        ctx.provide::<str>("x", Arc::from("x"))?;
        Ok(())
    });
    provides.add_with(&manager, with(RestartPolicy::Never));
    assert_eq!(manager.start_all().await.unwrap().running.len(), 2);
    let release = block_a_thread(&plugins).await;

    let again = manager.restart("own", Change::default()).await.unwrap();
    assert_eq!(again.status, State::Running);
    let stopping = manager.stop("provides", Change::default());
    tokio::pin!(stopping);
    let deadline = Instant::now() + PATIENCE;
    while !manager.directory().services().is_empty() {
        assert!(Instant::now() < deadline, "it is not withdrawn");
        assert!(futures_util::poll!(&mut stopping).is_pending(), "its own stop has no thread yet");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(release);
    assert_eq!(stopping.await.unwrap().status, State::Stopped);
    plugins.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_blocks_every_thread_does_not_make_others_unhealthy() {
    let plugins = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let log = Log::default();
    let ms = Duration::from_millis;
    let config = ManagerConfig { health_check_interval: ms(10), health_check_timeout: ms(20), ..brisk() };
    let manager = builder().runtime(plugins.handle().clone()).config(config).build();
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = asked.clone();
    let good = Sample::new("good", &log).health(move || {
        asks.fetch_add(1, Ordering::SeqCst);
        Health::healthy()
    });
    good.add_with(&manager, with(RestartPolicy::OnFailure));
    manager.start_all().await.unwrap();
    let release = block_a_thread(&plugins).await;
    let unwell = || {
        let view = manager.get("good").unwrap();
        view.status != State::Running || !view.health.healthy
    };
    assert!(!manager.wait_until(ms(1500), unwell).await, "{:?}", manager.get("good"));
    drop(release);
    let before = asked.load(Ordering::SeqCst);
    let deadline = Instant::now() + PATIENCE;
    while asked.load(Ordering::SeqCst) == before {
        assert!(Instant::now() < deadline, "asked again once there is a thread");
        tokio::time::sleep(ms(5)).await;
    }
    plugins.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_fails_ends_as_failed_with_everything_withdrawn() {
    let log = Log::default();
    let manager = manager();
    for (name, how) in [("errs", 0), ("panics", 1), ("hangs", 2)] {
        Sample::new(name, &log)
            .may("service:provide:*")
            .starts(move |ctx| async move { Ok(ctx.provide::<str>(ctx.name().as_str(), Arc::from("x"))?) })
            .stops(move |_| async move {
                match how {
                    0 => Err(PluginError::new("still busy")),
                    1 => panic!("in stop"),
                    _ => std::future::pending().await,
                }
            })
            .add_to(&manager);
    }
    manager.start_all().await.unwrap();
    for (name, reason) in
        [("errs", "still busy"), ("panics", "panicked: in stop"), ("hangs", "deadline of 10s exceeded")]
    {
        manager.stop(name, Change::default()).await.unwrap_err();
        let view = manager.get(name).unwrap();
        assert_eq!((view.status, view.last_error.unwrap().message.as_str()), (State::Failed, reason));
        assert_eq!(view.next_restart_at, None, "stopped by order: it stays down");
    }
    assert!(manager.directory().services().is_empty());
}

#[tokio::test(start_paused = true)]
async fn backs_off_and_stops_at_a_crash_loop() {
    let log = Log::default();
    let manager = manager();
    Sample::new("bad", &log)
        .starts(|_| async { Err(PluginError::new("no")) })
        .add_with(&manager, with(RestartPolicy::OnFailure));
    let began = Instant::now();
    manager.start_all().await.unwrap();
    let waits = manager.get("bad").unwrap();
    assert!(waits.next_restart_at.is_some());
    assert_eq!(waits.restarts, 0, "counted once it is tried");
    let given_up = || {
        let view = manager.get("bad").unwrap();
        view.status == State::Failed && view.next_restart_at.is_none()
    };
    assert!(manager.wait_until(Duration::from_secs(120), given_up).await);
    // 0.5 + 1 + 2 + 4 + 8 s, each between half and all of it.
    let took = began.elapsed().as_secs_f64();
    assert!((7.7..15.6).contains(&took), "{took}");
    let view = manager.get("bad").unwrap();
    assert_eq!(view.restarts, 5);
    assert_eq!(log.count("start bad"), 6);
    let last = events(&manager, "bad").pop().unwrap();
    assert_eq!(last.data()["crash_loop"], true);
    assert_eq!(last.data()["reason"], "no");
    // By hand it gets another chance, and all of its attempts.
    manager.start("bad", Change::default()).await.unwrap_err();
    assert!(manager.get("bad").unwrap().next_restart_at.is_some());
    manager.stop("bad", Change::default()).await.unwrap();
    assert!(manager.get("bad").unwrap().next_restart_at.is_none(), "told not to try again");
    log.take();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(log.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn always_goes_on_for_ever() {
    let log = Log::default();
    let manager = manager();
    Sample::new("bad", &log)
        .starts(|_| async { Err(PluginError::new("no")) })
        .add_with(&manager, with(RestartPolicy::Always));
    manager.start_all().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(log.count("start bad") > 100, "{}", log.count("start bad"));
}

#[tokio::test(start_paused = true)]
async fn a_background_panic_fails_the_plugin_at_once_and_restarts_it() {
    let log = Log::default();
    let manager = manager();
    let first = Arc::new(AtomicBool::new(true));
    Sample::new("p", &log)
        .may("route:/")
        .starts(move |ctx| {
            let first = first.swap(false, Ordering::SeqCst);
            async move {
                ctx.route(Endpoint::get("/p"), |_: RouteRequest| async { Ok(Reply::text("p")) })?;
                ctx.spawn("worker", async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    assert!(!first, "lost my way");
                });
                Ok(())
            }
        })
        .add_with(&manager, with(RestartPolicy::OnFailure));
    Sample::new("user", &log).needs("p").add_to(&manager);
    manager.start_all().await.unwrap();
    let began = Instant::now();
    let reason = failed(&manager, "p").await;
    assert_eq!(reason, "task `worker` panicked: lost my way");
    assert_eq!(began.elapsed().as_secs(), 1, "not only at the next health check");
    let away = manager.directory().lookup(&Method::GET, "/p");
    assert!(matches!(away, Lookup::Unavailable { .. }), "{away:?}");
    assert!(manager.wait_ready(&["p"], PATIENCE).await);
    assert!(matches!(manager.directory().lookup(&Method::GET, "/p"), Lookup::Found(_)));
    assert_eq!(manager.registry().state("user"), State::Running, "nobody else notices");
    assert_eq!(log.count("start user"), 1);
    assert_eq!(manager.get("p").unwrap().restarts, 1);
}

#[tokio::test(start_paused = true)]
async fn routes_of_a_plugin_that_stays_failed_are_gone() {
    let log = Log::default();
    let manager = manager();
    let starts = Arc::new(AtomicUsize::new(0));
    Sample::new("p", &log)
        .may("route:/")
        .starts(move |ctx| {
            let start = starts.fetch_add(1, Ordering::SeqCst);
            async move {
                if start > 0 {
                    return Err(PluginError::new("never again"));
                }
                ctx.route(Endpoint::get("/p"), |_: RouteRequest| async { Ok(Reply::text("p")) })?;
                ctx.spawn("worker", async { panic!("at once") });
                Ok(())
            }
        })
        .add_with(&manager, with(RestartPolicy::OnFailure));
    manager.start_all().await.unwrap();
    failed(&manager, "p").await;
    assert!(matches!(manager.directory().lookup(&Method::GET, "/p"), Lookup::Unavailable { .. }));
    let given_up = || {
        let view = manager.get("p").unwrap();
        view.status == State::Failed && view.next_restart_at.is_none()
    };
    assert!(manager.wait_until(Duration::from_secs(120), given_up).await);
    assert!(matches!(manager.directory().lookup(&Method::GET, "/p"), Lookup::NotFound));
}

#[tokio::test(start_paused = true)]
async fn failed_checks_in_a_row_restart_and_single_ones_do_not() {
    let log = Log::default();
    let manager = manager();
    let bad = Arc::new(AtomicBool::new(false));
    let seen = bad.clone();
    Sample::new("p", &log)
        .health(
            move || if seen.load(Ordering::SeqCst) { Health::unhealthy("dizzy") } else { Health::healthy() },
        )
        .add_with(&manager, with(RestartPolicy::OnFailure));
    Sample::new("stays", &log).add_with(&manager, with(RestartPolicy::Never));
    manager.start_all().await.unwrap();
    bad.store(true, Ordering::SeqCst);
    let unhealthy = || !manager.get("p").unwrap().health.healthy;
    assert!(manager.wait_until(Duration::from_secs(40), unhealthy).await);
    assert!(!manager.get("p").unwrap().ready);
    assert_eq!(topics(&manager, "p").last().unwrap(), "plugin.health_check");
    bad.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(log.count("start p"), 1, "one bad check is not a failure");
    assert!(manager.get("p").unwrap().ready);
    bad.store(true, Ordering::SeqCst);
    let began = Instant::now();
    assert_eq!(failed(&manager, "p").await, "unhealthy in 3 checks: dizzy");
    let took = began.elapsed().as_secs();
    assert!((54..=100).contains(&took), "three intervals of 30 s, give or take a tenth: {took}");
    bad.store(false, Ordering::SeqCst);
    assert!(manager.wait_ready(&["p"], PATIENCE).await);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_holds_up_no_request() {
    let log = Log::default();
    let config = ManagerConfig { health_check_interval: Duration::from_secs(1), ..ManagerConfig::default() };
    let manager = builder().config(config).build();
    let hang = Arc::new(AtomicBool::new(false));
    struct Hangs(Sample, Arc<AtomicBool>);
    #[async_trait::async_trait]
    impl plugin_core::Plugin for Hangs {
        fn manifest(&self) -> plugin_core::Manifest {
            self.0.manifest.clone()
        }
        async fn health(&self) -> Health {
            if self.1.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Health::healthy()
        }
    }
    let plugin = Hangs(Sample::new("p", &log), hang.clone());
    let options = PluginOptions { restart: Some(never()), ..PluginOptions::default() };
    manager.register(Arc::new(plugin), options).unwrap();
    manager.start_all().await.unwrap();
    hang.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let began = Instant::now();
    manager.stop("p", Change::default()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "the check's deadline is 5 s");
    manager.start("p", Change::default()).await.unwrap_err();
}

/// Promise 4: after `stop` returns no new call reaches anything the plugin registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn promise_4_no_call_after_stop() {
    let log = Log::default();
    let manager = builder().config(brisk()).build();
    let stopped = Arc::new(AtomicBool::new(false));
    let late = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(AtomicUsize::new(0));
    let check = {
        let (stopped, late, calls) = (stopped.clone(), late.clone(), calls.clone());
        move || {
            calls.fetch_add(1, Ordering::SeqCst);
            if stopped.load(Ordering::SeqCst) {
                late.fetch_add(1, Ordering::SeqCst);
            }
        }
    };
    Sample::new("p", &log)
        .may("route:/")
        .may("event:subscribe:custom.**")
        .starts(move |ctx| {
            let (on_route, on_event) = (check.clone(), check.clone());
            async move {
                ctx.route(Endpoint::get("/p"), move |_: RouteRequest| {
                    on_route();
                    async { Ok(Reply::text("p")) }
                })?;
                ctx.subscribe("custom.**", SubscribeOptions::default(), move |_: event_bus::Event| {
                    on_event();
                    async { Ok(()) }
                })?;
                Ok(())
            }
        })
        .add_to(&manager);
    manager.start_all().await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (manager, done) = (manager.clone(), done.clone());
            tokio::task::spawn_blocking(move || {
                let handle = tokio::runtime::Handle::current();
                let topic = event_bus::Topic::new("custom.x").unwrap();
                while !done.load(Ordering::SeqCst) {
                    let _ = manager.host().bus.emit(&topic, serde_json::json!(1));
                    if let Lookup::Found(found) = manager.directory().lookup(&Method::GET, "/p") {
                        let (params, next, _guard) = found.into_parts();
                        let request = http::Request::get("/p").body(plugin_core::full_body("")).unwrap();
                        let _ = handle.block_on(next.run(RouteRequest::new(request, params)));
                    }
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let before = calls.load(Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while calls.load(Ordering::SeqCst) < before + 50 {
            assert!(Instant::now() < deadline, "no calls come in");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        manager.stop("p", Change::default()).await.unwrap();
        stopped.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(3)).await;
        stopped.store(false, Ordering::SeqCst);
        manager.start("p", Change::default()).await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(late.load(Ordering::SeqCst), 0);
}
