//! How a bridge carries events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;
use crate::options::{MAX_BATCH, OptionsError, Overflow};

/// How many event ids a bridge remembers at the least, to drop what comes twice.
pub const DUPLICATE_WINDOW: usize = 16 * 1024;
/// The most events that may wait to go out.
pub const MAX_BRIDGE_QUEUE: usize = 1 << 16;

/// When an event that arrives is acknowledged to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Acknowledge {
    /// Once every subscription has it in its queue. What waits there is lost if the process dies.
    #[default]
    Queued,
    /// Once every subscription has handled it, failed on it for good, or dropped it. If the process dies
    /// before, the engine offers it again: at least once, to the handlers themselves. Slower, since the next
    /// batch of the partition waits.
    Handled,
}

type KeyOf = Arc<dyn Fn(&Event) -> Arc<str> + Send + Sync>;

/// How a bridge carries events; the default makes publishers wait where the transport cannot keep up.
#[derive(Clone)]
#[must_use]
pub struct BridgeOptions {
    pub(super) queue: usize,
    pub(super) overflow: Overflow,
    pub(super) batch: usize,
    pub(super) acknowledge: Acknowledge,
    pub(super) first_pause: Duration,
    pub(super) key: Option<KeyOf>,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            queue: 1024,
            overflow: Overflow::Block,
            batch: 256,
            acknowledge: Acknowledge::Queued,
            first_pause: Duration::from_millis(50),
            key: None,
        }
    }
}

impl BridgeOptions {
    /// The defaults: 1,024 events may wait, publishers wait beyond, 256 go out at once, the source is the
    /// key.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many events may wait to go out, 1 to [`MAX_BRIDGE_QUEUE`].
    pub fn queue(mut self, events: usize) -> Self {
        self.queue = events;
        self
    }

    /// What happens beyond that. With `block` the publisher waits, or, by
    /// [`EventBus::offer`](crate::EventBus::offer), gets an error; with the others the loss is counted.
    pub fn overflow(mut self, policy: Overflow) -> Self {
        self.overflow = policy;
        self
    }

    /// How many events are handed to the transport at once, 1 to [`MAX_BATCH`]; nobody waits for so many.
    pub fn batch(mut self, events: usize) -> Self {
        self.batch = events;
        self
    }

    /// When an event that arrives is acknowledged.
    pub fn acknowledge(mut self, when: Acknowledge) -> Self {
        self.acknowledge = when;
        self
    }

    /// The pause after the first failure of the connection, which doubles up to 10 s; 50 ms, if nothing is
    /// said.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// By what order is kept, instead of the source.
    pub fn key<K: Into<Arc<str>>>(mut self, key: impl Fn(&Event) -> K + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(move |event| key(event).into()));
        self
    }

    pub(super) fn key_of(&self, event: &Event) -> Arc<str> {
        match &self.key {
            Some(key) => key(event),
            None => event.source().into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_BRIDGE_QUEUE).contains(&self.queue) {
            return Err(OptionsError::BridgeQueue(self.queue));
        }
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return Err(OptionsError::Batch(self.batch));
        }
        Ok(())
    }
}

impl fmt::Debug for BridgeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeOptions")
            .field("queue", &self.queue)
            .field("overflow", &self.overflow)
            .field("batch", &self.batch)
            .field("acknowledge", &self.acknowledge)
            .finish_non_exhaustive()
    }
}
