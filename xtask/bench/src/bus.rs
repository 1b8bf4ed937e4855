//! The event bus beside raw `tokio::sync::broadcast`, and beside a queue for each subscriber: raw
//! `tokio::sync::mpsc`, and flume.
//!
//! Both carry the same events, built before the clock starts: 64 bytes of JSON behind a counted pointer. A
//! delivery counts once the handler has been called with the event, respectively once the receiver has it.
//! Publishing runs in bursts that fit the queues, since a broadcast channel drops what does not, so nothing is
//! lost on either side; the bus's subscriptions have the policy `block`, which checks for room all the same.

mod growth;
mod latency;
mod queues;

use std::future::ready;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use event_bus::{Event, EventBus, Overflow, Retry, SubscribeOptions, Subscription, Topic};
use runtime::{SystemClock, TaskOwner};
use serde_json::json;
use tokio::sync::{Semaphore, broadcast, oneshot};

use crate::harness::{Goal, Plan, Row, Unit, block_on, count};

/// The queue of a subscription, and the capacity of the broadcast channel.
const CAPACITY: usize = 4096;
/// Distinct events that are published in turn, so that not all counting happens on one cache line.
const POOL: usize = 1024;
const WORKERS: usize = 2;

pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    // Sizes stand in what a row says, so that the figures of a quick run are not taken for the others.
    let (deliveries_of, unheard, idle) =
        (plan.pick(4_000_000, 800_000), plan.pick(2_000_000, 200_000), plan.pick(3_000, 500));
    let what = move |subscribers: usize| {
        format!(
            "publish → handler called, {subscribers} subscribers of one topic, {} events, one publisher, 64 B \
             JSON events built before, capacity {CAPACITY}, policy block, {WORKERS} worker threads, no tracing",
            count(events_of(deliveries_of, subscribers))
        )
    };
    let fan_out = |id, subscribers: usize| {
        Row::new(id, what(subscribers), Unit::PerSecond, Goal::RatioAtLeast(1.0), move |_| {
            deliveries(deliveries_of, subscribers, ours)
        })
        .reference("tokio::sync::broadcast", move |_| deliveries(deliveries_of, subscribers, raw_broadcast))
    };
    let beside = |id, subscribers: usize, name, run: Run| {
        Row::new(id, what(subscribers), Unit::PerSecond, Goal::None, move |_| {
            deliveries(deliveries_of, subscribers, ours)
        })
        .reference(name, move |_| run(deliveries_of, subscribers))
    };
    let mpsc: Run = |all, subscribers| deliveries(all, subscribers, queues::raw_mpsc);
    let flume: Run = |all, subscribers| deliveries(all, subscribers, queues::raw_flume);
    let in_turn = plan.pick(400_000, 200_000);
    let topics = |id, topics: usize| {
        let what = format!(
            "publish → handler called, {topics} topics in turn with a subscriber each, {} events, one publisher, \
             otherwise as bus.fanout",
            count(in_turn)
        );
        let rate = move |took: Duration| in_turn as f64 / took.as_secs_f64();
        Row::new(id, what, Unit::PerSecond, Goal::None, move |_| {
            block_on(WORKERS, many_topics(topics, in_turn)).map(rate)
        })
        .reference("tokio::sync::mpsc, one found by topic in a HashMap", move |_| {
            block_on(WORKERS, queues::mpsc_by_topic(topics, in_turn)).map(rate)
        })
    };
    // One event a millisecond.
    let few = plan.pick(1_000, 200);
    let one_by_one = |beside: String| {
        format!(
            "p99 of publish → handler called, over all calls, {beside}, one event at a time on an idle runtime of \
             {WORKERS} threads, {} events",
            count(few)
        )
    };
    let by_subscribers = |id, subscribers: usize| {
        let what = one_by_one(format!("{subscribers} subscribers of one topic"));
        Row::new(id, what, Unit::Microseconds, Goal::None, move |_| {
            block_on(WORKERS, latency::ours_by_subscribers(subscribers, few))
        })
        .reference("tokio::sync::broadcast", move |_| {
            block_on(WORKERS, latency::broadcast_by_subscribers(subscribers, few))
        })
    };
    let by_topics = |id, topics: usize| {
        let what = one_by_one(format!("{topics} topics in turn with a subscriber each"));
        Row::new(id, what, Unit::Microseconds, Goal::None, move |_| {
            block_on(WORKERS, latency::ours_by_topics(topics, few))
        })
        .reference("tokio::sync::mpsc, one found by topic in a HashMap", move |_| {
            block_on(WORKERS, latency::mpsc_by_topics(topics, few))
        })
    };
    let plain = move |_: &Plan| deliveries(deliveries_of, 1, ours);
    vec![
        fan_out("bus.fanout.1", 1),
        fan_out("bus.fanout.10", 10),
        fan_out("bus.fanout.100", 100),
        fan_out("bus.fanout.1000", 1000),
        beside("bus.fanout.mpsc.1", 1, "tokio::sync::mpsc for each", mpsc),
        beside("bus.fanout.mpsc.10", 10, "tokio::sync::mpsc for each", mpsc),
        beside("bus.fanout.mpsc.100", 100, "tokio::sync::mpsc for each", mpsc),
        beside("bus.fanout.mpsc.1000", 1000, "tokio::sync::mpsc for each", mpsc),
        beside("bus.fanout.flume.1", 1, "flume for each", flume),
        beside("bus.fanout.flume.10", 10, "flume for each", flume),
        beside("bus.fanout.flume.100", 100, "flume for each", flume),
        beside("bus.fanout.flume.1000", 1000, "flume for each", flume),
        topics("bus.topics.1", 1),
        topics("bus.topics.1k", 1_000),
        topics("bus.topics.100k", 100_000),
        Row::new(
            "bus.spans",
            "bus.fanout.1 with a span for each handled event asked for and nobody listening to spans, beside \
             bus.fanout.1 itself",
            Unit::PerSecond,
            Goal::None,
            move |_| deliveries(deliveries_of, 1, |n, events| on_bus(Asked::Spans, n, events)),
        )
        .reference("without spans", plain),
        Row::new(
            "bus.spans.heard",
            "bus.fanout.1 with a span for each handled event and a tracing subscriber that keeps them \
             (tracing_subscriber's registry), beside bus.fanout.1 itself without a subscriber",
            Unit::PerSecond,
            Goal::None,
            move |_| {
                hear_spans();
                deliveries(deliveries_of, 1, |n, events| on_bus(Asked::Spans, n, events))
            },
        )
        .reference("without spans, nobody listening", plain)
        .isolated(),
        Row::new(
            "bus.spans.not_asked",
            "bus.fanout.1 without spans and with that tracing subscriber, beside bus.fanout.1 itself without one",
            Unit::PerSecond,
            Goal::None,
            move |_| {
                hear_spans();
                deliveries(deliveries_of, 1, ours)
            },
        )
        .reference("without spans, nobody listening", plain)
        .isolated(),
        Row::new(
            "bus.retries",
            "bus.fanout.1 with a retry policy and dead letters, which no event needs, beside bus.fanout.1 itself",
            Unit::PerSecond,
            Goal::None,
            move |_| deliveries(deliveries_of, 1, |n, events| on_bus(Asked::Retries, n, events)),
        )
        .reference("without", plain),
        Row::new(
            "bus.nobody",
            format!(
                "one publish of an event that exists to a topic without subscriber, beside 100 subscriptions to \
                 others and 10 patterns that do not match, {} times",
                count(unheard)
            ),
            Unit::Nanoseconds,
            Goal::AtMost(100.0),
            move |_| block_on(WORKERS, nobody(unheard)),
        ),
        Row::new(
            "bus.latency.p99",
            format!(
                "publish → handler called, 1 subscriber, one event at a time on an idle runtime of {WORKERS} \
                 threads, {} events",
                count(idle)
            ),
            Unit::Microseconds,
            Goal::AtMost(20.0),
            move |_| block_on(WORKERS, latency::ours_by_subscribers(1, idle)),
        ),
        by_subscribers("bus.latency.10", 10),
        by_subscribers("bus.latency.100", 100),
        by_subscribers("bus.latency.1000", 1000),
        by_topics("bus.latency.topics.1k", 1_000),
        by_topics("bus.latency.topics.100k", 100_000),
        Row::new(
            "bus.growth",
            format!(
                "the steepest of three: cost an event over 1 k to {} events published, over 1 to 100 k topics \
                 with a subscriber each, and cost a delivery over 1 to 1,000 subscribers; beside it cost an event \
                 of one topic while 1 to 100 k others have a subscriber each, half of them by a pattern",
                count(plan.pick(1_000_000, 300_000))
            ),
            Unit::Slope,
            Goal::AtMost(0.1),
            growth::slopes,
        )
        .without_warm_up(),
    ]
}

