//! Events over HTTP.

use serde_json::json;

use crate::process::Server;

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
