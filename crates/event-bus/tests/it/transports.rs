//! The bridge and its contract, over the transport in memory.

use std::sync::Arc;
use std::time::Duration;

use event_bus::transport::contract;
use event_bus::transport::memory::{MemoryPlace, MemoryTransport};
use event_bus::{
    Acknowledge, Bridge, BridgeOptions, DeadLetterFilter, DurableError, Event, EventBus, EventTransport,
    HandlerError, OptionsError, Outgoing, Overflow, Pattern, PublishError, SubscribeError, SubscribeOptions,
    TransportError, TransportSink,
};
use runtime::{CancellationToken, SystemClock};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{LONG, Recorder, event, number, publish, topic, until};

fn pattern(text: &str) -> Pattern {
    Pattern::new(text).unwrap()
}

fn options() -> BridgeOptions {
    BridgeOptions::new().first_pause(Duration::from_millis(2))
}

fn joined(bus: &EventBus, taken: &str, end: &Arc<MemoryTransport>) -> Bridge {
    bus.bridge(pattern(taken), end.clone(), options()).unwrap()
}

#[tokio::test]
async fn the_transport_in_memory_passes_the_contract() {
    contract::all(&mut MemoryPlace::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn and_with_its_parts_on_several_threads() {
    contract::all(&mut MemoryPlace::default()).await;
}

#[tokio::test]
async fn what_waits_while_the_line_is_down_goes_out_when_it_is_up() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let (bridge, _other) = (joined(&a, "a.**", &line[0]), joined(&b, "a.**", &line[1]));
    let seen = Recorder::new();
    let _s = b.subscribe("a.**", SubscribeOptions::new().overflow(Overflow::Block), seen.clone()).unwrap();
    line[0].set_down(true);
    publish(&a, "a.x", 0..10).await;
    until("a failure", || bridge.stats().failures > 0).await;
    assert_eq!(seen.len(), 0);
    line[0].set_down(false);
    seen.has(10).await;
    assert_eq!(seen.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(bridge.close(LONG).await, 0);
}

#[tokio::test]
async fn what_was_sent_twice_since_the_answer_was_lost_arrives_once_and_in_order() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let (_bridge, other) = (joined(&a, "a", &line[0]), joined(&b, "a", &line[1]));
    let seen = Recorder::new();
    let _s = b.subscribe("a", SubscribeOptions::new().overflow(Overflow::Block), seen.clone()).unwrap();
    line[0].lose_answers(3);
    publish(&a, "a", 0..20).await;
    seen.has(20).await;
    assert_eq!(seen.numbers(), (0..20).collect::<Vec<_>>());
    until("three came twice", || other.stats().duplicates == 3).await;
    assert_eq!(seen.len(), 20);
}

#[tokio::test]
async fn what_failed_for_the_moment_is_not_overtaken() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let (bridge, _other) = (joined(&a, "a", &line[0]), joined(&b, "a", &line[1]));
    let seen = Recorder::new();
    let _s = b.subscribe("a", SubscribeOptions::new().overflow(Overflow::Block), seen.clone()).unwrap();
    line[0].fail_next(3);
    publish(&a, "a", 0..20).await;
    seen.has(20).await;
    assert_eq!(seen.numbers(), (0..20).collect::<Vec<_>>());
    assert_eq!(bridge.stats().failures, 3);
}

#[tokio::test]
async fn what_is_no_news_or_no_event_is_counted_and_holds_up_nothing() {
    let line = MemoryTransport::line(1);
    let limits = event_bus::Limits { data_bytes: 100, ..event_bus::Limits::default() };
    let bus = EventBus::builder().limits(limits).build();
    let bridge = joined(&bus, "a.*", &line[0]);
    let seen = Recorder::new();
    let _s = bus.subscribe("**", SubscribeOptions::new(), seen.clone()).unwrap();
    let text = |event: &Event| serde_json::to_string(event).unwrap();
    let news = event("a.x", 7);
    let large = Event::builder(topic("a.x")).data("x".repeat(200)).build(&SystemClock).unwrap();
    for message in [
        text(&news),
        text(&news),
        "{".to_owned(),
        "{}".to_owned(),
        text(&large),
        text(&event("system.stopped", 8)),
    ] {
        line[0].repeat(&message);
    }
    line[0].repeat(&text(&event("a.x", 9)));
    seen.has(2).await;
    assert_eq!(seen.numbers(), [7, 9]);
    let stats = bridge.stats();
    assert_eq!((stats.received, stats.duplicates, stats.unreadable), (2, 1, 2));
    assert_eq!((stats.rejected, stats.foreign), (1, 1));
}

