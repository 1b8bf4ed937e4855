use std::time::Duration;

use testkit::provision::{Program, client};
use testkit::{Redis, RedisCluster, RedisSentinel, need, until};
use tokio::net::TcpStream;

use crate::wire::{PATIENCE, exchange, hear, is_silent, say};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

#[tokio::test]
async fn answers_ping_on_loopback() {
    let redis = need!(Redis::start());
    assert!(redis.address().starts_with("127.0.0.1:"), "{}", redis.address());
    assert_eq!(exchange(redis.address(), PING).await.unwrap(), b"+PONG\r\n");
    assert!(redis.server().ready_after().is_some_and(|after| after < PATIENCE));
    assert!(redis.server().log().contains("Ready to accept connections"));
}

#[tokio::test]
async fn a_kill_loses_nothing_and_a_restart_is_on_the_same_port() {
    let redis = need!(Redis::start());
    let (address, pid) = (redis.address().to_owned(), redis.server().pid());
    redis.ask(&["SET", "kept", "yes"]).await.unwrap();
    redis.server().kill().await.unwrap();
    assert!(!redis.server().is_running());
    assert!(TcpStream::connect(&address).await.is_err());
    redis.server().restart().await.unwrap();
    assert_eq!((redis.address(), redis.server().pid() == pid), (address.as_str(), false));
    assert_eq!(redis.ask(&["GET", "kept"]).await.unwrap().text(), Some("yes"));
    // A running one is asked to end first.
    redis.server().restart().await.unwrap();
    assert_eq!(redis.ask(&["GET", "kept"]).await.unwrap().text(), Some("yes"));
    assert!(redis.server().log().contains("Received SIGTERM"));
}

#[tokio::test]
async fn a_paused_one_accepts_and_says_nothing_until_it_goes_on() {
    let redis = need!(Redis::start());
    let mut open = TcpStream::connect(redis.address()).await.unwrap();
    redis.server().pause().unwrap();
    assert!(redis.server().is_running());
    assert!(is_silent(redis.address(), PING).await);
    redis.server().resume().unwrap();
    let answer = tokio::time::timeout(PATIENCE, say(&mut open, PING)).await.unwrap();
    assert_eq!(answer.unwrap(), b"+PONG\r\n");
    // A paused one can be asked to end as well.
    redis.server().pause().unwrap();
    redis.server().terminate().await.unwrap();
    assert!(redis.server().log().contains("Received SIGTERM"));
    assert!(matches!(redis.server().pause(), Err(testkit::ControlError::NotRunning { .. })));
}

