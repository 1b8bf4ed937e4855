//! What is refused is counted, and says why.

use std::collections::HashMap;

use event_bus::{
    Event, EventBus, Limits, Overflow, Pattern, PublishError, SubscribeOptions, Topic, cloud, refused,
};
use runtime::SystemClock;
use serde_json::json;

use crate::support::{LONG, Recorder, event, topic};

/// More than other tests refuse meanwhile: the counts are the process's.
const MANY: u64 = 1000;

/// Does it often, and says which counts grew with it.
fn counted(mut refuse: impl FnMut()) -> Vec<&'static str> {
    let before: HashMap<_, _> = refused().collect();
    (0..MANY).for_each(|_| refuse());
    refused().filter(|(reason, count)| count - before[reason] >= MANY).map(|(reason, _)| reason).collect()
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    let bus = EventBus::builder().limits(Limits { data_bytes: 10, ..Limits::default() }).build();
    let build = |builder: event_bus::EventBuilder| drop(builder.build(&SystemClock).unwrap_err());
    let read = |value: serde_json::Value| {
        let object = value.as_object().cloned().unwrap();
        drop(Event::from_json(object, &SystemClock, 10).unwrap_err());
    };
    assert_eq!(counted(|| drop(Topic::new("").unwrap_err())), ["topic"]);
    assert_eq!(counted(|| drop(Topic::new("a".repeat(256)).unwrap_err())), ["topic"]);
    assert_eq!(counted(|| read(json!({"type": "a..b"}))), ["topic"]);
    assert_eq!(counted(|| drop(Pattern::new("a.b*").unwrap_err())), ["pattern"]);
    assert_eq!(
        counted(|| drop(bus.subscribe("a..*", SubscribeOptions::new(), Recorder::new()).unwrap_err())),
        ["pattern"]
    );
    let none = SubscribeOptions::new().capacity(0);
    assert_eq!(counted(|| drop(bus.subscribe("a", none.clone(), Recorder::new()).unwrap_err())), ["options"]);
    assert_eq!(counted(|| build(Event::builder(topic("a")).metadata("Tenant", "x"))), ["attribute"]);
    assert_eq!(counted(|| read(json!({"type": "a", "Tenant": "x"}))), ["attribute"]);
    assert_eq!(counted(|| read(json!({"type": "a", "id": ""}))), ["attribute"]);
    assert_eq!(counted(|| read(json!({}))), ["attribute"]);
    let header = [("ce-type", &b"%ff"[..])];
    assert_eq!(counted(|| drop(cloud::from_headers(header, b"").unwrap_err())), ["attribute"]);
    assert_eq!(counted(|| read(json!({"type": "a", "data": "x".repeat(20)}))), ["too_large"]);
    let large = Event::builder(topic("a")).data("x".repeat(20)).build(&SystemClock).unwrap();
    assert_eq!(counted(|| drop(bus.try_publish(large.clone()).unwrap_err())), ["too_large"]);
    assert_eq!(counted(|| drop(event("a", 0).reply(json!(1)).unwrap_err())), ["reply"]);
    let gated = SubscribeOptions::new().capacity(1).overflow(Overflow::Block);
    // Its task has no turn while this one has not.
    let full = bus.subscribe("full", gated, Recorder::new()).unwrap();
    bus.offer(event("full", 0)).unwrap();
    assert_eq!(counted(|| drop(bus.offer(event("full", 1)).unwrap_err())), ["no_room"]);
    let refused = bus.offer(event("full", 1)).unwrap_err();
    assert_eq!(refused, PublishError::NoRoom(topic("full")));
    assert_eq!(full.stats().accepted, 1, "who is refused has missed nothing");
    assert_eq!(bus.shutdown(LONG).await.undelivered, 0);
    assert_eq!(counted(|| drop(bus.offer(event("a", 0)).unwrap_err())), ["closed"]);
    assert_eq!(bus.stats().refused, 3 * MANY + 1);
}
