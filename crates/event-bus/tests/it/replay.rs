//! Subscriptions that begin with the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_bus::{
    Event, EventBus, EventFilter, EventId, HistoryFilter, MAX_CAPACITY, Overflow, Replay, Since,
    SubscribeError, SubscribeOptions,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use crate::support::{LONG, Recorder, event, number, publish, until};

fn options(replay: Replay) -> SubscribeOptions {
    SubscribeOptions::default().overflow(Overflow::Block).replay(replay)
}

fn after(bus: &EventBus, n: u64) -> Replay {
    let kept = bus.history(&HistoryFilter::new());
    let event = kept.iter().find(|event| number(event) == n).unwrap();
    Replay::Since(Since::Id(event.id().clone()))
}

#[tokio::test]
async fn the_last_or_those_since_an_event_come_first() {
    let even = || EventFilter::new().matching(|event: &Event| number(event).is_multiple_of(2));
    let last = |n| move |_: &EventBus| Replay::Last(n);
    let since = |n| move |bus: &EventBus| after(bus, n);
    type Make = Box<dyn Fn(&EventBus) -> Replay>;
    let cases: [(Make, bool, Vec<u64>); 5] = [
        (Box::new(last(3)), false, vec![12, 13, 14, 16]),
        (Box::new(last(3)), true, vec![10, 12, 14, 16]),
        (Box::new(last(0)), false, vec![16]),
        (Box::new(since(3)), false, vec![4, 10, 11, 12, 13, 14, 16]),
        (Box::new(since(7)), true, vec![10, 12, 14, 16]),
    ];
    for (replay, is_filtered, expected) in cases {
        let bus = EventBus::builder().history(100).build();
        publish(&bus, "a.x", 0..5).await;
        publish(&bus, "b", 5..10).await;
        publish(&bus, "a.y", 10..15).await;
        let seen = Recorder::new();
        let mut options = options(replay(&bus));
        if is_filtered {
            options = options.filter(even());
        }
        let subscription = bus.subscribe("a.*", options, seen.clone()).unwrap();
        assert!(bus.publish_and_wait(event("a.x", 16), LONG).await.unwrap().is_clean());
        assert_eq!(seen.numbers(), expected);
        assert!(!subscription.has_gap());
        let stats = subscription.stats();
        assert_eq!((stats.accepted, stats.depth), (stats.delivered, 0), "{stats:?}");
    }
}

#[tokio::test]
async fn a_past_that_is_gone_is_told() {
    let bus = EventBus::builder().history(2).build();
    publish(&bus, "a", 0..5).await;
    let unknown: EventId = "gone".parse().unwrap();
    let seen = Recorder::new();
    let subscription = bus.subscribe("a", options(Replay::Since(Since::Id(unknown))), seen.clone()).unwrap();
    assert!(subscription.has_gap());
    seen.has(2).await;
    assert_eq!(seen.numbers(), [3, 4]);
    let without = EventBus::builder().build();
    let refused = without.subscribe("a", options(Replay::Last(1)), Recorder::new()).unwrap_err();
    assert_eq!(refused, SubscribeError::NoHistory);
    assert_eq!(refused.to_string(), "replay: the bus keeps no history");
}

