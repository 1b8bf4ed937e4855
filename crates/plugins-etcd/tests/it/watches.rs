//! Watches: nothing lost, nothing twice, whatever happens to the member.

use std::time::Duration;

use plugins_etcd::{EtcdConfig, Seen};
use testkit::{need, until};

use crate::{PATIENCE, changes, client, soon};

#[tokio::test]
async fn changes_come_in_order_and_once() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    etcd.put("w/before", "0").await.unwrap();
    let mut all = etcd.watch_prefix("w/").await.unwrap();
    let mut one = etcd.watch("w/1").await.unwrap();
    etcd.put("w/1", "a").await.unwrap();
    etcd.put("other", "x").await.unwrap();
    etcd.put("w/2", "b").await.unwrap();
    etcd.delete("w/1").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(changes(&mut all).await);
    }
    assert_eq!(seen, ["w/1=a", "w/2=b", "w/1"]);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(changes(&mut one).await);
    }
    assert_eq!(seen, ["w/1=a", "w/1"]);

    // What there is, and then what comes.
    let mut follow = etcd.follow("w/").await.unwrap();
    assert_eq!(
        changes(&mut follow).await,
        ["state w/2=b", "state w/before=0"][..].iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    );
    etcd.put("w/3", "c").await.unwrap();
    assert_eq!(changes(&mut follow).await, ["w/3=c"]);
}

#[tokio::test]
async fn a_watch_goes_on_after_its_server_was_gone() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let mut watch = etcd.watch_prefix("w/").await.unwrap();
    etcd.put("w/1", "a").await.unwrap();
    assert_eq!(changes(&mut watch).await, ["w/1=a"]);
    servers.members()[0].kill().await.unwrap();
    // It waits meanwhile, and a wait that is given up loses nothing.
    for _ in 0..3 {
        let waited = tokio::time::timeout(Duration::from_millis(200), watch.next()).await;
        assert!(waited.is_err(), "{waited:?}");
    }
    servers.members()[0].restart().await.unwrap();
    // Written by somebody else, while the watch may be on its way back.
    servers.put(0, "w/2", "b").await.unwrap();
    assert_eq!(changes(&mut watch).await, ["w/2=b"]);
}

#[tokio::test]
async fn a_watch_survives_a_compaction_past_where_it_was() {
    let servers = need!(testkit::Etcd::builder().members(1).linked().start());
    let etcd = client(&servers);
    let mut watch = etcd.watch_prefix("w/").await.unwrap();
    etcd.put("w/1", "a").await.unwrap();
    etcd.put("w/2", "b").await.unwrap();
    while !changes(&mut watch).await.contains(&"w/2=b".to_owned()) {}
    let member = &servers.members()[0];
    member.cut().unwrap();
    // Calls and watches have one connection: none of what follows comes through to the watch.
    let is_cut =
        until("the cut", PATIENCE, async || match etcd.within(Duration::from_secs(1)).get("w/1").await {
            Ok(_) => Err("it answers".to_owned()),
            Err(_) => Ok(()),
        });
    is_cut.await.unwrap();
    // Past the link, somebody else changes things and has them compacted.
    let direct =
        plugins_etcd::Etcd::new(EtcdConfig { timeout: PATIENCE, ..EtcdConfig::at([member.direct()]) })
            .unwrap();
    direct.delete("w/1").await.unwrap();
    direct.put("w/3", "c").await.unwrap();
    let last = direct.put("w/2", "b2").await.unwrap();
    direct.bare().await.unwrap().compact(last, None).await.unwrap();
    member.mend().unwrap();
    // Not the changes, which are gone, but all that they came to.
    assert_eq!(changes(&mut watch).await, ["state w/2=b2", "state w/3=c"]);
    etcd.put("w/4", "d").await.unwrap();
    assert_eq!(changes(&mut watch).await, ["w/4=d"]);
    // The same for one that begins in the past.
    let mut old = etcd.watch_prefix_from("w/", 2).await.unwrap();
    assert!(
        matches!(soon("the state", old.next()).await.unwrap(), Seen::State(listing) if listing.items.len() == 3)
    );
}
