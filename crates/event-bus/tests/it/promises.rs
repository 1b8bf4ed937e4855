//! The promises of the design, each by its number.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use event_bus::{
    Event, EventBus, EventHandler, Overflow, Pattern, PublishError, SubscribeOptions, SubscriptionSpec,
};

use crate::support::{LONG, Recorder, event, publish, until};

fn block() -> SubscribeOptions {
    SubscribeOptions::default().overflow(Overflow::Block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn promise_5_a_stuck_a_failing_and_a_panicking_subscriber_harm_nobody() {
    let bus = EventBus::builder().build();
    let good = Recorder::new();
    let _good = bus.subscribe("a", block(), good.clone()).unwrap();
    let (release, gate) = mpsc::sync_channel::<()>(0);
    let gate = std::sync::Mutex::new(gate);
    let blocked = Arc::new(AtomicBool::new(false));
    let entered = blocked.clone();
    // Shares its ring with the one that panics, and holds its thread from the first event on.
    let stuck = bus
        .subscribe("a", SubscribeOptions::default().capacity(4), move |_| {
            entered.store(true, Ordering::Release);
            let _ = gate.lock().unwrap().recv();
            async { Ok(()) }
        })
        .unwrap();
    let _panics = bus.subscribe("a", SubscribeOptions::default(), async |_| panic!("always")).unwrap();
    let _fails = bus.subscribe("a", block(), async |_| Err("always".into())).unwrap();
    publish(&bus, "a", 0..1).await;
    until("stuck", || blocked.load(Ordering::Acquire)).await;
    publish(&bus, "a", 1..5_000).await;
    good.has(5_000).await;
    assert_eq!(good.numbers(), (0..5_000).collect::<Vec<_>>());
    assert!(stuck.stats().depth <= 4);
    drop(release);
}

#[tokio::test]
async fn promise_4_after_the_end_of_a_subscription_no_call_begins() {
    for _ in 0..50 {
        let bus = EventBus::builder().build();
        let seen = Recorder::new();
        let subscription = bus.subscribe("a", block(), seen.clone()).unwrap();
        publish(&bus, "a", 0..100).await;
        subscription.cancel();
        // One thread: nothing runs between the two.
        let calls = seen.len();
        subscription.ended().await;
        assert_eq!(seen.len(), calls, "a call began after the end");
        publish(&bus, "a", 100..110).await;
        let stats = subscription.stats();
        assert_eq!(stats.accepted, 100);
        assert_eq!(stats.delivered + stats.discarded, 100);
        assert_eq!(u64::try_from(calls).unwrap(), stats.delivered);
        assert_eq!(seen.len(), calls);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_6_a_swap_of_subscriptions_loses_and_doubles_nothing() {
    let bus = EventBus::builder().build();
    let seen = Arc::new(AtomicU64::new(0));
    let sum = Arc::new(AtomicU64::new(0));
    let handler = |seen: &Arc<AtomicU64>, sum: &Arc<AtomicU64>| {
        let (seen, sum) = (seen.clone(), sum.clone());
        event_bus::by_ref(move |event: &Event| {
            seen.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(event.data().as_u64().unwrap(), Ordering::Relaxed);
            Ok(())
        })
    };
    // The patterns differ, so that old and new never share a ring.
    let patterns = ["a.b", "a.*", "**", "*.b", "a.**"];
    let spec = |n: usize| {
        let pattern = Pattern::new(patterns[n % patterns.len()]).unwrap();
        SubscriptionSpec::new(pattern, block(), handler(&seen, &sum))
    };
    let mut live = bus.subscribe_spec(spec(0)).unwrap();
    let has_swapped = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (bus, has_swapped) = (bus.clone(), has_swapped.clone());
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                let mut n = 0;
                // However few turns the one that swaps is given.
                while n < 20_000 || !has_swapped.load(Ordering::Relaxed) {
                    publish(&bus, "a.b", n..n + 100).await;
                    n += 100;
                }
                n
            })
        })
        .collect();
    let mut swaps = 0;
    while !publishers.iter().all(tokio::task::JoinHandle::is_finished) {
        swaps += 1;
        let next = bus.replace(&[live.id()], vec![spec(swaps)]).unwrap().pop().unwrap();
        std::mem::replace(&mut live, next).drained(LONG).await;
        has_swapped.store(swaps > 3, Ordering::Relaxed);
    }
    let (mut published, mut published_sum) = (0, 0);
    for publisher in publishers {
        let n = publisher.await.unwrap();
        published += n;
        published_sum += (0..n).sum::<u64>();
    }
    live.drained(LONG).await;
    assert_eq!(seen.load(Ordering::Relaxed), published, "after {swaps} swaps");
    assert_eq!(sum.load(Ordering::Relaxed), published_sum);
}

