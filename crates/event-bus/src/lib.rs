//! Events between the parts of a process: topics, patterns, bounded subscriptions, requests, streams, and the
//! port to a remote transport.
//!
//! Layer 1. Invariants of this crate:
//!
//! - Every subscription has a bound on how far it may lag, and says what happens beyond it. A slow, failing
//!   or panicking subscriber harms nobody, unless it was given the policy [`Overflow::Block`].
//! - The events that one caller publishes one after the other reach each subscription in that order, across
//!   topics too, unless the subscription asked to handle several at once.
//! - An event that a handler fails on is tried again or kept as a dead letter where the subscription asks for
//!   it ([`Retry`], [`SubscribeOptions::dead_letters`]), and does not hold up what follows unless it asks for
//!   that, too. Every event that was meant for a subscription is in one of its counts.
//! - A change of subscriptions by [`EventBus::replace`] is one step: an event goes to the old or to the new.
//! - No foreign code, not even an event's `Drop`, runs while a lock of the bus is held.
//! - Events in the process are not durable; durability comes from an [`EventTransport`], and asking for it
//!   without one is an error.
//!
//! A handler shares its thread with others: what blocks belongs into `tokio::task::spawn_blocking`. How the
//! bus is built inside, and what else was tried, is in `docs/decisions/0002-event-bus-structure.md`.
//!
//! ```
//! use event_bus::{Event, EventBus, Overflow, SubscribeOptions, Topic};
//! use serde_json::json;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bus = EventBus::builder().history(100).build();
//! let options = SubscribeOptions::new().name("billing").overflow(Overflow::Block);
//! let subscription = bus.subscribe("orders.*", options, async |event: Event| {
//!     let id = event.data()["id"].as_u64().ok_or("an order without id")?;
//!     println!("order {id}");
//!     Ok(())
//! })?;
//!
//! let created = Topic::new("orders.created")?;
//! bus.emit(&created, json!({ "id": 7 }))?;
//! let event = bus.event(created).data(json!({ "id": 8 })).metadata("tenant", "acme").build(&**bus.clock())?;
//! let report = bus.publish_and_wait(event, Duration::from_secs(5)).await?;
//! assert!(report.is_clean());
//! assert_eq!(subscription.stats().delivered, 2);
//! assert_eq!(bus.shutdown(Duration::from_secs(5)).await.undelivered, 0);
//! # Ok(()) }
//! ```
//!
//! Features: `openapi` derives `utoipa::ToSchema` for what goes over the wire; `test-util` brings the contract
//! suite of [`EventTransport`] and a transport in memory.

mod ack;
mod bus;
mod counter;
mod dead;
mod dispatch;
mod event;
mod handler;
mod history;
mod hub;
mod options;
mod pattern;
mod publish;
mod refused;
mod reply;
mod report;
mod ring;
mod stream;
mod subscribe;
mod subscription;
mod table;
mod thread;
mod topic;
pub mod transport;
mod turn;

pub use ack::{DeliveryFailure, DeliveryReport, FailureKind};
pub use bus::{BusStats, DrainReport, EventBus, EventBusBuilder, Limits};
pub use dead::{
    DEAD_LETTER_ATTEMPTS, DEAD_LETTER_ID, DEAD_LETTER_REASON, DEAD_LETTER_SUBSCRIPTION, DEAD_LETTER_TOPIC,
    DeadLetter, DeadLetterCause, DeadLetterFilter, DeadLetterId, DeadLetters, RedriveError,
};
pub use event::*;
pub use handler::{BatchFailure, EventHandler, HandlerError, TypedEvent, by_batch, by_ref, typed};
pub use history::{HistoryFilter, Since};
pub use options::{
    Batch, DEFAULT_CAPACITY, EventFilter, MAX_ATTEMPTS, MAX_BACKOFF, MAX_BATCH, MAX_BATCH_WAIT, MAX_CAPACITY,
    MAX_CONCURRENCY, OptionsError, OrderKey, Overflow, Replay, Retry, SubscribeOptions,
};
pub use pattern::{Pattern, PatternError};
pub use publish::{PublishError, Published, RequestError};
pub use refused::refused;
pub use reply::{CORRELATION_ID, ReplyError};
pub use stream::{EventStream, StreamItem};
pub use subscribe::{SubscribeError, SubscriptionSpec};
pub use subscription::{Subscription, SubscriptionId, SubscriptionInfo, SubscriptionStats};
pub use topic::{MAX_TOPIC_BYTES, Topic, TopicError};
pub use transport::{
    Acknowledge, Bridge, BridgeOptions, BridgeStats, DurableError, EventTransport, NotTaken, Outgoing,
    TransportError, TransportSink,
};
