use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use plugin_core::{
    Endpoint, Health, PluginContext, PluginError, Reply, RouteRequest, State, SwapMode, full_body,
};
use plugin_manager::{Change, ManagerConfig, ManagerError, PluginManager, SwapRequest};
use registry::Lookup;
use tokio::time::Instant;

use crate::bench::{Log, Sample, brisk, builder, manager, topics};

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers `GET /p` with its version, after as long as `takes`.
fn answering(log: &Log, version: &'static str, takes: Duration) -> Sample {
    Sample::new("p", log).version(version).may("route:/").starts(move |ctx| serve(ctx, version, takes))
}

async fn serve(ctx: PluginContext, version: &'static str, takes: Duration) -> Result<(), PluginError> {
    ctx.route(Endpoint::get("/p"), move |_: RouteRequest| async move {
        tokio::time::sleep(takes).await;
        Ok(Reply::text(version))
    })?;
    Ok(())
}

async fn get(manager: &PluginManager) -> Result<String, String> {
    match manager.directory().route(&Method::GET, "/p").await {
        Lookup::Found(found) => {
            let version = found.live().version().to_string();
            let (params, next, _guard) = found.into_parts();
            let request = http::Request::get("/p").body(full_body("")).unwrap();
            next.run(RouteRequest::new(request, params))
                .await
                .map(|_| version)
                .map_err(|error| error.to_string())
        }
        other => Err(format!("{other:?}")),
    }
}

async fn swap(manager: &PluginManager, plugin: Sample) -> Result<(), ManagerError> {
    manager.swap_with("p", Arc::new(plugin), SwapRequest::default()).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_swap_puts_the_new_version_in_place_and_sees_the_old_one_out() {
    let log = Log::default();
    let manager = manager();
    answering(&log, "1.0.0", Duration::from_secs(3)).add_to(&manager);
    manager.start_all().await.unwrap();
    let under_way = get(&manager);
    tokio::pin!(under_way);
    assert!(futures_util::poll!(&mut under_way).is_pending());
    log.take();
    let since = manager.get("p").unwrap().since;
    let v2 = answering(&log, "2.0.0", Duration::ZERO).starts(|ctx| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        serve(ctx, "2.0.0", Duration::ZERO).await
    });
    let (answered, swapped) = tokio::join!(under_way, swap(&manager, v2));
    swapped.unwrap();
    assert_eq!(answered.unwrap(), "1.0.0", "what was inside was waited for");
    assert_eq!(get(&manager).await.unwrap(), "2.0.0");
    assert_eq!(log.take(), ["initialize p", "start p", "stop p", "destroy p"]);
    let view = manager.get("p").unwrap();
    assert_eq!((view.version.as_str(), view.status), ("2.0.0", State::Running));
    assert!(view.since > since, "it runs since the swap");
    assert_eq!(view.startup_duration.unwrap().to_string(), "2s");
    assert_eq!(topics(&manager, "p").last().unwrap(), "plugin.swapped");
    assert!(manager.stop_all(Duration::from_secs(5)).await.is_clean());
}

