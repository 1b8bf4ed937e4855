//! What a subscription may ask for: a filter, order by key, batches, types, one event, the past.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_bus::{
    Batch, BatchFailure, DeadLetterCause, DeadLetterFilter, Event, EventBus, EventFilter, EventHandler,
    HandlerError, OptionsError, OrderKey, Overflow, Retry, SubscribeError, SubscribeOptions,
    SubscriptionStats, TypedEvent, by_batch, typed,
};
use proptest::prelude::*;
use runtime::SystemClock;
use serde_json::json;

use crate::support::{LONG, Recorder, event, number, publish, topic, until};

fn options() -> SubscribeOptions {
    SubscribeOptions::default().overflow(Overflow::Block)
}

fn adds_up(stats: &SubscriptionStats) {
    let known = stats.delivered + stats.dropped + stats.dead + stats.discarded + stats.depth + stats.retrying;
    assert_eq!(stats.accepted, known, "{stats:?}");
}

fn from(source: &str, tenant: &str, n: u64) -> Event {
    let builder = Event::builder(topic("a")).source(source).metadata("tenant", tenant).data(json!(n));
    builder.build(&SystemClock).unwrap()
}

#[tokio::test]
async fn a_filter_passes_over_what_it_does_not_take() {
    let bus = EventBus::builder().build();
    let seen = Recorder::new();
    let filter = EventFilter::new().source("shop").metadata("tenant", "acme");
    let subscription = bus.subscribe("a", options().filter(filter), seen.clone()).unwrap();
    for (n, source, tenant) in
        [(0, "shop", "acme"), (1, "shop", "other"), (2, "depot", "acme"), (3, "shop", "acme")]
    {
        let report = bus.publish_and_wait(from(source, tenant, n), LONG).await.unwrap();
        assert!(report.is_clean(), "nobody waits for what is passed over");
    }
    assert_eq!(seen.numbers(), [0, 3]);
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.filtered, stats.delivered, stats.calls), (2, 2, 2, 2));
    adds_up(&stats);
    let info = bus.subscriptions().pop().unwrap();
    assert_eq!(info.filter.unwrap(), "source=shop metadata.tenant=acme");
}

#[tokio::test]
async fn a_filter_that_panics_costs_the_event_and_nothing_else() {
    let bus = EventBus::builder().build();
    for keeps in [false, true] {
        let seen = Recorder::new();
        let filter = EventFilter::new().matching(|event| {
            assert!(number(event) != 1, "a broken filter");
            true
        });
        let mut options = options().filter(filter);
        if keeps {
            options = options.dead_letters();
        }
        let subscription = bus.subscribe("a", options, seen.clone()).unwrap();
        publish(&bus, "a", 0..3).await;
        seen.has(2).await;
        until("counted", || subscription.stats().depth == 0).await;
        assert_eq!(seen.numbers(), [0, 2]);
        let stats = subscription.stats();
        assert_eq!((stats.panicked, stats.dead, stats.discarded), (1, u64::from(keeps), u64::from(!keeps)));
        adds_up(&stats);
    }
    let letter = bus.dead_letters(&DeadLetterFilter::new()).letters.pop().unwrap();
    assert_eq!((letter.cause, letter.reason.as_str()), (DeadLetterCause::Panicked, "a broken filter"));
}

/// Sleeps as long as it is told for each event, and notes when calls begin and end.
#[derive(Clone, Default)]
struct Slow {
    delays: Arc<Vec<u64>>,
    running: Arc<Mutex<HashMap<String, u64>>>,
    most: Arc<AtomicUsize>,
    done: Arc<Mutex<Vec<(String, u64)>>>,
}

impl EventHandler for Slow {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let (key, n) = (event.source().to_owned(), number(event));
        {
            let mut running = self.running.lock().unwrap();
            assert!(running.insert(key.clone(), n).is_none(), "two of `{key}` at once");
            self.most.fetch_max(running.len(), Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(self.delays[usize::try_from(n).unwrap()])).await;
        self.running.lock().unwrap().remove(&key);
        self.done.lock().unwrap().push((key, n));
        Ok(())
    }
}

