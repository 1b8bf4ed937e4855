//! A bus and a transport, joined.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime::{CancellationToken, TaskOwner};
use tokio::sync::oneshot;
use tracing::warn;

use super::counts::{BridgeStats, Counts};
use super::options::{Acknowledge, BridgeOptions, DUPLICATE_WINDOW};
use super::window::{EventKey, Window};
use super::{EventTransport, NotTaken, Outgoing, TransportError, TransportSink};
use crate::ack::Ack;
use crate::bus::EventBus;
use crate::event::Event;
use crate::handler::{BatchFailure, HandlerError, by_batch};
use crate::options::{Batch, SubscribeOptions};
use crate::pattern::Pattern;
use crate::publish::PublishError;
use crate::refused::Reason;
use crate::subscribe::SubscribeError;
use crate::subscription::Subscription;

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Extends the topics that a pattern takes across processes, for as long as it lives.
///
/// Events that are published here and match go out; events that arrive and match are published here and do
/// not go out again. Those that the engine refuses for good are dead letters of the bridge's subscription,
/// and go out again when they are redriven.
#[must_use = "dropping the bridge ends it"]
pub struct Bridge {
    link: Arc<Link>,
    /// Ends before the link does.
    outgoing: Subscription,
    tasks: TaskOwner,
}

struct Link {
    bus: EventBus,
    transport: Arc<dyn EventTransport>,
    pattern: Pattern,
    options: BridgeOptions,
    seen: Mutex<Window<EventKey>>,
    /// Publishers that wait until the transport has their event.
    waiting: Mutex<HashMap<EventKey, oneshot::Sender<Result<(), TransportError>>>>,
    counts: Arc<Counts>,
}

/// Why an event was not published durably.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The bus refused it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The engine refused it for good.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The transport had not acknowledged it by the deadline. It still goes out once it can.
    #[error("no transport has the event within {}", runtime::format_duration(*.0))]
    TimedOut(Duration),
}

impl EventBus {
    /// Extends the topics that the pattern takes across processes.
    ///
    /// # Errors
    ///
    /// As [`EventBus::subscribe`].
    pub fn bridge(
        &self,
        pattern: Pattern,
        transport: Arc<dyn EventTransport>,
        options: BridgeOptions,
    ) -> Result<Bridge, SubscribeError> {
        options.check().inspect_err(|_| Reason::Options.count())?;
        let tasks = TaskOwner::new("event-bridge");
        // An id is forgotten no sooner than its event has passed the queue, however full that is, and what
        // arrived behind it: otherwise it would go out again.
        let window = DUPLICATE_WINDOW.max(4 * options.queue);
        let subscribe = SubscribeOptions::new()
            .name(format!("bridge {}", transport.name()))
            .capacity(options.queue)
            .overflow(options.overflow)
            .batch(Batch { events: options.batch, within: Duration::ZERO })
            .dead_letters();
        let counts = Counts::new(transport.name());
        let link = Arc::new(Link {
            bus: self.clone(),
            transport,
            pattern: pattern.clone(),
            options,
            seen: Mutex::new(Window::new(window)),
            waiting: Mutex::default(),
            counts: counts.clone(),
        });
        let (sender, cancelled) = (link.clone(), tasks.token());
        let outgoing = self.subscribe(
            pattern,
            subscribe,
            by_batch(move |events: Vec<Event>| {
                let (link, cancelled) = (sender.clone(), cancelled.clone());
                async move { link.forward(events, &cancelled).await }
            }),
        )?;
        // Just made: nobody has set it before.
        let _ = counts.outgoing.set(outgoing.subscriber().clone());
        self.hub.bridges().add(counts);
        let (receiver, cancelled) = (link.clone(), tasks.token());
        tasks.spawn("receive", async move { receiver.receive(cancelled).await });
        Ok(Bridge { link, outgoing, tasks })
    }