#[tokio::test]
async fn equal_ids_of_two_sources_are_two_events() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let (_bridge, _other) = (joined(&a, "a", &line[0]), joined(&b, "a", &line[1]));
    let seen = Recorder::new();
    let _s = b.subscribe("a", SubscribeOptions::new(), seen.clone()).unwrap();
    for (n, source) in ["x", "y"].into_iter().enumerate() {
        let event = Event::builder(topic("a")).source(source).id("1".parse().unwrap()).data(json!(n));
        a.publish(event.build(&SystemClock).unwrap()).await.unwrap();
    }
    seen.has(2).await;
}

#[tokio::test]
async fn durability_is_the_transports_word_and_without_one_an_error() {
    let bus = EventBus::builder().build();
    let refused = bus.publish_durable(event("a", 0), None, LONG).await.unwrap_err();
    assert!(matches!(refused, DurableError::Publish(PublishError::NotDurable(_))));
    assert_eq!(refused.to_string(), "topic `a` is not durable: no transport carries it");
    let line = MemoryTransport::line(1);
    let bridge = joined(&bus, "b.*", &line[0]);
    assert!(bus.publish_durable(event("a", 0), Some(&bridge), LONG).await.is_err());
    let seen = Recorder::new();
    let _s = bus.subscribe("b.c", SubscribeOptions::new(), seen.clone()).unwrap();
    bus.publish_durable(event("b.c", 1), Some(&bridge), LONG).await.unwrap();
    assert_eq!(bridge.stats().sent, 1);
    seen.has(1).await;
    line[0].set_down(true);
    let short = Duration::from_millis(20);
    let late = bus.publish_durable(event("b.c", 2), Some(&bridge), short).await.unwrap_err();
    assert!(matches!(late, DurableError::TimedOut(limit) if limit == short), "{late}");
    line[0].set_down(false);
    until("it went out all the same", || bridge.stats().sent == 2).await;
}

#[tokio::test]
async fn an_event_is_acknowledged_when_it_is_handled_if_that_is_asked_for() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let _sender = joined(&a, "a", &line[0]);
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let _s = b
        .subscribe("a", SubscribeOptions::new(), move |_| {
            let held = held.clone();
            async move {
                held.acquire().await.map_err(HandlerError::new)?.forget();
                Ok(())
            }
        })
        .unwrap();
    let handled = options().acknowledge(Acknowledge::Handled);
    let receiver = b.bridge(pattern("a"), line[1].clone(), handled.clone()).unwrap();
    publish(&a, "a", 0..3).await;
    until("taken", || receiver.stats().received >= 1).await;
    // Its process dies before the handler is done: the engine offers it again to the next.
    drop(receiver);
    let c = EventBus::builder().build();
    let seen = Recorder::new();
    let _t = c.subscribe("a", SubscribeOptions::new(), seen.clone()).unwrap();
    let _receiver = c.bridge(pattern("a"), line[1].clone(), handled).unwrap();
    seen.has(3).await;
    assert_eq!(seen.numbers(), [0, 1, 2]);
}