#[tokio::test]
async fn a_past_that_is_not_handled_counts_as_discarded() {
    let bus = EventBus::builder().history(10).build();
    publish(&bus, "a", 0..5).await;
    let (seen, gate) = Recorder::gated();
    let subscription = bus.subscribe("a", options(Replay::Last(5)), seen.clone()).unwrap();
    seen.has(1).await;
    assert_eq!(subscription.stats().depth, 4);
    subscription.cancel();
    gate.add_permits(1);
    tokio::time::timeout(LONG, subscription.ended()).await.unwrap();
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.delivered, stats.discarded, stats.depth), (5, 1, 4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_missing_or_twice_where_past_and_present_meet() {
    for _ in 0..200 {
        let bus = EventBus::builder().history(100_000).build();
        let has_joined = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = ["a.x", "a.y"]
            .into_iter()
            .map(|topic| {
                let (bus, has_joined) = (bus.clone(), has_joined.clone());
                tokio::task::spawn_blocking(move || {
                    let mut n = 0;
                    // Some before, some beside, some after, and never more than the history keeps, however long
                    // the machine lets us wait for those who join.
                    while n < 100 || !has_joined.load(Ordering::Acquire) {
                        if n < 10_000 {
                            bus.try_publish(event(topic, n)).unwrap();
                            n += 1;
                        } else {
                            std::thread::yield_now();
                        }
                    }
                    n
                })
            })
            .collect();
        let options = options(Replay::Last(usize::MAX)).capacity(MAX_CAPACITY);
        let seen: Vec<_> = (0..4).map(|_| Recorder::new()).collect();
        let subscribe = |seen: &Recorder| bus.subscribe("a.*", options.clone(), seen.clone()).unwrap();
        let subscriptions: Vec<_> = seen.iter().map(subscribe).collect();
        has_joined.store(true, Ordering::Release);
        let mut published = Vec::new();
        for publisher in publishers {
            published.push(publisher.await.unwrap());
        }
        for subscription in subscriptions {
            assert_eq!(subscription.drained(LONG).await, 0);
        }
        for seen in seen {
            let (topics, numbers) = (seen.topics(), seen.numbers());
            for (topic, published) in ["a.x", "a.y"].into_iter().zip(&published) {
                let of_topic = topics.iter().zip(&numbers).filter(|(t, _)| *t == topic).map(|(_, n)| *n);
                let of_topic: Vec<_> = of_topic.collect();
                let first_wrong = (0..*published).zip(&of_topic).find(|(expected, n)| expected != *n);
                assert_eq!((first_wrong, of_topic.len() as u64), (None, *published), "{topic}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against the rule: the kept ones of the topic, the last so many of them, and then what comes.
    #[test]
    fn a_replay_is_what_the_history_keeps(
        before in prop::collection::vec(any::<bool>(), 0..40), after in prop::collection::vec(any::<bool>(), 0..20),
        history in 1..30_usize, last in 0..30_usize, capacity in 1..8_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let bus = EventBus::builder().history(history).build();
            let all: Vec<_> = (0..).zip(before.iter().chain(&after).copied()).collect();
            let (past, coming) = all.split_at(before.len());
            let name = |ours: bool| if ours { "a" } else { "b" };
            for (n, ours) in past {
                bus.publish(event(name(*ours), *n)).await.unwrap();
            }
            let seen = Recorder::new();
            let options = options(Replay::Last(last)).capacity(capacity);
            let _kept = bus.subscribe("a", options, seen.clone()).unwrap();
            for (n, ours) in coming {
                bus.publish(event(name(*ours), *n)).await.unwrap();
            }
            let ours = |events: &[(u64, bool)]| -> Vec<_> {
                events.iter().filter(|(_, ours)| *ours).map(|(n, _)| *n).collect()
            };
            let kept = ours(&past[past.len().saturating_sub(history)..]);
            let mut expected = kept[kept.len().saturating_sub(last)..].to_vec();
            expected.extend(ours(coming));
            seen.has(expected.len()).await;
            assert_eq!(seen.numbers(), expected);
        });
    }
}

#[tokio::test]
async fn publishers_wait_for_a_slow_replay_only_by_the_policy() {
    let bus = EventBus::builder().history(10).build();
    publish(&bus, "a", 0..10).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let options = SubscribeOptions::default().capacity(2).replay(Replay::Last(10));
    let subscription = bus
        .subscribe("a", options, move |_| {
            let held = held.clone();
            async move {
                held.acquire().await.unwrap().forget();
                Ok(())
            }
        })
        .unwrap();
    publish(&bus, "a", 10..20).await;
    gate.add_permits(100);
    until("all", || subscription.stats().delivered == 12).await;
    let stats = subscription.stats();
    assert_eq!((stats.accepted, stats.dropped), (20, 8), "{stats:?}");
}
