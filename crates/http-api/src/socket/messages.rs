//! What is said over a WebSocket: JSON texts, each an object with a `type`.

use event_bus::{Event, EventId, StreamItem};
use management::{Problem, PublishedEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use telemetry::TraceContext;

use crate::envelope::{ErrorEnvelope, Refusal};
use crate::extract::{from_value, read_json};

/// How long the id that a client gives a message may be, in bytes.
const ID_LEN_MAX: usize = 128;

/// How many events a client may ask to have unacknowledged at once.
const WINDOW_MAX: usize = 10_000;

/// What a client asks for. Its answer carries the same id.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Events, from now on, under the message's id.
    Subscribe(Subscribe),
    /// No more of them.
    Unsubscribe,
    /// An event of the client's.
    Publish(Map<String, Value>),
    /// The events of a subscription, up to this one.
    Acknowledge(EventId),
}

/// Which events, and how many at once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscribe {
    /// A pattern of topics; all where it is left out.
    #[serde(default = "everything")]
    pub(super) pattern: String,
    /// The last event that the client has.
    pub(super) last_event_id: Option<String>,
    /// How many events are sent before one of them has to be acknowledged. Without it none has to be.
    pub(super) window: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    event: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    event_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn everything() -> String {
    "**".to_owned()
}

/// A message that cannot be answered as it asks, with its id if that could be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) id: Option<String>,
    pub(super) problem: Problem,
}

impl Request {
    /// Reads a message as strictly as the body of a request is read.
    pub(super) fn read(text: &str) -> Result<Self, Unreadable> {
        let mut fields: Map<String, Value> =
            read_json(text.as_bytes()).map_err(|problem| Unreadable { id: None, problem })?;
        let (id, kind) = (text_of(&mut fields, "id"), text_of(&mut fields, "type"));
        let id = match id {
            Ok(id) if (1..=ID_LEN_MAX).contains(&id.len()) => id,
            Ok(_) => {
                let problem = Problem::invalid("id", format!("has to have 1 to {ID_LEN_MAX} bytes"));
                return Err(Unreadable { id: None, problem });
            }
            Err(problem) => return Err(Unreadable { id: None, problem }),
        };
        match kind.and_then(|kind| What::read(&kind, Value::Object(fields))) {
            Ok(what) => Ok(Self { id, what }),
            Err(problem) => Err(Unreadable { id: Some(id), problem }),
        }
    }
}

impl What {
    fn read(kind: &str, fields: Value) -> Result<Self, Problem> {
        match kind {
            "subscribe" => {
                let subscribe: Subscribe = from_value(fields)?;
                match subscribe.window {
                    Some(window) if !(1..=WINDOW_MAX).contains(&window) => {
                        Err(Problem::invalid("window", format!("has to be between 1 and {WINDOW_MAX}")))
                    }
                    _ => Ok(Self::Subscribe(subscribe)),
                }
            }
            "unsubscribe" => from_value(fields).map(|Nothing {}| Self::Unsubscribe),
            "publish" => from_value(fields).map(|Publish { event }| Self::Publish(event)),
            "ack" => {
                let Acknowledge { event_id } = from_value(fields)?;
                let id = event_id.parse();
                id.map(Self::Acknowledge)
                    .map_err(|_| Problem::invalid("event_id", "is not the id of an event"))
            }
            _ => Err(Problem::invalid("type", "has to be `subscribe`, `unsubscribe`, `publish` or `ack`")),
        }
    }
}

fn text_of(fields: &mut Map<String, Value>, name: &'static str) -> Result<String, Problem> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Problem::invalid(name, "has to be a text")),
        None => Err(Problem::invalid(name, "is required")),
    }
}

