//! How a subscription wants its events.

use serde::{Deserialize, Serialize};

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
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            name: None,
            owner: None,
            capacity: DEFAULT_CAPACITY,
            overflow: Overflow::DropOldest,
            concurrency: 1,
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
    /// Empty, too long, or with control characters.
    #[error("{0}: must be 1 to 255 bytes without control characters")]
    Label(&'static str),
}
