//! The server with a Redis.

use reqwest::Method;
use serde_json::json;
use testkit::{Redis, need};

use crate::process::{Folder, Server, command, server_program};

async fn with_redis(address: &str) -> Server {
    let folder = Folder::new();
    let toml = "[manager]\nhealth_check_interval = \"100ms\"\n\
                [plugins.redis-cluster]\nconnect_timeout = \"1s\"\nreconnect_delay_max = \"200ms\"\n";
    std::fs::write(folder.path().join("gantry.toml"), toml).unwrap();
    let mut command = command(&folder, server_program());
    command.env("REDIS_ADDR", address);
    Server::spawn(folder, command).await
}

#[tokio::test]
async fn without_an_address_there_is_no_redis() {
    let server = Server::start().await;
    server.get("/plugins/redis-cluster").await.refusal(404);
    server.get("/services/redis-cluster/test").await.refusal(404);
}

#[tokio::test]
async fn a_redis_is_there_goes_and_comes_back() {
    let redis = need!(Redis::start());
    let server = with_redis(redis.address()).await;
    let ready = |data: &serde_json::Value| data["plugin"]["ready"] == true;
    server.until("/plugins/redis-cluster", ready).await;
    let tested = server.get("/services/redis-cluster/test").await.data();
    assert_eq!(tested["detail"]["masters"], json!([redis.address()]), "{tested}");
    let set = json!({"key": "greeting", "value": "hello"}).to_string();
    let set = server.raw(Method::POST, "/redis/set", Some((&set, "application/json")), &[]).await;
    assert_eq!(set.data(), json!({"key": "greeting"}));
    assert_eq!(redis.ask(&["GET", "greeting"]).await.unwrap().text(), Some("hello"));
    let got = server.raw(Method::GET, "/redis/get/greeting", None, &[]).await;
    assert_eq!(got.data()["value"], "hello");
    server.raw(Method::GET, "/redis/get/absent", None, &[]).await.refusal(404);
    let page = server.get("/metrics").await.text;
    let count =
        "db_client_operation_duration_seconds_count{db_operation_name=\"SET\",db_system_name=\"redis\"}";
    assert!(page.contains(count), "{page}");

    redis.server().kill().await.unwrap();
    let away = server
        .until("/plugins/redis-cluster", |data| !ready(data) && data["plugin"]["status"] == "running")
        .await;
    assert!(away["plugin"]["health"]["message"].as_str().unwrap().contains(redis.address()), "{away}");
    let refused = server.get("/services/redis-cluster/test").await.refusal(503);
    assert!(refused["detail"].as_str().unwrap().contains(redis.address()), "{refused}");
    assert_eq!(server.get("/health/live").await.status.as_u16(), 200);
    redis.server().restart().await.unwrap();
    let back = server.until("/plugins/redis-cluster", ready).await;
    assert_eq!(back["plugin"]["restarts"], 0, "{back}");
    server.get("/services/redis-cluster/test").await.data();
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.ended().await, Some(0));
}
