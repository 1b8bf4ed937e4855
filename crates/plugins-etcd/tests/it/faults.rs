//! Three members under load, of which one is hurt: what was acknowledged is there, a watch saw each change once
//! and in order, and writing goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use plugins_etcd::{Change, Etcd, Seen};
use testkit::{Server, need, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{PATIENCE, client, soon};

const WRITERS: u64 = 4;

/// How many writes are acknowledged before, during and after the fault.
const WRITES: u64 = 40;

/// How long a member stays paused: the time that the goal names where there is time for it.
fn pause() -> Duration {
    let full = std::env::var_os("GANTRY_TEST_FULL").is_some();
    Duration::from_secs(if full { 30 } else { 3 })
}

#[derive(Default)]
struct Load {
    acknowledged: AtomicU64,
    ended: AtomicBool,
    /// The longest that one write took, in milliseconds.
    longest: AtomicU64,
}

impl Load {
    /// Each writer has keys of its own, one for each write. Gives the last number of each that was
    /// acknowledged; those before were, too.
    fn begin(self: &Arc<Self>, etcd: &Etcd, prefix: &str) -> JoinSet<(u64, u64)> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (load, etcd, prefix) = (self.clone(), etcd.clone(), prefix.to_owned());
            writers.spawn(async move {
                let mut last = 0;
                while !load.ended.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    etcd.put(format!("{prefix}{writer}/{}", last + 1), "x").await.unwrap();
                    let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                    load.longest.fetch_max(took, Ordering::SeqCst);
                    load.acknowledged.fetch_add(1, Ordering::SeqCst);
                    last += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                (writer, last)
            });
        }
        writers
    }

    async fn more(&self) {
        let enough = self.acknowledged.load(Ordering::SeqCst) + WRITES;
        let written = until("writes", PATIENCE * 2, async || {
            let now = self.acknowledged.load(Ordering::SeqCst);
            if now >= enough { Ok(()) } else { Err(format!("{now} of {enough} are acknowledged")) }
        });
        written.await.unwrap();
    }
}

/// Hurts a member under load, mends it, and counts.
async fn through(
    what: &str,
    servers: &testkit::Etcd,
    member: &Server,
    hurt: impl AsyncFnOnce(&Server),
    mend: impl AsyncFnOnce(&Server),
) {
    let etcd = client(servers);
    // Keys of its own: a write of the fault before may come late.
    let prefix = format!("load/{}/", member.name());
    let mut watch = etcd.watch_prefix(prefix.as_str()).await.unwrap();
    let load = Arc::new(Load::default());
    let mut writers = load.begin(&etcd, &prefix);
    load.more().await;
    load.longest.store(0, Ordering::SeqCst);
    hurt(member).await;
    load.more().await;
    let longest = load.longest.load(Ordering::SeqCst);
    mend(member).await;
    load.more().await;
    load.ended.store(true, Ordering::SeqCst);
    let mut expected = BTreeMap::new();
    while let Some(writer) = soon("the writers", writers.join_next()).await {
        let (writer, last) = writer.unwrap();
        for number in 1..=last {
            expected.insert(format!("{prefix}{writer}/{number}"), 0_u64);
        }
    }

    let stored = etcd.list(prefix.as_str()).await.unwrap().items;
    let lost =
        expected.len() - stored.iter().filter(|item| expected.contains_key(item.key_str().unwrap())).count();
    // A write whose answer was lost may have been made twice, and is then seen twice: as two changes.
    let (mut last, mut seen, mut twice) = (0, 0, 0);
    while seen < expected.len() {
        let Seen::Changes(changes) = soon("the changes", watch.next()).await.unwrap() else {
            panic!("nothing was compacted")
        };
        for change in changes {
            assert!(change.revision() > last, "out of order or twice: {change:?} after {last}");
            last = change.revision();
            assert!(matches!(change, Change::Put(_)), "{change:?}");
            let times = expected.get_mut(std::str::from_utf8(change.key()).unwrap()).unwrap();
            *times += 1;
            if *times == 1 { seen += 1 } else { twice += 1 }
        }
    }
    println!(
        "{what}: {} writes acknowledged, {lost} lost, {twice} made twice, the longest took {longest} ms",
        expected.len()
    );
    assert_eq!(lost, 0);
    // At most those that were under way, once for each attempt.
    assert!(twice < WRITERS * 30, "{twice}");
}

/// The member that leads, as soon as one says so.
async fn leader(servers: &testkit::Etcd) -> &Server {
    let leader =
        until("a leader", PATIENCE, async || servers.leader().await.map_err(|error| error.to_string()));
    &servers.members()[leader.await.unwrap()]
}

#[tokio::test]
async fn the_leader_is_killed_and_comes_back() {
    let servers = need!(testkit::Etcd::cluster());
    let leader = leader(&servers).await;
    let kill = async |member: &Server| member.kill().await.unwrap();
    through("leader killed", &servers, leader, kill, async |member| member.restart().await.unwrap()).await;
}

#[tokio::test]
async fn a_member_is_cut_off_from_the_others_and_from_us() {
    let servers = need!(testkit::Etcd::builder().linked().start());
    let leader = leader(&servers).await;
    let cut = async |member: &Server| member.cut().unwrap();
    let mend = async |member: &Server| {
        member.mend().unwrap();
        member.ready().await.unwrap();
    };
    through("member cut off", &servers, leader, cut, mend).await;
}

#[tokio::test]
async fn every_member_hangs_once() {
    let servers = need!(testkit::Etcd::cluster());
    for member in servers.members() {
        let hang = async |member: &Server| {
            member.pause().unwrap();
            tokio::time::sleep(pause()).await;
        };
        let go_on = async |member: &Server| {
            member.resume().unwrap();
            member.ready().await.unwrap();
        };
        through("member paused", &servers, member, hang, go_on).await;
    }
}
