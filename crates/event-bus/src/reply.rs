//! Answers to requests.

use std::sync::Arc;

use runtime::SharedClock;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::event::{Event, EventError, EventId};
use crate::refused::Reason;

/// The attribute by which a reply names its request.
pub const CORRELATION_ID: &str = "correlationid";

/// Why an answer was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The event was published and not requested: nobody waits for an answer.
    #[error("reply: the event is not a request")]
    NotARequest,
    /// The requester has its answer, or has given up.
    #[error("reply: the requester waits no longer")]
    Gone,
    /// The answer is no event.
    #[error(transparent)]
    Invalid(#[from] EventError),
}

/// Where the answers to one request go.
#[derive(Clone)]
pub(crate) struct ReplySlot {
    answers: mpsc::Sender<Event>,
    clock: SharedClock,
    source: Arc<str>,
}

impl ReplySlot {
    pub(crate) fn new(bound: usize, clock: SharedClock, source: Arc<str>) -> (Self, mpsc::Receiver<Event>) {
        let (answers, receiver) = mpsc::channel(bound.max(1));
        (Self { answers, clock, source }, receiver)
    }
}

impl Event {
    /// Whether the publisher waits for an answer.
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.reply_slot().is_some()
    }

    /// Answers a request. The answer has the request's topic and names it in the attribute
    /// `correlationid`; it goes to the requester only and is not published.
    ///
    /// # Errors
    ///
    /// If the event is no request, nobody waits any more, or the data is over the limit.
    pub fn reply(&self, data: impl Into<Value>) -> Result<EventId, ReplyError> {
        let slot = self.reply_slot().ok_or_else(|| refuse(ReplyError::NotARequest))?;
        let answer = Self::builder(self.topic().clone())
            .source(slot.source.clone())
            .target(self.source())
            .metadata(CORRELATION_ID, self.id().to_string())
            .trace(self.trace().cloned())
            .data(data)
            .build(&*slot.clock)?;
        let id = answer.id().clone();
        slot.answers.try_send(answer).map_err(|_| refuse(ReplyError::Gone))?;
        Ok(id)
    }
}

fn refuse(error: ReplyError) -> ReplyError {
    Reason::Reply.count();
    error
}
