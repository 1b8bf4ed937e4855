//! The port to a remote transport, and the bridge between it and a bus.

#[cfg(feature = "test-util")]
pub mod contract;
#[cfg(feature = "test-util")]
pub mod memory;
mod window;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use runtime::{CancellationToken, TaskOwner};
use tracing::warn;

use crate::bus::EventBus;
use crate::event::{Event, EventId};
use crate::handler::HandlerError;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::publish::PublishError;
use crate::subscribe::SubscribeError;
use crate::subscription::Subscription;
use window::Window;

/// How many event ids a bridge remembers, to drop what comes twice.
pub const DUPLICATE_WINDOW: usize = 16 * 1024;
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Why a transport did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// It may work later: the engine is away, or refused for the moment.
    #[error("transport `{name}` is unavailable")]
    Unavailable {
        /// What the transport is called.
        name: String,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It will not work later either, such as an event that is too large for the engine.
    #[error("transport `{name}` refused the event")]
    Refused {
        /// What the transport is called.
        name: String,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TransportError {
    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Takes the events that arrive from other processes.
#[async_trait]
pub trait TransportSink: Send + Sync {
    /// Takes one event. When it returns, the event has been taken, and the transport may acknowledge it to
    /// the engine.
    ///
    /// # Errors
    ///
    /// If it was not taken: the transport must offer it again.
    async fn deliver(&self, event: Event) -> Result<(), PublishError>;
}

/// Carries events between processes.
///
/// An implementation delivers at least once, keeps the order of the events that were sent with one key, and
/// may deliver to the sender, too: the bridge drops echoes and what comes twice by the event's id. It passes
/// the contract suite `transport::contract` (feature `test-util`).
#[async_trait]
pub trait EventTransport: Send + Sync + 'static {
    /// What logs call it.
    fn name(&self) -> &str;

    /// Hands an event over. When it returns, the engine has the event to the degree that the transport
    /// states in its own documentation.
    ///
    /// # Errors
    ///
    /// [`TransportError`]; the event may have arrived all the same.
    async fn send(&self, event: &Event, key: &str) -> Result<(), TransportError>;

    /// Delivers what arrives until it is cancelled, each event after the one before it with the same key
    /// has been taken.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if the connection was lost; it is called again after a pause.
    async fn receive(
        &self,
        sink: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError>;
}

/// Extends the topics that a pattern takes across processes, for as long as it lives.
///
/// Events that are published here and match go out, with their source as the key; events that arrive are
/// published here and do not go out again. While the transport is away, publishers of those topics wait
/// once the bridge's queue is full.
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
    seen: Mutex<Window<EventId>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

/// What a bridge counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeStats {
    /// Events that went out.
    pub sent: u64,
    /// Events that came in and were published.
    pub received: u64,
    /// Events that came in and were known: echoes, and what came twice.
    pub duplicates: u64,
    /// Events that the engine refused for good.
    pub refused: u64,
}

impl EventBus {
    /// Extends the topics that the pattern takes across processes. At most `queue` events wait to go out.
    ///
    /// # Errors
    ///
    /// As [`EventBus::subscribe`].
    pub fn bridge(
        &self,
        pattern: Pattern,
        queue: usize,
        transport: Arc<dyn EventTransport>,
    ) -> Result<Bridge, SubscribeError> {
        let tasks = TaskOwner::new("event-bridge");
        let link = Arc::new(Link {
            bus: self.clone(),
            transport,
            pattern: pattern.clone(),
            seen: Mutex::new(Window::new(DUPLICATE_WINDOW)),
            counts: Counts::default(),
        });
        let options = SubscribeOptions::new()
            .name(format!("bridge {}", link.transport.name()))
            .capacity(queue)
            .overflow(Overflow::Block);
        let (sender, cancelled) = (link.clone(), tasks.token());
        let outgoing = self.subscribe(pattern, options, move |event: Event| {
            let (link, cancelled) = (sender.clone(), cancelled.clone());
            async move { link.forward(&event, &cancelled).await }
        })?;
        let (receiver, cancelled) = (link.clone(), tasks.token());
        tasks.spawn("receive", async move { receiver.receive(cancelled).await });
        Ok(Bridge { link, outgoing, tasks })
    }

    /// Publishes an event through a bridge and returns once the bridge's transport has it, to the degree
    /// that the transport states; the subscriptions of this process get it as well.
    ///
    /// # Errors
    ///
    /// [`PublishError::NotDurable`] if no bridge is given or the bridge does not carry the topic: events in
    /// the process are not durable.
    pub async fn publish_durable(&self, event: Event, bridge: Option<&Bridge>) -> Result<(), DurableError> {
        let carries = |bridge: &&Bridge| bridge.link.pattern.matches(event.topic());
        let Some(bridge) = bridge.filter(carries) else {
            return Err(PublishError::NotDurable(event.topic().clone()).into());
        };
        let link = &bridge.link;
        // So that it is not taken for news when it comes back, and does not go out again from here.
        link.remember(event.id());
        link.transport.send(&event, event.source()).await.inspect_err(|_| link.forget(event.id()))?;
        link.counts.sent.fetch_add(1, Ordering::Relaxed);
        self.publish(event).await?;
        Ok(())
    }
}

/// Why an event was not published durably.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The bus refused it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The transport did not acknowledge it.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl Bridge {
    /// Its counts now.
    #[must_use]
    pub fn stats(&self) -> BridgeStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.link.counts;
        BridgeStats {
            sent: count(&counts.sent),
            received: count(&counts.received),
            duplicates: count(&counts.duplicates),
            refused: count(&counts.refused),
        }
    }

    /// Sends what waits, then ends. Answers how many events did not go out by the deadline.
    pub async fn close(self, deadline: Duration) -> u64 {
        let lost = self.outgoing.drained(deadline).await;
        self.tasks.shutdown(Duration::from_millis(200)).await;
        lost
    }
}

