//! Events over HTTP.

use reqwest::Method;
use serde_json::json;

use crate::plugins::troubled;
use crate::process::Server;

/// What a subscription fails on is kept, and handled after all once it is redriven.
#[tokio::test]
async fn dead_letters_are_looked_at_redriven_and_discarded() {
    let server = troubled().await;
    server.until("/plugins/forgetful", |data| data["plugin"]["status"] == "running").await;
    for n in 0..4 {
        server.post("/events", json!({"type": "custom.order.placed", "data": {"n": n}})).await.data();
    }
    let list = "/events/dead-letters?type=custom.order.*&subscription=orders&owner=forgetful";
    let letters = server.until(list, |data| data["total"] == 4).await["dead_letters"].take();
    assert_eq!(letters[0]["reason"], "not at the first attempt", "{letters}");
    let id = |n: usize| letters[n]["id"].as_u64().unwrap();
    server.get(&format!("/events/dead-letters/{}", id(0))).await.data();
    server.post(&format!("/events/dead-letters/{}/redrive", id(0)), json!({})).await.data();
    server.post(&format!("/events/dead-letters/{}/discard", id(1)), json!({})).await.data();
    server.get(&format!("/events/dead-letters/{}", id(1))).await.refusal(404);
    let batch = json!({"cause": "failed", "limit": 1});
    let tried = server.post("/events/dead-letters/redrive?dry_run=true", batch.clone()).await.data();
    assert_eq!((&tried["done"], &tried["left"]), (&json!(1), &json!(1)), "{tried}");
    let done = server.post("/events/dead-letters/redrive", batch).await.data();
    assert_eq!((&done["done"], &done["outcomes"][0]["id"]), (&json!(1), &json!(id(2))), "{done}");
    let done = server.post("/events/dead-letters/discard", json!({"ids": [id(3)]})).await.data();
    assert_eq!(done["done"], 1, "{done}");
    assert_eq!(server.get("/events/dead-letters").await.data()["total"], 0);
    let counts = server
        .until("/events/subscriptions", |data| {
            let orders = data["subscriptions"].as_array().unwrap().iter().find(|s| s["name"] == "orders");
            orders.is_some_and(|orders| orders["delivered"] == 2 && orders["discarded"] == 2)
        })
        .await;
    assert!(counts["total"].as_u64() >= Some(1), "{counts}");
    let audit = server.get("/audit").await.data();
    assert_eq!(audit["entries"].to_string().matches("dead_letter.").count(), 4, "{audit}");
    server.post("/events/dead-letters/redrive", json!({"limit": 0})).await.refusal(422);
}

#[tokio::test]
async fn cloud_events_come_in_three_modes_and_are_seen_with_their_extensions() {
    let server = Server::start().await;
    let mut stream = server.events("?type=custom.mode", None).await;
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "me", "type": "custom.mode", "unheardof": "kept"});
    let structured = event("structured").to_string();
    let batch = json!([event("b1"), event("b2")]).to_string();
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "binary"),
        ("ce-source", "me"),
        ("ce-type", "custom.mode"),
        ("ce-unheardof", "kept"),
    ];
    for (body, kind, headers) in [
        (structured.as_str(), "application/cloudevents+json", &[][..]),
        (&batch, "application/cloudevents-batch+json", &[]),
        ("grün", "text/plain; charset=utf-8", &binary),
    ] {
        server.send_as(Method::POST, "/events", Some((body, kind)), headers).await.data();
    }
    for id in ["structured", "b1", "b2", "binary"] {
        let (_, event) = stream.next_of("custom.mode").await;
        assert_eq!((&event["id"], &event["unheardof"]), (&json!(id), &json!("kept")), "{event}");
    }
    let recent = server.get("/plugins/events?type=custom.mode").await.data();
    assert_eq!(recent["events"][0]["data"], "grün", "{recent}");
    for (body, kind, status) in [
        ("x", "text/plain", 415),
        ("{", "application/cloudevents+json", 400),
        ("{}", "application/cloudevents+json", 422),
        ("[{}]", "application/cloudevents-batch+json", 422),
    ] {
        server.send_as(Method::POST, "/events", Some((body, kind)), &[]).await.refusal(status);
    }
}

#[tokio::test]
async fn what_is_published_is_seen_live_and_afterwards() {
    let server = Server::start().await;
    let mut stream = server.events("?type=custom.*", None).await;
    let answer =
        server.post("/events", json!({"type": "custom.hello", "source": "me", "data": {"n": 1}})).await;
    answer.data();
    server.post("/plugins/events/test", json!({})).await.data();
    let (_, event) = stream.next_of("custom.hello").await;
    assert_eq!((&event["source"], &event["data"]), (&json!("me"), &json!({"n": 1})), "{event}");
    let recent = server.get("/plugins/events?type=test.demo").await.data();
    assert_eq!(recent["events"][0]["type"], "test.demo", "{recent}");
    let none = server.get("/plugins/events?source=nobody").await.data();
    assert_eq!(none["events"], json!([]));
    let lifecycle = server.get("/plugins/events?type=plugin.started").await.data();
    assert!(lifecycle["events"].to_string().contains("scheduler"), "{lifecycle}");
}

#[tokio::test]
async fn a_stream_is_resumed_where_it_was_left() {
    let server = Server::start().await;
    let publish = async |n: u8| {
        server.post("/events", json!({"type": "custom.n", "data": {"n": n}})).await.data();
    };
    let mut stream = server.events("?type=custom.n", None).await;
    publish(1).await;
    let (id, _) = stream.next_of("custom.n").await;
    drop(stream);
    publish(2).await;
    publish(3).await;
    let mut stream = server.events("?type=custom.n", Some(&id)).await;
    for n in [2, 3] {
        assert_eq!(stream.next_of("custom.n").await.1["data"]["n"], n);
    }
}

#[tokio::test]
async fn tasks_tell_what_happens_to_them() {
    let server = Server::start().await;
    let mut stream = server.events("?type=scheduler.task.*", None).await;
    server
        .post("/scheduler/tasks", json!({"id": "t", "schedule": {"type": "once", "delay": "1ms"}}))
        .await
        .data();
    for topic in ["scheduler.task.scheduled", "scheduler.task.started", "scheduler.task.completed"] {
        let (_, event) = stream.next_of(topic).await;
        assert!(event["data"].to_string().contains("\"t\""), "{event}");
    }
    let subscriptions = server.get("/events/subscriptions").await.data();
    assert!(subscriptions["subscriptions"].is_array(), "{subscriptions}");
}