/// One round of so many deliveries to so many subscribers, in deliveries a second.
type Run = fn(usize, usize) -> anyhow::Result<f64>;

/// How many events make so many deliveries, and fill a queue at least once.
fn events_of(deliveries: usize, subscribers: usize) -> usize {
    (deliveries / subscribers).max(CAPACITY)
}

/// Deliveries a second, of about so many in all.
fn deliveries<F>(deliveries: usize, subscribers: usize, run: fn(usize, usize) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<Duration>>,
{
    let events = events_of(deliveries, subscribers);
    let took = block_on(WORKERS, run(subscribers, events))?;
    Ok((events * subscribers) as f64 / took.as_secs_f64())
}

fn event(topic: &Topic) -> anyhow::Result<Event> {
    let data = json!({ "order": 4711, "customer": "c-0815", "total": "12.50", "currency": "EUR" });
    Ok(Event::builder(topic.clone()).source("bench").data(data).build(&SystemClock)?)
}

fn pool(topic: &Topic) -> anyhow::Result<Vec<Event>> {
    (0..POOL).map(|_| event(topic)).collect()
}

/// Counts the calls of one handler, and tells when the last has come.
#[repr(align(128))]
struct Counter {
    seen: AtomicU64,
    last: AtomicU64,
    done: Arc<Semaphore>,
}

impl Counter {
    fn new(last: usize, done: &Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { seen: AtomicU64::new(0), last: AtomicU64::new(last as u64), done: done.clone() })
    }

    fn count(&self, event: &Event) {
        black_box(event);
        // One handler at a time, so a load and a store do.
        let seen = self.seen.load(Ordering::Relaxed) + 1;
        self.seen.store(seen, Ordering::Relaxed);
        if seen == self.last.load(Ordering::Relaxed) {
            self.done.add_permits(1);
        }
    }
}

