//! Live events as server-sent events, in the form of the
//! [HTML standard](https://html.spec.whatwg.org/multipage/server-sent-events.html).

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use event_bus::{EventStream, StreamItem};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, header};
use runtime::CancellationToken;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How soon a client that lost its connection is to come back.
const RETRY: &[u8] = b"retry: 2000\n\n";
const HEARTBEAT: &[u8] = b": still here\n\n";

/// What a stream of events needs beside them.
pub(crate) struct Following {
    /// How often a quiet stream shows that it is alive.
    pub(crate) heartbeat: Duration,
    /// Ends the stream, so that the connection can close.
    pub(crate) closing: CancellationToken,
    /// The stream's place among those that may be open.
    pub(crate) place: OwnedSemaphorePermit,
}

/// The answer that goes on until the client leaves or the host shuts down.
pub(crate) fn answer(events: EventStream, following: Following) -> Response {
    let mut response = Response::new(Body::from_stream(frames(Box::pin(events), following)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    // Tells nginx not to hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

type Events = Pin<Box<dyn Stream<Item = StreamItem> + Send>>;

fn frames(events: Events, following: Following) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let Following { heartbeat, closing, place } = following;
    let rest = stream::unfold((events, closing, place), move |(mut events, closing, place)| async move {
        let frame = tokio::select! {
            biased;
            () = closing.cancelled() => return None,
            told = events.next() => frame(&told?),
            () = tokio::time::sleep(heartbeat) => Bytes::from_static(HEARTBEAT),
        };
        Some((Ok(frame), (events, closing, place)))
    });
    // Sent at once, so that a client sees its connection accepted before anything happens.
    stream::iter([Ok(Bytes::from_static(RETRY))]).chain(rest)
}

/// One message. Events have no `event` line, so that `onmessage` of a browser gets them all; their type
/// stands in the data.
fn frame(told: &StreamItem) -> Bytes {
    let lagged =
        |missed: Option<u64>| ("event: lagged\n".to_owned(), json!({ "missed": missed }).to_string());
    let (head, data) = match told {
        StreamItem::Event(event) => match serde_json::to_string(event) {
            Ok(data) => (format!("id: {}\n", single_line(&event.id().to_string())), data),
            Err(error) => {
                tracing::warn!(%error, event = %event.id(), "event has no JSON form");
                return Bytes::from_static(HEARTBEAT);
            }
        },
        StreamItem::Lagged(missed) => lagged(Some(*missed)),
        StreamItem::Gap => lagged(None),
    };
    // JSON has no raw line breaks, so that one `data` line holds it.
    format!("{head}data: {data}\n\n").into()
}

/// An id of somebody else's may be any text; a line break in it would end the field.
fn single_line(id: &str) -> String {
    id.chars().filter(|c| !matches!(c, '\r' | '\n' | '\0')).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use event_bus::{Event, Topic};
    use runtime::SystemClock;
    use tokio::sync::Semaphore;

    use super::*;

    async fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap()
    }

    #[test]
    fn an_event_is_one_message_whatever_is_in_it() {
        let event = Event::builder(Topic::new("a.b").unwrap())
            .data(json!({"text": "line\nbreak\r\n\nid: 7"}))
            .build(&SystemClock)
            .unwrap();
        let text = String::from_utf8(frame(&StreamItem::Event(event.clone())).to_vec()).unwrap();
        let lines: Vec<_> = text.split('\n').collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[0], format!("id: {}", event.id()));
        assert!(lines[1].starts_with("data: {"), "{text}");
        assert_eq!(frame(&StreamItem::Lagged(3)), "event: lagged\ndata: {\"missed\":3}\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_stream_beats_and_ends_when_it_is_to_close() {
        let closing = CancellationToken::new();
        let frames = frames(
            Box::pin(stream::pending()),
            Following { heartbeat: Duration::from_secs(15), closing: closing.clone(), place: place().await },
        );
        let mut frames = std::pin::pin!(frames);
        assert_eq!(frames.next().await.unwrap().unwrap(), RETRY);
        assert_eq!(frames.next().await.unwrap().unwrap(), HEARTBEAT);
        closing.cancel();
        assert!(frames.next().await.is_none());
    }
}
