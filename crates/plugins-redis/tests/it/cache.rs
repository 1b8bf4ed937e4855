//! Cache-aside.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use plugins_redis::{Cache, CacheError, CacheOptions};
use testkit::{Redis, need};
use tokio::sync::Notify;

use crate::support::{config, connect};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn is_computed_once_and_stored_with_jitter() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let cache = Cache::new(redis.clone(), CacheOptions::new("prices:", HOUR));
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = |answer: &'static str| {
        let loads = loads.clone();
        move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(answer.to_owned())
        }
    };
    for _ in 0..3 {
        assert_eq!(cache.get_or_load::<String, _, _, _>("a", counted("one")).await.unwrap(), "one");
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(server.ask(&["GET", "prices:a"]).await.unwrap().text(), Some("\"one\""));
    cache.remove("a").await.unwrap();
    assert_eq!(cache.get_or_load::<String, _, _, _>("a", counted("two")).await.unwrap(), "two");

    let mut expiries = HashSet::new();
    for n in 0..10 {
        cache.get_or_load::<String, _, _, _>(&n.to_string(), counted("x")).await.unwrap();
        let left = server.ask(&["PTTL", &format!("prices:{n}")]).await.unwrap().to_string();
        let left: u64 = left.parse().unwrap();
        assert!((3_200_000..=3_600_000).contains(&left), "{left}");
        expiries.insert(left / 1000);
    }
    assert!(expiries.len() > 1, "all expire together: {expiries:?}");
    redis.close().await;
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_computation() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let cache = Cache::new(redis.clone(), CacheOptions::new("flight:", HOUR));
    let (loads, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let ask = || {
        let (loads, go) = (loads.clone(), go.clone());
        cache.get_or_load::<usize, _, _, _>("k", move || async move {
            let nth = loads.fetch_add(1, Ordering::SeqCst);
            go.notified().await;
            Ok::<_, std::io::Error>(nth)
        })
    };
    // The first who asks goes away, and the others get their answer all the same.
    let mut first = Box::pin(ask());
    let waiting = tokio::time::timeout(Duration::from_millis(50), &mut first).await;
    assert!(waiting.is_err());
    let others: Vec<_> = (0..100).map(|_| ask()).collect();
    let all = async {
        let mut others = join_all(others);
        let polled = tokio::time::timeout(Duration::from_millis(20), &mut others).await;
        assert!(polled.is_err());
        drop(first);
        go.notify_one();
        others.await
    };
    let answers = all.await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == 0));
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    redis.close().await;
}

#[tokio::test]
async fn failures_are_told_to_all_and_kept_from_nobody_else() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let cache = Cache::new(redis.clone(), CacheOptions::new("fails:", HOUR));
    let failing = || cache.get_or_load::<u32, _, _, _>("k", || async { Err("no such price") });
    let (one, two) = tokio::join!(failing(), failing());
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(
            matches!(&error, CacheError::Load(cause) if cause.to_string() == "no such price"),
            "{error:?}"
        );
    }
    let panics = || async { if true { panic!("on purpose") } else { Ok::<u32, std::io::Error>(1) } };
    assert!(matches!(cache.get_or_load("k", panics).await, Err(CacheError::Panicked(_))));
    let fine = || async { Ok::<u32, std::io::Error>(7) };
    assert_eq!(cache.get_or_load("k", fine).await.unwrap(), 7);
    let other_type = cache.get_or_load::<Vec<u8>, _, _, _>("k", || async { Ok::<_, std::io::Error>(vec![]) });
    assert!(matches!(other_type.await, Err(CacheError::Type(_))));
    redis.close().await;
}

#[tokio::test]
async fn a_redis_that_is_away_or_stands_still_costs_the_cache_and_nothing_else() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let cache = Cache::new(redis.clone(), CacheOptions::new("away:", HOUR));
    let ask = |key: &'static str| cache.get_or_load(key, || async { Ok::<u32, std::io::Error>(7) });
    server.server().pause().unwrap();
    assert_eq!(ask("paused").await.unwrap(), 7);
    server.server().resume().unwrap();
    server.server().kill().await.unwrap();
    assert_eq!(ask("killed").await.unwrap(), 7);
    redis.close().await;
}
