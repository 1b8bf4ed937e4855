//! A subscription: its handle, what is known of it, and its end.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use runtime::{CancellationToken, DurationText, Timestamp};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Notify;

use crate::ack::FailureKind;
use crate::dead::reason_of;
use crate::event::Event;
use crate::history::{Held, HistoryFilter};
use crate::hub::Hub;
use crate::options::{Batch, Overflow, Replay, Retry, SubscribeOptions};
use crate::pattern::Pattern;
use crate::ring::{Entry, Hands, Member, Ring};
use crate::topic::Topic;

/// What a subscription is known by, unique within its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known of a subscription at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubscriptionInfo {
    /// What it is known by.
    pub id: SubscriptionId,
    /// What it is called; its pattern, if it was given no name.
    pub name: String,
    /// Whose it is.
    pub owner: Option<String>,
    /// What it takes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub pattern: Pattern,
    /// How many events may wait.
    pub capacity: usize,
    /// What happens beyond that.
    pub overflow: Overflow,
    /// How many events it handles at once.
    pub concurrency: usize,
    /// What happens to an event that its handler fails on; nothing: it is not tried again.
    pub retry: Option<Retry>,
    /// Whether events that it failed on for good are kept.
    pub dead_letters: bool,
    /// Where they are published, too.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub dead_letter_topic: Option<Topic>,
    /// Which of them it wants, for people.
    pub filter: Option<String>,
    /// By what it keeps order while it handles several at once.
    pub ordered_by: Option<String>,
    /// How many events its handler is given in one call.
    pub batch: Option<Batch>,
    /// Whether it ends after one event.
    pub once: bool,
    /// Counts and times.
    #[serde(flatten)]
    pub stats: SubscriptionStats,
}

/// The counts of a subscription.
///
/// `accepted = delivered + dropped + dead + discarded + depth + retrying` whenever nothing is on its way
/// between two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubscriptionStats {
    /// Events that were meant for it. What waits counts until its filter has passed it over.
    pub accepted: u64,
    /// Events that its filter passed over.
    pub filtered: u64,
    /// Events that its handler was called for; with a retry policy or dead letters, that it handled.
    pub delivered: u64,
    /// Events that its overflow policy dropped.
    pub dropped: u64,
    /// Events that were given up: that waited when it ended, or dead letters that were discarded or had to
    /// make room.
    pub discarded: u64,
    /// Events that are dead letters now.
    pub dead: u64,
    /// Events that wait for another attempt, or have it now.
    pub retrying: u64,
    /// Calls that were another attempt.
    pub retried: u64,
    /// All calls of the handler.
    pub calls: u64,
    /// Calls that returned an error.
    pub failed: u64,
    /// Calls that panicked.
    pub panicked: u64,
    /// Events that wait now.
    pub depth: u64,
    /// How far it is behind the newest event that was meant for it: events that wait, are handled now, or are
    /// tried again.
    pub lag: u64,
    /// How old the oldest event is that is not finished, as far as that is known: that waits, or, with a
    /// retry policy and the like, is tried. In seconds; nothing where there is none. On the wire a text.
    #[serde(rename = "oldest_age", serialize_with = "as_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "1.5s"))]
    pub oldest_seconds: Option<f64>,
    /// The mean time of a call, in seconds, over all batches. On the wire a text; nothing before the first.
    #[serde(rename = "mean_handler_time", serialize_with = "as_text_once_measured")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "12µs"))]
    pub mean_handler_seconds: f64,
}

impl SubscriptionStats {
    /// Adds another subscription's counts; times become means over all calls, and the oldest is the oldest.
    pub(crate) fn add(&mut self, other: &Self) {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let seconds = |stats: &Self| stats.mean_handler_seconds * stats.calls as f64;
        let busy = seconds(self) + seconds(other);
        self.accepted += other.accepted;
        self.filtered += other.filtered;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
        self.discarded += other.discarded;
        self.dead += other.dead;
        self.retrying += other.retrying;
        self.retried += other.retried;
        self.calls += other.calls;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.depth += other.depth;
        self.lag += other.lag;
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let calls = self.calls.max(1) as f64;
        self.mean_handler_seconds = busy / calls;
        self.oldest_seconds = self.oldest_seconds.into_iter().chain(other.oldest_seconds).reduce(f64::max);
    }
}

fn as_text<S: Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    span.map(DurationText::measured).serialize(serializer)
}

fn as_text_once_measured<S: Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    as_text(&Some(*seconds).filter(|seconds| *seconds > 0.0), serializer)
}

/// A subscription as the bus and its reader share it.
pub(crate) struct Subscriber {
    pub(crate) id: SubscriptionId,
    pub(crate) name: Arc<str>,
    pub(crate) pattern: Pattern,
    pub(crate) options: SubscribeOptions,
    pub(crate) ring: Arc<Ring>,
    pub(crate) member: Arc<Member>,
    pub(crate) counters: Counters,
    /// Cancelled once its reader has ended and its handler is gone.
    pub(crate) ended: CancellationToken,
    /// Whether a task reads it and no stream.
    pub(crate) has_task: AtomicBool,
    /// Dead letters that are to be handled again.
    pub(crate) inbox: Mutex<Inbox>,
    /// Tells the reader of a subscription that keeps what failed to look at the inbox and whether to stop.
    pub(crate) nudge: Notify,
}

