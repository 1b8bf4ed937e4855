//! Order, bounds, policies, ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use event_bus::{
    Event, EventBus, HandlerError, HistoryFilter, Overflow, Pattern, PublishError, SubscribeError,
    SubscribeOptions, SubscriptionSpec, by_ref,
};
use futures_util::FutureExt;
use serde_json::json;

use crate::support::{LONG, Recorder, event, publish, topic, until};

fn options() -> SubscribeOptions {
    SubscribeOptions::default().overflow(Overflow::Block)
}

#[tokio::test]
async fn events_arrive_in_order_by_pattern() {
    let bus = EventBus::builder().build();
    let (exact, one, any) = (Recorder::new(), Recorder::new(), Recorder::new());
    let _a = bus.subscribe("orders.created", options(), exact.clone()).unwrap();
    let _b = bus.subscribe("orders.*", options(), one.clone()).unwrap();
    let _c = bus.subscribe("**", options(), any.clone()).unwrap();
    for n in 0..300 {
        let name = ["orders.created", "orders.paid", "other"][n % 3];
        let published = bus.publish(event(name, n as u64)).await.unwrap();
        assert_eq!(published.delivered_to, [3, 2, 1][n % 3]);
    }
    any.has(300).await;
    one.has(200).await;
    exact.has(100).await;
    assert_eq!(any.numbers(), (0..300).collect::<Vec<_>>(), "in order across topics");
    assert_eq!(one.numbers(), (0..300).filter(|n| n % 3 != 2).collect::<Vec<_>>());
    assert!(exact.topics().iter().all(|topic| topic == "orders.created"));
}

#[tokio::test]
async fn closures_and_plain_functions_are_handlers() {
    let bus = EventBus::builder().build();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let _a = bus
        .subscribe("a", options(), move |event: Event| {
            let calls = counted.clone();
            async move {
                tokio::task::yield_now().await;
                calls.fetch_add(usize::from(event.topic() == &topic("a")), Ordering::Relaxed);
                Ok(())
            }
        })
        .unwrap();
    let counted = calls.clone();
    let _b = bus
        .subscribe(
            "a",
            options(),
            by_ref(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        )
        .unwrap();
    let report = bus.publish_and_wait(event("a", 0), LONG).await.unwrap();
    assert!(report.is_clean());
    assert_eq!((report.delivered_to, calls.load(Ordering::Relaxed)), (2, 2));
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let options = SubscribeOptions::default().capacity(2);
    let subscription = bus.subscribe("a", options, slow.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    slow.has(1).await;
    publish(&bus, "a", 1..6).await;
    assert_eq!(subscription.stats().dropped, 3, "counted before the subscriber comes back");
    assert_eq!(subscription.stats().depth, 2);
    gate.add_permits(10);
    slow.has(3).await;
    assert_eq!(slow.numbers(), [0, 4, 5]);
    until("counts", || subscription.stats().delivered == 3).await;
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.dropped, stats.depth), (6, 3, 0));
}

#[tokio::test]
async fn drop_newest_keeps_the_oldest() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let options = SubscribeOptions::default().capacity(2).overflow(Overflow::DropNewest);
    let subscription = bus.subscribe("a", options, slow.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    slow.has(1).await;
    publish(&bus, "a", 1..6).await;
    gate.add_permits(10);
    slow.has(3).await;
    publish(&bus, "a", 6..7).await;
    slow.has(4).await;
    assert_eq!(slow.numbers(), [0, 1, 2, 6]);
    until("counts", || subscription.stats().delivered == 4).await;
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.dropped, stats.depth), (7, 3, 0));
}

#[tokio::test]
async fn disconnect_ends_the_subscription() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let options = SubscribeOptions::default().capacity(2).overflow(Overflow::Disconnect);
    let subscription = bus.subscribe("a", options, slow.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    slow.has(1).await;
    publish(&bus, "a", 1..6).await;
    gate.add_permits(10);
    subscription.ended().await;
    assert_eq!(slow.numbers(), [0]);
    assert!(bus.subscriptions().is_empty());
    let stats = subscription.stats();
    assert_eq!(stats.accepted, stats.delivered + stats.dropped + stats.discarded);
}

