//! Events over the API.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;

use crate::client::{call, get, send};
use crate::host::host;

#[tokio::test]
async fn what_is_published_is_seen() {
    let host = host().await;
    let test = call(&host.api, Method::POST, "/plugins/events/test", "").await.json();
    assert_eq!(test["data"]["event"]["type"], "test.demo");
    let body = r#"{"type": "custom.greeting", "data": {"hello": "world"}, "colour": "red"}"#;
    let request = Request::post("/events")
        .header("content-type", "application/json")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .body(Full::from(body))
        .unwrap();
    let published = send(&host.api, request).await.json();
    let event = &published["data"]["event"];
    assert_eq!((&event["data"], &event["colour"]), (&json!({"hello": "world"}), &json!("red")));
    assert!(event["traceparent"].as_str().unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{event}");

    let recent = get(&host.api, "/plugins/events").await.json();
    let types: Vec<_> =
        recent["data"]["events"].as_array().unwrap().iter().map(|e| e["type"].clone()).collect();
    assert_eq!(types[..2], ["custom.greeting", "test.demo"]);
    let filtered = get(&host.api, "/plugins/events?type=test.*").await.json();
    assert_eq!(filtered["data"]["total"], 1);
    let since = test["data"]["event"]["id"].as_str().unwrap();
    let later = get(&host.api, &format!("/plugins/events?since={since}")).await.json();
    assert_eq!(
        (&later["data"]["total"], &later["data"]["events"][0]["type"]),
        (&json!(1), &json!("custom.greeting"))
    );
    let page = get(&host.api, "/plugins/events?source=api/developer&limit=1").await.json();
    let cursor = page["data"]["next_cursor"].as_str().unwrap();
    let next =
        get(&host.api, &format!("/plugins/events?source=api/developer&limit=1&cursor={cursor}")).await.json();
    assert_eq!(
        (&next["data"]["events"][0]["type"], &next["data"]["next_cursor"]),
        (&json!("test.demo"), &json!(null))
    );
}

/// Promise 10: bad input gets a clear error that names the field, and changes nothing.
#[tokio::test]
async fn promise_10_what_is_no_event_is_refused() {
    let host = host().await;
    let before = host.bus.stats().published;
    for (body, field) in [
        ("{}", "type"),
        (r#"{"type": 7}"#, "type"),
        (r#"{"type": "a..b"}"#, "type"),
        (r#"{"type": "plugin.started"}"#, "type"),
        (r#"{"type": "scheduler"}"#, "type"),
        (r#"{"type": "a", "time": "noon"}"#, "time"),
        (r#"{"type": "a", "specversion": "2.0"}"#, "specversion"),
        (r#"{"type": "a", "source": ""}"#, "source"),
        (r#"{"type": "a", "Colour": {}}"#, ""),
    ] {
        let answer = call(&host.api, Method::POST, "/events", body).await;
        let json = answer.json();
        assert_eq!(answer.status, 422, "{body}: {json}");
        let named = json["error"]["field"].as_str().unwrap_or_default();
        assert!(field.is_empty() || named == field, "{body}: {json}");
    }
    let body = r#"{"message": "x", "extra": 1}"#;
    assert_eq!(
        call(&host.api, Method::POST, "/plugins/events/test", body).await.json()["error"]["field"],
        "extra"
    );
    assert_eq!(host.bus.stats().published, before);
}

#[tokio::test]
async fn subscriptions_are_listed_with_their_counts() {
    let host = host().await;
    let options = event_bus::SubscribeOptions::default().name("probe").owner("tester");
    let handler = |_: event_bus::Event| async { Ok::<_, event_bus::HandlerError>(()) };
    let _kept = host.bus.subscribe("custom.*", options, handler).unwrap();
    let list = get(&host.api, "/events/subscriptions").await.json();
    let ours =
        list["data"]["subscriptions"].as_array().unwrap().iter().find(|s| s["name"] == "probe").unwrap();
    assert_eq!(
        (&ours["pattern"], &ours["owner"], &ours["depth"]),
        (&json!("custom.*"), &json!("tester"), &json!(0))
    );
}
