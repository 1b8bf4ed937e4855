//! The bridge and its contract, over the transport in memory.

use event_bus::transport::contract::{self, Ends};
use event_bus::transport::memory::MemoryTransport;
use event_bus::{DurableError, EventBus, Overflow, Pattern, PublishError, SubscribeOptions};

use crate::support::{LONG, Recorder, event, publish, until};

async fn ends() -> Ends {
    let mut ends = MemoryTransport::line(2).into_iter();
    (ends.next().unwrap(), ends.next().unwrap())
}

#[tokio::test]
async fn the_transport_in_memory_passes_the_contract() {
    contract::all(ends).await;
}

#[tokio::test]
async fn what_waits_while_the_line_is_down_goes_out_when_it_is_up() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let pattern = || Pattern::new("a.**").unwrap();
    let bridge = a.bridge(pattern(), 64, line[0].clone()).unwrap();
    let _other = b.bridge(pattern(), 64, line[1].clone()).unwrap();
    let seen = Recorder::new();
    let _s = b.subscribe("a.**", SubscribeOptions::new().overflow(Overflow::Block), seen.clone()).unwrap();
    line[0].set_down(true);
    publish(&a, "a.x", 0..10).await;
    assert_eq!(seen.len(), 0);
    line[0].set_down(false);
    seen.has(10).await;
    assert_eq!(seen.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(bridge.close(LONG).await, 0);
}

#[tokio::test]
async fn what_comes_twice_is_delivered_once() {
    let line = MemoryTransport::line(1);
    let bus = EventBus::builder().build();
    let bridge = bus.bridge(Pattern::all(), 64, line[0].clone()).unwrap();
    let seen = Recorder::new();
    let _s = bus.subscribe("a", SubscribeOptions::new(), seen.clone()).unwrap();
    let foreign = event("a", 7);
    line[0].repeat(&foreign);
    line[0].repeat(&foreign);
    until("both came", || bridge.stats().duplicates == 1).await;
    assert_eq!(seen.numbers(), [7]);
}

#[tokio::test]
async fn durability_without_a_transport_is_an_error() {
    let bus = EventBus::builder().build();
    let refused = bus.publish_durable(event("a", 0), None).await.unwrap_err();
    assert!(matches!(refused, DurableError::Publish(PublishError::NotDurable(_))));
    assert_eq!(refused.to_string(), "topic `a` is not durable: no transport carries it");
    let line = MemoryTransport::line(1);
    let bridge = bus.bridge(Pattern::new("b.*").unwrap(), 8, line[0].clone()).unwrap();
    assert!(bus.publish_durable(event("a", 0), Some(&bridge)).await.is_err());
    let seen = Recorder::new();
    let _s = bus.subscribe("b.c", SubscribeOptions::new(), seen.clone()).unwrap();
    bus.publish_durable(event("b.c", 1), Some(&bridge)).await.unwrap();
    seen.has(1).await;
    line[0].set_down(true);
    let lost = bus.publish_durable(event("b.c", 2), Some(&bridge)).await.unwrap_err();
    assert!(matches!(lost, DurableError::Transport(_)));
}
