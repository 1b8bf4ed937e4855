//! What every transport has to pass, the one in memory and every adapter.
//!
//! Each function panics where the contract is broken. `ends` are transports to one and the same place, as
//! two processes have them; each call wants a fresh place, such as a topic of the engine with a new name.

#![expect(clippy::panic, clippy::expect_used, reason = "a test suite that other crates run")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::{Bridge, EventTransport};
use crate::bus::EventBus;
use crate::event::Event;
use crate::handler::by_ref;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::subscription::Subscription;
use crate::topic::Topic;

/// How long an engine may take for anything here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two transports to one place.
pub type Ends = (Arc<dyn EventTransport>, Arc<dyn EventTransport>);

/// A process: a bus, its bridge, and what its subscriber has seen.
struct Process {
    bus: EventBus,
    bridge: Bridge,
    seen: Arc<Mutex<Vec<Event>>>,
    _subscription: Subscription,
}

impl Process {
    fn new(transport: Arc<dyn EventTransport>) -> Self {
        let bus = EventBus::builder().build();
        let seen: Arc<Mutex<Vec<Event>>> = Arc::default();
        let noted = seen.clone();
        let handler = by_ref(move |event: &Event| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
            Ok(())
        });
        let options = SubscribeOptions::new().overflow(Overflow::Block);
        let subscription = bus.subscribe("**", options, handler).expect("subscribe");
        let pattern = Pattern::new("shared.**").expect("a pattern");
        let bridge = bus.bridge(pattern, 256, transport).expect("bridge");
        Self { bus, bridge, seen, _subscription: subscription }
    }

    async fn publish(&self, topic: &str, key: &str, n: u64) -> Event {
        let topic = Topic::new(topic).expect("a topic");
        let event = Event::builder(topic)
            .source(key)
            .data(json!(n))
            .metadata("tenant", "acme")
            .build(&**self.bus.clock())
            .expect("an event");
        self.bus.publish(event.clone()).await.expect("publish");
        event
    }

    fn numbers(&self, source: &str) -> Vec<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|e| e.source() == source).filter_map(|e| e.data().as_u64()).collect()
    }

    async fn has(&self, count: usize) {
        let all = async {
            while self.seen.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).len();
            panic!("{seen} of {count} events arrived within {PATIENCE:?}");
        }
    }
}

/// What one process publishes arrives at the other, whole; topics that are not shared stay at home.
pub async fn events_cross((a, b): Ends) {
    let (a, b) = (Process::new(a), Process::new(b));
    a.publish("private.x", "a", 0).await;
    let sent = a.publish("shared.x", "a", 1).await;
    b.publish("shared.y", "b", 2).await;
    a.has(3).await;
    b.has(2).await;
    let arrived =
        b.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|e| e.id() == sent.id()).cloned();
    let arrived = arrived.expect("the event that was sent");
    let json = |event: &Event| serde_json::to_value(event).expect("json");
    assert_eq!(json(&arrived), json(&sent));
    assert_eq!(b.numbers("a"), [1]);
}

/// The events of one key arrive in the order in which they were published, each once.
pub async fn order_is_kept_by_key((a, b): Ends) {
    let (a, b) = (Process::new(a), Process::new(b));
    for n in 0..200 {
        for key in ["k1", "k2"] {
            a.publish("shared.x", key, n).await;
        }
    }
    b.has(400).await;
    for key in ["k1", "k2"] {
        assert_eq!(b.numbers(key), (0..200).collect::<Vec<_>>(), "key {key}");
    }
}

/// What arrives does not go out again, and what comes back to its sender is dropped.
pub async fn nothing_echoes((a, b): Ends) {
    let (a, b) = (Process::new(a), Process::new(b));
    for n in 0..20 {
        a.publish("shared.x", "a", n).await;
        b.publish("shared.x", "b", n).await;
    }
    a.has(40).await;
    b.has(40).await;
    // A marker each way: what would come before it has come.
    a.publish("shared.end", "end", 0).await;
    b.publish("shared.end", "end", 1).await;
    a.has(42).await;
    b.has(42).await;
    for process in [&a, &b] {
        assert_eq!(process.seen.lock().unwrap_or_else(PoisonError::into_inner).len(), 42);
        assert_eq!(process.bridge.stats().sent, 21);
        assert_eq!(process.bridge.stats().received, 21);
    }
}

/// Runs all of it; `ends` makes two transports to a fresh place at each call.
pub async fn all<F>(mut ends: impl FnMut() -> F)
where
    F: Future<Output = Ends>,
{
    events_cross(ends().await).await;
    order_is_kept_by_key(ends().await).await;
    nothing_echoes(ends().await).await;
}
