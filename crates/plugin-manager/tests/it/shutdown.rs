use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use plugin_core::State;
use plugin_manager::{Change, ManagerError};
use tokio::time::Instant;

use crate::bench::{Log, Sample, brisk, builder, manager};

/// Promise 7: shutdown ends within its deadline, and what it could not finish is named.
#[tokio::test(start_paused = true)]
async fn promise_7_a_chain_that_hangs_ends_within_the_deadline() {
    let log = Log::default();
    let manager = manager();
    for i in 0..6 {
        let mut plugin = Sample::new(&format!("p{i}"), &log);
        if i > 0 {
            plugin = plugin.needs(&format!("p{}", i - 1));
        }
        // All but the first hang, and that one wants its time.
        plugin = if i > 0 {
            plugin.stops(|_| std::future::pending())
        } else {
            plugin.stops(|_| async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            })
        };
        plugin.add_to(&manager);
    }
    Sample::new("aside", &log).add_to(&manager);
    manager.start_all().await.unwrap();
    let began = Instant::now();
    let report = manager.stop_all(Duration::from_secs(12)).await;
    assert!(began.elapsed() <= Duration::from_secs(12), "{:?}", began.elapsed());
    // Each got its turn, the last of the chain as well.
    let stopped: Vec<_> = report.stopped.iter().map(|name| name.as_str()).collect();
    assert_eq!(stopped, ["aside", "p0"], "{report:?}");
    assert_eq!(report.failed.len() + report.unfinished.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn promise_7_an_operation_under_way_does_not_hold_it_up() {
    let log = Log::default();
    let manager = manager();
    let routed = Sample::new("hangs", &log).may("service:provide:x").stops(|_| std::future::pending());
    routed
        .starts(|ctx| async move {
            ctx.provide::<str>("x", Arc::from("x"))?;
            Ok(())
        })
        .add_to(&manager);
    manager.start_all().await.unwrap();
    let stopping = manager.stop("hangs", Change::default());
    tokio::pin!(stopping);
    assert!(futures_util::poll!(&mut stopping).is_pending());
    let is_stopping = || manager.registry().state("hangs") == State::Stopping;
    assert!(manager.wait_until(Duration::from_secs(1), is_stopping).await);
    let began = Instant::now();
    let report = manager.stop_all(Duration::from_secs(2)).await;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(report.unfinished.len(), 1, "{report:?}");
    assert!(manager.directory().services().is_empty(), "nobody gets in any more");
    let last = manager.host().bus.history(&event_bus::HistoryFilter::new()).pop().unwrap();
    assert_eq!((last.topic().as_str(), &last.data()["unfinished"][0]), ("system.stopped", &"hangs".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promise_7_blocked_threads_do_not_hold_it_up() {
    let log = Log::default();
    let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let manager = builder().config(brisk()).control(control.handle().clone()).build();
    let mut gates = Vec::new();
    for name in ["a", "b", "c"] {
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        gates.push(release);
        Sample::new(name, &log)
            .stops(move |_| {
                let gate = gate.clone();
                async move {
                    let _ = gate.lock().unwrap().recv();
                    Ok(())
                }
            })
            .add_to(&manager);
    }
    Sample::new("good", &log).add_to(&manager);
    manager.start_all().await.unwrap();
    let began = Instant::now();
    let report = manager.stop_all(Duration::from_millis(600)).await;
    let took = began.elapsed();
    assert!(took <= Duration::from_millis(900), "{took:?}");
    assert_eq!(report.stopped.len(), 1, "{report:?}");
    assert_eq!(report.failed.len() + report.unfinished.len(), 3, "{report:?}");
    drop(gates);
    control.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn a_start_under_way_is_not_waited_for() {
    let log = Log::default();
    let manager = manager();
    Sample::new("slow", &log)
        .starts(|_| async {
            tokio::time::sleep(Duration::from_secs(50)).await;
            Ok(())
        })
        .add_to(&manager);
    let starting = manager.start_all();
    tokio::pin!(starting);
    assert!(futures_util::poll!(&mut starting).is_pending());
    assert!(
        manager
            .wait_until(Duration::from_secs(5), || manager.registry().state("slow") == State::Starting)
            .await
    );
    let began = Instant::now();
    let report = manager.stop_all(Duration::from_secs(30)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(report.is_clean(), "{report:?}");
    let view = manager.get("slow").unwrap();
    assert_eq!(view.status, State::Failed);
    assert_eq!(view.last_error.unwrap().message, "the host is shutting down");
    assert_eq!(starting.await.unwrap().failed.len(), 1);
    assert!(matches!(manager.restart("slow", Change::default()).await, Err(ManagerError::ShuttingDown)));
}

#[tokio::test(start_paused = true)]
async fn promise_7_a_plugin_with_a_full_line_of_requests_is_stopped_in_its_turn() {
    let log = Log::default();
    let manager = manager();
    let slow = |_| async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        Ok(())
    };
    Sample::new("busy", &log).starts(slow).add_to(&manager);
    let many = (0..100).map(|_| manager.start("busy", Change::default()));
    let many = futures_util::future::join_all(many);
    tokio::pin!(many);
    assert!(futures_util::poll!(&mut many).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = manager.stop_all(Duration::from_secs(30)).await;
    assert!(report.is_clean(), "{report:?}");
    let answers = many.await;
    assert!(answers.iter().any(|answer| matches!(answer, Err(ManagerError::Busy(_)))), "the line was full");
}
