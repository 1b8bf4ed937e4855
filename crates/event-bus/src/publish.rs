//! Publishing.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::ack::{Ack, AckTicket, DeliveryReport};
use crate::bus::EventBus;
use crate::event::{Event, EventError};
use crate::refused::Reason;
use crate::reply::ReplySlot;
use crate::ring::Refused;
use crate::topic::Topic;
use crate::turn;

/// What publishing an event came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    /// How many subscriptions have the event.
    pub delivered_to: usize,
    /// How many that take its topic had no room for it; each has counted it as dropped.
    pub missed: usize,
}

/// Why an event was not published. No subscription has it then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The event could not be built, or is over the limits of this bus.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The bus was shut down.
    #[error("event bus is shut down")]
    Closed,
    /// A subscription with the policy `block` has no room, and the publisher would not wait.
    #[error("topic `{0}`: a subscription has no room")]
    NoRoom(Topic),
    /// Durability was asked for, and no transport carries the topic.
    #[error("topic `{0}` is not durable: no transport carries it")]
    NotDurable(Topic),
    /// Some subscriptions had not handled the event by the deadline.
    #[error("handlers have not finished within {}", runtime::format_duration(*.limit))]
    TimedOut {
        /// The deadline.
        limit: Duration,
        /// What was known by then.
        report: DeliveryReport,
    },
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// No subscription takes the topic.
    #[error("nobody listens to `{0}`")]
    NobodyListens(Topic),
    /// Every subscription has handled the request and none has answered.
    #[error("no handler answered")]
    NoReply(DeliveryReport),
    /// The deadline passed.
    #[error("no answer within {}", runtime::format_duration(*.0))]
    TimedOut(Duration),
}

impl EventBus {
    /// Puts the event into the queue of every subscription that takes its topic. Waits only where a
    /// subscription with the policy `block` has no room; until it has, nobody gets the event.
    ///
    /// The events that one caller publishes one after the other reach each subscription in that order,
    /// whatever their topics. Dropping the future before it is ready publishes nothing.
    ///
    /// # Errors
    ///
    /// If the event is over a limit or the bus was shut down.
    pub async fn publish(&self, event: Event) -> Result<Published, PublishError> {
        // A loop that publishes must let those who handle the events have the thread.
        turn::after_publish().await;
        self.enqueue(event, None).await
    }

