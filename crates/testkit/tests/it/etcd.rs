use std::time::Duration;

use testkit::provision::{Program, client};
use testkit::{Etcd, need, until};

use crate::wire::{exchange, is_silent};

const HEALTH: &[u8] = b"GET /health HTTP/1.0\r\n\r\n";

#[tokio::test]
async fn answers_health_and_keeps_its_data_over_a_kill() {
    let etcd = need!(Etcd::start());
    let answer = String::from_utf8(exchange(&etcd.addresses()[0], HEALTH).await.unwrap()).unwrap();
    assert!(answer.contains("200 OK") && answer.contains("\"health\":\"true\""), "{answer}");

    etcd.put(0, "kept", "yes").await.unwrap();
    let member = &etcd.members()[0];
    member.kill().await.unwrap();
    assert!(etcd.get(0, "kept").await.is_err());
    member.restart().await.unwrap();
    assert_eq!(etcd.get(0, "kept").await.unwrap().as_deref(), Some("yes"));
    assert_eq!(etcd.get(0, "other").await.unwrap(), None);

    member.pause().unwrap();
    assert!(is_silent(&etcd.addresses()[0], HEALTH).await);
    member.resume().unwrap();
    let said =
        client(Program::Etcdctl, &["--endpoints", &etcd.endpoints()[0], "get", "kept"], "").await.unwrap();
    assert_eq!(said, "kept\nyes\n");
}

#[tokio::test]
async fn two_of_three_go_on_without_a_leader_that_is_killed() {
    let etcd = need!(Etcd::cluster());
    let leader = etcd.leader().await.unwrap();
    let other = (leader + 1) % 3;
    etcd.put(leader, "a", "1").await.unwrap();
    assert_eq!(etcd.get(other, "a").await.unwrap().as_deref(), Some("1"));
    etcd.members()[leader].kill().await.unwrap();
    let written = until("a write", Duration::from_secs(60), async || {
        etcd.put(other, "a", "2").await.map_err(|error| error.to_string())
    });
    written.await.unwrap();
    assert_ne!(etcd.leader().await.unwrap(), leader);
    etcd.members()[leader].restart().await.unwrap();
    assert_eq!(etcd.get(leader, "a").await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn a_member_is_cut_off_both_ways() {
    let etcd = need!(Etcd::builder().linked().start());
    let leader = etcd.leader().await.unwrap();
    let (cut, other) = (&etcd.members()[leader], (leader + 1) % 3);
    cut.cut().unwrap();
    let written = until("a write", Duration::from_secs(60), async || {
        etcd.put(other, "a", "1").await.map_err(|error| error.to_string())
    });
    written.await.unwrap();
    assert!(etcd.put(leader, "a", "0").await.is_err());
    // Nobody hears it, so it cannot agree with anybody: it says so past its link.
    let alone = until("a member that is alone", Duration::from_secs(60), async || {
        let answer = exchange(cut.direct(), HEALTH).await.map_err(|error| error.to_string())?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.contains("\"false\"") { Ok(()) } else { Err(answer) }
    });
    alone.await.unwrap();
    cut.mend().unwrap();
    cut.ready().await.unwrap();
    assert_eq!(etcd.get(leader, "a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_member_listens_on_further_ports() {
    let urls = "http://127.0.0.1:{clients},http://127.0.0.1:{more}";
    let etcd =
        need!(Etcd::builder().members(1).port("more").arguments(["--listen-client-urls", urls]).start());
    let more = format!("127.0.0.1:{}", etcd.port(0, "more").unwrap());
    for address in [&more, &etcd.addresses()[0]] {
        let answer = exchange(address, HEALTH).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("\"true\""));
    }
    assert_eq!((etcd.port(0, "other"), etcd.port(1, "more")), (None, None));
}
