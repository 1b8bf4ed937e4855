//! Events: facts with a topic.

pub mod cloud;
mod id;
mod metadata;
mod payload;
mod trace;

use std::fmt;
use std::sync::Arc;

use runtime::{Clock, Timestamp};
use serde::Serialize;
use serde_json::Value;

pub use cloud::{BatchError, CloudEventError, MAX_BATCH_EVENTS};
pub use id::{EventId, EventIdError};
pub(crate) use id::{random_id, random_share};
pub use metadata::{MAX_METADATA_ENTRIES, MAX_METADATA_VALUE_BYTES, Metadata, MetadataError, MetadataValue};
pub use payload::PayloadError;
pub(crate) use payload::{Payload, TypedPayload};
pub use trace::{TraceContext, TraceContextError};

use crate::refused::Reason;
use crate::reply::ReplySlot;
use crate::topic::{Topic, TopicError};

/// The most bytes that JSON data may have, unless the bus was built with another limit.
pub const MAX_DATA_BYTES: usize = 1024 * 1024;
/// The longest source and the longest target, in bytes.
pub const MAX_SOURCE_BYTES: usize = 255;

/// Why an event could not be built. The text names the attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The topic is none.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The id is none.
    #[error(transparent)]
    Id(#[from] EventIdError),
    /// Metadata is not made of CloudEvents attributes.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The trace context is malformed.
    #[error(transparent)]
    Trace(#[from] TraceContextError),
    /// Source or target is empty, too long, or has blanks or control characters.
    #[error("{0}: must be 1 to {MAX_SOURCE_BYTES} bytes without blanks or control characters")]
    Party(&'static str),
    /// The data is larger than the limit.
    #[error("data: has about {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// About what it has as JSON text.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl EventError {
    /// Whether it was counted as refused where it was made: an id and a trace context are read elsewhere.
    fn is_counted(&self) -> bool {
        !matches!(self, Self::Id(_) | Self::Trace(_))
    }

    /// The attribute that was refused, as it is called in the JSON form.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Topic(_) => "type",
            Self::Id(_) => "id",
            Self::Metadata(_) => "metadata",
            Self::Trace(TraceContextError::Parent(_)) => "traceparent",
            Self::Trace(TraceContextError::State) => "tracestate",
            Self::Party(party) => party,
            Self::TooLarge { .. } => "data",
        }
    }
}

/// A fact with a topic. Immutable, and a clone is a reference to the same event.
///
/// `Serialize` and `Deserialize` are CloudEvents 1.0 structured JSON: `metadata` entries are extension
/// attributes, `target` is one, and the trace context is `traceparent` and `tracestate`. A `metadata`
/// object is read as well.
#[derive(Clone)]
pub struct Event {
    inner: Arc<Inner>,
}

/// In this order in memory: what a publish looks at stands beside the counts of references.
#[repr(C)]
struct Inner {
    topic: Topic,
    /// Measured once, when the event is built.
    data_bytes: usize,
    id: EventId,
    source: Arc<str>,
    target: Option<Arc<str>>,
    time: Timestamp,
    payload: Payload,
    metadata: Metadata,
    trace: Option<TraceContext>,
    reply: Option<ReplySlot>,
}

impl Event {
    /// Begins an event of that topic.
    pub fn builder(topic: Topic) -> EventBuilder {
        EventBuilder {
            topic,
            id: None,
            time: None,
            source: None,
            target: None,
            payload: Payload::None,
            metadata: Metadata::default(),
            trace: None,
            max_data_bytes: MAX_DATA_BYTES,
            error: None,
        }
    }

    /// What the event is known by.
    #[must_use]
    pub fn id(&self) -> &EventId {
        &self.inner.id
    }

    /// Its type.
    #[must_use]
    #[inline]
    pub fn topic(&self) -> &Topic {
        &self.inner.topic
    }

