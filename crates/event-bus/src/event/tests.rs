use std::sync::Arc;

use runtime::SystemClock;
use serde::Serialize;
use serde_json::{Map, json};

use super::*;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

#[test]
fn the_json_form_is_a_cloud_event_and_reads_the_same() {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let event = Event::builder(topic("orders.created"))
        .source("shop")
        .target("billing")
        .data(json!({"id": 7}))
        .metadata("tenant", "acme")
        .metadata("attempt", 2)
        .trace(TraceContext::new(parent).unwrap().with_state("a=1").unwrap())
        .build(&SystemClock)
        .unwrap();
    let written = serde_json::to_value(&event).unwrap();
    assert_eq!(
        written,
        json!({
            "specversion": "1.0",
            "id": event.id().to_string(),
            "source": "shop",
            "type": "orders.created",
            "time": event.time().to_string(),
            "target": "billing",
            "traceparent": parent,
            "tracestate": "a=1",
            "tenant": "acme",
            "attempt": 2,
            "datacontenttype": "application/json",
            "data": {"id": 7},
        })
    );
    let read: Event = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
}

#[test]
fn unknown_extensions_and_other_content_survive_the_round_trip() {
    for sent in [
        json!({"specversion": "1.0", "id": "A1", "source": "/mycontext", "type": "com.example.x",
               "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value", "comexampleothervalue": 5,
               "sampled": true, "subject": "s", "datacontenttype": "text/xml", "data": "<much/>"}),
        json!({"specversion": "1.0", "id": "B", "source": "s", "type": "t",
               "time": "2018-04-05T17:31:00Z", "data_base64": "aGVsbG8="}),
        json!({"specversion": "1.0", "id": "C", "source": "s", "type": "t", "time": "2018-04-05T17:31:00Z"}),
    ] {
        let event: Event = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), sent);
    }
}

#[test]
fn what_a_publisher_leaves_out_is_filled_in() {
    let sent = object(json!({"type": "test.demo", "metadata": {"tenant": "acme"}, "data": [1]}));
    let event = Event::from_json(sent, &SystemClock, MAX_DATA_BYTES).unwrap();
    assert_eq!(event.id().as_uuid().unwrap().get_version_num(), 7);
    assert_eq!(event.source(), "gantry");
    assert_eq!(event.metadata().get("tenant"), Some(&"acme".into()));
    assert_eq!(*event.data(), json!([1]));
}

#[test]
fn a_refusal_names_the_field() {
    for (sent, field, says) in [
        (json!({}), "type", "type: is missing"),
        (json!({"type": 1}), "type", "type: must be a text"),
        (json!({"type": "a..b"}), "type", "topic: `a..b` has an empty segment"),
        (
            json!({"type": "a", "specversion": "0.3"}),
            "specversion",
            "specversion: `0.3` is not supported, only `1.0` is",
        ),
        (json!({"type": "a", "id": ""}), "id", "id: must be 1 to 255 bytes without control characters"),
        (
            json!({"type": "a", "source": "a b"}),
            "source",
            "source: must be 1 to 255 bytes without blanks or control characters",
        ),
        (
            json!({"type": "a", "target": ""}),
            "target",
            "target: must be 1 to 255 bytes without blanks or control characters",
        ),
        (json!({"type": "a", "time": "yesterday"}), "time", "time: `yesterday` is not an RFC 3339 time"),
        (
            json!({"type": "a", "traceparent": "x"}),
            "traceparent",
            "traceparent: `x` is not of the form `00-<32 hex>-<16 hex>-<2 hex>` with ids that are not zero",
        ),
        (
            json!({"type": "a", "Tenant": "x"}),
            "Tenant",
            "metadata: `Tenant` is not an attribute name: 1 to 64 characters of `a-z` and `0-9`",
        ),
        (
            json!({"type": "a", "metadata": {"id": "x"}}),
            "id",
            "metadata: `id` is an attribute of the event itself",
        ),
        (json!({"type": "a", "metadata": []}), "metadata", "metadata: must be an object"),
        (json!({"type": "a", "x": {}}), "x", "x: must be a text, a truth value or a whole number"),
        (
            json!({"type": "a", "metadata": {"x": 1.5}}),
            "metadata.x",
            "metadata.x: must be a whole number of 32 bits",
        ),
        (json!({"type": "a", "data_base64": "?"}), "data_base64", "data_base64: is not base64"),
        (
            json!({"type": "a", "data": 1, "data_base64": ""}),
            "data_base64",
            "data_base64: stands beside `data`",
        ),
        (
            json!({"type": "a", "data": "x".repeat(60)}),
            "data",
            "data: has about 62 bytes, at most 50 are allowed",
        ),
    ] {
        let error = Event::from_json(object(sent), &SystemClock, 50).unwrap_err();
        assert_eq!((error.field(), error.to_string().as_str()), (field, says));
    }
    for missing in ["specversion", "id", "source", "type"] {
        let mut sent = object(json!({"specversion": "1.0", "id": "a", "source": "b", "type": "c"}));
        sent.remove(missing);
        let error = serde_json::from_value::<Event>(sent.into()).unwrap_err();
        assert_eq!(error.to_string(), format!("{missing}: is missing"));
    }
}

#[derive(Serialize)]
struct Order {
    id: u32,
}

#[test]
fn a_typed_payload_crosses_as_it_is_and_becomes_json_once() {
    let event = Event::builder(topic("orders.created")).typed(Order { id: 7 }).build(&SystemClock).unwrap();
    assert_eq!(event.downcast::<Order>().unwrap().id, 7);
    assert!(event.downcast::<String>().is_none());
    assert_eq!(*event.data(), json!({"id": 7}));
    assert!(std::ptr::eq(event.data(), event.clone().data()));
}

#[test]
fn a_payload_without_json_form_says_so_when_asked() {
    let broken = std::collections::HashMap::from([(vec![1_u8], 1)]);
    let event = Event::builder(topic("a")).typed(broken).build(&SystemClock).unwrap();
    assert!(event.data_json().unwrap_err().to_string().starts_with("data: `"));
    assert_eq!(*event.data(), Value::Null);
    assert!(serde_json::to_value(&event).is_err());
}

#[test]
fn a_builder_reports_the_first_mistake_and_shares_what_is_shared() {
    let error = Event::builder(topic("a")).source("").metadata("Bad", "x").build(&SystemClock).unwrap_err();
    assert_eq!(error.field(), "source");
    let source: Arc<str> = "orders".into();
    let event = Event::builder(topic("a")).source(source.clone()).build(&SystemClock).unwrap();
    assert!(std::ptr::eq(event.source(), &*source));
}
