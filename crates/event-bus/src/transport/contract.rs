//! What every transport has to pass, the one in memory and every adapter.
//!
//! Each function panics where the contract is broken, and runs over transports to one and the same place, as
//! two processes have them; each wants a fresh place, such as a topic of the engine with a new name. An engine
//! that can be stopped and started is tried at that, too: [`Place::set_down`].

#![expect(clippy::panic, clippy::expect_used, reason = "a test suite that other crates run")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime::CancellationToken;
use serde_json::json;

use super::{Bridge, BridgeOptions, EventTransport, NotTaken, Outgoing, TransportSink};
use crate::bus::EventBus;
use crate::event::Event;
use crate::handler::by_ref;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::publish::PublishError;
use crate::subscription::Subscription;
use crate::topic::Topic;

/// How long an engine may take for anything here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two transports to one place.
pub type Ends = (Arc<dyn EventTransport>, Arc<dyn EventTransport>);

/// Where the suite gets its transports from.
#[async_trait]
pub trait Place: Send {
    /// Two transports to a fresh place, one topic or stream of the engine with a new name as a rule.
    async fn ends(&mut self) -> Ends;

    /// Makes the engine of the last place unreachable for both, or reachable again.
    async fn set_down(&mut self, is_down: bool);
}

/// A process: a bus, its bridge, and what its subscriber has seen.
struct Process {
    bus: EventBus,
    bridge: Bridge,
    seen: Arc<Mutex<Vec<Event>>>,
    _subscription: Subscription,
}

impl Process {
    fn new(transport: Arc<dyn EventTransport>) -> Self {
        // Short pauses: what is tried is that they end.
        Self::with(transport, BridgeOptions::new().queue(256).batch(32).first_pause(Duration::from_millis(2)))
    }

