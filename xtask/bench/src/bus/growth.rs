//! Whether the cost of an event grows with how much there is beside it.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use event_bus::{Event, EventBus, SubscribeOptions, Topic};
use tokio::sync::Semaphore;

use super::{Counter, WORKERS, many_topics, ours, pool, publish_all, queues, settle, subscribe};
use crate::harness::{Plan, Sample, block_on, growth};

pub(super) fn slopes(plan: &Plan) -> anyhow::Result<Sample> {
    let cost = |events: usize, took: Duration| took.as_nanos() as f64 / events as f64;
    let mut by_events = Vec::new();
    for events in [1_000, 10_000, 100_000, plan.pick(1_000_000, 300_000)] {
        // Small sizes are repeated, so that each figure stands for as much work.
        let repeats = plan.pick(1_000_000, 300_000) / events;
        let mut took = Duration::ZERO;
        for _ in 0..repeats.min(100) {
            took += block_on(WORKERS, ours(1, events))?;
        }
        by_events.push((events as f64, cost(events * repeats.min(100), took)));
    }
    let (mut by_topics, mut mpsc_by_topics) = (Vec::new(), Vec::new());
    for topics in [1, 100, 10_000, 100_000] {
        let events = plan.pick(400_000, 200_000);
        by_topics.push((topics as f64, cost(events, block_on(WORKERS, many_topics(topics, events))?)));
        let took = block_on(WORKERS, queues::mpsc_by_topic(topics, events))?;
        mpsc_by_topics.push((topics as f64, cost(events, took)));
    }
    let mut by_subscribers = Vec::new();
    for subscribers in [1, 10, 100, 1_000] {
        let events = (plan.pick(2_000_000, 400_000) / subscribers).max(400);
        let took = block_on(WORKERS, ours(subscribers, events))?;
        by_subscribers.push((subscribers as f64, cost(events * subscribers, took)));
    }
    let mut by_others = Vec::new();
    for others in [1, 100, 10_000, 100_000] {
        let events = plan.pick(1_000_000, 200_000);
        by_others.push((others as f64, cost(events, block_on(WORKERS, among_others(others, events))?)));
    }
    let slopes = [growth(&by_events), growth(&by_topics), growth(&by_subscribers)];
    Ok(Sample::from(slopes.into_iter().fold(f64::MIN, f64::max))
        .detail("events", slopes[0])
        .detail("topics", slopes[1])
        .detail("topics with mpsc, one found by topic in a HashMap", growth(&mpsc_by_topics))
        .detail("subscribers", slopes[2])
        .detail("unrelated subscriptions", growth(&by_others)))
}

/// Events of one topic, while others have a subscriber each, half of them by a pattern with a wildcard.
async fn among_others(others: usize, events: usize) -> anyhow::Result<Duration> {
    let bus = EventBus::builder().build();
    let done = Arc::new(Semaphore::new(0));
    let nobody = Counter::new(usize::MAX, &done);
    let mut subscriptions = Vec::new();
    for n in 0..others {
        let counter = nobody.clone();
        let pattern = if n.is_multiple_of(2) { format!("orders.n{n}") } else { format!("orders.n{n}.*.**") };
        subscriptions.push(bus.subscribe(&*pattern, SubscribeOptions::new(), move |event: Event| {
            counter.count(&event);
            ready(Ok(()))
        })?);
    }
    let topic = Topic::new("orders.created")?;
    subscriptions.push(subscribe(&bus, &topic, &Counter::new(events, &done))?);
    let pool = pool(&topic)?;
    settle().await;
    let took = publish_all(&bus, pool, events, done, 1).await?;
    drop(subscriptions);
    Ok(took)
}
