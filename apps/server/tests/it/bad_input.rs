//! Wrong input: a clear refusal that names the field, and nothing changed.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::process::{PATIENCE, Server};

fn task(changes: Value) -> Value {
    let mut body = json!({"id": "bad", "schedule": {"type": "interval", "interval": "30s"}});
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn promise_10_a_task_body_that_is_refused_names_the_field_and_leaves_no_task() {
    let server = Server::start().await;
    let cron = |cron: &str| json!({"schedule": {"type": "cron", "cron": cron}});
    for (changes, field) in [
        (json!({"id": ""}), "id"),
        (json!({"id": "a b"}), "id"),
        (json!({"id": "x".repeat(129)}), "id"),
        (json!({"id": 7}), "id"),
        (json!({"colour": "red"}), "colour"),
        (json!({"schedule": {"type": "sometimes"}}), "schedule"),
        (json!({"schedule": {"type": "interval", "interval": "0s"}}), "schedule.interval"),
        (json!({"schedule": {"type": "interval", "interval": "-5s"}}), "schedule.interval"),
        (json!({"schedule": {"type": "interval", "interval": "999999999h"}}), "schedule.interval"),
        (json!({"schedule": {"type": "interval"}}), "schedule"),
        (json!({"schedule": {"type": "once"}}), "schedule"),
        (json!({"schedule": {"type": "once", "at": "tomorrow"}}), "schedule.at"),
        (
            json!({"schedule": {"type": "cron", "cron": "@daily", "timezone": "Mars/Olympus"}}),
            "schedule.timezone",
        ),
        (json!({"schedule": {"type": "cron", "cron": "@daily", "max_runs": 0}}), "schedule.max_runs"),
        (cron(""), "schedule.cron"),
        (cron("* * *"), "schedule.cron"),
        (cron("0 0 31 2 *"), "schedule.cron"),
        (cron("61 * * * *"), "schedule.cron"),
        (cron("@fortnightly"), "schedule.cron"),
        (cron("@every 0s"), "schedule.cron"),
        (cron(&"*".repeat(100_000)), "schedule.cron"),
        (json!({"overlap": "maybe"}), "overlap"),
        (json!({"timeout": "0s"}), "timeout"),
        (json!({"after": ["absent"]}), "after"),
    ] {
        let answer = server.post("/scheduler/tasks", task(changes.clone())).await;
        let error = answer.refusal(422);
        let named = error["field"].as_str().unwrap_or_default();
        assert!(named.starts_with(field), "{changes}: the field is `{named}`: {}", answer.text);
    }
    assert_eq!(server.get("/scheduler/tasks").await.data()["total"], 0);
}

/// How a body of that length is answered, told by its header: nothing of it is sent, since the server need not
/// wait for what it refuses, and a client that is still writing then may find the connection closed.
async fn status_of_body_of(server: &Server, length: usize) -> String {
    let address = server.base.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /scheduler/tasks HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut status = String::new();
    let mut answer = BufReader::new(connection);
    tokio::time::timeout(PATIENCE, answer.read_line(&mut status)).await.expect("in time").unwrap();
    status
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_400_and_too_large_ones_413() {
    let server = Server::start().await;
    for body in ["", "{", "nonsense", "{\"id\": \"a\"} x", "\u{0}"] {
        let body = Some((body, "application/json"));
        server.send_as(Method::POST, "/scheduler/tasks", body, &[]).await.refusal(400);
    }
    server
        .send_as(Method::POST, "/scheduler/tasks", Some(("[]", "application/json")), &[])
        .await
        .refusal(422);
    let list = r#"["a", "a", "", {"type": "interval", "interval": "1h"}]"#;
    server
        .send_as(Method::POST, "/scheduler/tasks", Some((list, "application/json")), &[])
        .await
        .refusal(422);
    server.send_as(Method::POST, "/scheduler/tasks", Some(("id=a", "text/plain")), &[]).await.refusal(415);
    let status = status_of_body_of(&server, (1 << 20) + 1).await;
    assert!(status.starts_with("HTTP/1.1 413 "), "{status}");
    assert_eq!(server.get("/scheduler/tasks").await.data()["total"], 0);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_conflicts_409() {
    let server = Server::start().await;
    for path in [
        "/scheduler/tasks/absent",
        "/scheduler/tasks/absent/runs",
        "/scheduler/runs/absent",
        "/plugins/absent",
        "/services/absent",
        "/nothing/here",
    ] {
        server.get(path).await.refusal(404);
    }
    let known = task(json!({}));
    server.post("/scheduler/tasks", known.clone()).await.data();
    server.post("/scheduler/tasks", known).await.refusal(409);
    let answer = server.send(Method::PATCH, "/scheduler/tasks", None).await;
    answer.refusal(405);
    assert!(answer.headers["allow"].to_str().unwrap().contains("POST"));
}

#[tokio::test]
async fn queries_are_checked() {
    let server = Server::start().await;
    for (path, field) in [
        ("/scheduler/tasks?limit=0", "limit"),
        ("/scheduler/tasks?limit=1001", "limit"),
        ("/scheduler/tasks?limit=x", "limit"),
        ("/scheduler/tasks?cursor=~~", "cursor"),
        ("/scheduler/tasks?status=asleep", "status"),
        ("/scheduler/tasks/status/asleep", "status"),
        ("/plugins/events?type=a..b", "type"),
        ("/plugins/events?since=yesterday", "since"),
    ] {
        let answer = server.get(path).await;
        let error = answer.refusal(422);
        assert_eq!(error["field"], field, "{path}: {}", answer.text);
    }
    for (body, field) in [
        (json!({"type": "a..b"}), "type"),
        (json!({"type": ""}), "type"),
        (json!({"type": "x".repeat(5000)}), "type"),
        (json!({"data": 1}), "type"),
        (json!({"type": "plugin.started"}), "type"),
    ] {
        let answer = server.post("/events", body.clone()).await;
        let error = answer.refusal(422);
        assert_eq!(error["field"], field, "{body}: {}", answer.text);
    }
}

/// What is wrong is refused before it is kept: the next start would stumble over it.
#[tokio::test]
async fn promise_10_a_configuration_that_nobody_can_check_is_not_kept() {
    let server = Server::start().await;
    for body in [json!({"x": 1}), json!({"auto_start": "yes"}), json!([]), json!(null)] {
        server.put("/plugins/scheduler/config", body).await.refusal(422);
    }
    assert!(!server.folder.path().join("data/config.json").exists());
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_with_its_origin() {
    let server = Server::start().await;
    let shown = server.get("/config?limit=1000").await.data();
    let of = |path: &str| {
        let values = shown["values"].as_array().unwrap();
        values.iter().find(|value| value["path"] == path).unwrap_or_else(|| panic!("{path}: {shown}")).clone()
    };
    assert_eq!(
        (&of("manager.auto_load")["value"], &of("manager.auto_load")["layer"]),
        (&json!(false), &json!("default"))
    );
    assert_eq!(of("plugins.http.port")["layer"], "environment");
    let bound = of("plugins.scheduler.max_concurrent_tasks");
    assert_eq!((&bound["value"], &bound["layer"]), (&json!(10_000), &json!("default")));
    let http = server.get("/plugins/http/config").await.data();
    assert_eq!(http["config"]["body_timeout"], "30s", "{http}");
    let page = server.get("/config?limit=2").await.data();
    assert_eq!(page["values"].as_array().unwrap().len(), 2, "{page}");
    assert!(page["next_cursor"].is_string() && page["total"] == shown["total"], "{page}");
    server.get("/config?limt=2").await.refusal(422);
}

/// The scheduler's bounds are set over the API while it runs, told to whoever listens, kept, and undone.
#[tokio::test]
async fn the_schedulers_settings_are_settings_like_any_others() {
    let server = Server::start().await;
    let mut stream = server.events("?type=system.config_changed", None).await;
    let path = "/plugins/scheduler/config";
    let mut config = server.get(path).await.data()["config"].take();
    assert_eq!(config["max_tasks"], 5_000_000, "{config}");
    config["max_tasks"] = json!(1);
    let changed = server.put(path, config.clone()).await.data();
    assert_eq!((&changed["applied"], &changed["config"]["max_tasks"]), (&json!("live"), &json!(1)));
    let (_, event) = stream.next_of("system.config_changed").await;
    assert_eq!(event["data"], json!({"layer": "api", "paths": ["plugins.scheduler.max_tasks"]}));
    server.post("/scheduler/tasks", task(json!({"id": "first"}))).await.data();
    server.post("/scheduler/tasks", task(json!({"id": "second"}))).await.refusal(503);
    config["max_tasks"] = json!(0);
    assert_eq!(server.put(path, config).await.refusal(422)["field"], "max_tasks");
    let shown = server.get("/config?limit=1000").await.data();
    let values = shown["values"].as_array().unwrap();
    let bound = values.iter().find(|value| value["path"] == "plugins.scheduler.max_tasks").unwrap();
    assert_eq!((&bound["value"], &bound["layer"]), (&json!(1), &json!("api")));
    let kept = std::fs::read_to_string(server.folder.path().join("data/config.json")).unwrap();
    assert!(kept.contains("max_tasks") && !kept.contains("max_records"), "only what differs: {kept}");
    server.put(path, json!({})).await.data();
    server.post("/scheduler/tasks", task(json!({"id": "second"}))).await.data();
}