    /// Publishes an event and returns once the bridge's transport has it, to the degree that the transport
    /// states. The subscriptions of this process get it as any other, and it goes out in its order.
    ///
    /// # Errors
    ///
    /// [`PublishError::NotDurable`] if no bridge is given or the bridge does not carry the topic: events in
    /// the process are not durable. Otherwise [`DurableError`] says how far it came.
    pub async fn publish_durable(
        &self,
        event: Event,
        bridge: Option<&Bridge>,
        deadline: Duration,
    ) -> Result<(), DurableError> {
        let carries = |bridge: &&Bridge| bridge.link.pattern.matches(event.topic());
        let Some(bridge) = bridge.filter(carries) else {
            Reason::NotDurable.count();
            return Err(PublishError::NotDurable(event.topic().clone()).into());
        };
        let (waiting, answer) = Waiting::new(&bridge.link, &event);
        let work = async {
            self.publish(event).await?;
            match answer.await {
                Ok(outcome) => Ok(outcome?),
                // Another publishes the same event durably, or the bridge has ended.
                Err(_) => Err(DurableError::TimedOut(deadline)),
            }
        };
        let outcome = tokio::time::timeout(deadline, work).await;
        drop(waiting);
        outcome.unwrap_or(Err(DurableError::TimedOut(deadline)))
    }
}

impl Bridge {
    /// Its counts now.
    #[must_use]
    pub fn stats(&self) -> BridgeStats {
        self.link.counts.stats()
    }

    /// Sends what waits, then ends. Answers how many events did not go out by the deadline.
    pub async fn close(self, deadline: Duration) -> u64 {
        let lost = self.outgoing.drained(deadline).await;
        self.tasks.shutdown(Duration::from_millis(200)).await;
        lost
    }
}

impl Link {
    /// Sends events until the engine has them or refuses them for good.
    async fn forward(&self, events: Vec<Event>, cancelled: &CancellationToken) -> Result<(), BatchFailure> {
        let mut failures = Vec::new();
        let (mut places, mut batch) = (Vec::new(), Vec::new());
        for (place, event) in events.into_iter().enumerate() {
            let key = EventKey::of(&event);
            if self.seen().insert(key) {
                places.push(place);
                batch.push(Outgoing { key: self.options.key_of(&event), event });
            } else {
                // It came in through this bridge, or has gone out.
                self.tell(key, Ok(()));
            }
        }
        let mut pause = self.options.first_pause;
        while !batch.is_empty() {
            let outcomes = self.transport.send(&batch).await;
            let mut outcomes = outcomes.into_iter();
            let mut transient = None;
            let (mut left, mut left_places) = (Vec::new(), Vec::new());
            for (place, outgoing) in places.into_iter().zip(batch) {
                let key = EventKey::of(&outgoing.event);
                match outcomes.next() {
                    Some(Ok(())) => {
                        self.counts.sent.fetch_add(1, Ordering::Relaxed);
                        self.tell(key, Ok(()));
                    }
                    Some(Err(error)) if !error.is_transient() => {
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        // It may be redriven.
                        self.seen().remove(&key);
                        failures.push((place, HandlerError::permanent(chain(&error))));
                        self.tell(key, Err(error));
                    }
                    // An answer that is missing is none.
                    outcome => {
                        transient = transient.or(outcome.and_then(Result::err));
                        left_places.push(place);
                        left.push(outgoing);
                    }
                }
            }
            (places, batch) = (left_places, left);
            if batch.is_empty() {
                break;
            }
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            let error = transient.as_ref().map(|error| chain(error));
            warn!(
                transport = self.transport.name(),
                error,
                events = batch.len(),
                "send failed, will try again"
            );
            if cancelled.is_cancelled() {
                failures.extend(places.into_iter().map(|place| (place, "the bridge has ended".into())));
                break;
            }
            self.rest(&mut pause, cancelled).await;
        }
        if failures.is_empty() { Ok(()) } else { Err(BatchFailure::some(failures)) }
    }

