//! Locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use plugins_redis::Locks;
use testkit::{Redis, RedisCluster, need, until};

use crate::support::{PATIENCE, config, connect};

/// So long that nothing expires while a test runs.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn one_holds_it_and_each_has_a_greater_token() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let locks = Locks::new(redis.clone(), "test:");
    let first = locks.try_acquire("a", LONG).await.unwrap().unwrap();
    assert!(first.is_held());
    assert!(locks.try_acquire("a", LONG).await.unwrap().is_none());
    assert!(locks.acquire("a", LONG, Duration::from_millis(30)).await.unwrap().is_none());
    assert!(locks.try_acquire("b", LONG).await.unwrap().is_some(), "another name is another lock");
    let token = first.fencing_token();
    assert!(first.release().await.unwrap());
    let second = locks.acquire("a", LONG, PATIENCE).await.unwrap().unwrap();
    assert!(second.fencing_token() > token);
    // The last token is far ahead of the clock: the next is greater still.
    server.ask(&["SET", "{lock:test:c}:fence", "9000000000000000"]).await.unwrap();
    let ahead = locks.try_acquire("c", LONG).await.unwrap().unwrap();
    assert_eq!(ahead.fencing_token(), 9_000_000_000_000_001);
    redis.close().await;
}

/// Names that would be read as something else in a cluster's keys, too.
#[tokio::test]
async fn counters_under_a_lock_lose_nothing_in_a_cluster() {
    let cluster = need!(RedisCluster::start());
    let redis = connect(&config(&cluster.addresses().join(","))).await;
    for name in ["", "}", "{}", "a{b}c"] {
        let locks = Locks::new(redis.clone(), "");
        let (inside, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        join_all((0..8).map(|_| async {
            for _ in 0..5 {
                let lock = locks.acquire(name, LONG, PATIENCE).await.unwrap().unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two are inside");
                assert!(last.swap(lock.fencing_token(), Ordering::SeqCst) < lock.fencing_token());
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
                assert!(lock.release().await.unwrap());
            }
        }))
        .await;
    }
    redis.close().await;
}

#[tokio::test]
async fn is_renewed_while_it_lives_and_ends_after() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let locks = Locks::new(redis.clone(), "test:");
    let ttl = Duration::from_secs(12);
    let lock = locks.try_acquire("a", ttl).await.unwrap().unwrap();
    let mut before = u64::MAX;
    until("a renewal", PATIENCE, async || {
        let left = server.ask(&["PTTL", "{lock:test:a}"]).await.unwrap().to_string().parse::<u64>().unwrap();
        let renewed = left > before;
        before = left;
        if renewed { Ok(()) } else { Err(format!("{left} ms are left")) }
    })
    .await
    .unwrap();
    assert!(lock.is_held());
    drop(lock);
    assert!(locks.acquire("a", LONG, PATIENCE).await.unwrap().is_some());
    redis.close().await;
}

#[tokio::test]
async fn who_has_lost_it_is_told() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let locks = Locks::new(redis.clone(), "test:");
    let ttl = Duration::from_millis(600);
    // Taken away, and by a server that is away.
    let lock = locks.try_acquire("a", ttl).await.unwrap().unwrap();
    server.ask(&["SET", "{lock:test:a}", "somebody else"]).await.unwrap();
    tokio::time::timeout(PATIENCE, lock.lost()).await.unwrap();
    assert!(!lock.is_held());
    assert!(!lock.release().await.unwrap());
    assert_eq!(server.ask(&["GET", "{lock:test:a}"]).await.unwrap().text(), Some("somebody else"));
    let lock = locks.try_acquire("b", ttl).await.unwrap().unwrap();
    server.server().kill().await.unwrap();
    tokio::time::timeout(PATIENCE, lock.lost()).await.unwrap();
    assert!(!lock.is_held());
    redis.close().await;
}
