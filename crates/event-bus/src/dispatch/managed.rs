//! The loop of a subscription that asks for more than its events: retries, dead letters, order by key,
//! batches, a filter, one event only, or the past.
//!
//! An event that failed is set aside until its time comes, and meanwhile the loop goes on with what follows,
//! unless the policy keeps order. What is set aside, and what waits for its key, is bounded by the
//! subscription's capacity. Retries and new events take turns, so that neither holds up the other.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use runtime::SharedClock;
use tokio::time::{Instant as Moment, sleep_until};
use tracing::debug;

use super::burial::bury;
use super::job::Job;
use super::running::Running;
use super::work::{Key, Work};
use super::{Reader, TURN};
use crate::ack::FailureKind;
use crate::dead::{DeadLetterCause, reason_of};
use crate::event::{Event, random_share};
use crate::handler::EventHandler;
use crate::options::{Replay, Retry};
use crate::ring::Entry;
use crate::subscription::{NONE_OLDEST, Subscriber};
use crate::turn;

/// Entries that are looked at before others have their turn: those that a filter passes over.
const LOOKS: usize = 64;

type Jobs = Vec<(Key, Job)>;

/// What a call came to.
enum Outcome {
    /// For each job a reason and whether it is permanent, or nothing; an empty list: all are handled.
    Told(Vec<Option<(String, bool)>>),
    Panicked(String),
}

/// What became of a look at what could be taken in.
enum Look {
    Took,
    PassedOver,
    Nothing,
}

struct Managed<'a> {
    reader: &'a mut Reader,
    subscriber: Arc<Subscriber>,
    clock: &'a SharedClock,
    policy: Retry,
    batch: usize,
    work: Work<Job>,
    unfinished: Unfinished,
    open: bool,
    /// Whether it is a new event's turn.
    new_first: bool,
    /// Calls that run.
    calls: usize,
}

pub(super) async fn run<H: EventHandler>(handler: &H, reader: &mut Reader, clock: &SharedClock) {
    let mut managed = Managed::new(reader, clock);
    managed.prepare_replay();
    let (subscriber, is_batch) = (managed.subscriber.clone(), managed.subscriber.options.batch.is_some());
    let concurrency = subscriber.options.concurrency;
    let mut running = Running::new(concurrency);
    let mut spare: Vec<Jobs> = Vec::new();
    let mut turn_began = Instant::now();
    loop {
        if subscriber.member.is_stopped() {
            managed.give_up();
        }
        while running.len() < concurrency && !subscriber.member.is_stopped() {
            managed.calls = running.len();
            managed.take_in();
            let now = Moment::now();
            if !managed.work.has_call(now, !managed.open) {
                break;
            }
            let mut jobs = spare.pop().unwrap_or_default();
            managed.work.take(now, &mut jobs);
            running.push(call(handler, jobs, is_batch));
        }
        managed.calls = running.len();
        if running.len() == 0 && managed.work.is_empty() && !managed.open {
            return;
        }
        // A call that is ready at once needs nothing of what is waited for below.
        let ended = match poll_fn(|cx| Poll::Ready(running.poll_next(cx))).await {
            Poll::Ready(Some(ended)) => Some(ended),
            _ => {
                let has_slot = running.len() < concurrency;
                let may_read = has_slot && managed.may_read();
                let time = managed.work.next_time().filter(|_| has_slot);
                tokio::select! {
                    biased;
                    Some(ended) = poll_fn(|cx| running.poll_next(cx)) => Some(ended),
                    () = subscriber.nudge.notified() => None,
                    () = managed.reader.readable(), if may_read => None,
                    () = sleep_until(time.unwrap_or_else(Moment::now)), if time.is_some() => None,
                }
            }
        };
        if let Some((mut jobs, outcome, busy)) = ended {
            managed.calls = running.len();
            subscriber.member.calls.took(1, busy);
            managed.settle(&mut jobs, outcome);
            spare.push(jobs);
        }
        if turn_began.elapsed() >= TURN {
            turn::yield_now().await;
            turn_began = Instant::now();
        }
    }
}

/// One attempt at each of the jobs.
async fn call<H: EventHandler>(handler: &H, mut jobs: Jobs, is_batch: bool) -> (Jobs, Outcome, Duration) {
    let began = Instant::now();
    jobs.iter_mut().for_each(|(_, job)| job.begins());
    // The handler may panic before it has made its future.
    let call = async {
        if is_batch {
            let events: Vec<Event> = jobs.iter().map(|(_, job)| job.entry.event.clone()).collect();
            let outcome = handler.handle_batch(events).await;
            outcome.map_err(|failure| failure.by_event(jobs.len()))
        } else {
            let Some((_, job)) = jobs.first() else { return Ok(()) };
            let outcome = handler.handle(&job.entry.event).await;
            outcome.map_err(|error| vec![Some((error.to_string(), error.is_permanent()))])
        }
    };
    let outcome = match AssertUnwindSafe(call).catch_unwind().await {
        Ok(told) => Outcome::Told(told.err().unwrap_or_default()),
        Err(panic) => Outcome::Panicked(reason_of(&runtime::panic_message(&*panic))),
    };
    (jobs, outcome, began.elapsed())
}