#[tokio::test]
async fn a_link_cuts_swallows_and_delays() {
    let redis = need!(Redis::builder().linked().start());
    assert_ne!(redis.address(), redis.server().direct());
    let mut open = TcpStream::connect(redis.address()).await.unwrap();
    assert_eq!(say(&mut open, PING).await.unwrap(), b"+PONG\r\n");

    redis.server().cut().unwrap();
    assert!(!matches!(hear(&mut open).await, Ok(heard) if !heard.is_empty()));
    assert!(!matches!(exchange(redis.address(), PING).await, Ok(heard) if !heard.is_empty()));
    assert_eq!(exchange(redis.server().direct(), PING).await.unwrap(), b"+PONG\r\n");

    redis.server().mend().unwrap();
    let mut open = TcpStream::connect(redis.address()).await.unwrap();
    assert_eq!(say(&mut open, PING).await.unwrap(), b"+PONG\r\n");
    redis.server().black_hole().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), say(&mut open, PING)).await.is_err());
    assert!(is_silent(redis.address(), PING).await);
    redis.server().mend().unwrap();
    assert_eq!(hear(&mut open).await.unwrap(), b"+PONG\r\n");

    let by = Duration::from_millis(100);
    redis.server().delay(by).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(say(&mut open, PING).await.unwrap(), b"+PONG\r\n");
    assert!(begun.elapsed() >= by * 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn without_links_there_is_nothing_to_cut() {
    let redis = need!(Redis::start());
    assert!(matches!(redis.server().cut(), Err(testkit::ControlError::NotLinked { .. })));
    assert!(redis.server().link().is_none());
}

#[tokio::test]
async fn settings_reach_it() {
    let builder = Redis::builder().password("open sesame").port("further").arguments(["--maxclients", "77"]);
    let redis = need!(builder.arguments(["--rename-command", "FLUSHALL", "{further}"]).start());
    let answer = exchange(redis.address(), b"PING\r\n").await.unwrap();
    assert!(answer.starts_with(b"-NOAUTH"), "{answer:?}");
    let clients = redis.ask(&["CONFIG", "GET", "maxclients"]).await.unwrap().to_string();
    assert!(clients.contains("77"), "{clients}");
    // The placeholder became the port: here it is the new name of a command.
    let port = redis.port("further").unwrap().to_string();
    assert_eq!(redis.ask(&[&port]).await.unwrap().text(), Some("OK"));
}

#[tokio::test]
async fn one_that_does_not_start_shows_its_log() {
    let started = Redis::builder().arguments(["--no-such-setting", "1"]).start().await;
    let error = match started {
        Err(error) if error.unavailable().is_none() => error.to_string(),
        other => {
            need!(async { other });
            panic!("it started");
        }
    };
    assert!(error.contains("before it was ready") && error.contains("no-such-setting"), "{error}");
}

#[tokio::test]
async fn redis_cli_is_to_be_had_too() {
    let redis = need!(Redis::start());
    let port = redis.address().rsplit(':').next().unwrap().to_owned();
    redis.ask(&["SET", "seen", "from outside"]).await.unwrap();
    let said = client(Program::RedisCli, &["-p", &port, "GET", "seen"], "").await.unwrap();
    assert_eq!(said.trim(), "from outside");
}

const TAKE_OVER: Duration = Duration::from_secs(60);

/// On a machine that is busy others may take over as well, and that is no fault.
async fn takes_over(cluster: &RedisCluster, from: usize, to: usize) -> Result<(), String> {
    let masters = cluster.masters().await;
    if masters.contains(&to) && !masters.contains(&from) {
        Ok(())
    } else {
        Err(format!("masters are {masters:?}"))
    }
}

async fn three_lead(cluster: &RedisCluster) {
    let three = until("three masters", TAKE_OVER, async || match cluster.masters().await {
        masters if masters.len() == 3 => Ok(()),
        masters => Err(format!("masters are {masters:?}")),
    });
    three.await.unwrap();
}

#[tokio::test]
async fn a_replica_takes_over_from_a_master_that_is_killed() {
    let cluster = need!(RedisCluster::start());
    three_lead(&cluster).await;
    // The slot of `{b}` is 3300, the first master's.
    cluster.ask(0, &["SET", "{b}", "kept"]).await.unwrap();
    cluster.ask(0, &["WAIT", "1", "5000"]).await.unwrap();
    let moved = cluster.ask(1, &["GET", "{b}"]).await.unwrap_err().to_string();
    assert!(moved.contains(&format!("MOVED 3300 {}", cluster.addresses()[0])), "{moved}");

    cluster.nodes()[0].kill().await.unwrap();
    let taken = until("a take-over", TAKE_OVER, async || takes_over(&cluster, 0, 3).await);
    taken.await.unwrap();
    assert_eq!(cluster.ask(3, &["GET", "{b}"]).await.unwrap().text(), Some("kept"));
    cluster.heal().await.unwrap();
    three_lead(&cluster).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_cut_off_both_ways() {
    let cluster = need!(RedisCluster::builder().linked().start());
    let node = &cluster.nodes()[1];
    node.cut().unwrap();
    // The others replace it; it notices that it sees no majority, which it could not if it still reached them.
    let alone = until("a node that is alone", TAKE_OVER, async || {
        let info = exchange(node.direct(), b"CLUSTER INFO\r\n").await.map_err(|error| error.to_string())?;
        let info = String::from_utf8_lossy(&info).into_owned();
        if info.contains("cluster_state:fail") { Ok(()) } else { Err(info) }
    });
    alone.await.unwrap();
    let taken = until("a take-over", TAKE_OVER, async || takes_over(&cluster, 1, 4).await);
    taken.await.unwrap();
    node.mend().unwrap();
    cluster.heal().await.unwrap();
    three_lead(&cluster).await;
}

#[tokio::test]
async fn sentinels_replace_a_master_that_is_killed() {
    let redis = need!(RedisSentinel::start());
    let before = redis.master().await.unwrap();
    assert_eq!(before, redis.nodes()[0].address());
    redis.nodes()[0].kill().await.unwrap();
    let replaced = until("another master", Duration::from_secs(30), async || match redis.master().await {
        Some(master) if master != before => Ok(()),
        other => Err(format!("the master is {other:?}")),
    });
    replaced.await.unwrap();
}