    async fn receive(self: Arc<Self>, cancelled: CancellationToken) {
        let mut pause = self.options.first_pause;
        let arrived = |counts: &Counts| {
            let all = [&counts.received, &counts.duplicates, &counts.foreign, &counts.rejected];
            all.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>()
        };
        while !cancelled.is_cancelled() {
            let before = arrived(&self.counts);
            let outcome = self.transport.receive(self.clone(), cancelled.clone()).await;
            if let Err(error) = outcome {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                warn!(transport = self.transport.name(), error = %chain(&error), "receive failed, will try again");
            }
            // A connection that carried something was a good one.
            if arrived(&self.counts) > before {
                pause = self.options.first_pause;
            }
            self.rest(&mut pause, &cancelled).await;
        }
    }

    /// Waits between half of the pause and all of it, so that those who failed together do not come back
    /// together, and doubles it.
    async fn rest(&self, pause: &mut Duration, cancelled: &CancellationToken) {
        let jittered = pause.mul_f64(0.5 + crate::event::random_share() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = cancelled.cancelled() => {}
        }
        *pause = (*pause * 2).min(MAX_PAUSE);
    }

    /// Publishes an event that has arrived. Answers whom to wait for, if for anyone; an error: it has to
    /// come again.
    async fn take(&self, event: Event) -> Result<Option<Arc<Ack>>, PublishError> {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if !self.pattern.matches(event.topic()) {
            count(&self.counts.foreign);
            return Ok(None);
        }
        let key = EventKey::of(&event);
        // Before it is published, or it would go out again.
        if !self.seen().insert(key) {
            count(&self.counts.duplicates);
            return Ok(None);
        }
        // Dropped while it waits for room, it has not been published.
        let mut offered = Offered { link: self, key, is_taken: false };
        let (ack, ticket) = Ack::new();
        let is_awaited = self.options.acknowledge == Acknowledge::Handled;
        match self.bus.enqueue(event, is_awaited.then_some(ticket)).await {
            Ok(published) => {
                offered.is_taken = true;
                count(&self.counts.received);
                ack.expect(published.delivered_to);
                Ok(is_awaited.then_some(ack))
            }
            Err(PublishError::Closed) => Err(PublishError::Closed),
            Err(error) => {
                // It would be refused for ever.
                offered.is_taken = true;
                count(&self.counts.rejected);
                warn!(transport = self.transport.name(), error = %chain(&error), "event rejected");
                Ok(None)
            }
        }
    }

    /// Answers the publisher that waits for an event to go out.
    fn tell(&self, key: EventKey, outcome: Result<(), TransportError>) {
        if let Some(waiting) = self.waiting().remove(&key) {
            // Nobody may wait any more.
            let _ = waiting.send(outcome);
        }
    }

    fn seen(&self) -> MutexGuard<'_, Window<EventKey>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<EventKey, oneshot::Sender<Result<(), TransportError>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TransportSink for Link {
    async fn deliver(&self, events: Vec<Event>) -> Result<(), NotTaken> {
        let mut acks = Vec::new();
        for (taken, event) in events.into_iter().enumerate() {
            match self.take(event).await {
                Ok(ack) => acks.extend(ack),
                Err(_) => return Err(NotTaken { taken }),
            }
        }
        for ack in acks {
            ack.done().await;
        }
        Ok(())
    }

    fn unreadable(&self, why: &dyn std::fmt::Display) {
        self.counts.unreadable.fetch_add(1, Ordering::Relaxed);
        warn!(transport = self.transport.name(), error = %why, "message is no event");
    }
}

/// An event that was noted as known and is not published yet.
struct Offered<'a> {
    link: &'a Link,
    key: EventKey,
    is_taken: bool,
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.link.seen().remove(&self.key);
        }
    }
}

/// A publisher that waits, on the list for as long as it does.
struct Waiting<'a> {
    link: &'a Link,
    key: EventKey,
}

impl<'a> Waiting<'a> {
    fn new(link: &'a Link, event: &Event) -> (Self, oneshot::Receiver<Result<(), TransportError>>) {
        let (sender, receiver) = oneshot::channel();
        let key = EventKey::of(event);
        link.waiting().insert(key, sender);
        (Self { link, key }, receiver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.waiting().remove(&self.key);
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