fn paused(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_of_one_key_are_handled_in_order_and_those_of_others_beside_them(
        events in prop::collection::vec((0..5_u8, 0..50_u64), 1..80),
        concurrency in 1..6_usize, capacity in 1..20_usize, by in 0..3_usize,
    ) {
        paused(async {
            let bus = EventBus::builder().build();
            let slow = Slow { delays: Arc::new(events.iter().map(|(_, ms)| *ms).collect()), ..Slow::default() };
            let key = match by {
                0 => OrderKey::source(),
                1 => OrderKey::metadata("tenant"),
                _ => OrderKey::function(|event: &Event| event.source().to_owned()),
            };
            let options = options().capacity(capacity).concurrency(concurrency).ordered_by(key);
            let subscription = bus.subscribe("a", options, slow.clone()).unwrap();
            for (n, (key, _)) in events.iter().enumerate() {
                let name = key.to_string();
                bus.publish(from(&name, &name, n as u64)).await.unwrap();
                let depth = subscription.stats().depth;
                assert!(depth <= 2 * capacity as u64 + 1, "{depth} wait, the capacity is {capacity}");
            }
            until("all", || slow.done.lock().unwrap().len() == events.len()).await;
            let done = slow.done.lock().unwrap().clone();
            for key in 0..5_u8 {
                let of_key = done.iter().filter(|(k, _)| *k == key.to_string()).map(|(_, n)| *n);
                assert!(of_key.is_sorted(), "{done:?}");
            }
            assert!(slow.most.load(Ordering::Relaxed) <= concurrency);
            until("counted", || subscription.stats().delivered == events.len() as u64).await;
            adds_up(&subscription.stats());
        });
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_handled_beside_each_other_up_to_the_concurrency() {
    let bus = EventBus::builder().build();
    let slow = Slow { delays: Arc::new(vec![1000; 9]), ..Slow::default() };
    let options = options().concurrency(3).ordered_by(OrderKey::source());
    let _kept = bus.subscribe("a", options, slow.clone()).unwrap();
    let began = tokio::time::Instant::now();
    for n in 0..9 {
        // The first six are of one key: the others do not wait for them.
        bus.publish(from(if n < 6 { "busy" } else { ["x", "y", "z"][n as usize - 6] }, "t", n))
            .await
            .unwrap();
    }
    until("all", || slow.done.lock().unwrap().len() == 9).await;
    assert_eq!(slow.most.load(Ordering::Relaxed), 3);
    assert!(began.elapsed() < Duration::from_millis(6100), "{:?}", began.elapsed());
}

/// Fails on one number for as long as it is asked, and notes what it handled.
fn failing_on(poison: u64) -> (impl EventHandler, Arc<Mutex<Vec<u64>>>) {
    let handled: Arc<Mutex<Vec<u64>>> = Arc::default();
    let noted = handled.clone();
    let handler = move |event: Event| {
        let noted = noted.clone();
        async move {
            if number(&event) == poison {
                return Err("poison".into());
            }
            noted.lock().unwrap().push(number(&event));
            Ok(())
        }
    };
    (handler, handled)
}

#[tokio::test(start_paused = true)]
async fn poison_holds_up_its_key_where_order_is_kept_and_nothing_else() {
    for keep_order in [true, false] {
        let bus = EventBus::builder().build();
        let (handler, handled) = failing_on(0);
        let mut retry = Retry::new(3).backoff(Duration::from_secs(3));
        if keep_order {
            retry = retry.keep_order();
        }
        let options = options().concurrency(2).ordered_by(OrderKey::source()).retry(retry);
        let subscription = bus.subscribe("a", options, handler).unwrap();
        for n in 0..6 {
            bus.publish(from(if n % 2 == 0 { "even" } else { "odd" }, "t", n)).await.unwrap();
        }
        let at_once = if keep_order { vec![1, 3, 5] } else { vec![1, 2, 3, 4, 5] };
        until("the others", || handled.lock().unwrap().len() >= at_once.len()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut first = handled.lock().unwrap().clone();
        first.sort_unstable();
        assert_eq!(first, at_once);
        adds_up(&subscription.stats());
        until("dead", || subscription.stats().dead == 1 && subscription.stats().delivered == 5).await;
        adds_up(&subscription.stats());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_event_and_no_more_however_many_are_published_at_once() {
    for _ in 0..50 {
        let bus = EventBus::builder().build();
        let seen = Recorder::new();
        let subscription = bus.subscribe("a", options().once(), seen.clone()).unwrap();
        let other = Recorder::new();
        let _other = bus.subscribe("a", options(), other.clone()).unwrap();
        let publishers: Vec<_> = (0..4)
            .map(|_| {
                let bus = bus.clone();
                tokio::task::spawn_blocking(move || {
                    for n in 0..20 {
                        bus.try_publish(event("a", n)).unwrap();
                    }
                })
            })
            .collect();
        for publisher in publishers {
            publisher.await.unwrap();
        }
        tokio::time::timeout(LONG, subscription.ended()).await.unwrap();
        other.has(80).await;
        assert_eq!(seen.len(), 1);
        let stats = subscription.stats();
        assert_eq!(stats.delivered, 1);
        adds_up(&stats);
    }
}

#[tokio::test(start_paused = true)]
async fn one_event_is_tried_as_often_as_the_policy_says_and_then_it_ends() {
    let bus = EventBus::builder().build();
    let (handler, handled) = failing_on(0);
    let subscription = bus.subscribe("a", options().once().retry(Retry::new(3)), handler).unwrap();
    publish(&bus, "a", 0..2).await;
    tokio::time::timeout(LONG, subscription.ended()).await.unwrap();
    let stats = subscription.stats();
    assert_eq!((stats.failed, stats.dead, stats.discarded), (3, 1, 1));
    assert!(handled.lock().unwrap().is_empty());
    adds_up(&stats);
    let refused =
        bus.subscribe("a", options().once().batch(Batch { events: 2, within: LONG }), Recorder::new());
    assert_eq!(refused.unwrap_err(), SubscribeError::Options(OptionsError::Once));
}

#[derive(serde::Deserialize)]
struct Order {
    id: u64,
}

impl serde::Serialize for Order {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("nobody asked for json")
    }
}

#[tokio::test]
async fn a_typed_subscription_gets_the_payload_itself_or_what_its_json_says() {
    let bus = EventBus::builder().build();
    let ids = Arc::new(Mutex::new(Vec::new()));
    let noted = ids.clone();
    let handler = typed(move |order: TypedEvent<Order>| {
        noted.lock().unwrap().push((order.id, order.event().topic().to_string()));
        async { Ok(()) }
    });
    let retry = Retry::new(5);
    let subscription = bus.subscribe("orders.*", options().retry(retry), handler).unwrap();
    let publish = async |event: event_bus::EventBuilder| {
        let event = event.build(&SystemClock).unwrap();
        bus.publish_and_wait(event, LONG).await.unwrap().is_clean()
    };
    assert!(publish(Event::builder(topic("orders.a")).typed(Order { id: 1 })).await);
    assert!(publish(Event::builder(topic("orders.b")).data(json!({ "id": 2, "more": true }))).await);
    assert!(!publish(Event::builder(topic("orders.c")).data(json!({ "id": "three" }))).await);
    assert!(!publish(Event::builder(topic("orders.d")).typed("no order")).await);
    assert_eq!(*ids.lock().unwrap(), [(1, "orders.a".to_owned()), (2, "orders.b".to_owned())]);
    let stats = subscription.stats();
    assert_eq!((stats.delivered, stats.failed, stats.retried, stats.dead), (2, 2, 0, 2));
    adds_up(&stats);
    let letter = bus.dead_letters(&DeadLetterFilter::new()).letters.remove(0);
    assert_eq!(letter.cause, DeadLetterCause::Permanent);
    assert!(
        letter.reason.starts_with("data: does not fit: invalid type: string \"three\""),
        "{}",
        letter.reason
    );
}

type Batches = Arc<Mutex<Vec<Vec<u64>>>>;

/// Notes its batches, and answers by what they are.
fn batches(
    answer: impl Fn(&[u64]) -> Result<(), BatchFailure> + Send + Sync + 'static,
) -> (impl EventHandler, Batches) {
    let seen: Batches = Arc::default();
    let noted = seen.clone();
    let handler = by_batch(move |events: Vec<Event>| {
        let numbers: Vec<_> = events.iter().map(number).collect();
        noted.lock().unwrap().push(numbers.clone());
        std::future::ready(answer(&numbers))
    });
    (handler, seen)
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_full_or_its_time_has_come() {
    let bus = EventBus::builder().build();
    let (handler, seen) = batches(|_| Ok(()));
    let batch = Batch { events: 4, within: Duration::from_secs(1) };
    let subscription = bus.subscribe("a", options().batch(batch), handler).unwrap();
    let began = tokio::time::Instant::now();
    publish(&bus, "a", 0..10).await;
    until("two full ones", || seen.lock().unwrap().len() == 2).await;
    assert!(began.elapsed() < Duration::from_millis(900));
    assert_eq!(subscription.stats().depth, 2);
    until("the rest", || seen.lock().unwrap().len() == 3).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(*seen.lock().unwrap(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    publish(&bus, "a", 10..11).await;
    let began = tokio::time::Instant::now();
    assert_eq!(subscription.drained(LONG).await, 0);
    assert!(began.elapsed() < Duration::from_millis(900), "the end waits for nothing");
    assert_eq!(seen.lock().unwrap().last().unwrap(), &[10]);
    let stats = subscription.stats();
    assert_eq!((stats.delivered, stats.calls), (11, 11));
    adds_up(&stats);
}

#[tokio::test(start_paused = true)]
async fn what_a_batch_fails_on_goes_its_way_by_itself() {
    let bus = EventBus::builder().build();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    // 1 fails twice, 2 for good; the batch with 8 panics once.
    let (handler, seen) = batches(move |numbers| {
        let fails = |n: u64| numbers.iter().position(|m| *m == n);
        assert!(numbers != [8, 9], "a panic");
        let mut failures = Vec::new();
        if let Some(place) = fails(1)
            && counted.fetch_add(1, Ordering::Relaxed) < 2
        {
            failures.push((place, "not yet".into()));
        }
        failures.extend(fails(2).map(|place| (place, HandlerError::permanent("never"))));
        if failures.is_empty() { Ok(()) } else { Err(BatchFailure::some(failures)) }
    });
    let batch = Batch { events: 4, within: Duration::ZERO };
    let retry = Retry::new(5).backoff(Duration::from_secs(1));
    let subscription = bus.subscribe("a", options().batch(batch).retry(retry), handler).unwrap();
    publish(&bus, "a", 0..4).await;
    until("settled", || subscription.stats().delivered == 3).await;
    assert_eq!(*seen.lock().unwrap(), [vec![0, 1, 2, 3], vec![1], vec![1]]);
    let stats = subscription.stats();
    assert_eq!((stats.failed, stats.retried, stats.dead), (3, 2, 1));
    adds_up(&stats);

    publish(&bus, "a", 8..10).await;
    until("panicked", || subscription.stats().panicked >= 2).await;
    assert_eq!(subscription.stats().retrying, 2, "each has its attempts");
    adds_up(&subscription.stats());
    subscription.cancel();
    tokio::time::timeout(LONG, subscription.ended()).await.unwrap();
    assert_eq!(subscription.stats().discarded, 2);
    adds_up(&subscription.stats());
}

#[tokio::test(start_paused = true)]
async fn batches_keep_the_order_of_their_keys() {
    let bus = EventBus::builder().build();
    let done: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
    let noted = done.clone();
    let handler = by_batch(move |events: Vec<Event>| {
        let noted = noted.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(number(&events[0]) % 7)).await;
            let events = events.iter().map(|event| (event.source().to_owned(), number(event)));
            noted.lock().unwrap().extend(events);
            Ok(())
        }
    });
    let batch = Batch { events: 5, within: Duration::from_millis(3) };
    let options = options().concurrency(3).batch(batch).ordered_by(OrderKey::source());
    let _kept = bus.subscribe("a", options, handler).unwrap();
    for n in 0..200 {
        bus.publish(from(["x", "y", "z"][n as usize * 7 % 3], "t", n)).await.unwrap();
    }
    until("all", || done.lock().unwrap().len() == 200).await;
    let done = done.lock().unwrap();
    for key in ["x", "y", "z"] {
        assert!(done.iter().filter(|(k, _)| k == key).map(|(_, n)| *n).is_sorted(), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_event_that_is_not_finished_is_known() {
    let bus = EventBus::builder().build();
    let (handler, _) = failing_on(0);
    let retry = Retry::new(3).backoff(Duration::from_secs(3));
    let _kept = bus.subscribe("a", options().retry(retry), handler).unwrap();
    assert_eq!(bus.subscriptions()[0].stats.oldest_seconds, None);
    let hour = Duration::from_secs(3600);
    let old = Event::builder(topic("a")).data(json!(0)).time(bus.now() - hour).build(&SystemClock).unwrap();
    bus.publish(old).await.unwrap();
    publish(&bus, "a", 1..5).await;
    until("tried", || bus.stats().totals.retrying == 1 && bus.stats().totals.delivered == 4).await;
    let oldest = bus.subscriptions()[0].stats.oldest_seconds.unwrap();
    assert!((3600.0..3700.0).contains(&oldest), "{oldest}");
    until("dead", || bus.stats().totals.dead == 1).await;
    until("nothing", || bus.subscriptions()[0].stats.oldest_seconds.is_none()).await;
}