/// Promise 6: whatever fails before the new version takes over, the old one goes on.
#[tokio::test(start_paused = true)]
async fn promise_6_a_failed_swap_leaves_the_old_version_running() {
    let log = Log::default();
    let manager = manager();
    answering(&log, "1.0.0", Duration::ZERO).add_to(&manager);
    Sample::new("user", &log).needs("p").add_to(&manager);
    manager.start_all().await.unwrap();
    let v2 = || answering(&log, "2.0.0", Duration::ZERO);
    let failing = [
        v2().starts(|_| async { Err(PluginError::new("no luck")) }),
        v2().starts(|_| async { panic!("oh no") }),
        v2().starts(|_| std::future::pending()),
        v2().health(|| Health::unhealthy("weak")),
        v2().health(|| Health::not_ready("server away")),
        v2().starts(|ctx| async move {
            ctx.route(Endpoint::get("/p/{"), |_: RouteRequest| async { Ok("") })?;
            Ok(())
        }),
        v2().needs("nobody"),
        v2().needs("user"),
    ];
    for plugin in failing {
        let error = swap(&manager, plugin).await.unwrap_err();
        let refused = matches!(error, ManagerError::SwapFailed { .. } | ManagerError::SwapRefused { .. });
        assert!(refused, "{error}");
        assert_eq!(get(&manager).await.unwrap(), "1.0.0", "after {error}");
        let view = manager.get("p").unwrap();
        assert_eq!((view.status, view.version.as_str(), view.ready), (State::Running, "1.0.0", true));
    }
    swap(&manager, v2()).await.unwrap();
    assert_eq!(get(&manager).await.unwrap(), "2.0.0");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_dependents_cannot_use_is_refused() {
    let log = Log::default();
    let manager = manager();
    answering(&log, "1.0.0", Duration::ZERO).add_to(&manager);
    let mut user = Sample::new("user", &log);
    user.manifest = user.manifest.depends_on("p", "^1").unwrap();
    user.add_to(&manager);
    manager.start_all().await.unwrap();
    let error = swap(&manager, answering(&log, "2.0.0", Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.to_string(), "swap plugin `p`: plugin `user` needs `p` ^1, and 2.0.0 is there");
    swap(&manager, answering(&log, "1.1.0", Duration::ZERO)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_takes_away_a_service_in_use_is_refused() {
    let log = Log::default();
    let manager = manager();
    let with_service = |version| {
        Sample::new("p", &log)
            .version(version)
            .may("service:provide:x")
            .starts(|ctx| async move { Ok(ctx.provide::<str>("x", Arc::from("x"))?) })
    };
    with_service("1.0.0").add_to(&manager);
    Sample::new("user", &log)
        .needs("p")
        .may("service:use:x")
        .starts(|ctx| async move {
            let x = ctx.service::<str>("x")?;
            ctx.own(x);
            Ok(())
        })
        .add_to(&manager);
    manager.start_all().await.unwrap();
    let error = swap(&manager, Sample::new("p", &log).version("2.0.0")).await.unwrap_err();
    assert!(error.to_string().contains("service `x` is in use by `user`"), "{error}");
    assert_eq!(manager.get("p").unwrap().services[0].users.len(), 1);
    swap(&manager, with_service("2.0.0")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_plugin_at_rest_is_replaced_where_it_is() {
    let log = Log::default();
    let config = ManagerConfig { hot_swap: false, ..ManagerConfig::default() };
    let manager = builder().config(config).build();
    answering(&log, "1.0.0", Duration::ZERO).add_to(&manager);
    swap(&manager, answering(&log, "1.5.0", Duration::ZERO)).await.unwrap();
    assert_eq!(manager.get("p").unwrap().status, State::Registered);
    manager.start_all().await.unwrap();
    assert_eq!(get(&manager).await.unwrap(), "1.5.0");
    let error = swap(&manager, answering(&log, "2.0.0", Duration::ZERO)).await.unwrap_err();
    assert!(error.to_string().contains("switched off"), "{error}");
}

fn exclusive(mut plugin: Sample) -> Sample {
    plugin.manifest.swap = SwapMode::Exclusive;
    plugin
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_swap_stops_the_old_version_first_and_requests_wait() {
    let log = Log::default();
    let manager = manager();
    exclusive(answering(&log, "1.0.0", Duration::ZERO)).add_to(&manager);
    manager.start_all().await.unwrap();
    log.take();
    let v2 = exclusive(answering(&log, "2.0.0", Duration::ZERO)).starts(|ctx| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        serve(ctx, "2.0.0", Duration::ZERO).await
    });
    let began = Instant::now();
    let asks = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(manager.registry().state("p"), State::Starting);
        get(&manager).await
    };
    let (swapped, answered) = tokio::join!(swap(&manager, v2), asks);
    swapped.unwrap();
    assert_eq!(answered.unwrap(), "2.0.0", "it waited, and did not fail");
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(log.take(), ["stop p", "initialize p", "start p", "destroy p"]);
}

/// Promise 6, where the old version had to make room.
#[tokio::test(start_paused = true)]
async fn promise_6_a_failed_exclusive_swap_brings_the_old_version_back() {
    let log = Log::default();
    let manager = manager();
    exclusive(answering(&log, "1.0.0", Duration::ZERO)).add_to(&manager);
    manager.start_all().await.unwrap();
    log.take();
    let v2 = exclusive(answering(&log, "2.0.0", Duration::ZERO)).starts(|_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err(PluginError::new("no luck"))
    });
    let asks = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        get(&manager).await
    };
    let (swapped, answered) = tokio::join!(swap(&manager, v2), asks);
    assert_eq!(swapped.unwrap_err().to_string(), "swap plugin `p`: start plugin `p`: no luck");
    assert_eq!(answered.unwrap(), "1.0.0");
    let view = manager.get("p").unwrap();
    assert_eq!((view.status, view.version.as_str()), (State::Running, "1.0.0"));
    let refused = ["stop p", "initialize p", "start p", "destroy p"];
    let back = ["initialize p", "start p"];
    assert_eq!(log.take(), [&refused[..], &back[..]].concat());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(manager.get("p").unwrap().restarts, 0, "nothing is left to be restarted");
}

/// Promise 6 under load: not one request fails while versions follow each other, good ones and bad.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn promise_6_no_request_fails_because_of_a_swap() {
    let log = Log::default();
    let manager = builder().config(brisk()).build();
    answering(&log, "1.0.0", Duration::ZERO).add_to(&manager);
    manager.start_all().await.unwrap();
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (manager, done, answered) = (manager.clone(), done.clone(), answered.clone());
            tokio::task::spawn_blocking(move || {
                let handle = tokio::runtime::Handle::current();
                while !done.load(Ordering::SeqCst) {
                    handle.block_on(get(&manager))?;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                Ok::<(), String>(())
            })
        })
        .collect();
    for round in 0..30 {
        let before = answered.load(Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while answered.load(Ordering::SeqCst) < before + 20 && load.iter().all(|task| !task.is_finished()) {
            assert!(Instant::now() < deadline, "no answers");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let next = answering(&log, if round % 2 == 0 { "2.0.0" } else { "1.0.0" }, Duration::ZERO);
        match round % 5 {
            3 => drop(swap(&manager, next.health(|| Health::unhealthy("weak"))).await.unwrap_err()),
            4 => swap(&manager, exclusive(next)).await.unwrap(),
            _ => swap(&manager, next).await.unwrap(),
        }
    }
    done.store(true, Ordering::SeqCst);
    for task in load {
        task.await.unwrap().unwrap();
    }
    assert_eq!(manager.stop("p", Change::default()).await.unwrap().status, State::Stopped);
}