    /// Who published it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Whom it is meant for, where that was said. The bus delivers by topic; this is for handlers.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.inner.target.as_deref()
    }

    /// When it was built.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.inner.time
    }

    /// The data as JSON; `null` where there is none, and where a typed payload has no JSON form.
    ///
    /// A typed payload is turned into JSON at the first call, once for all clones.
    #[must_use]
    pub fn data(&self) -> &Value {
        self.data_json().unwrap_or_else(|_| payload::null())
    }

    /// The data as JSON, or why there is none.
    ///
    /// # Errors
    ///
    /// If the event has a typed payload that cannot be serialized.
    pub fn data_json(&self) -> Result<&Value, PayloadError> {
        self.inner.payload.json()
    }

    /// The payload as the type it was published with.
    #[must_use]
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.inner.payload.downcast()
    }

    /// Whether the event has data.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.inner.payload.is_some()
    }

    /// Its extension attributes.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// The trace context of its publisher.
    #[must_use]
    pub fn trace(&self) -> Option<&TraceContext> {
        self.inner.trace.as_ref()
    }

    /// About how many bytes its data has as JSON text; nothing for a typed payload.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        self.inner.data_bytes
    }

    /// Whether both are references to one event.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn payload(&self) -> &Payload {
        &self.inner.payload
    }

    #[inline]
    pub(crate) fn reply_slot(&self) -> Option<&ReplySlot> {
        self.inner.reply.as_ref()
    }

    /// The same event, whose handlers answer into the slot.
    pub(crate) fn with_reply(self, slot: ReplySlot) -> Self {
        let mut inner = match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner,
            Err(shared) => Inner {
                id: shared.id.clone(),
                topic: shared.topic.clone(),
                source: shared.source.clone(),
                target: shared.target.clone(),
                time: shared.time,
                data_bytes: shared.data_bytes,
                payload: Payload::Shared(Self { inner: shared.clone() }),
                metadata: shared.metadata.clone(),
                trace: shared.trace.clone(),
                reply: None,
            },
        };
        inner.reply = Some(slot);
        Self { inner: Arc::new(inner) }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without data and metadata: they may hold what does not belong into a log.
        f.debug_struct("Event")
            .field("id", &self.inner.id)
            .field("topic", &self.inner.topic)
            .field("source", &self.inner.source)
            .finish_non_exhaustive()
    }
}

/// Builds an [`Event`]; the first thing that is wrong is reported by [`EventBuilder::build`].
#[derive(Debug)]
#[must_use]
pub struct EventBuilder {
    topic: Topic,
    id: Option<EventId>,
    time: Option<Timestamp>,
    source: Option<Arc<str>>,
    target: Option<Arc<str>>,
    payload: Payload,
    metadata: Metadata,
    trace: Option<TraceContext>,
    max_data_bytes: usize,
    error: Option<EventError>,
}

impl EventBuilder {
    /// Who publishes it. Where it is left out, the source is `gantry`.
    ///
    /// Pass an `Arc<str>` to share one text among many events.
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        let source = source.into();
        self.check(is_party(&source), EventError::Party("source"));
        self.source = Some(source);
        self
    }

    /// Whom it is meant for.
    pub fn target(mut self, target: impl Into<Arc<str>>) -> Self {
        let target = target.into();
        self.check(is_party(&target), EventError::Party("target"));
        self.target = Some(target);
        self
    }

    /// JSON data.
    pub fn data(mut self, data: impl Into<Value>) -> Self {
        self.payload = Payload::Json(data.into());
        self
    }

    /// A payload that crosses the process as it is, see [`Event::downcast`], and turns into JSON when
    /// someone asks.
    pub fn typed<T: Serialize + Send + Sync + 'static>(mut self, payload: T) -> Self {
        self.payload = Payload::typed(payload);
        self
    }

    /// An extension attribute.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<MetadataValue>) -> Self {
        if let Err(error) = self.metadata.insert(key, value) {
            self.check(false, error.into());
        }
        self
    }

    /// The trace context of the publisher.
    pub fn trace(mut self, trace: impl Into<Option<TraceContext>>) -> Self {
        self.trace = trace.into();
        self
    }

    /// An id that was given elsewhere; left out, a UUIDv7 is made.
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// The time at which it was published elsewhere; left out, it is the clock's.
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// Another limit than [`MAX_DATA_BYTES`] for JSON data.
    pub fn max_data_bytes(mut self, limit: usize) -> Self {
        self.max_data_bytes = limit;
        self
    }

    pub(crate) fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// The event, with the clock's time and a new id.
    ///
    /// # Errors
    ///
    /// [`EventError`] names the attribute that was refused.
    pub fn build(self, clock: &(impl Clock + ?Sized)) -> Result<Event, EventError> {
        self.build_at(|| clock.now())
    }

    pub(crate) fn build_at(self, now: impl FnOnce() -> Timestamp) -> Result<Event, EventError> {
        if let Some(error) = self.error {
            Reason::Attribute.count();
            return Err(error);
        }
        let bytes = self.payload.json_bytes();
        if bytes > self.max_data_bytes {
            Reason::TooLarge.count();
            return Err(EventError::TooLarge { bytes, limit: self.max_data_bytes });
        }
        let time = self.time.unwrap_or_else(now);
        Ok(Event {
            inner: Arc::new(Inner {
                id: self.id.unwrap_or_else(|| EventId::generate(time)),
                topic: self.topic,
                source: self.source.unwrap_or_else(default_source),
                target: self.target,
                time,
                payload: self.payload,
                data_bytes: bytes,
                metadata: self.metadata,
                trace: self.trace,
                reply: None,
            }),
        })
    }

    fn check(&mut self, holds: bool, error: EventError) {
        if !holds && self.error.is_none() {
            self.error = Some(error);
        }
    }
}

fn default_source() -> Arc<str> {
    static SOURCE: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "gantry".into());
    SOURCE.clone()
}

fn is_party(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_SOURCE_BYTES
        && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests;
