//! The plugin in a host: its service, its dependents, its routes and what it counts.

use std::sync::Arc;
use std::time::Duration;

use event_bus::EventBus;
use http::{Method, Request, StatusCode};
use plugin_core::{Layer, PluginBuilder, RouteRequest, Settings, State, full_body};
use plugin_manager::{ManagerConfig, PluginManager, PluginOptions};
use plugins_redis::fred::interfaces::KeysInterface;
use plugins_redis::{REDIS, Redis, RedisPlugin};
use registry::Lookup;
use serde_json::{Value, json};
use testkit::{RedisCluster, need, until};

use crate::support::PATIENCE;

/// A host that looks often.
fn host(section: Value) -> PluginManager {
    let mut settings = Settings::new();
    let file = json!({ "plugins": { REDIS: section } });
    settings.set_layer(Layer::File, "gantry.toml", file.as_object().unwrap().clone());
    let config =
        ManagerConfig { health_check_interval: Duration::from_millis(50), ..ManagerConfig::default() };
    let manager =
        PluginManager::builder(EventBus::builder().build()).settings(settings).config(config).build();
    manager.register(Arc::new(RedisPlugin::new().unwrap()), PluginOptions::default()).unwrap();
    manager
}

fn section(address: &str) -> Value {
    json!({"address": address, "reconnect_delay": "20ms", "reconnect_delay_max": "200ms", "connect_timeout": "1s"})
}

/// Asks a route of a plugin as a transport does.
async fn ask(manager: &PluginManager, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let Lookup::Found(found) = manager.directory().lookup(&method, path) else {
        panic!("no {method} {path}")
    };
    let (params, next, _guard) = found.into_parts();
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let request = Request::builder().method(method).uri(path).body(full_body(body)).unwrap();
    match next.run(RouteRequest::new(request, params)).await {
        Ok(response) => {
            let status = response.status();
            let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap())
        }
        Err(error) => (error.status(), json!(error.message())),
    }
}

#[tokio::test]
async fn offers_its_service_and_answers_its_routes() {
    let server = need!(testkit::Redis::start());
    let manager = host(section(server.address()));
    let user = PluginBuilder::new("user", "1.0.0")
        .unwrap()
        .depends_on(REDIS, "*")
        .unwrap()
        .permission("service:use:redis-cluster")
        .unwrap()
        .on_start(|ctx| async move {
            let redis = ctx.service::<Redis>(REDIS)?;
            let redis = redis.get()?;
            let set = redis.client().set::<(), _, _>("used", "yes", None, None, false);
            Ok(redis.call("SET", set).await?)
        });
    manager.register(Arc::new(user.build()), PluginOptions::default()).unwrap();
    let report = manager.start_all().await.unwrap();
    assert_eq!(report.running.len(), 2, "{report:?}");
    assert_eq!(server.ask(&["GET", "used"]).await.unwrap().text(), Some("yes"));

    let ask = async |method, path, body| ask(&manager, method, path, body).await;
    let tested = manager.round_trip(REDIS).await.unwrap().unwrap();
    assert_eq!(tested["masters"], json!([server.address()]), "{tested:?}");
    assert!(tested["version"].as_str().unwrap().starts_with(char::is_numeric), "{tested:?}");
    let left = server.ask(&["KEYS", "gantry:test:*"]).await.unwrap();
    assert_eq!(left.to_string(), "[]", "the test leaves nothing behind");

    let (status, _) = ask(Method::POST, "/redis/set", json!({"key": "a/b", "value": "c", "ttl": "1h"})).await;
    assert_eq!(status, StatusCode::OK);
    let left: u64 = server.ask(&["PTTL", "a/b"]).await.unwrap().to_string().parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    let (_, got) = ask(Method::GET, "/redis/get/a/b", Value::Null).await;
    assert_eq!(got["data"], json!({"key": "a/b", "value": "c"}));
    assert_eq!(ask(Method::DELETE, "/redis/delete/a/b", Value::Null).await.0, StatusCode::OK);
    for (method, path) in [(Method::GET, "/redis/get/a/b"), (Method::DELETE, "/redis/delete/a/b")] {
        assert_eq!(ask(method, path, Value::Null).await.0, StatusCode::NOT_FOUND);
    }
    for wrong in
        [json!({"key": "a"}), json!({"key": "", "value": ""}), json!({"key": "a", "value": "b", "ttl": "0s"})]
    {
        assert_eq!(ask(Method::POST, "/redis/set", wrong).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    server.ask(&["LPUSH", "list", "x"]).await.unwrap();
    let (status, said) = ask(Method::GET, "/redis/get/list", Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT, "{said}");
    let (_, nodes) = ask(Method::GET, "/redis/nodes", Value::Null).await;
    assert_eq!(nodes["data"]["nodes"].as_array().unwrap().len(), 1);
    manager.stop_all(PATIENCE).await;
    until("an end of all connections", PATIENCE, async || {
        let clients = server.ask(&["CLIENT", "LIST"]).await.unwrap().to_string();
        // The one that asks.
        if clients.trim().lines().count() == 1 { Ok(()) } else { Err(clients) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn dependents_wait_for_a_server_that_is_late_and_start_once_it_is_there() {
    let server = need!(testkit::Redis::start());
    server.server().kill().await.unwrap();
    let manager = host(section(server.address()));
    let user = PluginBuilder::new("user", "1.0.0").unwrap().depends_on(REDIS, "*").unwrap();
    manager.register(Arc::new(user.build()), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    let redis = manager.get(REDIS).unwrap();
    assert_eq!((redis.status, redis.ready), (State::Running, false));
    assert!(redis.health.message.contains(server.address()), "{:?}", redis.health);
    let user = manager.get("user").unwrap();
    assert_eq!((user.status, user.waiting_for.len()), (State::Registered, 1));

    server.server().restart().await.unwrap();
    assert!(manager.wait_ready(&[REDIS, "user"], PATIENCE).await, "{:?}", manager.statuses());
    assert_eq!(manager.get(REDIS).unwrap().restarts, 0);
    manager.stop_all(PATIENCE).await;
}

#[tokio::test]
async fn every_master_of_a_cluster_is_asked_for_an_answer() {
    let cluster = need!(RedisCluster::start());
    let manager = host(section(&cluster.addresses().join(",")));
    manager.start_all().await.unwrap();
    assert!(manager.wait_ready(&[REDIS], PATIENCE).await);
    let tested = manager.round_trip(REDIS).await.unwrap().unwrap();
    assert_eq!(tested["masters"].as_array().unwrap().len(), 3, "{tested:?}");
    let (status, nodes) = ask(&manager, Method::GET, "/redis/nodes", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{nodes}");
    let nodes = nodes["data"]["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().filter(|node| node["took"].is_string()).count(), 3, "{nodes:?}");
    manager.stop_all(PATIENCE).await;
}

#[tokio::test]
async fn a_round_trip_to_a_server_that_is_away_says_which() {
    let server = need!(testkit::Redis::start());
    server.server().kill().await.unwrap();
    let manager = host(section(server.address()));
    manager.start_all().await.unwrap();
    let error = manager.round_trip(REDIS).await.unwrap().unwrap_err().to_string();
    assert!(error.contains(server.address()), "{error}");
    manager.stop_all(PATIENCE).await;
}
