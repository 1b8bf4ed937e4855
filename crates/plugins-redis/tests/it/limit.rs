//! Rate limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use plugins_redis::{RedisConfig, RedisRateLimitStore, SlidingWindow};
use testkit::{Redis, RedisCluster, need};

use crate::support::{config, connect};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn buckets_pass_the_contract_of_the_port() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let stores = AtomicU64::new(0);
    management::rate_limit_contract::run(|| {
        let prefix = format!("limit:{}:", stores.fetch_add(1, Ordering::Relaxed));
        std::future::ready(RedisRateLimitStore::new(redis.clone(), prefix))
    })
    .await;
    redis.close().await;
}

#[tokio::test]
async fn buckets_pass_the_contract_of_the_port_in_a_cluster() {
    let cluster = need!(RedisCluster::start());
    let redis = connect(&config(&cluster.addresses().join(","))).await;
    let stores = AtomicU64::new(0);
    management::rate_limit_contract::run(|| {
        let prefix = format!("limit:{}:", stores.fetch_add(1, Ordering::Relaxed));
        std::future::ready(RedisRateLimitStore::new(redis.clone(), prefix))
    })
    .await;
    redis.close().await;
}

#[tokio::test]
async fn a_bucket_takes_no_memory_once_it_is_full() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let store = RedisRateLimitStore::new(redis.clone(), "limit:");
    let rate = management::Rate::new(5, Duration::from_secs(10)).unwrap();
    management::RateLimitStore::take(&store, "k", rate).await.unwrap();
    let left: u64 = server.ask(&["PTTL", "limit:k"]).await.unwrap().to_string().parse().unwrap();
    assert!(left <= 10_000, "{left}");
    redis.close().await;
    let hasty = RedisConfig { command_timeout: Duration::from_millis(300), ..config(server.address()) };
    server.server().kill().await.unwrap();
    let redis = plugins_redis::Redis::connect(&hasty).unwrap();
    let store = RedisRateLimitStore::new(redis.clone(), "limit:");
    let error = management::RateLimitStore::take(&store, "k", rate).await.unwrap_err();
    assert!(error.to_string().starts_with("rate limits are unavailable"), "{error}");
    redis.close().await;
}

#[tokio::test]
async fn a_window_lets_its_limit_through_whoever_asks() {
    let server = need!(Redis::start());
    let one = connect(&config(server.address())).await;
    let other = connect(&config(server.address())).await;
    let windows = [&one, &other].map(|redis| SlidingWindow::new(redis.clone(), "window:", 20, HOUR));
    let asked = (0..60).map(|n| windows[n % 2].take("k"));
    let decisions: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
    let mut left: Vec<_> = decisions.iter().filter(|d| d.allowed).map(|d| d.remaining).collect();
    left.sort_unstable();
    assert_eq!(left, (0..20).collect::<Vec<_>>());
    for refused in decisions.iter().filter(|d| !d.allowed) {
        assert!(
            refused.remaining == 0 && refused.retry_after > Duration::ZERO && refused.retry_after <= HOUR * 2
        );
    }
    assert!(windows[0].take("another").await.unwrap().allowed);
    one.close().await;
    other.close().await;
}

/// In no span as long as the window more pass than twice what a fixed window would let through at its edge, and
/// who waits as long as it is told passes.
#[tokio::test]
async fn a_window_slides() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let length = Duration::from_millis(200);
    let window = SlidingWindow::new(redis.clone(), "window:", 10, length);
    let begun = Instant::now();
    let mut passed = 0_u32;
    let mut told = 0_u32;
    while passed < 60 {
        let decision = window.take("k").await.unwrap();
        passed += u32::from(decision.allowed);
        if !decision.allowed {
            told += 1;
            assert!(decision.retry_after <= length * 2, "{decision:?}");
            tokio::time::sleep(decision.retry_after).await;
        }
        assert!(begun.elapsed() < crate::support::PATIENCE);
    }
    // 10 at once, and 10 in each 200 ms that follow, as estimated from the window before.
    assert!(begun.elapsed() >= length * 4, "{passed} in {:?}", begun.elapsed());
    assert!(told > 0);
    redis.close().await;
}
