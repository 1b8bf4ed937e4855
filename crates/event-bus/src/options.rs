//! How a subscription wants its events.

mod batch;
mod filter;
mod order;
mod retry;

use serde::{Deserialize, Serialize};

pub use batch::{Batch, MAX_BATCH, MAX_BATCH_WAIT};
pub use filter::EventFilter;
pub use order::OrderKey;
pub use retry::{MAX_ATTEMPTS, MAX_BACKOFF, Retry};

use crate::history::Since;
use crate::refused::Reason;
use crate::topic::Topic;
use crate::transport::MAX_BRIDGE_QUEUE;

/// The bound of a subscription that names none.
pub const DEFAULT_CAPACITY: usize = 1024;
/// The largest bound that a subscription may ask for.
pub const MAX_CAPACITY: usize = 1 << 20;
/// The most events of one subscription that may be handled at once.
pub const MAX_CONCURRENCY: usize = 1024;

/// What happens when a subscription has as many events waiting as its capacity allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// The publisher waits. The only policy by which a subscriber can slow others.
    Block,
    /// The oldest waiting event is dropped and counted.
    #[default]
    DropOldest,
    /// The new event is dropped for this subscription and counted.
    DropNewest,
    /// The subscription ends.
    Disconnect,
}

/// Which events of the bus's history a new subscription is given before what is published from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// The last so many that it takes.
    Last(usize),
    /// Those from there on, as far as the history reaches.
    Since(Since),
}

/// How a subscription wants its events; the default keeps order and never slows a publisher.
#[derive(Debug, Clone)]
#[must_use]
pub struct SubscribeOptions {
    pub(crate) name: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) capacity: usize,
    pub(crate) overflow: Overflow,
    pub(crate) concurrency: usize,
    pub(crate) retry: Option<Retry>,
    pub(crate) dead_letters: bool,
    pub(crate) dead_letter_topic: Option<Topic>,
    pub(crate) filter: Option<EventFilter>,
    pub(crate) ordered_by: Option<OrderKey>,
    pub(crate) batch: Option<Batch>,
    pub(crate) once: bool,
    pub(crate) replay: Option<Replay>,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            name: None,
            owner: None,
            capacity: DEFAULT_CAPACITY,
            overflow: Overflow::DropOldest,
            concurrency: 1,
            retry: None,
            dead_letters: false,
            dead_letter_topic: None,
            filter: None,
            ordered_by: None,
            batch: None,
            once: false,
            replay: None,
        }
    }
}

impl SubscribeOptions {
    /// The defaults: 1024 events may wait, the oldest is dropped beyond, one is handled at a time.
    pub fn new() -> Self {
        Self::default()
    }

    /// What lists and logs call the subscription; left out, it is its pattern.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whose it is, a plugin's name as a rule.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// How many events may wait, 1 to [`MAX_CAPACITY`].
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// What happens beyond that.
    pub fn overflow(mut self, policy: Overflow) -> Self {
        self.overflow = policy;
        self
    }