impl<'a> Managed<'a> {
    fn new(reader: &'a mut Reader, clock: &'a SharedClock) -> Self {
        let subscriber = reader.subscriber.clone();
        let options = &subscriber.options;
        let policy = options.retry.unwrap_or(Retry::new(1));
        let (batch, within) = options.batch.map_or((1, Duration::ZERO), |batch| (batch.events, batch.within));
        Self {
            work: Work::new(policy.keeps_order(), batch, within),
            unfinished: Unfinished::default(),
            open: true,
            new_first: false,
            calls: 0,
            policy,
            batch,
            subscriber,
            reader,
            clock,
        }
    }

    /// Whether what follows may be looked at.
    fn may_read(&self) -> bool {
        let options = &self.subscriber.options;
        let is_held_up = match options.ordered_by {
            // Only what has the key of what failed waits for it.
            Some(_) => self.work.in_line() >= options.capacity,
            None => {
                let held = self.calls + self.work.aside().div_ceil(self.batch);
                self.policy.keeps_order() && held >= options.concurrency
            }
        };
        self.open && self.work.has_room() && !is_held_up
    }

    /// Takes in what one more call can have.
    fn take_in(&mut self) {
        let mut looks = 0;
        while self.work.has_room() && looks < LOOKS {
            match self.look() {
                Look::Took => looks = 0,
                Look::PassedOver => looks += 1,
                Look::Nothing => break,
            }
        }
    }

    /// Takes in a new event, one that came back, or one whose wait is over.
    fn look(&mut self) -> Look {
        // Not by how many were set aside, which goes with the turns where every call fails.
        self.new_first = !self.new_first;
        if !self.new_first && self.take_old() {
            return Look::Took;
        }
        match if self.may_read() { self.take_new() } else { Look::Nothing } {
            Look::Nothing if self.new_first && self.take_old() => Look::Took,
            look => look,
        }
    }

    fn take_old(&mut self) -> bool {
        if self.work.wake(Moment::now()) {
            return true;
        }
        let letter = self.subscriber.inbox().letters.pop_front();
        let Some((event, redriven)) = letter else { return false };
        self.admit(Job::redriven(Entry { event, ack: None }, redriven, self.subscriber.clone()));
        true
    }

    fn take_new(&mut self) -> Look {
        let subscriber = self.subscriber.clone();
        let replayed = subscriber.options.replay.as_ref().and_then(|_| subscriber.inbox().replay.pop_front());
        let job = if let Some(event) = replayed {
            subscriber.counters.parked.fetch_sub(1, Ordering::Relaxed);
            Job::new(Entry { event, ack: None }, subscriber)
        } else {
            match self.reader.look(None) {
                Some(true) => {}
                Some(false) => {
                    self.open = false;
                    return Look::Nothing;
                }
                None => return Look::Nothing,
            }
            let entry = self.reader.hands.current().cloned();
            self.reader.hands.next();
            let member = &subscriber.member;
            member.advance(member.cursor() + 1);
            self.reader.batch_first = member.cursor();
            subscriber.ring.freed_by(member);
            let Some(entry) = entry else { return Look::Nothing };
            match subscriber.takes(&entry.event) {
                Ok(true) => Job::new(entry, subscriber),
                Ok(false) => {
                    subscriber.counters.filtered.fetch_add(1, Ordering::Relaxed);
                    if let Some(ack) = &entry.ack {
                        ack.handled();
                    }
                    return Look::PassedOver;
                }
                Err(reason) => {
                    self.panicked_before_call(Job::new(entry, subscriber), reason);
                    return Look::PassedOver;
                }
            }
        };
        self.admit(job);
        if self.subscriber.options.once {
            self.open = false;
            if let Some(hub) = self.reader.hub.upgrade() {
                hub.leave(&self.subscriber);
            }
        }
        Look::Took
    }

    fn admit(&mut self, mut job: Job) {
        let key = self.subscriber.options.ordered_by.as_ref();
        // Foreign code.
        let key = catch_unwind(AssertUnwindSafe(|| key.map(|key| key.of(&job.entry.event))));
        match key {
            Ok(key) => {
                self.unfinished.begins(&mut job);
                self.work.add(key, job, Moment::now());
            }
            Err(panic) => self.panicked_before_call(job, reason_of(&runtime::panic_message(&*panic))),
        }
    }

