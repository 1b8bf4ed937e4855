//! Connections: a server, a cluster, sentinels, TLS, passwords, and what is lost.

use plugins_redis::fred::interfaces::{ClientLike, KeysInterface};
use plugins_redis::{Mode, RedisConfig, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use testkit::{Redis, RedisCluster, RedisSentinel, need, until};

use crate::support::{PATIENCE, config, connect, health};

async fn round_trip(config: &RedisConfig, masters: &str) {
    let redis = connect(config).await;
    for n in 0..20_i64 {
        let key = format!("round-trip:{n}");
        redis.call("SET", redis.client().set::<(), _, _>(&key, n, None, None, false)).await.unwrap();
        assert_eq!(redis.call("GET", redis.pool().get::<i64, _>(&key)).await.unwrap(), n);
    }
    health(&redis, &[masters]).await;
    redis.close().await;
}

#[tokio::test]
async fn a_server() {
    let server = need!(Redis::start());
    let config = RedisConfig { database: 3, ..config(server.address()) };
    round_trip(&config, "1 of 1 masters").await;
    // It went to the database that was asked for.
    let keys = server.ask(&["INFO", "keyspace"]).await.unwrap().to_string();
    assert!(keys.contains("db3:keys=20") && !keys.contains("db0"), "{keys}");
}

#[tokio::test]
async fn a_cluster() {
    let cluster = need!(RedisCluster::start());
    round_trip(&config(&cluster.addresses().join(",")), "3 of 3 masters").await;
    // One node is enough to find the others by.
    let one = RedisConfig { mode: Some(Mode::Cluster), ..config(&cluster.addresses()[4]) };
    round_trip(&one, "3 of 3 masters").await;
}

#[tokio::test]
async fn sentinels_are_followed_to_the_next_master() {
    let servers = need!(RedisSentinel::start());
    let config = RedisConfig {
        sentinel_master: Some(servers.master_name().to_owned()),
        ..config(&servers.addresses().join(","))
    };
    round_trip(&config, "1 of 1 masters").await;
    let redis = connect(&config).await;
    let before = servers.master().await.unwrap();
    servers.nodes()[0].kill().await.unwrap();
    redis.call("SET", redis.client().set::<(), _, _>("after", "kill", None, None, false)).await.unwrap();
    let pings = redis.ping().await.unwrap();
    assert_ne!(pings[0].address, before);
    assert!(pings[0].took.is_ok(), "{pings:?}");
    redis.close().await;
}

#[tokio::test]
async fn a_password() {
    let server = need!(Redis::builder().password("open sesame").start());
    let password = Some(plugin_core::Secret::new("open sesame"));
    round_trip(&RedisConfig { password, ..config(server.address()) }, "1 of 1 masters").await;
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |name: &str, text: String| std::fs::write(file(name), text).unwrap();
    let mut params = CertificateParams::default();
    // Another name than that of what it signs, or it would be taken for the same.
    params.distinguished_name.push(DnType::CommonName, "the authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write("ca.pem", authority.pem());
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        write(&format!("{name}.pem"), params.signed_by(&key, &authority).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
    let path = |name: &str| file(name).display().to_string();
    let arguments = [
        "--tls-port".to_owned(),
        "{tls}".to_owned(),
        "--tls-cert-file".to_owned(),
        path("server.pem"),
        "--tls-key-file".to_owned(),
        path("server.key"),
        "--tls-ca-cert-file".to_owned(),
        path("ca.pem"),
    ];
    let server = need!(Redis::builder().port("tls").arguments(arguments).start());
    let address = format!("127.0.0.1:{}", server.port("tls").unwrap());
    let tls = TlsConfig {
        enabled: true,
        ca_file: Some(file("ca.pem")),
        cert_file: Some(file("client.pem")),
        key_file: Some(file("client.key")),
    };
    round_trip(&RedisConfig { tls: tls.clone(), ..config(&address) }, "1 of 1 masters").await;

    // Signed by nobody whom it knows.
    std::fs::write(
        file("ca.pem"),
        rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap().cert.pem(),
    )
    .unwrap();
    let redis = plugins_redis::Redis::connect(&RedisConfig { tls, ..config(&address) }).unwrap();
    health(&redis, &["plugins.redis-cluster.tls", &address]).await;
    redis.close().await;
}

#[tokio::test]
async fn a_server_that_comes_late_goes_and_comes_back() {
    let server = need!(Redis::start());
    let address = server.address().to_owned();
    server.server().kill().await.unwrap();
    let redis = plugins_redis::Redis::connect(&config(&address)).unwrap();
    health(&redis, &["plugins.redis-cluster.address", &address]).await;
    assert!(!redis.health().await.ready);
    for _ in 0..2 {
        // What is asked meanwhile waits.
        let waits = redis.call("PING", redis.client().ping::<()>(None));
        let (pinged, started) = tokio::join!(waits, server.server().restart());
        started.unwrap();
        pinged.unwrap();
        health(&redis, &["1 of 1 masters answer"]).await;
        assert!(redis.health().await.ready);
        server.server().kill().await.unwrap();
        until("it notices", PATIENCE, async || match redis.health().await.ready {
            false => Ok(()),
            true => Err("ready".to_owned()),
        })
        .await
        .unwrap();
    }
    redis.close().await;
}

/// A paused server answers nothing, and its connections stay open.
#[tokio::test]
async fn a_server_that_stands_still_is_noticed() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    server.server().pause().unwrap();
    health(&redis, &[server.address()]).await;
    assert!(!redis.health().await.ready);
    server.server().resume().unwrap();
    health(&redis, &["1 of 1 masters answer"]).await;
    redis.close().await;
}
