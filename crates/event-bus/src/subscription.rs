//! A subscription: its handle, what is known of it, and its end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::AbortHandle;
use runtime::{CancellationToken, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ack::FailureKind;
use crate::hub::Hub;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::ring::{Entry, Hands, Member, Ring};

/// What a subscription is known by, unique within its bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SubscriptionId(pub(crate) u64);

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
    /// Counts and times.
    #[serde(flatten)]
    pub stats: SubscriptionStats,
}

/// The counts of a subscription.
///
/// `accepted = delivered + dropped + discarded + depth` whenever nothing is on its way between two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubscriptionStats {
    /// Events that were meant for it.
    pub accepted: u64,
    /// Events that its handler was called for.
    pub delivered: u64,
    /// Events that its overflow policy dropped.
    pub dropped: u64,
    /// Events that waited when it ended.
    pub discarded: u64,
    /// Calls that returned an error.
    pub failed: u64,
    /// Calls that panicked.
    pub panicked: u64,
    /// Events that wait now.
    pub depth: u64,
    /// How old the oldest waiting event is, in seconds; nothing where none waits.
    pub oldest_seconds: Option<f64>,
    /// The mean time of a call, in seconds, over all batches.
    pub mean_handler_seconds: f64,
}

impl SubscriptionStats {
    /// Adds another subscription's counts; times become means over all calls.
    pub(crate) fn add(&mut self, other: &Self) {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let seconds = |stats: &Self| stats.mean_handler_seconds * stats.delivered as f64;
        let busy = seconds(self) + seconds(other);
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.dropped += other.dropped;
        self.discarded += other.discarded;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.depth += other.depth;
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let calls = self.delivered.max(1) as f64;
        self.mean_handler_seconds = busy / calls;
    }
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
    /// Set once its task exists.
    pub(crate) abort: OnceLock<AbortHandle>,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn count_delivery(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
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
            name: options.name.as_deref().unwrap_or(pattern.as_str()).into(),
            pattern,
            options,
            ring,
            member,
            counters: Counters::default(),
            ended: CancellationToken::new(),
            abort: OnceLock::new(),
        }
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
        self.counters.discarded.fetch_add(discarded, Ordering::Relaxed);
        if let Some(hub) = &hub {
            hub.forget(self);
        }
        self.ended.cancel();
    }

    /// Whether a stream reads it and no task.
    pub(crate) fn is_stream(&self) -> bool {
        self.abort.get().is_none()
    }

    /// Cuts off a call that runs at its next await.
    pub(crate) fn cut_off(&self) {
        self.member.stop();
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
    }

    pub(crate) fn stats(&self) -> SubscriptionStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let delivered = count(&self.counters.delivered);
        let (ring, member) = (&self.ring, &self.member);
        #[expect(clippy::cast_precision_loss, reason = "a mean for people; 2^52 ns are 52 days")]
        let mean = |ns: u64, calls: u64| if calls == 0 { 0.0 } else { ns as f64 / calls as f64 / 1e9 };
        SubscriptionStats {
            accepted: ring.accepted(member),
            delivered,
            dropped: ring.dropped(member),
            discarded: count(&self.counters.discarded),
            failed: count(&self.counters.failed),
            panicked: count(&self.counters.panicked),
            depth: ring.depth(member),
            oldest_seconds: None,
            mean_handler_seconds: mean(count(&self.counters.busy_ns), delivered),
        }
    }

    pub(crate) fn info(&self, now: Timestamp) -> SubscriptionInfo {
        let mut stats = self.stats();
        stats.oldest_seconds = self
            .ring
            .oldest(&self.member)
            .map(|event| now.duration_since(event.time()).as_secs_f64().max(0.0));
        SubscriptionInfo {
            id: self.id,
            name: self.name.to_string(),
            owner: self.options.owner.clone(),
            pattern: self.pattern.clone(),
            capacity: self.options.capacity,
            overflow: self.options.overflow,
            concurrency: self.options.concurrency,
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

    /// Its counts now; they stay readable after its end.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.subscriber.stats()
    }

    /// Ends the subscription: no further call of its handler begins; what waits is discarded and counted.
    /// A call that runs goes on. Does not wait; [`Subscription::ended`] does.
    pub fn cancel(&self) {
        self.subscriber.member.stop();
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

    /// Handles what waits, then ends; past the deadline a call that runs is cut off at its next await and
    /// the rest is discarded. Answers how many events were discarded.
    pub async fn drained(&self, deadline: Duration) -> u64 {
        self.drain();
        if tokio::time::timeout(deadline, self.ended()).await.is_err() {
            self.cancel();
            self.subscriber.cut_off();
        }
        self.stats().discarded + if self.is_ended() { 0 } else { self.stats().depth }
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
