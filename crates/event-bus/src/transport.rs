//! The port to a remote transport, and the bridge between it and a bus.

mod bridge;
#[cfg(feature = "test-util")]
pub mod contract;
mod counts;
#[cfg(feature = "test-util")]
pub mod memory;
mod options;
mod window;

use std::sync::Arc;

use async_trait::async_trait;
use runtime::CancellationToken;

pub use bridge::{Bridge, DurableError};
pub use counts::BridgeStats;
pub(crate) use counts::Bridges;
pub use options::{Acknowledge, BridgeOptions, DUPLICATE_WINDOW, MAX_BRIDGE_QUEUE};

use crate::event::Event;

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

/// An event on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The event.
    pub event: Event,
    /// What order is kept by: what an engine with partitions chooses the partition by.
    pub key: Arc<str>,
}

/// The other side did not take all events of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only {taken} events were taken, since the event bus is shut down")]
pub struct NotTaken {
    /// How many were taken, the first among them.
    pub taken: usize,
}

/// Takes the events that arrive from other processes.
#[async_trait]
pub trait TransportSink: Send + Sync {
    /// Takes events, in their order. When it returns, they have been taken, and the transport may acknowledge
    /// them to the engine, by an offset or by their ids. What it is given twice it drops, and what the bus
    /// will never take it counts; so an event is offered again only if this returns an error or is dropped.
    ///
    /// May be called for several partitions at once; within one, the next call begins when this one has
    /// returned.
    ///
    /// # Errors
    ///
    /// [`NotTaken`]: the transport must offer the rest again.
    async fn deliver(&self, events: Vec<Event>) -> Result<(), NotTaken>;

    /// Counts a message that is no event, see [`Event`]'s `Deserialize`. The transport acknowledges it and
    /// goes on: it would never become one.
    fn unreadable(&self, why: &dyn std::fmt::Display);
}

/// Carries events between processes.
///
/// An implementation
///
/// - delivers at least once: what [`send`](Self::send) answered with `Ok` arrives at every other end, those
///   that are away for a while included;
/// - keeps the order of the events that were sent with one key;
/// - may deliver twice, and to the sender, too: the bridge drops both by source and id;
/// - holds what the other side does not take yet in the engine, and no more than a batch in memory.
///
/// An engine with partitions sends the events of a batch to the partitions of their keys at once, reads the
/// partitions side by side, and acknowledges each by offset. It passes the contract suite
/// `transport::contract` (feature `test-util`).
#[async_trait]
pub trait EventTransport: Send + Sync + 'static {
    /// What logs call it.
    fn name(&self) -> &str;

    /// Hands events over, and answers for each, in their order. `Ok` means that the engine has the event to
    /// the degree that the transport states in its own documentation.
    ///
    /// After an event that failed for the moment, none of the same key may be accepted: the caller sends
    /// those again that failed for the moment, in their order, until none does. An event that failed may have
    /// arrived all the same. One call runs at a time.
    async fn send(&self, events: &[Outgoing]) -> Vec<Result<(), TransportError>>;

    /// Delivers what arrives until it is cancelled, then returns. Where the connection is lost it goes on,
    /// when it is called again, with the first event that was not taken.
    ///
    /// # Errors
    ///
    /// [`TransportError`] if the connection was lost; it is called again after a pause, which doubles up to
    /// 10 s and is shortened by chance.
    async fn receive(
        &self,
        sink: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError>;
}
