//! Publishers and subscriptions that come and go, on threads of their own and with random pauses: thousands of
//! short rounds, each held against what every interleaving has in common.
//!
//! Every step notes the time of a common counter before and after. A subscription must have what was published
//! wholly within its life, may have what overlaps with its beginning or its end, and nothing else; each
//! publisher's events in order, none twice, and none left out between two that it has. Which interleavings
//! come up is up to the machine; the pauses are seeded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use event_bus::{EventBus, Overflow, SubscribeOptions, SubscriptionSpec};

use crate::support::{Recorder, event};

const PUBLISHERS: u64 = 2;
const EVENTS: u64 = 24;

/// A random number generator that a round can be repeated with (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn pause(&mut self) {
        match self.below(8) {
            0 => std::thread::yield_now(),
            1..=4 => (0..self.below(60)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}

/// When something began and when it had ended.
type Span = (u64, u64);

struct Life {
    pattern: &'static str,
    subscribed: Span,
    left: Span,
    seen: Vec<(String, u64)>,
}

fn round(seed: u64, handle: &tokio::runtime::Handle) {
    let clock = Arc::new(AtomicU64::new(0));
    let tick = move || clock.fetch_add(1, Ordering::SeqCst);
    let bus = EventBus::builder().handle(handle.clone()).history(8).build();
    let begin = Arc::new(Barrier::new(3));
    let (published, lives) = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (bus, tick, begin) = (bus.clone(), tick.clone(), begin.clone());
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_mul(31) + publisher);
                    let names = [format!("p{publisher}.a"), format!("p{publisher}.b")];
                    begin.wait();
                    let publish = |n: u64| {
                        random.pause();
                        let event = event(&names[usize::from(n.is_multiple_of(3))], n);
                        let before = tick();
                        assert_eq!(bus.try_publish(event).unwrap().missed, 0);
                        (before, tick())
                    };
                    (0..EVENTS).map(publish).collect::<Vec<Span>>()
                })
            })
            .collect();
        let mut random = Random(seed.wrapping_mul(31) + PUBLISHERS);
        begin.wait();
        let lives: Vec<_> = (0..3)
            .map(|_| {
                let pattern = ["p0.*", "p1.**", "**", "p0.a", "*.b"][random.below(5) as usize];
                let policy = [Overflow::Block, Overflow::DropOldest, Overflow::DropNewest];
                let options = SubscribeOptions::new().overflow(policy[random.below(3) as usize]);
                let recorder = Recorder::new();
                let began = tick();
                let subscription = bus.subscribe(pattern, options, recorder.clone()).unwrap();
                let subscribed = (began, tick());
                (0..random.below(12)).for_each(|_| random.pause());
                let leaving = tick();
                subscription.drain();
                (pattern, subscribed, (leaving, tick()), recorder, subscription)
            })
            .collect();
        let published: Vec<Vec<Span>> = publishers.into_iter().map(|p| p.join().unwrap()).collect();
        (published, lives)
    });
    for (pattern, subscribed, left, recorder, subscription) in lives {
        handle.block_on(async {
            tokio::time::timeout(crate::support::LONG, subscription.ended()).await.unwrap()
        });
        let seen: Vec<_> = recorder.topics().into_iter().zip(recorder.numbers()).collect();
        let stats = subscription.stats();
        assert_eq!((stats.accepted, stats.delivered), (seen.len() as u64, seen.len() as u64), "seed {seed}");
        check(seed, &published, &Life { pattern, subscribed, left, seen });
    }
}