/// What is asked for beside the events themselves.
#[derive(Clone, Copy, PartialEq)]
enum Asked {
    Nothing,
    Spans,
    Retries,
}

/// Lets this process's spans be kept by someone, for good.
fn hear_spans() {
    // Where somebody listens already it is the same.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
}

fn subscribe(bus: &EventBus, topic: &Topic, counter: &Arc<Counter>) -> anyhow::Result<Subscription> {
    subscribe_with(SubscribeOptions::new(), bus, topic, counter)
}

fn subscribe_with(
    options: SubscribeOptions,
    bus: &EventBus,
    topic: &Topic,
    counter: &Arc<Counter>,
) -> anyhow::Result<Subscription> {
    let options = options.capacity(CAPACITY).overflow(Overflow::Block);
    let counter = counter.clone();
    Ok(bus.subscribe(topic, options, move |event: Event| {
        counter.count(&event);
        ready(Ok(()))
    })?)
}

async fn ours(subscribers: usize, events: usize) -> anyhow::Result<Duration> {
    on_bus(Asked::Nothing, subscribers, events).await
}

async fn on_bus(asked: Asked, subscribers: usize, events: usize) -> anyhow::Result<Duration> {
    let bus = EventBus::builder().spans(asked == Asked::Spans).build();
    let options = match asked {
        Asked::Retries => SubscribeOptions::new().retry(Retry::new(3)).dead_letters(),
        Asked::Nothing | Asked::Spans => SubscribeOptions::new(),
    };
    let topic = Topic::new("orders.created")?;
    let pool = pool(&topic)?;
    let done = Arc::new(Semaphore::new(0));
    let counters: Vec<_> = (0..subscribers).map(|_| Counter::new(events, &done)).collect();
    let subscriptions: Vec<_> = counters
        .iter()
        .map(|counter| subscribe_with(options.clone(), &bus, &topic, counter))
        .collect::<Result<_, _>>()?;
    settle().await;
    let took = publish_all(&bus, pool, events, done, subscribers).await?;
    for counter in &counters {
        ensure!(counter.seen.load(Ordering::Relaxed) == events as u64, "an event was lost");
    }
    drop(subscriptions);
    Ok(took)
}