#[tokio::test]
async fn promise_7_shutdown_drains_within_its_deadline_and_counts_the_rest() {
    let bus = EventBus::builder().build();
    let quick = Recorder::new();
    let (slow, _gate) = Recorder::gated();
    let _a = bus.subscribe("a", block(), quick.clone()).unwrap();
    let _b = bus.subscribe("a", block().name("slow"), slow.clone()).unwrap();
    publish(&bus, "a", 0..10).await;
    let report = tokio::time::timeout(LONG, bus.shutdown(Duration::from_millis(50))).await.unwrap();
    assert_eq!(quick.len(), 10, "what can be finished is");
    assert_eq!(slow.len(), 1);
    assert_eq!(report.undelivered, 9);
    assert_eq!(bus.publish(event("a", 0)).await, Err(PublishError::Closed));
    assert!(bus.subscribe("a", block(), quick).is_err());
    assert_eq!(bus.shutdown(LONG).await.undelivered, 0, "a second time there is nothing left");
}

#[tokio::test]
async fn promise_8_what_waits_is_bounded_whatever_a_subscriber_does() {
    let alive = Arc::new(AtomicU64::new(0));
    let bus = EventBus::builder().build();
    let options = SubscribeOptions::default().capacity(16);
    let _stuck = bus.subscribe("a", options.clone(), async |_| std::future::pending().await).unwrap();
    let _newest = bus
        .subscribe("a", options.overflow(Overflow::DropNewest), async |_| std::future::pending().await)
        .unwrap();
    let a = crate::support::topic("a");
    for _ in 0..10_000 {
        alive.fetch_add(1, Ordering::Relaxed);
        let event = Event::builder(a.clone())
            .typed(crate::support::Counted(alive.clone()))
            .build(&runtime::SystemClock);
        bus.publish(event.unwrap()).await.unwrap();
    }
    let alive = alive.load(Ordering::Relaxed);
    assert!(alive < 300, "{alive} of 10,000 events are still in memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_5_one_publishers_events_keep_their_order_under_churn() {
    let bus = EventBus::builder().build();
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2_u64)
        .map(|publisher| {
            let (bus, stop) = (bus.clone(), stop.clone());
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                let names = [format!("p{publisher}.a"), format!("p{publisher}.b.c")];
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    bus.publish(event(&names[usize::from(n % 3 == 0)], n)).await.unwrap();
                    n += 1;
                }
                n
            })
        })
        .collect();
    // Each subscriber lives for a while, must see a gapless stretch of what it takes, and goes.
    for round in 0..150 {
        let pattern = ["p0.**", "p1.**", "p0.*", "p1.b.*"][round % 4];
        let policy = [Overflow::Block, Overflow::Block, Overflow::DropOldest][round % 3];
        let seen = Recorder::new();
        let options = SubscribeOptions::default().overflow(policy).capacity(1 << (round % 10));
        let subscription = bus.subscribe(pattern, options, seen.clone()).unwrap();
        seen.has(1 + round % 70).await;
        assert_eq!(subscription.drained(LONG).await, 0);
        let numbers = seen.numbers();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{pattern}: order or double: {numbers:?}");
        let stats = subscription.stats();
        assert_eq!(stats.accepted, stats.delivered + stats.dropped, "{pattern} {policy:?} {stats:?}");
        if policy == Overflow::Block {
            let takes = |n: &u64| match round % 4 {
                0 | 1 => true,
                2 => !n.is_multiple_of(3),
                _ => n.is_multiple_of(3),
            };
            let expected: Vec<_> = (numbers[0]..=numbers[numbers.len() - 1]).filter(takes).collect();
            assert_eq!(numbers, expected, "{pattern}: a gap");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        assert!(publisher.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_handler_may_use_the_bus_that_calls_it() {
    let bus = EventBus::builder().build();
    let seen = Recorder::new();
    let _b = bus.subscribe("b", block(), seen.clone()).unwrap();
    let inner = bus.clone();
    let recorder = seen.clone();
    let own = Arc::new(std::sync::Mutex::new(None));
    let held = own.clone();
    let first = bus
        .subscribe("a", block(), move |event: Event| {
            let (bus, recorder, held) = (inner.clone(), recorder.clone(), held.clone());
            async move {
                // Ends itself, begins another, publishes.
                drop(held.lock().unwrap().take());
                let _ = bus.subscribe("c", block(), recorder.clone()).unwrap().detach();
                bus.publish(super::support::event("b", 1)).await.map_err(event_bus::HandlerError::new)?;
                recorder.handle(&event).await
            }
        })
        .unwrap();
    *own.lock().unwrap() = Some(first);
    publish(&bus, "a", 0..5).await;
    seen.has(2).await;
    until("it has ended itself", || bus.subscriptions().len() == 2).await;
}
