//! Many events across subscriptions that come and go and whose handlers are quick, slow, failing and
//! panicking: memory stays flat, and every event is in one of the counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use event_bus::{
    DeadLetterFilter, Event, EventBus, HandlerError, Limits, Overflow, Retry, SubscribeOptions, Subscription,
    SubscriptionStats, Topic,
};
use runtime::SystemClock;

use crate::support::{Counted, LONG};

/// What the handler of a subscription does with an event, by a number that goes with the subscription and by
/// how many it has had.
async fn handle(kind: u64, calls: u64) -> Result<(), HandlerError> {
    match kind % 6 {
        0 if calls.is_multiple_of(512) => tokio::time::sleep(Duration::from_millis(1)).await,
        1 if calls.is_multiple_of(64) => tokio::task::yield_now().await,
        2 if calls.is_multiple_of(32) => return Err("now and then".into()),
        2 if calls % 1024 == 1 => return Err(HandlerError::permanent("never")),
        3 if calls % 4096 == 1 => std::panic::resume_unwind(Box::new("now and then")),
        _ => {}
    }
    Ok(())
}

fn subscribe(bus: &EventBus, kind: u64) -> Subscription {
    // No more than two of them make the publishers wait.
    let policy = match kind % 5 {
        0 if !kind.is_multiple_of(6) => Overflow::Block,
        1 => Overflow::DropNewest,
        2 => Overflow::Disconnect,
        _ => Overflow::DropOldest,
    };
    let mut options = SubscribeOptions::new()
        .overflow(policy)
        .capacity(64 << (kind % 5))
        .name(format!("kind-{}", kind % 6));
    let quick = Retry::new(3).backoff(Duration::from_micros(100));
    options = match kind % 4 {
        0 => options.retry(quick),
        1 => options.dead_letters(),
        2 => options.concurrency(4),
        _ => options,
    };
    let calls = AtomicU64::new(0);
    let pattern = ["soak.a", "soak.*", "**", "soak.b"][usize::try_from(kind % 4).unwrap()];
    bus.subscribe(pattern, options, move |_: Event| handle(kind, calls.fetch_add(1, Ordering::Relaxed)))
        .unwrap()
}

fn adds_up(stats: &SubscriptionStats) {
    let all = stats.delivered + stats.dropped + stats.dead + stats.discarded + stats.depth + stats.retrying;
    assert_eq!(stats.accepted, all, "{stats:?}");
}

/// Resident memory in MiB, where the system tells.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096 / (1 << 20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_8_memory_is_flat_and_the_counts_add_up_over_many_events() {
    let full = std::env::var_os("GANTRY_TEST_FULL").is_some();
    let target: u64 = if full { 100_000_000 } else { 1_000_000 };
    let limits = Limits { dead_letters: 500, ..Limits::default() };
    let bus = EventBus::builder().limits(limits).history(1000).build();
    let alive = Arc::new(AtomicU64::new(0));
    let published = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (bus, alive, published, stop) = (bus.clone(), alive.clone(), published.clone(), stop.clone());
            #[expect(clippy::disallowed_methods, reason = "joined below")]
            tokio::spawn(async move {
                let topics = ["soak.a", "soak.b", "soak.c"].map(|name| Topic::new(name).unwrap());
                while published.fetch_add(1, Ordering::Relaxed) < target {
                    let topic = &topics[usize::try_from(published.load(Ordering::Relaxed) % 3).unwrap()];
                    alive.fetch_add(1, Ordering::Relaxed);
                    let event = Event::builder(topic.clone()).typed(Counted(alive.clone()));
                    bus.publish(event.build(&SystemClock).unwrap()).await.unwrap();
                }
                stop.store(true, Ordering::Release);
            })
        })
        .collect();
    let mut live: Vec<Subscription> = (0..10).map(|kind| subscribe(&bus, kind)).collect();
    let (mut kind, mut most_alive, began) = (10_u64, 0, Instant::now());
    let sizes = Mutex::new(Vec::new());
    let mut next_note = 0;
    while !stop.load(Ordering::Acquire) {
        let ended = live.remove(usize::try_from(kind % 10).unwrap());
        if kind.is_multiple_of(2) {
            assert_eq!(ended.drained(LONG).await, ended.stats().discarded);
        } else {
            ended.cancel();
            tokio::time::timeout(LONG, ended.ended()).await.unwrap();
        }
        adds_up(&ended.stats());
        live.push(subscribe(&bus, kind));
        kind += 1;
        most_alive = most_alive.max(alive.load(Ordering::Relaxed));
        for letter in bus.dead_letters(&DeadLetterFilter::new()).letters.iter().take(4) {
            drop(bus.redrive(letter.id));
        }
        let at = published.load(Ordering::Relaxed);
        if at >= next_note {
            next_note += target / 10;
            sizes.lock().unwrap().push((at, resident()));
        }
        tokio::time::sleep(Duration::from_millis(if full { 20 } else { 1 })).await;
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let took = began.elapsed();
    for subscription in live {
        subscription.drained(LONG).await;
        adds_up(&subscription.stats());
    }
    let totals = bus.stats();
    assert_eq!(totals.published, target);
    assert_eq!(totals.totals.depth + totals.totals.retrying, 0);
    adds_up(&totals.totals);
    // Ten queues, what readers have in hand, what waits for another attempt, the history and the letters.
    assert!(most_alive < 40_000, "{most_alive} events were in memory at one time");
    let sizes = sizes.into_inner().unwrap();
    println!("{target} events in {took:?}, {kind} subscriptions, at most {most_alive} events in memory");
    println!("MiB resident after so many events: {sizes:?}");
    println!("{totals:?}");
    drop(bus);
    crate::support::until("every event is gone", || alive.load(Ordering::Relaxed) == 0).await;
}
