//! How long an event takes to its handlers, one event at a time on an idle runtime: over subscribers of one
//! topic, and over topics with a subscriber each.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use event_bus::{Event, EventBus, Overflow, SubscribeOptions, Subscription, Topic};
use runtime::TaskOwner;
use tokio::sync::{Semaphore, broadcast, mpsc};

use super::{CAPACITY, event, on_a_worker, settle};
use crate::harness::Sample;

/// Notes when handlers are called.
#[derive(Clone)]
struct Watch {
    origin: Instant,
    /// When each was called last, in nanoseconds since the origin.
    called: Arc<[AtomicU64]>,
    done: Arc<Semaphore>,
}

impl Watch {
    fn new(handlers: usize) -> Self {
        let called = (0..handlers).map(|_| AtomicU64::new(0)).collect();
        Self { origin: Instant::now(), called, done: Arc::new(Semaphore::new(0)) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn note(&self, handler: usize) {
        self.called[handler].store(self.now(), Ordering::Release);
        self.done.add_permits(1);
    }
}

/// Publishes one event at a time and waits until so many handlers have been called, which the event's number tells
/// apart. The p99 over all calls, in microseconds.
async fn one_at_a_time<F: Future<Output = anyhow::Result<()>> + Send>(
    watch: Watch,
    events: usize,
    handlers_of: impl Fn(usize) -> std::ops::Range<usize> + Send + 'static,
    publish: impl Fn(usize) -> F + Send + 'static,
) -> anyhow::Result<Sample> {
    settle().await;
    let mut spans = on_a_worker(async move {
        let mut spans = Vec::new();
        for n in 0..events {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let published = watch.now();
            publish(n).await?;
            let handlers = handlers_of(n);
            watch.done.acquire_many(u32::try_from(handlers.len())?).await?.forget();
            for called in &watch.called[handlers] {
                spans.push(called.load(Ordering::Acquire).saturating_sub(published) as f64 / 1e3);
            }
        }
        Ok(spans)
    })
    .await?;
    spans.sort_by(f64::total_cmp);
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize];
    Ok(Sample::from(at(0.99)).detail("p50", at(0.5)).detail("p99.9", at(0.999)))
}

fn subscribe(bus: &EventBus, topic: &Topic, watch: &Watch, n: usize) -> anyhow::Result<Subscription> {
    let options = SubscribeOptions::new().capacity(CAPACITY).overflow(Overflow::Block);
    let watch = watch.clone();
    Ok(bus.subscribe(topic, options, move |_: Event| {
        watch.note(n);
        ready(Ok(()))
    })?)
}

pub(super) async fn ours_by_subscribers(subscribers: usize, events: usize) -> anyhow::Result<Sample> {
    let (bus, topic) = (EventBus::builder().build(), Topic::new("orders.created")?);
    let watch = Watch::new(subscribers);
    let kept: Vec<_> =
        (0..subscribers).map(|n| subscribe(&bus, &topic, &watch, n)).collect::<Result<_, _>>()?;
    let event = event(&topic)?;
    let publish = move |_| {
        let (bus, event) = (bus.clone(), event.clone());
        async move { Ok(bus.publish(event).await.map(drop)?) }
    };
    let sample = one_at_a_time(watch, events, move |_| 0..subscribers, publish).await;
    drop(kept);
    sample
}

pub(super) async fn broadcast_by_subscribers(subscribers: usize, events: usize) -> anyhow::Result<Sample> {
    let (sender, _) = broadcast::channel::<Event>(CAPACITY);
    let (watch, tasks) = (Watch::new(subscribers), TaskOwner::new("receivers"));
    for n in 0..subscribers {
        let (mut receiver, watch) = (sender.subscribe(), watch.clone());
        tasks.spawn("receiver", async move {
            while receiver.recv().await.is_ok() {
                watch.note(n);
            }
        });
    }
    let event = event(&Topic::new("orders.created")?)?;
    let publish = move |_| ready(sender.send(event.clone()).map(drop).ok().context("no receiver"));
    let sample = one_at_a_time(watch, events, move |_| 0..subscribers, publish).await;
    tasks.shutdown(Duration::from_secs(5)).await;
    sample
}

fn names(topics: usize) -> anyhow::Result<Vec<Topic>> {
    Ok((0..topics).map(|n| Topic::new(format!("orders.n{n}"))).collect::<Result<_, _>>()?)
}

pub(super) async fn ours_by_topics(topics: usize, events: usize) -> anyhow::Result<Sample> {
    let (bus, names, watch) = (EventBus::builder().build(), names(topics)?, Watch::new(topics));
    let each = names.iter().enumerate();
    let kept: Vec<_> = each.map(|(n, topic)| subscribe(&bus, topic, &watch, n)).collect::<Result<_, _>>()?;
    let pool: Vec<_> = names.iter().map(event).collect::<Result<_, _>>()?;
    let publish = move |n: usize| {
        let (bus, event) = (bus.clone(), pool[n % topics].clone());
        async move { Ok(bus.publish(event).await.map(drop)?) }
    };
    let sample = one_at_a_time(watch, events, move |n| n % topics..n % topics + 1, publish).await;
    drop(kept);
    sample
}

pub(super) async fn mpsc_by_topics(topics: usize, events: usize) -> anyhow::Result<Sample> {
    let (names, watch, tasks) = (names(topics)?, Watch::new(topics), TaskOwner::new("receivers"));
    let mut senders = HashMap::new();
    for (n, topic) in names.iter().enumerate() {
        let (sender, mut receiver) = mpsc::channel::<Event>(CAPACITY);
        let watch = watch.clone();
        tasks.spawn("receiver", async move {
            while receiver.recv().await.is_some() {
                watch.note(n);
            }
        });
        senders.insert(topic.clone(), sender);
    }
    let pool: Vec<_> = names.iter().map(event).collect::<Result<_, _>>()?;
    let publish = move |n: usize| {
        let event = pool[n % topics].clone();
        let sent = senders[event.topic()].try_send(event);
        ready(sent.context("no receiver"))
    };
    let sample = one_at_a_time(watch, events, move |n| n % topics..n % topics + 1, publish).await;
    tasks.shutdown(Duration::from_secs(5)).await;
    sample
}
