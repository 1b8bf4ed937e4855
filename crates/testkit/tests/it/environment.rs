//! What the environment decides: servers that run already, and what is done where there are none.

use std::os::unix::fs::PermissionsExt as _;

use testkit::provision::{Program, Provision, Source};
use testkit::{ControlError, Etcd, Kafka, Redis, RedisCluster, need};

use crate::child::{self, is_child, text};

/// The body of the processes below; does nothing as a test of its own.
#[tokio::test]
async fn in_a_process_of_its_own() {
    if !is_child() {
        return;
    }
    let redis = need!(Redis::provide());
    redis.ask(&["SET", "used", "yes"]).await.unwrap();
    assert!(!redis.server().is_ours());
    assert!(matches!(redis.server().kill().await, Err(ControlError::NotOurs { .. })));
    assert!(matches!(redis.server().pause(), Err(ControlError::NotOurs { .. })));
    assert!(matches!(redis.server().restart().await, Err(ControlError::NotOurs { .. })));
}

#[tokio::test]
async fn a_server_that_runs_is_used_and_never_hurt() {
    let redis = need!(Redis::start());
    let address = format!("redis://{}/", redis.address());
    // Without sources: it must not even look for a program.
    let environment = [("GANTRY_TEST_REDIS_ADDR", address.as_str()), ("GANTRY_TEST_SOURCES", "none")];
    let output = child::run("environment::in_a_process_of_its_own", &environment).await;
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(redis.ask(&["GET", "used"]).await.unwrap().text(), Some("yes"));
}

#[tokio::test]
async fn a_server_that_is_named_and_does_not_answer_fails_the_test() {
    let output =
        child::run("environment::in_a_process_of_its_own", &[("GANTRY_TEST_REDIS_ADDR", "127.0.0.1:1")])
            .await;
    let text = text(&output);
    assert!(!output.status.success() && text.contains("127.0.0.1:1 of GANTRY_TEST_REDIS_ADDR"), "{text}");
}

/// One test of each server, to be left out; does nothing as a test of its own.
#[tokio::test]
async fn needs_everything() {
    if !is_child() {
        return;
    }
    need!(Kafka::start());
    need!(Etcd::start());
    need!(RedisCluster::start());
    unreachable!("with no sources");
}

#[tokio::test]
async fn what_cannot_be_had_is_left_out_by_name_and_red_in_ci() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("left-out");
    let list = list.to_str().unwrap();
    let environment = [("GANTRY_TEST_SOURCES", "none"), ("GANTRY_TEST_LEFT_OUT", list)];
    let output = child::run("environment::needs_everything", &environment).await;
    let said = text(&output);
    let line = "left out: it::environment::needs_everything: `kafka` is not to be had";
    assert!(output.status.success() && said.contains(line), "{said}");
    assert!(std::fs::read_to_string(list).unwrap().starts_with(line));

    let output =
        child::run("environment::needs_everything", &[("GANTRY_TEST_SOURCES", "none"), ("CI", "true")]).await;
    let said = text(&output);
    assert!(!output.status.success() && said.contains("CI=true"), "{said}");
}

/// No engine is needed to see that one would be used: this one only answers.
#[test]
fn docker_comes_after_the_path_and_before_packages() {
    let folder = tempfile::tempdir().unwrap();
    let tool = |name: &str, script: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let provision = Provision::from_environment()
        .with_sources([Source::Path, Source::Docker, Source::Packages])
        .with_cache(folder.path().join("cache"))
        .with_path(folder.path());
    tool("docker", "case $1 in run) echo 'Redis server v=7.9.9' ;; esac");
    let found = provision.find(Program::RedisServer).unwrap();
    assert_eq!((found.version.as_str(), found.origin.as_str()), ("7.9.9", "Docker (redis:7)"));
    tool("redis-server", "echo 'Redis server v=7.1.1'");
    let found = provision.find(Program::RedisServer).unwrap();
    assert!(found.version == "7.1.1" && found.origin.starts_with("the PATH"), "{found:?}");
    // One that does not run is passed over, and says why.
    tool("redis-server", "echo 'cannot open shared object' >&2; exit 127");
    tool("docker", "exit 1");
    let missing = provision.find(Program::RedisServer).unwrap_err().to_string();
    assert!(
        missing.contains("cannot open shared object") && missing.contains("no docker engine answers"),
        "{missing}"
    );
}