    fn with(transport: Arc<dyn EventTransport>, options: BridgeOptions) -> Self {
        let bus = EventBus::builder().build();
        let seen: Arc<Mutex<Vec<Event>>> = Arc::default();
        let noted = seen.clone();
        let handler = by_ref(move |event: &Event| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
            Ok(())
        });
        let block = SubscribeOptions::new().overflow(Overflow::Block);
        let subscription = bus.subscribe("**", block, handler).expect("subscribe");
        let pattern = Pattern::new("shared.**").expect("a pattern");
        let bridge = bus.bridge(pattern, transport, options).expect("bridge");
        Self { bus, bridge, seen, _subscription: subscription }
    }

    fn event(&self, topic: &str, key: &str, n: u64) -> Event {
        let topic = Topic::new(topic).expect("a topic");
        Event::builder(topic)
            .source(key)
            .data(json!(n))
            .metadata("tenant", "acme")
            .metadata("attempt", 3)
            .build(&**self.bus.clock())
            .expect("an event")
    }

    async fn publish(&self, topic: &str, key: &str, n: u64) -> Event {
        let event = self.event(topic, key, n);
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

/// What arrives twice, and what one end sends twice, is published once.
pub async fn duplicates_are_dropped((a, b): Ends) {
    let b = Process::new(b);
    let (event, end) = (b.event("shared.x", "k", 0), b.event("shared.end", "k", 1));
    let outgoing = [&event, &event, &end].map(|event| Outgoing { event: event.clone(), key: "k".into() });
    for _ in 0..2 {
        for outcome in a.send(&outgoing).await {
            outcome.expect("sent");
        }
    }
    let marker = b.event("shared.marker", "k", 2);
    a.send(&[Outgoing { event: marker, key: "k".into() }]).await.pop().expect("an answer").expect("sent");
    b.has(3).await;
    assert_eq!(b.numbers("k"), [0, 1, 2]);
    assert_eq!(b.bridge.stats().duplicates, 4);
}

/// What was published while the engine was away goes out once it is back, in order and once; so does what is
/// published while it goes and comes.
pub async fn nothing_is_lost_while_the_engine_is_away(place: &mut impl Place) {
    let (a, b) = place.ends().await;
    let (a, b) = (Process::new(a), Process::new(b));
    let mut published = 0;
    for round in 0..4 {
        for _ in 0..25 {
            for key in ["k1", "k2"] {
                a.publish("shared.x", key, published).await;
            }
            published += 1;
        }
        place.set_down(round % 2 == 0).await;
    }
    let count = usize::try_from(published).expect("a count");
    b.has(2 * count).await;
    for key in ["k1", "k2"] {
        assert_eq!(b.numbers(key), (0..published).collect::<Vec<_>>(), "key {key}");
    }
    let stats = a.bridge.stats();
    assert_eq!((stats.sent, stats.lost, stats.refused), (2 * published, 0, 0));
}

/// While the engine is away, publishers wait once the queue is full, or are refused if they do not want to,
/// and go on once it is back.
pub async fn publishers_wait_or_are_refused(place: &mut impl Place) {
    let (a, b) = place.ends().await;
    let options = BridgeOptions::new().queue(4).batch(1).first_pause(Duration::from_millis(2));
    let (a, b) = (Process::with(a, options), Process::new(b));
    place.set_down(true).await;
    a.publish("shared.x", "k", 0).await;
    let is_taken = async {
        while a.bridge.stats().waiting > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    // From then on the bridge has its hands full and takes nothing more.
    assert!(tokio::time::timeout(PATIENCE, is_taken).await.is_ok(), "the bridge does not send");
    let mut taken = 1;
    let refused = loop {
        match a.bus.offer(a.event("shared.x", "k", taken)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 1000, "nothing is bounded");
    };
    assert!(matches!(refused, PublishError::NoRoom(_)), "{refused}");
    let waits = tokio::time::timeout(Duration::from_millis(50), a.publish("shared.x", "k", 9999)).await;
    assert!(waits.is_err(), "there was room");
    place.set_down(false).await;
    let count = usize::try_from(taken).expect("a count");
    a.publish("shared.x", "k", taken).await;
    b.has(count + 1).await;
    assert_eq!(b.numbers("k"), (0..=taken).collect::<Vec<_>>());
}

/// What the other side did not take is offered again, from the first of those on, also when it was cut off.
pub async fn what_was_not_taken_is_offered_again((a, b): Ends) {
    /// Takes nothing at the first call, hangs at the second, and one event of each later one.
    #[derive(Default)]
    struct Reluctant {
        calls: Mutex<u32>,
        taken: Mutex<Vec<u64>>,
    }

    #[async_trait]
    impl TransportSink for Reluctant {
        async fn deliver(&self, events: Vec<Event>) -> Result<(), NotTaken> {
            let call = {
                let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
                *calls += 1;
                *calls
            };
            match call {
                1 => return Err(NotTaken { taken: 0 }),
                2 => std::future::pending().await,
                _ => {}
            }
            let numbers = events.iter().filter_map(|event| event.data().as_u64());
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers);
            Ok(())
        }

        fn unreadable(&self, why: &dyn std::fmt::Display) {
            panic!("{why}");
        }
    }

    let a = Process::new(a);
    for n in 0..20 {
        a.publish("shared.x", "k", n).await;
    }
    let sink = Arc::new(Reluctant::default());
    let calls = || *sink.calls.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = || sink.taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let work = async {
        // As a bridge does: called again whatever it answers; and cancelled once, in the middle of a call.
        let mut was_cut_off = false;
        while taken().last() != Some(&19) {
            let cancelled = CancellationToken::new();
            let wait = async {
                while taken().last() != Some(&19) && (was_cut_off || calls() < 2) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::select! {
                // What was refused comes as an error of the transport.
                _ = b.receive(sink.clone(), cancelled.clone()) => {}
                () = wait => was_cut_off = true,
            }
            cancelled.cancel();
        }
    };
    assert!(tokio::time::timeout(PATIENCE, work).await.is_ok(), "only {:?} came", taken());
    // At least once, and in order: what comes again comes from where it was.
    let mut first: Vec<u64> = Vec::new();
    for n in taken() {
        if !first.contains(&n) {
            first.push(n);
        }
    }
    assert_eq!(first, (0..20).collect::<Vec<_>>());
}

/// Runs all of it.
pub async fn all(place: &mut impl Place) {
    events_cross(place.ends().await).await;
    order_is_kept_by_key(place.ends().await).await;
    nothing_echoes(place.ends().await).await;
    duplicates_are_dropped(place.ends().await).await;
    what_was_not_taken_is_offered_again(place.ends().await).await;
    nothing_is_lost_while_the_engine_is_away(place).await;
    publishers_wait_or_are_refused(place).await;
}
