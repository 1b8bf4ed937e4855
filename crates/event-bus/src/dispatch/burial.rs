//! How an event becomes a dead letter.

use std::sync::Weak;

use runtime::SharedClock;
use tracing::warn;

use super::job::Job;
use crate::ack::FailureKind;
use crate::dead::{
    DEAD_LETTER_ATTEMPTS, DEAD_LETTER_ID, DEAD_LETTER_REASON, DEAD_LETTER_SUBSCRIPTION, DEAD_LETTER_TOPIC,
    DeadLetter, DeadLetterCause, DeadLetterId,
};
use crate::event::{Event, Payload};
use crate::hub::Hub;
use crate::subscription::Subscriber;

/// Makes a dead letter of a job.
pub(super) fn bury(
    mut job: Job,
    cause: DeadLetterCause,
    reason: String,
    hub: &Weak<Hub>,
    clock: &SharedClock,
) {
    // Without a bus nobody could look for it: it is discarded.
    let Some(hub) = hub.upgrade() else { return };
    let subscriber = job.subscriber.clone();
    warn!(
        subscription = %subscriber.name,
        topic = %job.entry.event.topic(),
        attempts = job.attempts,
        ?cause,
        "event is a dead letter"
    );
    job.settles();
    let letter = DeadLetter {
        id: DeadLetterId(0),
        event: job.entry.event.clone(),
        subscription: subscriber.id,
        name: subscriber.name.to_string(),
        owner: subscriber.options.owner.clone(),
        pattern: subscriber.pattern.clone(),
        cause,
        reason,
        attempts: job.attempts,
        redriven: job.redriven,
        time: clock.now(),
    };
    let published = notice_of(&letter, &subscriber);
    if let Some(ack) = &job.entry.ack {
        let kind = match cause {
            DeadLetterCause::Panicked => FailureKind::Panicked(letter.reason.clone()),
            _ => FailureKind::Failed(letter.reason.clone()),
        };
        ack.failed(subscriber.id, &subscriber.name, kind);
    }
    hub.bury(&subscriber, letter);
    // Refused only after the shutdown, and the letter is in the store in any case.
    if let Some(event) = published
        && hub.attempt(event, None, true).is_err()
    {
        hub.refused.count();
    }
}

/// The event that tells of a dead letter, where one was asked for and the letter is not itself such an event:
/// otherwise a handler that fails on it would have it told forever.
fn notice_of(letter: &DeadLetter, subscriber: &Subscriber) -> Option<Event> {
    let topic = subscriber.options.dead_letter_topic.clone()?;
    let dead = &letter.event;
    if dead.metadata().get(DEAD_LETTER_ID).is_some() {
        return None;
    }
    let attempts = i32::try_from(letter.attempts).unwrap_or(i32::MAX);
    let mut event = Event::builder(topic)
        .source(dead.source())
        .trace(dead.trace().cloned())
        .payload(Payload::Shared(dead.clone()))
        .max_data_bytes(usize::MAX)
        .time(letter.time)
        .metadata(DEAD_LETTER_ID, dead.id().to_string())
        .metadata(DEAD_LETTER_TOPIC, dead.topic().as_str())
        .metadata(DEAD_LETTER_SUBSCRIPTION, letter.name.as_str())
        .metadata(DEAD_LETTER_REASON, letter.reason.as_str())
        .metadata(DEAD_LETTER_ATTEMPTS, attempts);
    let room = crate::event::MAX_METADATA_ENTRIES - 5;
    for (key, value) in dead.metadata().iter().take(room) {
        event = event.metadata(key, value.clone());
    }
    event.build_at(|| letter.time).ok()
}
