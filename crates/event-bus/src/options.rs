//! How a subscription wants its events.

mod retry;

use serde::{Deserialize, Serialize};

pub use retry::{MAX_ATTEMPTS, MAX_BACKOFF, Retry};

use crate::topic::Topic;

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

/// How a subscription wants its events; the default keeps order and never slows a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// How many events are handled at once, 1 to [`MAX_CONCURRENCY`]; 1 keeps order.
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
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            return Err(OptionsError::Capacity(self.capacity));
        }
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            return Err(OptionsError::Concurrency(self.concurrency));
        }
        if let Some(retry) = &self.retry {
            retry.check()?;
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
    /// Empty, too long, or with control characters.
    #[error("{0}: must be 1 to 255 bytes without control characters")]
    Label(&'static str),
}
