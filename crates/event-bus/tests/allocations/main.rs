//! What a delivery allocates once everything has warmed up: nothing. A program of its own, since the allocator
//! that counts is that of the whole program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are tests, which clippy does not see"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_bus::{Event, EventBus, EventFilter, OrderKey, Overflow, Retry, SubscribeOptions, Topic, by_ref};
use runtime::SystemClock;
use serde_json::json;

const EVENTS: u64 = 20_000;

/// Lets the handlers run. Not by tokio's `yield_now`, which makes a list each time the runtime is entered.
async fn turn() {
    let mut has_yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Allocations of `EVENTS` published events of three topics and of their delivery to all subscriptions, once
/// the same has been done before.
fn allocations(history: usize, patterns: &[&str], options: &SubscribeOptions) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bus = {
        let _entered = runtime.enter();
        EventBus::builder().history(history).build()
    };
    let handled = Arc::new(AtomicU64::new(0));
    let mut subscriptions = Vec::new();
    for (n, pattern) in patterns.iter().enumerate() {
        let handled = handled.clone();
        let count = move || handled.fetch_add(1, Ordering::Relaxed);
        // Both ways in which a handler is written.
        subscriptions.push(if n % 2 == 0 {
            let handler = by_ref(move |_: &Event| {
                count();
                Ok(())
            });
            bus.subscribe(*pattern, options.clone(), handler).unwrap()
        } else {
            let handler = move |_: Event| {
                count();
                std::future::ready(Ok(()))
            };
            bus.subscribe(*pattern, options.clone(), handler).unwrap()
        });
    }
    let topics = ["a.b", "a.c", "b.d"].map(|name| Topic::new(name).unwrap());
    let events = topics.map(|topic| Event::builder(topic).data(json!(1)).build(&SystemClock).unwrap());
    let round = async || {
        let before = handled.load(Ordering::Relaxed);
        let mut delivered_to = 0;
        for n in 0..EVENTS {
            // Some at once and some one by one, so that readers sleep now and then.
            let event = events[usize::try_from(n % 3).unwrap()].clone();
            delivered_to += bus.publish(event).await.unwrap().delivered_to as u64;
            if n % 1000 < 100 {
                turn().await;
            }
        }
        while handled.load(Ordering::Relaxed) < before + delivered_to {
            turn().await;
        }
    };
    let mut fewest = u64::MAX;
    // Lists grow until they fit the longest burst that the machine comes to, then no more.
    for _ in 0..20 {
        // Boxed before the count begins: an unoptimised tokio boxes large futures.
        let mut round = Box::pin(round());
        let counted = allocation_counter::measure(|| runtime.block_on(round.as_mut()));
        fewest = fewest.min(counted.count_total);
        if fewest == 0 {
            break;
        }
    }
    assert!(subscriptions.iter().all(|subscription| subscription.stats().dropped == 0));
    fewest
}

fn block() -> SubscribeOptions {
    SubscribeOptions::new().overflow(Overflow::Block)
}

#[test]
fn a_publish_and_its_deliveries_allocate_nothing() {
    let ten = ["a.b", "a.*", "**", "a.b", "b.d", "*.d", "a.c", "**", "a.*", "a.b"];
    let every = EventFilter::new().matching(|_| true);
    let cases: [(&str, usize, &[&str], SubscribeOptions); 11] = [
        ("nobody listens", 0, &[], block()),
        ("one subscription", 0, &["a.b"], block()),
        ("ten subscriptions", 0, &ten, block()),
        ("drop_oldest", 0, &ten, SubscribeOptions::new().capacity(1 << 16)),
        ("drop_newest", 0, &ten, SubscribeOptions::new().overflow(Overflow::DropNewest).capacity(1 << 16)),
        ("with a history", 1000, &ten, block()),
        ("a queue that is full all the time", 0, &["a.*", "**"], block().capacity(8)),
        ("with a retry policy", 0, &ten, block().retry(Retry::new(3))),
        ("with dead letters", 0, &ten, block().dead_letters()),
        ("with a filter", 0, &ten, block().filter(every)),
        ("ordered by a key", 0, &ten, block().ordered_by(OrderKey::source())),
    ];
    let found =
        cases.map(|(what, history, patterns, options)| (what, allocations(history, patterns, &options)));
    assert!(found.iter().all(|(_, allocations)| *allocations == 0), "in {EVENTS} events: {found:?}");
}