impl Link {
    async fn forward(&self, event: &Event, cancelled: &CancellationToken) -> Result<(), HandlerError> {
        if !self.remember(event.id()) {
            // It came in through this bridge, or has gone out.
            return Ok(());
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.transport.send(event, event.source()).await {
                Ok(()) => {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if error.is_transient() && !cancelled.is_cancelled() => {
                    warn!(transport = self.transport.name(), error = %chain(&error), "send failed, will try again");
                    tokio::select! {
                        () = tokio::time::sleep(jittered(pause)) => {}
                        () = cancelled.cancelled() => {}
                    }
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Err(error) => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(HandlerError::permanent(error));
                }
            }
        }
    }

    async fn receive(self: Arc<Self>, cancelled: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !cancelled.is_cancelled() {
            let before = self.counts.received.load(Ordering::Relaxed);
            let outcome = self.transport.receive(self.clone(), cancelled.clone()).await;
            if let Err(error) = outcome {
                warn!(transport = self.transport.name(), error = %chain(&error), "receive failed, will try again");
            }
            // A connection that carried something was a good one.
            let carried = self.counts.received.load(Ordering::Relaxed) > before;
            pause = if carried { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                () = cancelled.cancelled() => {}
            }
        }
    }

    /// Whether the id is new.
    fn remember(&self, id: &EventId) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone())
    }

    fn forget(&self, id: &EventId) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[async_trait]
impl TransportSink for Link {
    async fn deliver(&self, event: Event) -> Result<(), PublishError> {
        if !self.remember(event.id()) {
            self.counts.duplicates.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let id = event.id().clone();
        match self.bus.publish(event).await {
            Ok(_) => {
                self.counts.received.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // It will be offered again and must not be taken for a duplicate then.
                self.forget(&id);
                Err(error)
            }
        }
    }
}

/// Between half of it and all of it, so that those who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + crate::event::random_share() / 2.0)
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
