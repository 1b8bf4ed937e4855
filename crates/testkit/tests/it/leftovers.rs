//! Nothing is left running and nothing is left behind, however a test ends.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;

use testkit::{Redis, RedisCluster, need, until};

use crate::child::{self, is_child};
use crate::wire::PATIENCE;

/// Whether a process of that id runs; one that has ended and waits for its parent does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn all_gone(pids: &[u32], folder: &Path) {
    let gone = async || match pids.iter().find(|pid| runs(**pid)) {
        Some(pid) => Err(format!("{pid} runs")),
        None if folder.exists() => Err(format!("{} exists", folder.display())),
        None => Ok(()),
    };
    until("nothing to be left", PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_drop_ends_the_server_and_removes_its_folder() {
    let cluster = need!(RedisCluster::start());
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(testkit::Server::pid).collect();
    let folders: Vec<PathBuf> =
        cluster.nodes().iter().filter_map(|node| node.folder().map(PathBuf::from)).collect();
    assert!(
        pids.len() == 6 && pids.iter().all(|pid| runs(*pid)) && folders.iter().all(|folder| folder.is_dir())
    );
    // Paused ones as well.
    cluster.nodes()[0].pause().unwrap();
    drop(cluster);
    // At once and not soon: what comes next may want the memory.
    assert!(!pids.iter().any(|pid| runs(*pid)) && !folders.iter().any(|folder| folder.exists()));
}

#[tokio::test]
async fn a_panic_ends_it_too() {
    let redis = need!(Redis::start());
    let (pid, folder) = (redis.server().pid().unwrap(), redis.server().folder().unwrap().to_owned());
    let panicked = tokio::task::spawn_blocking(move || {
        let _redis = redis;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panicked.await.unwrap_err().is_panic());
    all_gone(&[pid], &folder).await;
}

/// The servers that this process has running.
fn servers() -> usize {
    let own = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    // After the name: the state and the parent.
    let ours = |stat: &String| {
        let mut after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        stat.contains("(redis-server") && after.next() != Some("Z") && after.next() == Some(own.as_str())
    };
    stats.filter(ours).count()
}

/// The body of a process of its own, since others start servers here.
#[tokio::test]
async fn given_up_half_way() {
    if !is_child() {
        return;
    }
    let some = async || if servers() > 0 { Ok(()) } else { Err("no server yet".to_owned()) };
    tokio::select! {
        _ = RedisCluster::start() => panic!("ready before it was given up"),
        begun = until("a first server", PATIENCE, some) => begun.unwrap(),
    }
    let none = async || match servers() {
        0 => Ok(()),
        count => Err(format!("{count} servers")),
    };
    until("no server", PATIENCE, none).await.unwrap();
    println!("none are left");
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_nothing() {
    need!(Redis::start());
    let output = child::run("leftovers::given_up_half_way", &[]).await;
    assert!(
        output.status.success() && child::text(&output).contains("none are left"),
        "{}",
        child::text(&output)
    );
}

/// The body of the processes below; does nothing as a test of its own.
#[tokio::test]
async fn in_a_process_of_its_own() {
    if !is_child() {
        return;
    }
    let redis = need!(Redis::start());
    let (pid, folder) = (redis.server().pid().unwrap(), redis.server().folder().unwrap().to_owned());
    println!("started {pid} {}", folder.parent().unwrap().display());
    match std::env::var("TESTKIT_TEST_END").as_deref() {
        Ok("exit") => std::process::exit(0),
        Ok("abort") => std::process::abort(),
        _ => std::future::pending().await,
    }
}

async fn ends(how: &str) {
    need!(Redis::start());
    let mut process =
        child::command("leftovers::in_a_process_of_its_own", &[("TESTKIT_TEST_END", how)]).spawn().unwrap();
    let (pid, folder) = started(&mut process);
    assert!(how != "kill" || (runs(pid) && folder.is_dir()));
    if how == "kill" {
        process.kill().unwrap();
    }
    process.wait().unwrap();
    all_gone(&[pid], &folder).await;
}

fn started(process: &mut Child) -> (u32, PathBuf) {
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("started ")?.1.to_owned()));
    let line = line.expect("a server in the child");
    let (pid, folder) = line.split_once(' ').unwrap();
    (pid.parse().unwrap(), folder.into())
}

#[tokio::test]
async fn a_test_process_that_is_killed_leaves_nothing() {
    ends("kill").await;
}

#[tokio::test]
async fn one_that_aborts_leaves_nothing() {
    ends("abort").await;
}

#[tokio::test]
async fn one_that_exits_without_drops_leaves_nothing() {
    ends("exit").await;
}
