//! Keys, prefixes and transactions.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use plugins_etcd::EtcdError;
use testkit::need;
use testkit::provision::{Program, client as foreign};

use crate::client;

#[tokio::test]
async fn keys_are_written_read_listed_and_removed() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    assert!(etcd.get("a/1").await.unwrap().is_none());
    let first = etcd.put("a/1", "one").await.unwrap();
    assert_eq!(etcd.put("a/1", "uno").await.unwrap(), first + 1);
    let found = etcd.get("a/1").await.unwrap().unwrap();
    assert_eq!((found.value(), found.version(), found.create_revision()), (&b"uno"[..], 2, first));

    // More than a page of them, and neighbours that do not belong.
    for index in 0..700 {
        etcd.put(format!("many/{index:04}"), "x").await.unwrap();
    }
    etcd.put("many", "x").await.unwrap();
    etcd.put("many0", "x").await.unwrap();
    let listing = etcd.list("many/").await.unwrap();
    assert_eq!(listing.items.len(), 700);
    assert!(listing.items.is_sorted_by_key(|item| item.key().to_vec()) && listing.revision > first);
    assert_eq!(etcd.delete_prefix("many/").await.unwrap(), 700);
    assert!(etcd.list("many/").await.unwrap().items.is_empty());
    assert_eq!((etcd.delete("many").await.unwrap(), etcd.delete("many").await.unwrap()), (true, false));
}

#[tokio::test]
async fn a_transaction_is_made_whole_or_not_at_all() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let move_to = |from: &str, to: &str| {
        Txn::new()
            .when([Compare::value("place", CompareOp::Equal, from)])
            .and_then([TxnOp::put("place", to, None), TxnOp::put("moved", to, None)])
            .or_else([TxnOp::get("place", None)])
    };
    etcd.put("place", "here").await.unwrap();
    assert!(etcd.transaction(move_to("here", "there")).await.unwrap().succeeded());
    assert!(!etcd.transaction_again(move_to("here", "nowhere")).await.unwrap().succeeded());
    assert_eq!(etcd.get("moved").await.unwrap().unwrap().value(), b"there");
    // One that etcd refuses changes nothing and says why.
    let twice = Txn::new().and_then([TxnOp::put("place", "a", None), TxnOp::put("place", "b", None)]);
    let refused = etcd.transaction(twice).await.unwrap_err();
    assert!(
        matches!(refused, EtcdError::Refused { .. }) && refused.to_string().contains("duplicate"),
        "{refused}"
    );
    assert_eq!(etcd.get("place").await.unwrap().unwrap().value(), b"there");
}

#[tokio::test]
async fn etcdctl_reads_what_we_write_and_we_read_what_it_writes() {
    let servers = need!(testkit::Etcd::start());
    let etcd = client(&servers);
    let endpoint = servers.endpoints()[0].clone();
    let ctl = async |words: &[&str]| {
        let words: Vec<&str> = ["--endpoints", &endpoint].into_iter().chain(words.iter().copied()).collect();
        foreign(Program::Etcdctl, &words, "").await.unwrap()
    };
    etcd.put("ours", "grün").await.unwrap();
    assert_eq!(ctl(&["get", "ours"]).await, "ours\ngrün\n");
    let mut watch = etcd.watch_prefix("theirs/").await.unwrap();
    ctl(&["put", "theirs/1", "red"]).await;
    assert_eq!(crate::changes(&mut watch).await, ["theirs/1=red"]);
    assert_eq!(etcd.get("theirs/1").await.unwrap().unwrap().value(), b"red");
    let lease = etcd.lease(std::time::Duration::from_secs(30)).await.unwrap();
    etcd.put_leased("leased", "x", lease.id()).await.unwrap();
    assert!(ctl(&["lease", "timetolive", &format!("{:x}", lease.id()), "--keys"]).await.contains("leased"));
    let held = etcd.lock("door", std::time::Duration::from_secs(30)).await.unwrap();
    assert!(
        ctl(&["get", "--prefix", "--keys-only", "/gantry/locks/door/"]).await.contains("/gantry/locks/door/")
    );
    held.release().await;
    assert_eq!(ctl(&["get", "--prefix", "/gantry/locks/"]).await, "");
}