    /// Decides what becomes of the jobs of a call.
    fn settle(&mut self, jobs: &mut Jobs, outcome: Outcome) {
        let now = Moment::now();
        let attempts = jobs.iter().map(|(_, job)| job.attempts).max().unwrap_or(1);
        let mut due = None;
        for (place, (key, job)) in jobs.drain(..).enumerate() {
            let counters = &self.subscriber.counters;
            let (cause, reason) = match &outcome {
                Outcome::Told(failures) => match failures.get(place).cloned().flatten() {
                    None => {
                        self.handled(key, job, now);
                        continue;
                    }
                    Some((reason, permanent)) => {
                        counters.failed.fetch_add(1, Ordering::Relaxed);
                        let cause =
                            if permanent { DeadLetterCause::Permanent } else { DeadLetterCause::Failed };
                        (cause, reason_of(&reason))
                    }
                },
                Outcome::Panicked(reason) => {
                    counters.panicked.fetch_add(1, Ordering::Relaxed);
                    (DeadLetterCause::Panicked, reason.clone())
                }
            };
            debug!(
                subscription = %self.subscriber.name,
                topic = %job.entry.event.topic(),
                attempt = job.attempts,
                reason,
                "handler failed"
            );
            // One time for all that failed together, so that they come back together and in order. Not by the
            // clock of the wall, whose jumps would stretch the wait.
            let due = *due.get_or_insert_with(|| now + self.policy.wait_after(attempts, random_share()));
            self.failed((key, job), cause, reason, (due, now));
        }
        self.unfinished.tell(&self.subscriber);
    }

    fn handled(&mut self, key: Key, mut job: Job, now: Moment) {
        self.unfinished.ends(&job);
        self.work.finished(key, now);
        job.settles();
        self.subscriber.member.calls.count(1);
        if let Some(ack) = &job.entry.ack {
            ack.handled();
        }
    }

    fn failed(
        &mut self,
        (key, mut job): (Key, Job),
        cause: DeadLetterCause,
        reason: String,
        (due, now): (Moment, Moment),
    ) {
        let (options, counters) = (&self.subscriber.options, &self.subscriber.counters);
        if !options.keeps_failed() {
            self.unfinished.ends(&job);
            self.work.finished(key, now);
            job.settles();
            self.subscriber.member.calls.count(1);
            tell_failure(&job, cause, reason);
            return;
        }
        counters.in_vain.fetch_add(1, Ordering::Relaxed);
        let is_over = cause == DeadLetterCause::Permanent || job.attempts >= self.policy.attempts();
        if is_over || self.work.aside() >= options.capacity {
            let cause = if is_over { cause } else { DeadLetterCause::NoRoom };
            self.unfinished.ends(&job);
            self.work.finished(key, now);
            bury(job, cause, reason, &self.reader.hub, self.clock);
            return;
        }
        job.retries();
        self.work.set_aside(key, job, due, now);
    }

    /// The filter or the key's function panicked, and no handler can be called.
    fn panicked_before_call(&mut self, mut job: Job, reason: String) {
        let counters = &self.subscriber.counters;
        counters.panicked.fetch_add(1, Ordering::Relaxed);
        if self.subscriber.options.keeps_failed() {
            bury(job, DeadLetterCause::Panicked, reason, &self.reader.hub, self.clock);
        } else {
            job.settles();
            counters.discarded.fetch_add(1, Ordering::Relaxed);
            tell_failure(&job, DeadLetterCause::Panicked, reason);
        }
    }

    /// Applies the filter to the past, so that the last so many are those that it takes.
    fn prepare_replay(&mut self) {
        let Some(replay) = &self.subscriber.options.replay else { return };
        let mut events: VecDeque<Event> = {
            let mut inbox = self.subscriber.inbox();
            if std::mem::replace(&mut inbox.is_replay_counted, true) {
                return;
            }
            std::mem::take(&mut inbox.replay)
        };
        // Where the filter panics on an event of the past, nobody waits for it.
        events.retain(|event| self.subscriber.takes(event).unwrap_or(false));
        if let Replay::Last(most) = replay {
            drop(events.drain(..events.len().saturating_sub(*most)));
        }
        let counters = &self.subscriber.counters;
        counters.inherited.fetch_add(events.len() as u64, Ordering::Relaxed);
        counters.parked.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.subscriber.inbox().replay = events;
    }

    /// Discards what is in no call.
    fn give_up(&mut self) {
        self.work.clear();
        self.open = false;
        self.unfinished = Unfinished::default();
        self.unfinished.tell(&self.subscriber);
    }
}

fn tell_failure(job: &Job, cause: DeadLetterCause, reason: String) {
    let kind = match cause {
        DeadLetterCause::Panicked => FailureKind::Panicked(reason),
        _ => FailureKind::Failed(reason),
    };
    if let Some(ack) = &job.entry.ack {
        ack.failed(job.subscriber.id, &job.subscriber.name, kind);
    }
}

/// The jobs that are not finished, by the time of their events: what the oldest undelivered event is.
#[derive(Default)]
struct Unfinished {
    times: BTreeSet<(i64, u64)>,
    count: u64,
}

impl Unfinished {
    fn begins(&mut self, job: &mut Job) {
        self.count += 1;
        job.number = self.count;
        self.times.insert((job.entry.event.time().as_microsecond(), job.number));
        if self.times.first().is_some_and(|(_, number)| *number == job.number) {
            self.tell(&job.subscriber);
        }
    }

    fn ends(&mut self, job: &Job) {
        self.times.remove(&(job.entry.event.time().as_microsecond(), job.number));
    }

    fn tell(&self, subscriber: &Subscriber) {
        let oldest = self.times.first().map_or(NONE_OLDEST, |(time, _)| *time);
        subscriber.counters.oldest.store(oldest, Ordering::Relaxed);
    }
}