/// What a client is told.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Reply<'a> {
    /// The subscription is there: what is published from now on comes.
    Subscribed { id: &'a str },
    /// It is gone: because the client asked, or because the host's bus has ended.
    Unsubscribed { id: &'a str },
    /// An event of this subscription.
    Event { id: &'a str, event: &'a Event },
    /// So many events are missing here; null where that is not known.
    Lagged { id: &'a str, missed: Option<u64> },
    /// The client's event is on its way.
    Published { id: &'a str, event: &'a Event, delivered_to: usize },
    /// The message of this id has done nothing; null where it has no id that could be read.
    Error {
        id: Option<&'a str>,
        #[serde(flatten)]
        refusal: ErrorEnvelope,
    },
}

impl<'a> Reply<'a> {
    pub(super) fn told(id: &'a str, item: &'a StreamItem) -> Self {
        match item {
            StreamItem::Event(event) => Self::Event { id, event },
            StreamItem::Lagged(missed) => Self::Lagged { id, missed: Some(*missed) },
            StreamItem::Gap => Self::Lagged { id, missed: None },
        }
    }

    pub(super) fn published(id: &'a str, published: &'a PublishedEvent) -> Self {
        Self::Published { id, event: &published.event, delivered_to: published.delivered_to }
    }

    pub(super) fn error(id: Option<&'a str>, problem: Problem, trace: &TraceContext) -> Self {
        let refusal = ErrorEnvelope::new(&Refusal::from(problem), trace.trace_id().to_string());
        Self::Error { id, refusal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_wrong_is_told_what_and_under_its_id() {
        for (text, id, status, field) in [
            ("", None, 400, None),
            ("{", None, 400, None),
            ("[]", None, 422, None),
            (r#"{"id": 7, "type": "unsubscribe"}"#, None, 422, Some("id")),
            (r#"{"id": "", "type": "unsubscribe"}"#, None, 422, Some("id")),
            (r#"{"type": "unsubscribe"}"#, None, 422, Some("id")),
            (r#"{"id": "1", "id": "2", "type": "unsubscribe"}"#, None, 422, Some("id")),
            (r#"{"id": "1"}"#, Some("1"), 422, Some("type")),
            (r#"{"id": "1", "type": "dance"}"#, Some("1"), 422, Some("type")),
            (r#"{"id": "1", "type": "unsubscribe", "x": 1}"#, Some("1"), 422, Some("x")),
            (r#"{"id": "1", "type": "subscribe", "patern": "a"}"#, Some("1"), 422, Some("patern")),
            (r#"{"id": "1", "type": "subscribe", "window": 0}"#, Some("1"), 422, Some("window")),
            (r#"{"id": "1", "type": "subscribe", "window": 10001}"#, Some("1"), 422, Some("window")),
            (r#"{"id": "1", "type": "publish"}"#, Some("1"), 422, Some("event")),
            (r#"{"id": "1", "type": "publish", "event": "x"}"#, Some("1"), 422, Some("event")),
            (r#"{"id": "1", "type": "ack"}"#, Some("1"), 422, Some("event_id")),
            (r#"{"id": "1", "type": "ack", "event_id": ""}"#, Some("1"), 422, Some("event_id")),
        ] {
            let Unreadable { id: named, problem } = Request::read(text).unwrap_err();
            assert_eq!(named.as_deref(), id, "{text}");
            assert_eq!((problem.status(), problem.field.as_deref()), (status, field), "{text}: {problem}");
        }
    }

    #[test]
    fn what_may_be_left_out_has_a_default() {
        let read = |text| Request::read(text).unwrap().what;
        let What::Subscribe(all) = read(r#"{"id": "1", "type": "subscribe"}"#) else { panic!() };
        assert_eq!((all.pattern.as_str(), all.window, all.last_event_id), ("**", None, None));
        assert!(matches!(read(r#"{"id": "1", "type": "unsubscribe"}"#), What::Unsubscribe));
        let What::Acknowledge(id) = read(r#"{"id": "1", "type": "ack", "event_id": "x"}"#) else { panic!() };
        assert_eq!(id.to_string(), "x");
    }
}
