//! Leases, locks and elections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plugins_etcd::EtcdError;
use testkit::need;
use tokio::task::JoinSet;

use crate::{changes, client, soon};

/// Long enough not to end while a busy machine does something else.
const TTL: Duration = Duration::from_secs(20);

#[tokio::test]
async fn keys_go_with_their_lease() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let mut watch = etcd.watch_prefix("l/").await.unwrap();
    let lease = etcd.lease(Duration::from_secs(2)).await.unwrap();
    etcd.put_leased("l/kept", "x", lease.id()).await.unwrap();
    assert_eq!(changes(&mut watch).await, ["l/kept=x"]);
    // It is kept past its time: a key that is not kept goes first.
    let other = etcd.grant(lease.ttl() * 2).await.unwrap();
    etcd.put_leased("l/left", "x", other.id).await.unwrap();
    assert_eq!(changes(&mut watch).await, ["l/left=x"]);
    assert_eq!(changes(&mut watch).await, ["l/left"]);
    assert!(matches!(etcd.keep_alive(other.id).await, Err(EtcdError::LeaseEnded)));
    assert!(matches!(etcd.put_leased("l/x", "x", other.id).await, Err(EtcdError::LeaseEnded)));
    assert!(!lease.ended().is_cancelled());
    lease.end().await;
    assert!(etcd.get("l/kept").await.unwrap().is_none());
    etcd.revoke(other.id).await.unwrap();

    // Dropped without a word.
    let lease = etcd.lease(TTL).await.unwrap();
    etcd.put_leased("l/dropped", "x", lease.id()).await.unwrap();
    drop(lease);
    while changes(&mut watch).await != ["l/dropped"] {}
}

#[tokio::test]
async fn a_lease_that_cannot_be_kept_is_over_for_its_holder_before_it_is_for_others() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let lease = etcd.lease(Duration::from_secs(2)).await.unwrap();
    servers.members()[0].pause().unwrap();
    soon("its end", lease.ended().cancelled()).await;
    servers.members()[0].resume().unwrap();
}

#[tokio::test]
async fn a_lock_has_one_holder_at_a_time_and_tokens_grow() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let (inside, total) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..6 {
        let (etcd, inside, total) = (etcd.clone(), inside.clone(), total.clone());
        workers.spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..4 {
                let held = etcd.lock("door", TTL).await.unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two inside");
                held.put("state/door", held.token().to_string()).await.unwrap();
                total.fetch_add(1, Ordering::SeqCst);
                tokens.push(held.token());
                inside.fetch_sub(1, Ordering::SeqCst);
                held.release().await;
            }
            tokens
        });
    }
    let tokens = soon("all workers", workers.join_all()).await;
    assert!(tokens.iter().all(|tokens| tokens.is_sorted()));
    let mut all: Vec<i64> = tokens.concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), total.load(Ordering::SeqCst)), (24, 24));
    let last = etcd.get("state/door").await.unwrap().unwrap();
    assert_eq!(last.value_str().unwrap(), all.last().unwrap().to_string());
}

#[tokio::test]
async fn who_has_lost_a_lock_is_fenced_off() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let held = etcd.lock("door", TTL).await.unwrap();
    assert!(etcd.try_lock("door", TTL).await.unwrap().is_none());
    assert!(etcd.try_lock("window", TTL).await.unwrap().is_some());
    held.put("guarded", "mine").await.unwrap();
    // Its lease is ended behind its back, as time would.
    let key = etcd.list("/gantry/locks/door/").await.unwrap().items.remove(0);
    etcd.revoke(key.lease()).await.unwrap();
    let next = soon("the next holder", etcd.lock("door", TTL)).await.unwrap();
    assert!(next.token() > held.token());
    next.put("guarded", "theirs").await.unwrap();
    assert!(matches!(held.put("guarded", "mine again").await, Err(EtcdError::LeaseEnded)));
    assert_eq!(etcd.get("guarded").await.unwrap().unwrap().value(), b"theirs");
    soon("to be told", held.lost().cancelled()).await;
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_the_line() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let held = etcd.lock("door", TTL).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(500), etcd.lock("door", TTL)).await;
    assert!(waited.is_err());
    held.release().await;
    soon("the lock", etcd.lock("door", TTL)).await.unwrap();
}

#[tokio::test]
async fn an_election_has_one_leader_and_all_see_who() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let election = etcd.election("chief");
    let mut observer = election.observe().await.unwrap();
    assert!(soon("nobody", observer.next()).await.unwrap().is_none());
    let first = election.campaign("one", TTL).await.unwrap();
    let seen = soon("the first", observer.next()).await.unwrap().unwrap();
    assert_eq!((&seen.value[..], seen.token), (&b"one"[..], first.token()));
    let second = {
        let election = election.clone();
        tokio::spawn(async move { election.campaign("two", TTL).await.unwrap() })
    };
    election.proclaim(&first, "one!").await.unwrap();
    assert_eq!(soon("the first's word", observer.next()).await.unwrap().unwrap().value, b"one!");
    first.release().await;
    let second = soon("the second", second).await.unwrap();
    let seen = loop {
        match soon("the second", observer.next()).await.unwrap() {
            Some(leader) if leader.value == b"two" => break leader,
            _ => {}
        }
    };
    assert!(seen.token == second.token() && election.leader().await.unwrap() == Some(seen));
}
