//! Events over the API.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::json;

use crate::client::{Answered, call, get, send};
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

async fn publish_as(host: &crate::host::Host, path: &str, headers: &[(&str, &str)], body: &str) -> Answered {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(&host.api, request.body(Full::from(body.to_owned())).unwrap()).await
}

/// An extension that the host knows nothing of, in each mode, is there again for whoever looks.
#[tokio::test]
async fn cloud_events_are_taken_in_every_mode_and_keep_their_extensions() {
    let host = host().await;
    let event = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/shop", "type": "custom.order", "subject": "o-1",
            "unheardof": "kept", "time": "2026-01-02T03:04:05Z", "datacontenttype": "application/json",
            "data": {"n": 1},
        })
    };
    let structured = [("content-type", "application/cloudevents+json; charset=utf-8")];
    let answer = publish_as(&host, "/events", &structured, &event("s").to_string()).await;
    assert_eq!(answer.json()["data"]["event"]["unheardof"], "kept", "{:?}", answer.body);
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let two = json!([event("b1"), event("b2")]).to_string();
    let answer = publish_as(&host, "/events", &batch, &two).await;
    assert_eq!(answer.json()["data"]["total"], 2, "{:?}", answer.body);
    assert_eq!(publish_as(&host, "/events", &batch, "[]").await.json()["data"]["events"], json!([]));
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "x"),
        ("ce-source", "/shop"),
        ("ce-type", "custom.order"),
        ("ce-subject", "o-1"),
        ("ce-time", "2026-01-02T03:04:05Z"),
        ("ce-unheardof", "kept"),
    ];
    let answer = publish_as(&host, "/events", &binary, r#"{"n": 1}"#).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let recent = get(&host.api, "/plugins/events?type=custom.order").await.json();
    let mut seen = recent["data"]["events"].as_array().unwrap().clone();
    for (event_seen, id) in seen.iter_mut().rev().zip(["s", "b1", "b2", "x"]) {
        event_seen.as_object_mut().unwrap().remove("traceparent");
        assert_eq!(*event_seen, event(id));
    }
    assert_eq!(seen.len(), 4);
}

/// Promise 10, for CloudEvents: each kind of bad input, and nothing is published.
#[tokio::test]
async fn promise_10_what_is_no_cloud_event_is_refused() {
    let host = host().await;
    let before = host.bus.stats().published;
    let kind = |kind| vec![("content-type", kind)];
    let structured = || kind("application/cloudevents+json");
    let batch = || kind("application/cloudevents-batch+json");
    let whole = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", "a")];
    let binary = |more: &[(&'static str, &'static str)]| [&whole[..], more].concat();
    let event = r#"{"specversion": "1.0", "id": "1", "source": "s", "type": "a"}"#;
    for (headers, body, status, field) in [
        (kind("text/plain"), "x".to_owned(), 415, None),
        (kind("application/cloudevents+xml"), "<a/>".to_owned(), 415, None),
        (structured(), "{".to_owned(), 400, None),
        (structured(), r#"{"specversion": "1.0", "id": "1", "source": "s"}"#.to_owned(), 422, Some("type")),
        (structured(), event.replace("1.0", "0.3"), 422, Some("specversion")),
        (structured(), event.replace("\"a\"", "\"system.a\""), 422, Some("type")),
        (structured(), event.replace("\"a\"", "\"a\", \"Big\": 1"), 422, Some("Big")),
        (batch(), format!("[{event}, {{}}]"), 422, Some("[1].specversion")),
        (batch(), format!("[{event}, {}]", event.replace("\"a\"", "\"a..b\"")), 422, Some("[1].type")),
        (batch(), "{}".to_owned(), 422, None),
        (binary(&[("ce-type", "b")]), String::new(), 400, Some("ce-type")),
        (binary(&[("ce-colour", "%ff")]), String::new(), 400, Some("ce-colour")),
        (binary(&[("ce-time", "noon")]), String::new(), 422, Some("time")),
        (binary(&[("content-type", "application/json")]), "{".to_owned(), 400, Some("data")),
        (vec![("ce-type", "a")], String::new(), 422, Some("specversion")),
    ] {
        let answer = publish_as(&host, "/events", &headers, &body).await;
        let json = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{headers:?} {body}: {json}");
        assert_eq!(json["error"]["field"].as_str(), field, "{headers:?} {body}: {json}");
    }
    let dry = publish_as(&host, "/events?dry_run=true", &kind("application/json"), r#"{"type": "a"}"#).await;
    assert_eq!((dry.status.as_u16(), &dry.json()["data"]["delivered_to"]), (200, &json!(0)));
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
    assert_eq!((&ours["oldest_age"], &ours["mean_handler_time"]), (&json!(null), &json!(null)));
    let total = list["data"]["total"].as_u64().unwrap();
    let first = get(&host.api, "/events/subscriptions?limit=1").await.json();
    assert_eq!(first["data"]["subscriptions"].as_array().unwrap().len(), 1);
    let cursor = first["data"]["next_cursor"].as_str().unwrap();
    let rest = get(&host.api, &format!("/events/subscriptions?cursor={cursor}")).await.json();
    assert_eq!(rest["data"]["subscriptions"].as_array().unwrap().len() as u64, total - 1);
    assert_eq!(get(&host.api, "/events/subscriptions?cursor=x").await.status, 422);
}

/// Whoever lags shows how far, and for how long: as a text, like every duration.
#[tokio::test]
async fn a_subscription_that_lags_says_for_how_long() {
    let host = host().await;
    let options = event_bus::SubscribeOptions::default().name("slow");
    let handler = |_: event_bus::Event| std::future::pending::<Result<(), event_bus::HandlerError>>();
    let _kept = host.bus.subscribe("custom.*", options, handler).unwrap();
    for _ in 0..3 {
        host.bus.emit(&event_bus::Topic::new("custom.a").unwrap(), 1).unwrap();
    }
    let lagging = async {
        loop {
            let list = get(&host.api, "/events/subscriptions").await.json();
            let all = list["data"]["subscriptions"].as_array().unwrap();
            let slow = all.iter().find(|s| s["name"] == "slow").unwrap().clone();
            if slow["oldest_age"].is_string() && slow["depth"] == 2 {
                return slow;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let slow = tokio::time::timeout(std::time::Duration::from_secs(30), lagging).await.expect("in time");
    runtime::parse_duration(slow["oldest_age"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&slow["accepted"], &slow["lag"], &slow["dropped"]),
        (&json!(3), &json!(3), &json!(0)),
        "{slow}"
    );
}