    /// As [`EventBus::publish`] and never waits: a subscription with the policy `block` that has no room
    /// misses the event, which is counted.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_publish(&self, event: Event) -> Result<Published, PublishError> {
        self.admit(&event)?;
        // Nothing is refused for want of room where events may be missed.
        self.hub.attempt(event, None, true).map_err(|_| {
            self.count_refusal(Reason::Closed);
            PublishError::Closed
        })
    }

    /// As [`EventBus::publish`] and never waits: where a subscription with the policy `block` has no room,
    /// nobody gets the event.
    ///
    /// # Errors
    ///
    /// As there, and [`PublishError::NoRoom`].
    pub fn offer(&self, event: Event) -> Result<Published, PublishError> {
        self.admit(&event)?;
        self.hub.attempt(event, None, false).map_err(|(event, _, refused)| match refused {
            Refused::Full(_) => {
                self.count_refusal(Reason::NoRoom);
                PublishError::NoRoom(event.topic().clone())
            }
            Refused::Stale => {
                self.count_refusal(Reason::Closed);
                PublishError::Closed
            }
        })
    }

    /// Builds an event whose source is the bus's, and publishes it without waiting.
    ///
    /// # Errors
    ///
    /// As [`EventBus::try_publish`].
    pub fn emit(&self, topic: &Topic, data: impl Into<Value>) -> Result<Published, PublishError> {
        let event = self.event(topic.clone()).data(data).build(&**self.clock());
        self.try_publish(event.inspect_err(|_| self.hub.refused.count())?)
    }

    /// Publishes the event and waits until every subscription has handled it.
    ///
    /// # Errors
    ///
    /// As [`EventBus::publish`], and if the deadline passes. That handlers failed is no error: the report
    /// says which.
    pub async fn publish_and_wait(
        &self,
        event: Event,
        deadline: Duration,
    ) -> Result<DeliveryReport, PublishError> {
        let (ack, ticket) = Ack::new();
        let work = async {
            let published = self.enqueue(event, Some(ticket)).await?;
            ack.expect(published.delivered_to);
            ack.done().await;
            Ok(())
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(outcome) => outcome.map(|()| ack.report()),
            Err(_) => Err(PublishError::TimedOut { limit: deadline, report: ack.report() }),
        }
    }

    /// Publishes the event and waits for the first answer, see [`Event::reply`].
    ///
    /// # Errors
    ///
    /// [`RequestError`]; at once if nobody listens, and as soon as every handler has ended without an
    /// answer.
    pub async fn request(&self, event: Event, deadline: Duration) -> Result<Event, RequestError> {
        let mut answers = self.ask(event, 1, deadline).await?;
        answers.answers.pop().ok_or(match answers.report {
            Some(report) => RequestError::NoReply(report),
            None => RequestError::TimedOut(deadline),
        })
    }

    /// Publishes the event and collects up to `most` answers until the deadline, or until every handler
    /// has ended.
    ///
    /// # Errors
    ///
    /// As [`EventBus::request`]; that there are fewer answers than `most` is none.
    pub async fn request_many(
        &self,
        event: Event,
        most: usize,
        deadline: Duration,
    ) -> Result<Vec<Event>, RequestError> {
        Ok(self.ask(event, most, deadline).await?.answers)
    }

    async fn ask(&self, event: Event, most: usize, deadline: Duration) -> Result<Answers, RequestError> {
        let most = most.clamp(1, MAX_ANSWERS);
        let (slot, mut receiver) = ReplySlot::new(most, self.hub.clock.clone(), self.hub.source.clone());
        let topic = event.topic().clone();
        let event = event.with_reply(slot);
        let (ack, ticket) = Ack::new();
        let mut answers = Answers { answers: Vec::new(), report: None };
        let work = async {
            let published = self.enqueue(event, Some(ticket)).await?;
            if published.delivered_to == 0 {
                return Err(RequestError::NobodyListens(topic));
            }
            ack.expect(published.delivered_to);
            let mut handled = std::pin::pin!(ack.done());
            while answers.answers.len() < most {
                tokio::select! {
                    biased;
                    Some(answer) = receiver.recv() => answers.answers.push(answer),
                    () = &mut handled => {
                        while let Ok(answer) = receiver.try_recv() {
                            answers.answers.push(answer);
                        }
                        answers.report = Some(ack.report());
                        break;
                    }
                }
            }
            Ok(())
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Ok(answers),
        }
    }

    #[inline]
    pub(crate) async fn enqueue(
        &self,
        event: Event,
        ack: Option<Arc<AckTicket>>,
    ) -> Result<Published, PublishError> {
        self.admit(&event)?;
        let mut refused = match self.hub.attempt(event, ack, false) {
            Ok(published) => return Ok(published),
            Err(refused) => refused,
        };
        loop {
            let (event, ack, reason) = refused;
            if let Refused::Full(ring) = reason {
                ring.wait_for_room().await;
            }
            self.admit(&event)?;
            match self.hub.attempt(event, ack, false) {
                Ok(published) => return Ok(published),
                Err(again) => refused = again,
            }
        }
    }

    fn admit(&self, event: &Event) -> Result<(), PublishError> {
        if self.hub.is_closed() {
            self.count_refusal(Reason::Closed);
            return Err(PublishError::Closed);
        }
        let (bytes, limit) = (event.data_bytes(), self.hub.limits.data_bytes);
        if bytes > limit {
            self.count_refusal(Reason::TooLarge);
            return Err(EventError::TooLarge { bytes, limit }.into());
        }
        Ok(())
    }

    fn count_refusal(&self, reason: Reason) {
        reason.count();
        self.hub.refused.count();
    }
}

/// The most answers that one request collects.
const MAX_ANSWERS: usize = 10_000;

struct Answers {
    answers: Vec<Event>,
    /// Set once every handler has ended.
    report: Option<DeliveryReport>,
}