#[tokio::test]
async fn block_waits_and_loses_nothing() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let _a = bus.subscribe("a", options().capacity(2), slow.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    slow.has(1).await;
    publish(&bus, "a", 1..3).await;
    let mut blocked = Box::pin(bus.publish(event("a", 3)));
    assert!((&mut blocked).now_or_never().is_none());
    assert_eq!(bus.try_publish(event("a", 99)).unwrap().missed, 1);
    gate.add_permits(1);
    blocked.await.unwrap();
    gate.add_permits(10);
    slow.has(4).await;
    assert_eq!(slow.numbers(), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_publish_that_is_given_up_has_published_nothing() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let other = Recorder::new();
    let _a = bus.subscribe("a", options().capacity(1), slow.clone()).unwrap();
    let _b = bus.subscribe("**", options(), other.clone()).unwrap();
    publish(&bus, "a", 0..1).await;
    slow.has(1).await;
    publish(&bus, "a", 1..2).await;
    assert!(bus.publish(event("a", 2)).now_or_never().is_none());
    gate.add_permits(10);
    publish(&bus, "a", 3..4).await;
    slow.has(3).await;
    other.has(3).await;
    assert_eq!(slow.numbers(), [0, 1, 3]);
    assert_eq!(other.numbers(), [0, 1, 3]);
}

#[tokio::test]
async fn several_at_once_where_asked() {
    let bus = EventBus::builder().build();
    let (slow, gate) = Recorder::gated();
    let subscription = bus.subscribe("a", options().concurrency(3), slow.clone()).unwrap();
    publish(&bus, "a", 0..5).await;
    slow.has(3).await;
    assert_eq!(slow.len(), 3);
    gate.add_permits(1);
    slow.has(4).await;
    gate.add_permits(10);
    slow.has(5).await;
    publish(&bus, "a", 5..6).await;
    slow.has(6).await;
    assert_eq!(subscription.drained(LONG).await, 0);
    assert!(subscription.is_ended());
    assert_eq!(subscription.stats().delivered, 6);
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_costs_one_event() {
    for concurrency in [1, 4] {
        let bus = EventBus::builder().build();
        let seen = Recorder::new();
        let inner = seen.clone();
        let subscription = bus
            .subscribe("a", options().concurrency(concurrency).name("picky"), move |event: Event| {
                let inner = inner.clone();
                async move {
                    let n = event.data().as_u64().unwrap_or(0);
                    assert!(n != 3, "cannot take three");
                    if n == 5 {
                        return Err(HandlerError::new("no fives"));
                    }
                    event_bus::EventHandler::handle(&inner, &event).await
                }
            })
            .unwrap();
        publish(&bus, "a", 0..10).await;
        let report = bus.publish_and_wait(event("a", 3), LONG).await.unwrap();
        assert_eq!(
            report.failures[0].to_string(),
            "subscription `picky`: handler panicked: cannot take three"
        );
        let report = bus.publish_and_wait(event("a", 5), LONG).await.unwrap();
        assert_eq!(report.failures[0].to_string(), "subscription `picky`: handler failed: no fives");
        assert_eq!(seen.numbers(), [0, 1, 2, 4, 6, 7, 8, 9]);
        until("counts", || subscription.stats().delivered == 12).await;
        let stats = subscription.stats();
        assert_eq!((stats.failed, stats.panicked), (2, 2));
    }
}

#[tokio::test]
async fn dropping_the_handle_ends_and_detaching_keeps() {
    let bus = EventBus::builder().build();
    let (gone, kept) = (Recorder::new(), Recorder::new());
    drop(bus.subscribe("a", options(), gone.clone()).unwrap());
    let id = bus.subscribe("a", options().owner("me"), kept.clone()).unwrap().detach();
    publish(&bus, "a", 0..1).await;
    kept.has(1).await;
    assert_eq!(gone.len(), 0);
    until("one left", || bus.subscriptions().len() == 1).await;
    assert_eq!(bus.subscriptions()[0].owner.as_deref(), Some("me"));
    assert!(bus.unsubscribe(id));
    until("none left", || bus.subscriptions().is_empty()).await;
    assert!(!bus.unsubscribe(id));
    assert_eq!(bus.publish(event("a", 1)).await.unwrap().delivered_to, 0);
}

#[tokio::test]
async fn a_ring_at_rest_keeps_no_event_alive() {
    let bus = EventBus::builder().build();
    let seen = Recorder::new();
    let _a = bus.subscribe("a", options(), seen.clone()).unwrap();
    let payload = Arc::new(7_u32);
    for _ in 0..5 {
        let event = Event::builder(topic("a")).typed(payload.clone()).build(&**bus.clock()).unwrap();
        bus.publish(event).await.unwrap();
    }
    seen.has(5).await;
    until("all dropped", || Arc::strong_count(&payload) == 1).await;
}

#[tokio::test]
async fn history_gives_back_what_was() {
    let bus = EventBus::builder().history(10).build();
    publish(&bus, "a.b", 0..20).await;
    bus.emit(&topic("c"), json!(20)).unwrap();
    let all = bus.history(&HistoryFilter::new());
    assert_eq!(all.len(), 10);
    let some = bus.history(&HistoryFilter::new().pattern(Pattern::new("a.*").unwrap()).limit(2));
    assert_eq!(some.iter().map(|e| e.data().clone()).collect::<Vec<_>>(), [json!(18), json!(19)]);
    assert_eq!(bus.stats().history, 10);
    assert_eq!(bus.stats().published, 21);
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_changes_nothing() {
    let bus = EventBus::builder().build();
    let refused = |result: Result<event_bus::Subscription, SubscribeError>| result.unwrap_err().to_string();
    assert_eq!(refused(bus.subscribe("", options(), Recorder::new())), "pattern: is empty");
    assert_eq!(
        refused(bus.subscribe("a", options().capacity(0), Recorder::new())),
        "capacity: 0 is not within 1 and 1048576"
    );
    assert_eq!(
        refused(bus.subscribe("a", options().concurrency(9999), Recorder::new())),
        "concurrency: 9999 is not within 1 and 1024"
    );
    assert_eq!(
        refused(bus.subscribe("a", options().name(""), Recorder::new())),
        "name: must be 1 to 255 bytes without control characters"
    );
    assert!(bus.subscriptions().is_empty());
    let big = Event::builder(topic("a")).max_data_bytes(usize::MAX).data("x".repeat(2 << 20));
    let big = big.build(&**bus.clock()).unwrap();
    assert!(matches!(bus.publish(big).await, Err(PublishError::Event(_))));
    assert_eq!(
        bus.emit(&topic("a"), "x".repeat(2 << 20)).unwrap_err().to_string(),
        "data: has about 2097154 bytes, at most 1048576 are allowed"
    );
    assert_eq!(bus.stats().refused, 2);
}

#[tokio::test]
async fn replacing_what_was_never_there_changes_nothing() {
    let (bus, other) = (EventBus::builder().build(), EventBus::builder().build());
    let seen = Recorder::new();
    let id = other.subscribe("a", options(), seen.clone()).unwrap().id();
    let spec = SubscriptionSpec::new(Pattern::all(), options(), seen);
    assert_eq!(bus.replace(&[id], vec![spec]).unwrap_err(), SubscribeError::Unknown(id));
    assert!(bus.subscriptions().is_empty());
}

#[tokio::test]
async fn what_ended_by_itself_does_not_hinder_its_replacement() {
    let bus = EventBus::builder().build();
    let seen = Recorder::new();
    let ended = bus.subscribe("a", options(), seen.clone()).unwrap();
    ended.cancel();
    until("gone", || bus.subscriptions().is_empty()).await;
    let spec = SubscriptionSpec::new(Pattern::all(), options(), seen);
    let begun = bus.replace(&[ended.id()], vec![spec]).unwrap();
    assert_eq!((begun.len(), bus.subscriptions().len()), (1, 1));
}