    /// How many events are handled at once, 1 to [`MAX_CONCURRENCY`]; 1 keeps order. See also
    /// [`SubscribeOptions::ordered_by`].
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers;
        self
    }

    /// Calls the handler again for an event that it failed on. An event whose attempts are used up becomes a
    /// dead letter, see [`SubscribeOptions::dead_letters`].
    pub fn retry(mut self, policy: Retry) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Keeps the events that the handler failed on for good, bounded by the bus's
    /// [`Limits`](crate::Limits): see [`EventBus::dead_letters`](crate::EventBus::dead_letters). Left out, and
    /// without a retry policy, such an event is counted as failed and forgotten.
    pub fn dead_letters(mut self) -> Self {
        self.dead_letters = true;
        self
    }

    /// Keeps dead letters, and publishes each under that topic: a new event with the same data and source,
    /// whose metadata say what happened, see [`DEAD_LETTER_ID`](crate::DEAD_LETTER_ID) and its neighbours. Of
    /// its own metadata it keeps what fits beside them. Nobody waits for room for it. A
    /// dead letter that is itself such an event is kept and not published again.
    pub fn dead_letter_topic(mut self, topic: Topic) -> Self {
        self.dead_letter_topic = Some(topic);
        self
    }

    /// Only the events that the filter takes.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Handles events of different keys at once, up to the concurrency, and those of one key one after the
    /// other in their order.
    ///
    /// Events whose key is busy wait beside the queue, as many as its capacity at the most; then the others
    /// wait behind them. An event that is tried again is overtaken by others of its key, unless the policy
    /// says [`Retry::keep_order`]: then they wait for it, and only they.
    pub fn ordered_by(mut self, key: OrderKey) -> Self {
        self.ordered_by = Some(key);
        self
    }

    /// Calls the handler with several events at once, see [`by_batch`](crate::by_batch).
    pub fn batch(mut self, batch: Batch) -> Self {
        self.batch = Some(batch);
        self
    }

    /// Ends the subscription after one event, its attempts included, whatever they come to. However many are
    /// published at once, the handler sees one; the others count as discarded.
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Begins with the past: no event is missing and none comes twice where past and present meet. What is
    /// replayed waits beside the queue and does not count for its capacity; the bound is the history's.
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = Some(replay);
        self
    }

    /// Whether the plain loops will do: the one question that the others are asked.
    pub(crate) fn is_plain(&self) -> bool {
        let Self { filter, ordered_by, batch, once, replay, .. } = self;
        let asks = filter.is_some() || ordered_by.is_some() || batch.is_some() || *once || replay.is_some();
        !asks && !self.keeps_failed()
    }

    /// Whether events that the handler fails on are kept: for another attempt, or as dead letters.
    pub(crate) fn keeps_failed(&self) -> bool {
        self.retry.is_some() || self.dead_letters || self.dead_letter_topic.is_some()
    }

    /// Whether a bus takes these options.
    ///
    /// # Errors
    ///
    /// [`OptionsError`], which names the option.
    pub fn check(&self) -> Result<(), OptionsError> {
        self.check_each().inspect_err(|_| Reason::Options.count())
    }

    fn check_each(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(OptionsError::Capacity(self.capacity));
        }
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Err(OptionsError::Concurrency(self.concurrency));
        }
        if let Some(retry) = &self.retry {
            retry.check()?;
        }
        if let Some(batch) = &self.batch {
            batch.check()?;
            if self.once {
                return Err(OptionsError::Once);
            }
        }
        for (field, text) in [("name", &self.name), ("owner", &self.owner)] {
            if let Some(text) = text
                && (text.is_empty() || text.len() > 255 || text.chars().any(char::is_control))
            {
                return Err(OptionsError::Label(field));
            }
        }
        Ok(())
    }
}

/// Why options were refused. The text names the option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Out of range.
    #[error("capacity: {0} is not within 1 and {MAX_CAPACITY}")]
    Capacity(usize),
    /// Out of range.
    #[error("concurrency: {0} is not within 1 and {MAX_CONCURRENCY}")]
    Concurrency(usize),
    /// Out of range.
    #[error("retry.attempts: {0} is not within 1 and {MAX_ATTEMPTS}")]
    Attempts(u32),
    /// Out of range.
    #[error("retry.backoff_max: is over {}", runtime::format_duration(MAX_BACKOFF))]
    Backoff,
    /// Out of range.
    #[error("batch.events: {0} is not within 1 and {MAX_BATCH}")]
    Batch(usize),
    /// Out of range.
    #[error("batch.within: is over {}", runtime::format_duration(MAX_BATCH_WAIT))]
    BatchWait,
    /// Out of range.
    #[error("queue: {0} is not within 1 and {MAX_BRIDGE_QUEUE}")]
    BridgeQueue(usize),
    /// A batch of one event is none.
    #[error("once: does not go with `batch`")]
    Once,
    /// Empty, too long, or with control characters.
    #[error("{0}: must be 1 to 255 bytes without control characters")]
    Label(&'static str),
}
