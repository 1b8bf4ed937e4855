//! By what a subscription with several handlers at once keeps order.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, LazyLock};

use crate::event::Event;

/// Keyed per process, so that nobody can choose keys that share a line.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Function = Arc<dyn Fn(&Event) -> u64 + Send + Sync>;

/// By what events are told apart that a subscription may handle at once: those of one key are handled one
/// after the other, in the order in which they were published. See
/// [`SubscribeOptions::ordered_by`](crate::SubscribeOptions::ordered_by).
#[derive(Clone)]
#[must_use]
pub struct OrderKey(Kind);

#[derive(Clone)]
enum Kind {
    Source,
    Target,
    Metadata(String),
    Function(Function),
}

impl OrderKey {
    /// The event's source.
    pub fn source() -> Self {
        Self(Kind::Source)
    }

    /// The event's target. All events without one have one key.
    pub fn target() -> Self {
        Self(Kind::Target)
    }

    /// The value of an extension attribute. All events without it have one key.
    pub fn metadata(name: impl Into<String>) -> Self {
        Self(Kind::Metadata(name.into()))
    }

    /// What the function makes of the event: it is asked once for each and must not block. An event for
    /// which it panics is one that the handler panicked on.
    pub fn function<K: Hash>(key: impl Fn(&Event) -> K + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(move |event| HASHER.hash_one(key(event)))))
    }

    /// The key's hash: two keys that share one are kept in order, too, which does no harm.
    pub(crate) fn of(&self, event: &Event) -> u64 {
        match &self.0 {
            Kind::Source => HASHER.hash_one(event.source()),
            Kind::Target => HASHER.hash_one(event.target()),
            Kind::Metadata(name) => HASHER.hash_one(event.metadata().get(name)),
            Kind::Function(function) => function(event),
        }
    }
}

/// For people: `source`, `metadata.tenant`.
impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Source => f.write_str("source"),
            Kind::Target => f.write_str("target"),
            Kind::Metadata(name) => write!(f, "metadata.{name}"),
            Kind::Function(_) => f.write_str("function"),
        }
    }
}

impl fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrderKey({self})")
    }
}
