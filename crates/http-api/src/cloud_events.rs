//! What a request asks to publish: CloudEvents 1.0 in each of the HTTP binding's content modes or, as
//! `application/json` without `ce-` headers, an event of which everything but `type` may be left out.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use event_bus::cloud::{self, HEADER_PREFIX, Mode};
use event_bus::{CloudEventError, MAX_BATCH_EVENTS};
use http::{HeaderMap, header};
use management::{Problem, ProblemKind};
use serde_json::{Map, Value};

use crate::envelope::Refusal;
use crate::extract::{decode, read_body, read_json, require_json};
use crate::shared::Shared;

/// What a CloudEvent has to have.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// What a request asks to publish.
#[derive(Debug, PartialEq)]
pub(crate) enum Publication {
    One(Map<String, Value>),
    Batch(Vec<Map<String, Value>>),
}

impl FromRequest<Arc<Shared>> for Publication {
    type Rejection = Refusal;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let mode = mode_of(&parts.headers)?;
        let body = read_body(body, shared.config.body_timeout).await?;
        Ok(read(mode, &parts.headers, &body)?)
    }
}

fn mode_of(headers: &HeaderMap) -> Result<Option<Mode>, Problem> {
    let unreadable = |_| Problem::malformed("`Content-Type` cannot be read");
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str());
    // Any of its headers makes it a CloudEvent, so that one without a version is told so.
    let has_attributes = headers.keys().any(|name| name.as_str().starts_with(HEADER_PREFIX));
    let mode = cloud::mode(content_type.transpose().map_err(unreadable)?, has_attributes)
        .map_err(|error| Problem::new(ProblemKind::UnsupportedMediaType, error.to_string()))?;
    if mode.is_none() {
        require_json(headers)?;
    }
    Ok(mode)
}

fn read(mode: Option<Mode>, headers: &HeaderMap, body: &[u8]) -> Result<Publication, Problem> {
    let event = match mode {
        None => return Ok(Publication::One(read_json(body)?)),
        Some(Mode::Batch) => return read_batch(body).map(Publication::Batch),
        Some(Mode::Structured) => read_json(body)?,
        Some(Mode::Binary) => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            cloud::from_headers(headers, body).map_err(|error| header_problem(&error))?
        }
    };
    require_attributes(&event)?;
    Ok(Publication::One(event))
}

/// What cannot be read in headers or body, with the header's name.
fn header_problem(error: &CloudEventError) -> Problem {
    Problem { field: Some(error.field().to_owned()), ..Problem::malformed(error.to_string()) }
}

fn require_attributes(event: &Map<String, Value>) -> Result<(), Problem> {
    match REQUIRED.into_iter().find(|name| event.get(*name).is_none_or(Value::is_null)) {
        Some(missing) => Err(Problem::invalid(missing, "is required of a CloudEvent")),
        None => Ok(()),
    }
}

fn read_batch(body: &[u8]) -> Result<Vec<Map<String, Value>>, Problem> {
    let Value::Array(batch) = decode(body)? else {
        return Err(Problem::invalid("", "a batch has to be a JSON array of CloudEvents"));
    };
    if batch.len() > MAX_BATCH_EVENTS {
        return Err(Problem::invalid("", format!("a batch has at most {MAX_BATCH_EVENTS} events")));
    }
    let events = batch.into_iter().enumerate().map(|(at, event)| {
        let Value::Object(event) = event else {
            return Err(Problem::invalid(format!("[{at}]"), "has to be a JSON object"));
        };
        require_attributes(&event).map_err(|problem| problem.under(&format!("[{at}]")))?;
        Ok(event)
    });
    events.collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    const CONTENT_TYPE: &str = "content-type";

    fn read_all(pairs: &[(&'static str, &str)], body: &str) -> Result<Publication, Problem> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        read(mode_of(&headers)?, &headers, body.as_bytes())
    }

    fn refused(pairs: &[(&'static str, &str)], body: &str) -> (u16, Option<String>) {
        let problem = read_all(pairs, body).unwrap_err();
        (problem.status(), problem.field)
    }

    #[test]
    fn each_mode_is_read() {
        let event = json!({"specversion": "1.0", "id": "1", "source": "s", "type": "a.b", "data": {"n": 1}});
        let text = event.to_string();
        let one = |pairs: &[(&'static str, &str)], body: &str| match read_all(pairs, body).unwrap() {
            Publication::One(event) => Value::Object(event),
            batch => panic!("{batch:?}"),
        };
        assert_eq!(one(&[(CONTENT_TYPE, "application/json")], r#"{"type": "a"}"#), json!({"type": "a"}));
        assert_eq!(one(&[(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")], &text), event);
        let binary = [
            (CONTENT_TYPE, "application/json"),
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "s"),
            ("ce-type", "a.b"),
        ];
        let mut expected = event.clone();
        expected["datacontenttype"] = "application/json".into();
        assert_eq!(one(&binary, r#"{"n": 1}"#), expected);
        let batch =
            read_all(&[(CONTENT_TYPE, "application/cloudevents-batch+json")], &format!("[{text}, {text}]"));
        assert!(matches!(batch.unwrap(), Publication::Batch(events) if events.len() == 2));
    }

    #[test]
    fn promise_10_what_is_no_cloud_event_is_named() {
        let kind = |kind| [(CONTENT_TYPE, kind)];
        for unread in ["text/plain", "application/cloudevents+avro", "application/xml"] {
            assert_eq!(refused(&kind(unread), "{}"), (415, None), "{unread}");
        }
        assert_eq!(refused(&[], "{}").0, 415);
        let field = |name: &str| Some(name.to_owned());

        let structured = kind("application/cloudevents+json");
        assert_eq!(refused(&structured, "{"), (400, None));
        let partial = r#"{"specversion": "1.0", "id": "1", "type": "a"}"#;
        assert_eq!(refused(&structured, partial), (422, field("source")));

        let whole = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", "a")];
        for missing in 0..4 {
            let mut rest = whole.to_vec();
            let (name, _) = rest.remove(missing);
            assert_eq!(refused(&rest, ""), (422, name.strip_prefix("ce-").map(str::to_owned)));
        }
        for more in [("ce-colour", "%c3%28"), ("ce-id", "again"), ("ce-data", "x")] {
            assert_eq!(refused(&[&whole[..], &[more]].concat(), ""), (400, field(more.0)));
        }
        let json = [&whole[..], &kind("application/json")].concat();
        assert_eq!(refused(&json, "{"), (400, field("data")));

        let batch = kind("application/cloudevents-batch+json");
        let event = r#"{"specversion": "1.0", "id": "1", "source": "s", "type": "a"}"#;
        for (body, status, named) in [
            ("[".to_owned(), 400, None),
            (event.to_owned(), 422, None),
            (format!("[{event}, 3]"), 422, field("[1]")),
            (format!(r#"[{event}, {{"type": "a"}}]"#), 422, field("[1].specversion")),
            (format!("[{}]", vec![event; MAX_BATCH_EVENTS + 1].join(",")), 422, None),
        ] {
            assert_eq!(refused(&batch, &body), (status, named));
        }
    }
}