/// Events that come to the handler by another way than the ring: dead letters on their way back, and the
/// past.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) replay: VecDeque<Event>,
    /// Whether the past is among the counts.
    pub(crate) is_replay_counted: bool,
    /// Whether the event that the past was to begin after is not kept any more.
    pub(crate) has_gap: bool,
    /// Each with how often it has come back.
    pub(crate) letters: VecDeque<(Event, u32)>,
    pub(crate) closed: bool,
}

/// Stands in [`Counters::oldest`] where there is none.
pub(crate) const NONE_OLDEST: i64 = i64::MAX;

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) failed: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) retrying: AtomicU64,
    pub(crate) retried: AtomicU64,
    /// Calls that did not make a delivery.
    pub(crate) in_vain: AtomicU64,
    /// Dead letters that came from a subscription which this one follows.
    pub(crate) inherited: AtomicU64,
    /// Events that were taken from the ring, and the past, that wait to be handled.
    pub(crate) parked: AtomicU64,
    /// Events that the filter passed over.
    pub(crate) filtered: AtomicU64,
    /// When the oldest event was published that was taken from the ring and is not finished, in
    /// microseconds since 1970.
    pub(crate) oldest: AtomicI64,
}

impl Counters {
    /// Notes that an event is in a call that is not ready at once, for as long as what it gives back lives: it is the
    /// oldest that is not finished where events are handled one by one.
    pub(crate) fn waits_in_call(&self, event: &Event) -> InCall<'_> {
        self.oldest.store(event.time().as_microsecond(), Ordering::Relaxed);
        InCall(&self.oldest)
    }
}

/// See [`Counters::waits_in_call`].
pub(crate) struct InCall<'a>(&'a AtomicI64);

impl Drop for InCall<'_> {
    fn drop(&mut self) {
        self.0.store(NONE_OLDEST, Ordering::Relaxed);
    }
}

impl Subscriber {
    pub(crate) fn new(
        id: SubscriptionId,
        (pattern, options, ring): (Pattern, SubscribeOptions, Arc<Ring>),
        member: Arc<Member>,
    ) -> Self {
        Self {
            id,
            name: options.name.as_deref().map_or_else(|| pattern.text().clone(), Into::into),
            pattern,
            options,
            ring,
            member,
            counters: Counters { oldest: AtomicI64::new(NONE_OLDEST), ..Counters::default() },
            ended: CancellationToken::new(),
            has_task: AtomicBool::new(false),
            inbox: Mutex::default(),
            nudge: Notify::new(),
        }
    }

    /// Whether its filter takes the event; the text of its panic, if it panics.
    pub(crate) fn takes(&self, event: &Event) -> Result<bool, String> {
        let Some(filter) = &self.options.filter else { return Ok(true) };
        catch_unwind(AssertUnwindSafe(|| filter.takes(event)))
            .map_err(|panic| reason_of(&runtime::panic_message(&*panic)))
    }

    /// Takes over what it wants of the past, which must be held since before it joined its ring.
    pub(crate) fn replay_from(&self, kept: &Held<'_>) {
        let Some(replay) = &self.options.replay else { return };
        let mut filter = HistoryFilter::new().pattern(self.pattern.clone());
        match replay {
            // With a filter, which is foreign code, it is only known later which are the last.
            Replay::Last(most) if self.options.filter.is_none() => filter = filter.limit(*most),
            Replay::Last(_) => {}
            Replay::Since(since) => filter = filter.since(since.clone()),
        }
        let (events, is_known) = kept.select(&filter);
        let mut inbox = self.inbox();
        inbox.replay = events.into();
        inbox.has_gap = !is_known;
    }

    /// Forbids any further call of its handler.
    pub(crate) fn stop(&self) {
        self.member.stop();
        self.nudge.notify_one();
    }

    pub(crate) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // No foreign code runs under the lock.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits that an event was not handled.
    pub(crate) fn passed_over(&self, entry: &Entry) {
        if let Some(ack) = &entry.ack {
            ack.failed(self.id, &self.name, FailureKind::Dropped);
        }
    }

    /// The end, once no call runs and none will begin.
    pub(crate) fn finish(&self, hub: &Weak<Hub>, hands: &mut Hands) {
        let hub = hub.upgrade();
        if let Some(hub) = &hub {
            hub.leave(self);
        }
        let discarded = self.member.discard(hands, &mut |entry| self.passed_over(entry));
        let (letters, past, is_counted) = {
            let mut inbox = self.inbox();
            inbox.closed = true;
            (std::mem::take(&mut inbox.letters), std::mem::take(&mut inbox.replay), inbox.is_replay_counted)
        };
        let returned = letters.len() as u64;
        let passed = if is_counted { past.len() as u64 } else { 0 };
        self.counters.retrying.fetch_sub(returned, Ordering::Relaxed);
        self.counters.parked.fetch_sub(passed, Ordering::Relaxed);
        self.counters.discarded.fetch_add(discarded + returned + passed, Ordering::Relaxed);
        if let Some(hub) = &hub {
            hub.forget(self);
        }
        self.ended.cancel();
    }

