//! The contract suites of the ports that etcd fills.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plugins_etcd::{EtcdCoordinator, EtcdDiscovery};
use registry::discovery_contract::{self as contract, Subject};
use scheduler::{Coordinator as _, CoordinatorError};
use testkit::need;

use crate::{PATIENCE, client, soon};

/// Long enough not to end while a busy machine does something else.
const TTL: Duration = Duration::from_secs(20);

#[tokio::test]
async fn discovery_keeps_its_contract() {
    let servers = need!(testkit::Etcd::provide());
    let subject = Subject {
        discovery: Arc::new(EtcdDiscovery::new(client(&servers))),
        // The least that etcd grants, whatever is asked for.
        ttl: Duration::from_secs(2),
        patience: PATIENCE,
        prefix: format!("contract-{}/", std::process::id()),
    };
    contract::all(&subject).await;
}

#[tokio::test]
async fn a_coordinator_keeps_its_contract() {
    let servers = need!(testkit::Etcd::provide());
    let (etcd, clusters) = (client(&servers), AtomicU64::new(0));
    scheduler::coordinator::contract::run(|| async {
        let name = format!("{}-{}", std::process::id(), clusters.fetch_add(1, Ordering::SeqCst));
        EtcdCoordinator::new(etcd.clone(), &name, 16, TTL)
    })
    .await;
}

#[tokio::test]
async fn a_member_that_dies_is_succeeded_and_one_that_hangs_is_told() {
    let servers = need!(testkit::Etcd::builder().members(1).linked().start());
    let etcd = client(&servers);
    let cluster = EtcdCoordinator::new(etcd.clone(), "c", 8, TTL);
    let mut a = cluster.join("a").await.unwrap();
    let first = soon("all shards", a.assignment()).await.unwrap();
    assert_eq!(first.grants.len(), 8);
    // Its lease ends behind its back, as time would end it.
    let member = etcd.list("/gantry/clusters/c/members/").await.unwrap().items.remove(0);
    etcd.revoke(member.lease()).await.unwrap();
    assert_eq!(soon("the loss", a.assignment()).await, Err(CoordinatorError::Lost));
    // Under the same name, and with greater epochs.
    let mut again = soon("the name", cluster.join("a")).await.unwrap();
    let second = soon("all shards", again.assignment()).await.unwrap();
    for (before, now) in first.grants.iter().zip(&second.grants) {
        assert!(now.shard == before.shard && now.epoch > before.epoch);
    }
    drop(a);
    // Dropped without a word: another one takes over all of it.
    let mut b = cluster.join("b").await.unwrap();
    drop(again);
    let alone = async {
        loop {
            let assignment = b.assignment().await.unwrap();
            if assignment.members == ["b"] && assignment.grants.len() == 8 {
                return assignment;
            }
        }
    };
    let third = soon("all shards", alone).await;
    assert!(third.grants.iter().zip(&second.grants).all(|(now, before)| now.epoch > before.epoch));
    b.leave().await;
    assert!(etcd.list("/gantry/clusters/c/members/").await.unwrap().items.is_empty());
}
