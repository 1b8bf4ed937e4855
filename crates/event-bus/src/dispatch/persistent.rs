//! The loop of a subscription that keeps what its handler failed on: for another attempt, or as a dead
//! letter.
//!
//! An event that failed is set aside until its time comes, and meanwhile the loop goes on with what follows,
//! unless the policy keeps order. What is set aside is bounded by the subscription's capacity. Retries and
//! new events take turns, so that neither holds up the other.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use runtime::SharedClock;
use tokio::time::{Instant as Moment, sleep_until};
use tracing::{debug, warn};

use super::{Reader, TURN};
use crate::ack::FailureKind;
use crate::dead::{
    DEAD_LETTER_ATTEMPTS, DEAD_LETTER_ID, DEAD_LETTER_REASON, DEAD_LETTER_SUBSCRIPTION, DEAD_LETTER_TOPIC,
    DeadLetter, DeadLetterCause, DeadLetterId, reason_of,
};
use crate::event::{Event, Payload, random_share};
use crate::handler::EventHandler;
use crate::hub::Hub;
use crate::options::Retry;
use crate::ring::Entry;
use crate::subscription::Subscriber;
use crate::turn;

/// An event that is neither handled nor dead yet. Dropped as it is, it counts as discarded.
struct Job {
    entry: Entry,
    /// Calls so far.
    attempts: u32,
    redriven: u32,
    /// Whether it counts among those that are retried.
    is_counted: bool,
    is_settled: bool,
    subscriber: Arc<Subscriber>,
}

/// What a call came to.
enum Outcome {
    Handled,
    Failed { reason: String, permanent: bool },
    Panicked(String),
}

/// Jobs that wait for another attempt, by when.
#[derive(Default)]
struct Aside {
    jobs: BTreeMap<(Moment, u64), Job>,
    /// How many were ever set aside: tells those of one moment apart.
    count: u64,
    /// Whether it is a new event's turn.
    new_first: bool,
}

pub(super) async fn run<H: EventHandler>(handler: &H, reader: &mut Reader, clock: &SharedClock) {
    let subscriber = reader.subscriber.clone();
    let options = &subscriber.options;
    let policy = options.retry.unwrap_or(Retry::new(1));
    let held_up = |busy: usize| policy.keeps_order() && busy >= options.concurrency;
    let mut running = FuturesUnordered::new();
    let mut aside = Aside::default();
    let mut open = true;
    let mut turn_began = Instant::now();
    loop {
        if subscriber.member.is_stopped() {
            aside.jobs.clear();
            open = false;
        }
        while running.len() < options.concurrency && !subscriber.member.is_stopped() {
            let may_read = open && !held_up(running.len() + aside.jobs.len());
            let Some(job) = next(reader, &mut aside, may_read, &mut open) else { break };
            running.push(call(handler, job));
        }
        if running.is_empty() && aside.jobs.is_empty() && !open {
            return;
        }
        let has_slot = running.len() < options.concurrency;
        let may_read = open && has_slot && !held_up(running.len() + aside.jobs.len());
        let due = aside.jobs.first_key_value().map(|((due, _), _)| *due).filter(|_| has_slot);
        let ended = tokio::select! {
            biased;
            Some(ended) = running.next() => Some(ended),
            () = subscriber.nudge.notified() => None,
            () = reader.readable(), if may_read => None,
            () = sleep_until(due.unwrap_or_else(Moment::now)), if due.is_some() => None,
        };
        if let Some((job, outcome, began)) = ended {
            let busy = u64::try_from(Instant::now().saturating_duration_since(began).as_nanos());
            subscriber.counters.busy_ns.fetch_add(busy.unwrap_or(u64::MAX), Ordering::Relaxed);
            settle(job, outcome, &policy, &mut aside, &reader.hub, clock);
        }
        if turn_began.elapsed() >= TURN {
            turn::yield_now().await;
            turn_began = Instant::now();
        }
    }
}

