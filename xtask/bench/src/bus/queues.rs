//! What the bus stands beside: a queue for each subscriber, written to one after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use event_bus::{Event, Topic};
use runtime::TaskOwner;
use tokio::sync::{Semaphore, mpsc};

use super::{CAPACITY, Counter, POOL, event, on_a_worker, pool, settle};

pub(super) async fn raw_mpsc(subscribers: usize, events: usize) -> anyhow::Result<Duration> {
    let pool = pool(&Topic::new("orders.created")?)?;
    let done = Arc::new(Semaphore::new(0));
    let counters: Vec<_> = (0..subscribers).map(|_| Counter::new(events, &done)).collect();
    let tasks = TaskOwner::new("receivers");
    let senders: Vec<_> = counters.iter().map(|counter| receiver(&tasks, counter)).collect();
    settle().await;
    let took = on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            for sender in &senders {
                sender.send(pool[n % POOL].clone()).await?;
            }
        }
        done.acquire_many(u32::try_from(senders.len())?).await?.forget();
        Ok(began.elapsed())
    })
    .await?;
    finish(&tasks, &counters, events).await?;
    Ok(took)
}

pub(super) async fn raw_flume(subscribers: usize, events: usize) -> anyhow::Result<Duration> {
    let pool = pool(&Topic::new("orders.created")?)?;
    let done = Arc::new(Semaphore::new(0));
    let counters: Vec<_> = (0..subscribers).map(|_| Counter::new(events, &done)).collect();
    let tasks = TaskOwner::new("receivers");
    let mut senders = Vec::new();
    for counter in &counters {
        let (sender, receiver) = flume::bounded::<Event>(CAPACITY);
        let counter = counter.clone();
        tasks.spawn("receiver", async move {
            while let Ok(event) = receiver.recv_async().await {
                counter.count(&event);
            }
        });
        senders.push(sender);
    }
    settle().await;
    let took = on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            for sender in &senders {
                sender.send_async(pool[n % POOL].clone()).await.ok().context("no receiver")?;
            }
        }
        done.acquire_many(u32::try_from(senders.len())?).await?.forget();
        Ok(began.elapsed())
    })
    .await?;
    finish(&tasks, &counters, events).await?;
    Ok(took)
}

/// A queue for each topic, found in a map that does not change meanwhile.
pub(super) async fn mpsc_by_topic(topics: usize, events: usize) -> anyhow::Result<Duration> {
    let names: Vec<_> = (0..topics).map(|n| Topic::new(format!("orders.n{n}"))).collect::<Result<_, _>>()?;
    let done = Arc::new(Semaphore::new(0));
    let counters: Vec<_> = (0..topics).map(|_| Counter::new(events / topics, &done)).collect();
    let tasks = TaskOwner::new("receivers");
    let senders: HashMap<_, _> =
        names.iter().cloned().zip(counters.iter().map(|counter| receiver(&tasks, counter))).collect();
    let pool: Vec<_> = names.iter().map(event).collect::<Result<_, _>>()?;
    settle().await;
    let took = on_a_worker(async move {
        let began = Instant::now();
        for n in 0..events {
            let event = pool[n % topics].clone();
            senders[event.topic()].send(event).await?;
        }
        done.acquire_many(u32::try_from(topics)?).await?.forget();
        Ok(began.elapsed())
    })
    .await?;
    finish(&tasks, &counters, events / topics).await?;
    Ok(took)
}

fn receiver(tasks: &TaskOwner, counter: &Arc<Counter>) -> mpsc::Sender<Event> {
    let (sender, mut receiver) = mpsc::channel::<Event>(CAPACITY);
    let counter = counter.clone();
    tasks.spawn("receiver", async move {
        while let Some(event) = receiver.recv().await {
            counter.count(&event);
        }
    });
    sender
}

async fn finish(tasks: &TaskOwner, counters: &[Arc<Counter>], events: usize) -> anyhow::Result<()> {
    for counter in counters {
        ensure!(counter.seen.load(Ordering::Relaxed) == events as u64, "an event was lost");
    }
    tasks.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
