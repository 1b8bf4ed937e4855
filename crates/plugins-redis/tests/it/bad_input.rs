//! What is wrong is said with the server and the setting.

use plugin_core::Secret;
use plugins_redis::{Mode, Redis, RedisConfig, TlsConfig};
use testkit::{RedisCluster, need};

use crate::support::{config, connect, health};

async fn ill(config: &RedisConfig, says: &[&str]) {
    let redis = Redis::connect(config).unwrap();
    health(&redis, says).await;
    assert!(!redis.health().await.ready);
    redis.close().await;
}

#[tokio::test]
async fn promise_10_a_wrong_address() {
    // Nobody listens there: the port is bound and given back.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    ill(&config(&address), &[&address, "plugins.redis-cluster.address"]).await;
    ill(&config("no-such-host.invalid"), &["no-such-host.invalid", "plugins.redis-cluster.address"]).await;
}

#[tokio::test]
async fn promise_10_wrong_credentials() {
    let server = need!(testkit::Redis::builder().password("right").start());
    let setting = [server.address(), "plugins.redis-cluster.password"];
    ill(&config(server.address()), &setting).await;
    let password = Some(Secret::new("wrong"));
    ill(&RedisConfig { password: password.clone(), ..config(server.address()) }, &setting).await;
    let username = Some("nobody".to_owned());
    ill(&RedisConfig { username, password, ..config(server.address()) }, &setting).await;
}

#[tokio::test]
async fn wrong_credentials_that_are_put_right_at_the_server() {
    let server = need!(testkit::Redis::builder().password("right").start());
    let password = Some(Secret::new("other"));
    let redis = Redis::connect(&RedisConfig { password, ..config(server.address()) }).unwrap();
    health(&redis, &["plugins.redis-cluster.password"]).await;
    server.ask(&["CONFIG", "SET", "requirepass", "other"]).await.unwrap();
    health(&redis, &["1 of 1 masters answer"]).await;
    redis.close().await;
}

#[tokio::test]
async fn promise_10_tls_against_a_plain_port() {
    let server = need!(testkit::Redis::start());
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&ca_file, made.cert.pem()).unwrap();
    let tls = TlsConfig { enabled: true, ca_file: Some(ca_file), ..TlsConfig::default() };
    ill(&RedisConfig { tls, ..config(server.address()) }, &[server.address(), "plugins.redis-cluster."])
        .await;
}

#[tokio::test]
async fn promise_10_certificates_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for file in [folder.path().join("absent.pem"), empty] {
        let tls = TlsConfig { enabled: true, ca_file: Some(file), ..TlsConfig::default() };
        let error = Redis::connect(&RedisConfig { tls, ..config("127.0.0.1:1") }).unwrap_err();
        assert!(error.to_string().contains("tls.ca_file"), "{error}");
    }
}

#[tokio::test]
async fn promise_10_a_cluster_without_all_its_slots() {
    let cluster = need!(RedisCluster::start());
    let redis = connect(&config(&cluster.addresses().join(","))).await;
    health(&redis, &["3 of 3 masters answer"]).await;
    for node in 0..3 {
        cluster.ask(node, &["CLUSTER", "DELSLOTS", "16383"]).await.unwrap();
    }
    health(&redis, &["16383 of 16384 slots", &cluster.addresses()[0]]).await;
    assert!(!redis.health().await.ready);
    redis.close().await;
    // The same for who comes then.
    ill(&config(&cluster.addresses().join(",")), &["slots have no master", "plugins.redis-cluster.address"])
        .await;
}

#[tokio::test]
async fn promise_10_a_node_of_a_cluster_taken_for_a_server() {
    let cluster = need!(RedisCluster::start());
    let single = RedisConfig { mode: Some(Mode::Single), ..config(&cluster.addresses()[0]) };
    ill(&single, &[&cluster.addresses()[0], "plugins.redis-cluster.mode"]).await;
}

#[tokio::test]
async fn promise_10_a_server_taken_for_a_cluster() {
    let server = need!(testkit::Redis::start());
    let cluster = RedisConfig { mode: Some(Mode::Cluster), ..config(server.address()) };
    ill(&cluster, &[server.address(), "plugins.redis-cluster."]).await;
}