#[tokio::test]
async fn what_waits_for_room_when_the_connection_goes_comes_again() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let sender = joined(&a, "a", &line[0]);
    // All of it is there before anyone reads, so that it comes in one delivery.
    publish(&a, "a", 0..10).await;
    until("sent", || sender.stats().sent == 10).await;
    let (seen, gate) = Recorder::gated();
    let gated = SubscribeOptions::new().capacity(1).overflow(Overflow::Block);
    let _s = b.subscribe("a", gated, seen.clone()).unwrap();
    let receiver = joined(&b, "a", &line[1]);
    // One is handled, one is in the queue, and the third waits for room.
    until("it waits", || receiver.stats().received == 2).await;
    for _ in 0..3 {
        let before = receiver.stats().failures;
        line[0].set_down(true);
        until("the connection is gone", || receiver.stats().failures > before).await;
        line[0].set_down(false);
        let before = receiver.stats().duplicates;
        until("it is offered again", || receiver.stats().duplicates > before).await;
    }
    gate.add_permits(100);
    seen.has(10).await;
    assert_eq!(seen.numbers(), (0..10).collect::<Vec<_>>());
}

/// Refuses what is odd for good, for as long as it is told to.
struct Picky {
    refuses: std::sync::atomic::AtomicBool,
    sent: std::sync::Mutex<Vec<u64>>,
}

#[async_trait::async_trait]
impl EventTransport for Picky {
    fn name(&self) -> &str {
        "picky"
    }

    async fn send(&self, events: &[Outgoing]) -> Vec<Result<(), TransportError>> {
        let send = |outgoing: &Outgoing| {
            let n = number(&outgoing.event);
            if n % 2 == 1 && self.refuses.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(TransportError::Refused { name: "picky".into(), source: "odd".into() });
            }
            self.sent.lock().unwrap().push(n);
            Ok(())
        };
        events.iter().map(send).collect()
    }

    async fn receive(
        &self,
        _: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError> {
        cancelled.cancelled().await;
        Ok(())
    }
}

#[tokio::test]
async fn what_the_engine_refuses_is_a_dead_letter_that_can_go_out_again() {
    let picky = Arc::new(Picky { refuses: true.into(), sent: std::sync::Mutex::default() });
    let bus = EventBus::builder().build();
    let bridge = bus.bridge(Pattern::all(), picky.clone(), options()).unwrap();
    publish(&bus, "a", 0..4).await;
    until("refused", || bridge.stats().refused == 2).await;
    until("sent", || bridge.stats().sent == 2).await;
    let durable = bus.publish_durable(event("a", 5), Some(&bridge), LONG).await.unwrap_err();
    assert!(matches!(durable, DurableError::Transport(TransportError::Refused { .. })), "{durable}");
    until("dead", || bus.dead_letters(&DeadLetterFilter::new()).total == 3).await;
    let letters = bus.dead_letters(&DeadLetterFilter::new()).letters;
    assert_eq!(letters[0].reason, "transport `picky` refused the event: odd");
    picky.refuses.store(false, std::sync::atomic::Ordering::Relaxed);
    bus.redrive(letters[0].id).unwrap();
    until("redriven", || bridge.stats().sent == 3).await;
    assert_eq!(*picky.sent.lock().unwrap(), [0, 2, 1]);
}

#[tokio::test]
async fn a_bridge_counts_what_it_loses_and_has_bounds() {
    let line = MemoryTransport::line(1);
    let bus = EventBus::builder().build();
    line[0].set_down(true);
    let losing = options().queue(4).batch(1).overflow(Overflow::DropOldest);
    let bridge = bus.bridge(Pattern::all(), line[0].clone(), losing).unwrap();
    publish(&bus, "a", 0..100).await;
    until("lost", || bridge.stats().lost > 50).await;
    let stats = bridge.stats();
    assert!(stats.waiting <= 4 && stats.lost + stats.waiting <= 100, "{stats:?}");
    for (options, error) in [
        (options().queue(0), OptionsError::BridgeQueue(0)),
        (options().queue(1 << 17), OptionsError::BridgeQueue(1 << 17)),
        (options().batch(0), OptionsError::Batch(0)),
    ] {
        let refused = bus.bridge(Pattern::all(), line[0].clone(), options).err();
        assert_eq!(refused, Some(SubscribeError::Options(error)));
    }
}
