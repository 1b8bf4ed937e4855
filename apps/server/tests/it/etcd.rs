//! The server beside an etcd: there, late, and not configured.

use reqwest::Method;
use serde_json::json;
use testkit::need;

use crate::process::{Folder, Server, command, server_program};

async fn beside(servers: &testkit::Etcd) -> Server {
    let folder = Folder::new();
    let mut command = command(&folder, server_program());
    command.env("ETCD_ENDPOINTS", servers.addresses().join(","));
    command.env("GANTRY__MANAGER__HEALTH_CHECK_INTERVAL", "200ms");
    Server::spawn(folder, command).await
}

#[tokio::test]
async fn without_one_nothing_of_it_is_there() {
    let server = Server::start().await;
    server.get("/plugins/etcd").await.refusal(404);
    server.get("/services/etcd/test").await.refusal(404);
    assert_eq!(server.raw(Method::GET, "/etcd/get/a", None, &[]).await.status.as_u16(), 404);
}

#[tokio::test]
async fn keys_services_and_settings_go_through_it() {
    let servers = need!(testkit::Etcd::start());
    let server = beside(&servers).await;
    server.until("/plugins/etcd", |data| data["plugin"]["ready"] == true).await;
    let tested = server.get("/services/etcd/test").await.data();
    assert_eq!((&tested["service"], &tested["provider"]), (&json!("etcd"), &json!("etcd")));
    assert!(tested["detail"]["version"].as_str().unwrap().starts_with('3'), "{tested}");

    let body = json!({ "key": "colours/sky", "value": "blue" }).to_string();
    let put = server.raw(Method::POST, "/etcd/put", Some((&body, "application/json")), &[]).await;
    assert!(put.data()["revision"].as_i64().unwrap() > 1);
    let got = server.raw(Method::GET, "/etcd/get/colours/sky", None, &[]).await.data();
    assert_eq!(got["value"], "blue");
    assert_eq!(servers.get(0, "colours/sky").await.unwrap().as_deref(), Some("blue"));
    assert_eq!(
        server.raw(Method::DELETE, "/etcd/delete/colours/sky", None, &[]).await.data()["deleted"],
        true
    );
    let gone = server.raw(Method::GET, "/etcd/get/colours/sky", None, &[]).await;
    assert_eq!(gone.refusal(404)["kind"], "not_found");

    // A setting for the whole fleet, applied live, with its origin.
    servers.put(0, "/gantry/config/plugins/scheduler/max_tasks", "4711").await.unwrap();
    server.until("/plugins/scheduler/config", |data| data["config"]["max_tasks"] == 4711).await;
    let shown = server.get("/config?limit=1000").await.data();
    let values = shown["values"].as_array().unwrap();
    let value = values.iter().find(|value| value["path"] == "plugins.scheduler.max_tasks").unwrap();
    assert_eq!(value["layer"], "fleet");
    assert!(value["source"].as_str().unwrap().contains(&servers.addresses()[0]), "{value}");
    // Calls are measured under the names of OpenTelemetry's conventions.
    let metrics = server.raw(Method::GET, "/metrics", None, &[]).await.text;
    let put = "db_client_operation_duration_seconds_count{db_operation_name=\"put\",db_system_name=\"etcd\"";
    assert!(metrics.contains(put), "{metrics}");
}

#[tokio::test]
async fn one_that_is_late_is_waited_for() {
    let servers = need!(testkit::Etcd::start());
    servers.members()[0].kill().await.unwrap();
    let server = beside(&servers).await;
    let plugin = server.until("/plugins/etcd", |data| data["plugin"]["status"] == "running").await;
    assert_eq!(plugin["plugin"]["ready"], false);
    let refused = server.get("/services/etcd/test").await.refusal(503);
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains(&servers.addresses()[0]) && detail.contains("cannot be reached"), "{detail}");
    servers.members()[0].restart().await.unwrap();
    let plugin = server.until("/plugins/etcd", |data| data["plugin"]["ready"] == true).await;
    assert_eq!(plugin["plugin"]["restarts"], 0);
    server.get("/services/etcd/test").await.data();
}