    /// Whether a stream reads it and no task.
    pub(crate) fn is_stream(&self) -> bool {
        !self.has_task.load(Ordering::Acquire)
    }

    /// Cuts off a call that runs at its next await.
    pub(crate) fn cut_off(&self) {
        self.stop();
        self.member.cut();
    }

    pub(crate) fn stats(&self) -> SubscriptionStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What is finished is read before what was accepted, so that the difference is never below zero for long.
        let delivered = self.member.calls.delivered();
        let (discarded, dead) = (count(&self.counters.discarded), count(&self.counters.dead));
        let (ring, member) = (&self.ring, &self.member);
        let dropped = ring.dropped(member);
        let filtered = count(&self.counters.filtered);
        let accepted = (ring.accepted(member) + count(&self.counters.inherited)).saturating_sub(filtered);
        SubscriptionStats {
            accepted,
            filtered,
            delivered,
            dropped,
            discarded,
            dead,
            retrying: count(&self.counters.retrying),
            retried: count(&self.counters.retried),
            calls: delivered + count(&self.counters.in_vain),
            failed: count(&self.counters.failed),
            panicked: count(&self.counters.panicked),
            depth: ring.depth(member) + count(&self.counters.parked),
            lag: accepted.saturating_sub(delivered + dropped + dead + discarded),
            oldest_seconds: None,
            mean_handler_seconds: member.calls.mean_seconds(),
        }
    }

    pub(crate) fn info(&self, now: Timestamp) -> SubscriptionInfo {
        let mut stats = self.stats();
        let taken = self.counters.oldest.load(Ordering::Relaxed);
        let taken = Timestamp::from_microsecond(taken).ok().filter(|_| taken != NONE_OLDEST);
        let waiting = self.ring.oldest(&self.member).map(|event| event.time());
        let oldest = taken.into_iter().chain(waiting).min();
        stats.oldest_seconds = oldest.map(|time| now.duration_since(time).as_secs_f64().max(0.0));
        SubscriptionInfo {
            id: self.id,
            name: self.name.to_string(),
            owner: self.options.owner.clone(),
            pattern: self.pattern.clone(),
            capacity: self.options.capacity,
            overflow: self.options.overflow,
            concurrency: self.options.concurrency,
            retry: self.options.retry,
            dead_letters: self.options.keeps_failed(),
            dead_letter_topic: self.options.dead_letter_topic.clone(),
            filter: self.options.filter.as_ref().map(ToString::to_string),
            ordered_by: self.options.ordered_by.as_ref().map(ToString::to_string),
            batch: self.options.batch,
            once: self.options.once,
            stats,
        }
    }
}

/// The handle of a subscription. Dropping it ends the subscription as [`Subscription::cancel`] does.
#[must_use = "dropping the handle ends the subscription"]
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    hub: Weak<Hub>,
    detached: bool,
}

impl Subscription {
    pub(crate) fn new(subscriber: Arc<Subscriber>, hub: Weak<Hub>) -> Self {
        Self { subscriber, hub, detached: false }
    }

    pub(crate) fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }

    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.subscriber.id
    }

    /// What it takes.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.subscriber.pattern
    }

    /// Its counts now; after its end they stay readable as they were then.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.subscriber.stats()
    }

    /// Whether a replay could not go on from the event that it named, since that is no longer kept: events may
    /// be missing before the first.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.subscriber.inbox().has_gap
    }

    /// Ends the subscription: no further call of its handler begins; what waits is discarded and counted.
    /// A call that runs goes on. Does not wait; [`Subscription::ended`] does.
    pub fn cancel(&self) {
        self.subscriber.stop();
        self.drain();
    }

    /// Ends the subscription once what waits now has been handled. Does not wait.
    pub fn drain(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.leave(&self.subscriber);
        }
    }

    /// Waits until the subscription has ended: no call runs, and its handler has been dropped.
    pub async fn ended(&self) {
        self.subscriber.ended.cancelled().await;
    }

    /// Whether the subscription has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.subscriber.ended.is_cancelled()
    }

    /// Handles what waits, events that wait for another attempt among it, then ends; past the deadline a
    /// call that runs is cut off at its next await and the rest is discarded. Answers how many
    /// events were discarded.
    pub async fn drained(&self, deadline: Duration) -> u64 {
        self.drain();
        if tokio::time::timeout(deadline, self.ended()).await.is_err() {
            self.cancel();
            self.subscriber.cut_off();
        }
        let stats = self.stats();
        stats.discarded + if self.is_ended() { 0 } else { stats.depth + stats.retrying }
    }

    /// Keeps the subscription for as long as the bus lives, without a handle.
    pub fn detach(mut self) -> SubscriptionId {
        self.detached = true;
        self.subscriber.id
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.detached {
            self.cancel();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.subscriber.id)
            .field("name", &self.subscriber.name)
            .field("pattern", &self.subscriber.pattern)
            .finish_non_exhaustive()
    }
}