/// What is to be handled next: a new event, one that came back, or one whose wait is over.
fn next(reader: &mut Reader, aside: &mut Aside, may_read: bool, open: &mut bool) -> Option<Job> {
    let subscriber = reader.subscriber.clone();
    // Not by how many were set aside, which goes with the turns where every call fails.
    aside.new_first = !aside.new_first;
    let new_first = aside.new_first;
    let old = |aside: &mut Aside| {
        if let Some(first) = aside.jobs.first_entry()
            && first.key().0 <= Moment::now()
        {
            return Some(first.remove());
        }
        let (event, redriven) = subscriber.inbox().letters.pop_front()?;
        let entry = Entry { event, ack: None };
        let mut job = Job::new(entry, subscriber.clone());
        (job.redriven, job.is_counted) = (redriven, true);
        Some(job)
    };
    if !new_first && let Some(job) = old(aside) {
        return Some(job);
    }
    if may_read {
        match reader.look(None) {
            Some(true) => {
                let entry = reader.hands.current().cloned();
                reader.hands.next();
                let member = &reader.subscriber.member;
                member.advance(member.cursor() + 1);
                reader.batch_first = member.cursor();
                reader.subscriber.ring.freed_by(member);
                if let Some(entry) = entry {
                    return Some(Job::new(entry, reader.subscriber.clone()));
                }
            }
            Some(false) => *open = false,
            None => {}
        }
    }
    if new_first { old(aside) } else { None }
}

/// One attempt.
async fn call<H: EventHandler>(handler: &H, mut job: Job) -> (Job, Outcome, Instant) {
    let began = Instant::now();
    if job.attempts > 0 {
        job.subscriber.counters.retried.fetch_add(1, Ordering::Relaxed);
    }
    job.attempts += 1;
    // The handler may panic before it has made its future.
    let call = async { handler.handle(&job.entry.event).await };
    let outcome = match AssertUnwindSafe(call).catch_unwind().await {
        Ok(Ok(())) => Outcome::Handled,
        Ok(Err(error)) => {
            Outcome::Failed { reason: reason_of(&error.to_string()), permanent: error.is_permanent() }
        }
        Err(panic) => Outcome::Panicked(reason_of(&runtime::panic_message(&*panic))),
    };
    (job, outcome, began)
}

/// Decides what becomes of a job after a call.
fn settle(
    mut job: Job,
    outcome: Outcome,
    policy: &Retry,
    aside: &mut Aside,
    hub: &Weak<Hub>,
    clock: &SharedClock,
) {
    let subscriber = job.subscriber.clone();
    let counters = &subscriber.counters;
    let (cause, reason) = match outcome {
        Outcome::Handled => {
            job.done();
            counters.count_delivery();
            if let Some(ack) = &job.entry.ack {
                ack.handled();
            }
            return;
        }
        Outcome::Failed { reason, permanent } => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            (if permanent { DeadLetterCause::Permanent } else { DeadLetterCause::Failed }, reason)
        }
        Outcome::Panicked(reason) => {
            counters.panicked.fetch_add(1, Ordering::Relaxed);
            (DeadLetterCause::Panicked, reason)
        }
    };
    counters.in_vain.fetch_add(1, Ordering::Relaxed);
    debug!(
        subscription = %subscriber.name,
        topic = %job.entry.event.topic(),
        attempt = job.attempts,
        reason,
        "handler failed"
    );
    let is_over = cause == DeadLetterCause::Permanent || job.attempts >= policy.attempts();
    let has_room = aside.jobs.len() < subscriber.options.capacity;
    if is_over || !has_room {
        let cause = if is_over { cause } else { DeadLetterCause::NoRoom };
        bury(job, cause, reason, hub, clock);
        return;
    }
    if !std::mem::replace(&mut job.is_counted, true) {
        counters.retrying.fetch_add(1, Ordering::Relaxed);
    }
    // Not by the clock of the wall, whose jumps would stretch the wait.
    let due = Moment::now() + policy.wait_after(job.attempts, random_share());
    aside.count += 1;
    aside.jobs.insert((due, aside.count), job);
}

/// Makes a dead letter of a job.
fn bury(mut job: Job, cause: DeadLetterCause, reason: String, hub: &Weak<Hub>, clock: &SharedClock) {
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
    job.done();
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

impl Job {
    fn new(entry: Entry, subscriber: Arc<Subscriber>) -> Self {
        Self { entry, attempts: 0, redriven: 0, is_counted: false, is_settled: false, subscriber }
    }

    /// Takes it out of the counts of what is on its way.
    fn done(&mut self) {
        self.is_settled = true;
        if std::mem::take(&mut self.is_counted) {
            self.subscriber.counters.retrying.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.is_settled {
            self.done();
            self.subscriber.counters.discarded.fetch_add(1, Ordering::Relaxed);
            self.subscriber.passed_over(&self.entry);
        }
    }
}
