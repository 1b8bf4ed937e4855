//! CloudEvents 1.0: structured mode is [`Event`]'s JSON form, one or a [batch](Event::from_json_batch);
//! binary mode over HTTP is [`to_headers`] and [`from_headers`].
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>

mod batch;
mod binary;

pub use batch::{BatchError, MAX_BATCH_EVENTS};
pub use binary::{BinaryMessage, HEADER_PREFIX, Mode, from_headers, mode, to_headers};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use runtime::{Clock, SystemClock, Timestamp};
use serde::de::Error as _;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Event, EventBuilder, EventError, MetadataValue, Payload, TraceContext};
use crate::refused::Reason;
use crate::topic::Topic;

/// Why a JSON object is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudEventError {
    /// An attribute has no value that an event can have.
    #[error(transparent)]
    Event(#[from] EventError),
    /// An attribute is missing.
    #[error("{0}: is missing")]
    Missing(&'static str),
    /// An attribute has the wrong JSON type.
    #[error("{field}: must be {expected}")]
    Type {
        /// The attribute.
        field: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// The version is none that is known.
    #[error("specversion: `{0}` is not supported, only `1.0` is")]
    Version(String),
    /// The time is none.
    #[error("time: `{0}` is not an RFC 3339 time")]
    Time(String),
    /// Both kinds of data.
    #[error("data_base64: stands beside `data`")]
    TwoPayloads,
    /// Not base64.
    #[error("data_base64: is not base64")]
    Base64,
    /// A header of binary mode cannot be read.
    #[error("{header}: {reason}")]
    Header {
        /// The header.
        header: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The content type names an event format that is not JSON.
    #[error("content-type: `{0}` is not supported: of the event formats only json is")]
    Format(String),
    /// The body of binary mode is not what its content type says.
    #[error("data: is not json, as the content type says it is: {0}")]
    Body(String),
}

impl CloudEventError {
    /// The attribute that was refused.
    #[must_use]
    pub fn field(&self) -> &str {
        match self {
            Self::Event(EventError::Metadata(error)) => error.attribute(),
            Self::Event(error) => error.field(),
            Self::Missing(field) => field,
            Self::Type { field, .. } => field,
            Self::Version(_) => "specversion",
            Self::Time(_) => "time",
            Self::TwoPayloads | Self::Base64 => "data_base64",
            Self::Header { header, .. } => header,
            Self::Format(_) => "content-type",
            Self::Body(_) => "data",
        }
    }
}

/// How much an object may leave out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Refused,
    FilledIn,
}

impl Event {
    /// Reads an event that someone asks to publish: a CloudEvent in which `specversion`, `id`, `source` and
    /// `time` may be left out and are filled in. At most `max_data_bytes` of data.
    ///
    /// # Errors
    ///
    /// [`CloudEventError`] names the attribute that was refused.
    pub fn from_json(
        object: Map<String, Value>,
        clock: &(impl Clock + ?Sized),
        max_data_bytes: usize,
    ) -> Result<Self, CloudEventError> {
        read(object, Missing::FilledIn, max_data_bytes, &|| clock.now())
    }

    /// The CloudEvents attributes beside data, as binary mode has them in headers (`ce-<name>`) and
    /// structured mode in the object, in the order of the specification.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, MetadataValue)> {
        let text = |text: &str| MetadataValue::Text(text.to_owned());
        let trace = self.trace();
        [
            Some(("specversion", text("1.0"))),
            Some(("id", MetadataValue::Text(self.id().to_string()))),
            Some(("source", text(self.source()))),
            Some(("type", text(self.topic().as_str()))),
            Some(("time", MetadataValue::Text(self.time().to_string()))),
            self.target().map(|target| ("target", text(target))),
            trace.map(|trace| ("traceparent", text(trace.traceparent()))),
            trace.and_then(TraceContext::tracestate).map(|state| ("tracestate", text(state))),
        ]
        .into_iter()
        .flatten()
        .chain(self.metadata().iter().map(|(key, value)| (key, value.clone())))
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.attributes() {
            map.serialize_entry(name, &value)?;
        }
        let payload = self.payload().own();
        match payload {
            Payload::None | Payload::Shared(_) => {}
            Payload::Base64(value) => map.serialize_entry("data_base64", value)?,
            Payload::Json(_) | Payload::Typed(_) => {
                if self.metadata().get("datacontenttype").is_none() {
                    map.serialize_entry("datacontenttype", "application/json")?;
                }
                map.serialize_entry("data", payload.json().map_err(S::Error::custom)?)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Map::deserialize(deserializer)?;
        read(object, Missing::Refused, super::MAX_DATA_BYTES, &|| SystemClock.now()).map_err(D::Error::custom)
    }
}

/// [`read_object`], with what it refuses counted.
fn read(
    object: Map<String, Value>,
    missing: Missing,
    max_data_bytes: usize,
    now: &dyn Fn() -> Timestamp,
) -> Result<Event, CloudEventError> {
    read_object(object, missing, max_data_bytes, now).inspect_err(|error| {
        // The others were counted where they were found.
        if !matches!(error, CloudEventError::Event(error) if error.is_counted()) {
            Reason::Attribute.count();
        }
    })
}

fn read_object(
    mut object: Map<String, Value>,
    missing: Missing,
    max_data_bytes: usize,
    now: &dyn Fn() -> Timestamp,
) -> Result<Event, CloudEventError> {
    let required = |found: Option<String>, field| match found {
        None if missing == Missing::Refused => Err(CloudEventError::Missing(field)),
        found => Ok(found),
    };
    if let Some(version) = required(text(&mut object, "specversion")?, "specversion")?
        && version != "1.0"
    {
        return Err(CloudEventError::Version(version.chars().take(64).collect()));
    }
    let topic = text(&mut object, "type")?.ok_or(CloudEventError::Missing("type"))?;
    let topic = Topic::new(topic).map_err(EventError::from)?;
    let mut builder = Event::builder(topic).max_data_bytes(max_data_bytes);
    if let Some(id) = required(text(&mut object, "id")?, "id")? {
        builder = builder.id(id.parse().map_err(EventError::from)?);
    }
    if let Some(source) = required(text(&mut object, "source")?, "source")? {
        builder = builder.source(source);
    }
    if let Some(time) = text(&mut object, "time")? {
        let time = time.parse().map_err(|_| CloudEventError::Time(time.chars().take(64).collect()))?;
        builder = builder.time(time);
    }
    if let Some(target) = text(&mut object, "target")? {
        builder = builder.target(target);
    }
    if let Some(parent) = text(&mut object, "traceparent")? {
        let mut trace = TraceContext::new(&parent).map_err(EventError::from)?;
        if let Some(state) = text(&mut object, "tracestate")? {
            trace = trace.with_state(&state).map_err(EventError::from)?;
        }
        builder = builder.trace(trace);
    }
    object.remove("tracestate");
    builder = match (object.remove("data"), text(&mut object, "data_base64")?) {
        (Some(_), Some(_)) => return Err(CloudEventError::TwoPayloads),
        (Some(data), None) => builder.data(data),
        (None, Some(data)) if is_base64(&data) => builder.payload(Payload::Base64(data.into())),
        (None, Some(_)) => return Err(CloudEventError::Base64),
        (None, None) => builder,
    };
    // What the JSON format takes for granted is not carried as metadata.
    if object.get("datacontenttype").and_then(Value::as_str) == Some("application/json") {
        object.remove("datacontenttype");
    }
    match object.remove("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => builder = with_metadata(builder, metadata, "metadata.")?,
        Some(_) => return Err(wrong("metadata", "an object")),
    }
    builder = with_metadata(builder, object, "")?;
    Ok(builder.build_at(now)?)
}

fn with_metadata(
    mut builder: EventBuilder,
    object: Map<String, Value>,
    prefix: &str,
) -> Result<EventBuilder, CloudEventError> {
    for (key, value) in object {
        let value = match value {
            // The specification: null is the same as absent.
            Value::Null => continue,
            Value::String(text) => MetadataValue::Text(text),
            Value::Bool(flag) => MetadataValue::Bool(flag),
            Value::Number(number) => match number.as_i64().and_then(|n| i32::try_from(n).ok()) {
                Some(number) => MetadataValue::Integer(number),
                None => return Err(wrong(format!("{prefix}{key}"), "a whole number of 32 bits")),
            },
            Value::Array(_) | Value::Object(_) => {
                return Err(wrong(format!("{prefix}{key}"), "a text, a truth value or a whole number"));
            }
        };
        builder = builder.metadata(key, value);
    }
    Ok(builder)
}

fn text(object: &mut Map<String, Value>, field: &str) -> Result<Option<String>, CloudEventError> {
    match object.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(field, "a text")),
    }
}

fn wrong(field: impl Into<String>, expected: &'static str) -> CloudEventError {
    CloudEventError::Type { field: field.into().chars().take(64).collect(), expected }
}

/// RFC 4648, section 4, with padding.
fn is_base64(text: &str) -> bool {
    BASE64_STANDARD.decode(text).is_ok()
}
