//! What was refused, counted by reason, for all buses of the process: a topic that is none is refused before
//! there is a bus to count it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why something was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Reason {
    Topic,
    Pattern,
    Options,
    Attribute,
    TooLarge,
    Reply,
    NotDurable,
    NoRoom,
    Closed,
}

/// In the order of [`Reason`]: the values of the metric's label.
const NAMES: [&str; 9] =
    ["topic", "pattern", "options", "attribute", "too_large", "reply", "not_durable", "no_room", "closed"];

static COUNTS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

impl Reason {
    pub(crate) fn count(self) {
        COUNTS[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// How much was refused in this process, by reason: `topic`, `pattern`, `options`, `attribute`, `too_large`,
/// `reply`, `not_durable`, `no_room` and `closed`.
pub fn refused() -> impl Iterator<Item = (&'static str, u64)> {
    NAMES.into_iter().zip(&COUNTS).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
}