/// Publishes the events of the pool in turn, and waits until so many subscribers have had them all.
async fn publish_all(
    bus: &EventBus,
    pool: Vec<Event>,
    events: usize,
    done: Arc<Semaphore>,
    subscribers: usize,
) -> anyhow::Result<Duration> {
    let publisher = bus.clone();
    on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            publisher.publish(pool[n % POOL].clone()).await?;
        }
        done.acquire_many(u32::try_from(subscribers)?).await?.forget();
        Ok(began.elapsed())
    })
    .await
}

async fn raw_broadcast(subscribers: usize, events: usize) -> anyhow::Result<Duration> {
    let topic = Topic::new("orders.created")?;
    let pool = pool(&topic)?;
    let (sender, _) = broadcast::channel::<Event>(CAPACITY);
    let done = Arc::new(Semaphore::new(0));
    let counters: Vec<_> = (0..subscribers).map(|_| Counter::new(CAPACITY, &done)).collect();
    let tasks = TaskOwner::new("receivers");
    for counter in &counters {
        let (mut receiver, counter) = (sender.subscribe(), counter.clone());
        tasks.spawn("receiver", async move {
            while let Ok(event) = receiver.recv().await {
                counter.count(&event);
            }
        });
    }
    settle().await;
    let counted = counters.clone();
    let took = on_a_worker(async move {
        let began = Instant::now();
        let mut sent = 0;
        while sent < events {
            let burst = CAPACITY.min(events - sent);
            for counter in &counted {
                counter.last.store((sent + burst) as u64, Ordering::Relaxed);
            }
            for n in sent..sent + burst {
                sender.send(pool[n % POOL].clone()).ok().context("no receiver")?;
            }
            sent += burst;
            done.acquire_many(u32::try_from(counted.len())?).await?.forget();
        }
        Ok(began.elapsed())
    })
    .await?;
    for counter in &counters {
        ensure!(counter.seen.load(Ordering::Relaxed) == events as u64, "an event was lost");
    }
    tasks.shutdown(Duration::from_secs(5)).await;
    Ok(took)
}

/// Lets tasks that were just spawned come to rest.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Runs the publisher where publishers run: on a worker thread, not on the one that waits for the runtime.
async fn on_a_worker<T: Send + 'static>(
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = oneshot::channel();
    let tasks = TaskOwner::new("publisher");
    tasks.spawn("publisher", async move { drop(sender.send(work.await)) });
    receiver.await.context("the publisher panicked")?
}

async fn nobody(events: usize) -> anyhow::Result<f64> {
    let bus = EventBus::builder().build();
    let done = Arc::new(Semaphore::new(0));
    let counter = Counter::new(usize::MAX, &done);
    let mut subscriptions = Vec::new();
    for n in 0..100 {
        subscriptions.push(subscribe(&bus, &Topic::new(format!("orders.n{n}"))?, &counter)?);
    }
    for n in 0..10 {
        let (options, counter) = (SubscribeOptions::new(), counter.clone());
        subscriptions.push(bus.subscribe(&*format!("other{n}.**"), options, move |event: Event| {
            counter.count(&event);
            ready(Ok(()))
        })?);
    }
    let pool = pool(&Topic::new("nobody.listens")?)?;
    let took = on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            black_box(bus.publish(pool[n % POOL].clone()).await?);
        }
        Ok(began.elapsed())
    })
    .await?;
    ensure!(counter.seen.load(Ordering::Relaxed) == 0, "somebody listened");
    Ok(took.as_nanos() as f64 / events as f64)
}

/// Events published in turn to topics that have a subscriber each.
async fn many_topics(topics: usize, events: usize) -> anyhow::Result<Duration> {
    let bus = EventBus::builder().build();
    let done = Arc::new(Semaphore::new(0));
    let names: Vec<_> = (0..topics).map(|n| Topic::new(format!("orders.n{n}"))).collect::<Result<_, _>>()?;
    let mut subscriptions = Vec::new();
    for topic in &names {
        subscriptions.push(subscribe(&bus, topic, &Counter::new(events / topics, &done))?);
    }
    // One event a topic is shared by all that are published to it.
    let pool: Vec<_> = names.iter().map(event).collect::<Result<_, _>>()?;
    settle().await;
    let publisher = bus.clone();
    let took = on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            publisher.publish(pool[n % topics].clone()).await?;
        }
        done.acquire_many(u32::try_from(topics)?).await?.forget();
        Ok(began.elapsed())
    })
    .await?;
    drop(subscriptions);
    Ok(took)
}