fn check(seed: u64, published: &[Vec<Span>], life: &Life) {
    let pattern = event_bus::Pattern::new(life.pattern).unwrap();
    for (publisher, spans) in published.iter().enumerate() {
        let topic = |n: u64| format!("p{publisher}.{}", if n.is_multiple_of(3) { "b" } else { "a" });
        let takes = |n: &u64| pattern.matches(&crate::support::topic(&topic(*n)));
        let seen: Vec<u64> = life
            .seen
            .iter()
            .filter(|(topic, _)| topic.starts_with(&format!("p{publisher}.")))
            .map(|(_, n)| *n)
            .collect();
        let span = |n: u64| spans[usize::try_from(n).unwrap()];
        let must = |n: &u64| span(*n).0 > life.subscribed.1 && span(*n).1 < life.left.0;
        let may = |n: &u64| span(*n).1 > life.subscribed.0 && span(*n).0 < life.left.1;
        let text = format!("seed {seed}, publisher {publisher}, pattern {}: {seen:?}", life.pattern);
        let (Some(first), Some(last)) = (seen.first().copied(), seen.last().copied()) else {
            assert!(!(0..EVENTS).filter(takes).any(|n| must(&n)), "lost all: {text}");
            continue;
        };
        let expected: Vec<u64> = (first..=last).filter(takes).collect();
        assert_eq!(seen, expected, "lost, doubled or out of order: {text}");
        let lost: Vec<u64> = (0..EVENTS).filter(takes).filter(must).filter(|n| !seen.contains(n)).collect();
        assert!(lost.is_empty(), "lost {lost:?}: {text}");
        assert!(seen.iter().all(|n| takes(n) && may(n)), "not its own: {text}");
    }
}

/// Subscriptions that replace each other, each with another pattern and so with a queue of its own: every event is
/// with exactly one of them.
fn replaced(seed: u64, handle: &tokio::runtime::Handle) {
    let bus = EventBus::builder().handle(handle.clone()).build();
    let begin = Arc::new(Barrier::new(3));
    let spec = |n: usize, recorder: &Recorder| {
        let pattern = event_bus::Pattern::new(["p.*", "**", "p.a", "*.a"][n % 4]).unwrap();
        SubscriptionSpec::new(pattern, SubscribeOptions::new().overflow(Overflow::Block), recorder.clone())
    };
    let mut lives = vec![Recorder::new()];
    let mut kept = vec![bus.subscribe_spec(spec(0, &lives[0])).unwrap()];
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (bus, begin) = (bus.clone(), begin.clone());
            scope.spawn(move || {
                let mut random = Random(seed.wrapping_mul(31) + publisher);
                begin.wait();
                for n in 0..EVENTS {
                    random.pause();
                    assert_eq!(
                        bus.try_publish(event("p.a", publisher * EVENTS + n)).unwrap().delivered_to,
                        1
                    );
                }
            });
        }
        let mut random = Random(seed.wrapping_mul(31) + PUBLISHERS);
        begin.wait();
        for n in 1..8 {
            random.pause();
            let recorder = Recorder::new();
            let ends = kept[n - 1].id();
            kept.extend(bus.replace(&[ends], vec![spec(n, &recorder)]).unwrap());
            lives.push(recorder);
        }
    });
    for subscription in &kept {
        subscription.drain();
        handle.block_on(async {
            tokio::time::timeout(crate::support::LONG, subscription.ended()).await.unwrap();
        });
    }
    let seen: Vec<u64> = lives.iter().flat_map(Recorder::numbers).collect();
    for publisher in 0..PUBLISHERS {
        let own = publisher * EVENTS..(publisher + 1) * EVENTS;
        let seen: Vec<u64> = seen.iter().copied().filter(|n| own.contains(n)).collect();
        assert_eq!(seen, own.collect::<Vec<_>>(), "seed {seed}, publisher {publisher}");
    }
}

fn rounds(round: fn(u64, &tokio::runtime::Handle)) {
    let rounds = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 100_000 } else { 3_000 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for seed in 0..rounds {
        round(seed, runtime.handle());
    }
}

#[test]
fn nothing_is_lost_doubled_or_out_of_order_in_any_interleaving() {
    rounds(round);
}

#[test]
fn an_event_is_with_one_of_those_that_replace_each_other() {
    rounds(replaced);
}
