//! What an event is known by.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use runtime::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// The longest id that a foreign event may bring, in bytes.
const MAX_ID_BYTES: usize = 255;

/// Why a text is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id: must be 1 to {MAX_ID_BYTES} bytes without control characters")]
pub struct EventIdError;

/// The id of an event: a UUIDv7 for an event that was built here, any short text for one that was built
/// elsewhere, since CloudEvents asks only that source and id together are unique.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Uuid(Uuid),
    Text(Arc<str>),
}

impl EventId {
    /// A new id for an event of that time.
    ///
    /// The layout is that of UUIDv7 (RFC 9562, 5.7) with the optional fraction of a millisecond in `rand_a`
    /// (6.2, method 3), so that ids of one process sort by time to a quarter of a microsecond. The other
    /// 62 bits are random, from a generator that each thread seeds from the system once: an id is unique,
    /// not secret.
    #[must_use]
    pub fn generate(now: Timestamp) -> Self {
        let nanos = u128::try_from(now.as_nanosecond()).unwrap_or(0);
        let millis = nanos / 1_000_000;
        let fraction = (nanos % 1_000_000) * 4096 / 1_000_000;
        let high = (millis << 80) | (0x7 << 76) | (fraction << 64);
        let low = (0b10 << 62) | (u128::from(random()) & ((1 << 62) - 1));
        Self(Repr::Uuid(Uuid::from_u128(high | low)))
    }

    /// The UUID, unless the id was made elsewhere and is something else.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match &self.0 {
            Repr::Uuid(uuid) => Some(*uuid),
            Repr::Text(_) => None,
        }
    }
}

/// A random number of 0 to 1, for jitter.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
pub(crate) fn random_share() -> f64 {
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A number that is not zero, as an id of a span is.
pub(crate) fn random_id() -> u64 {
    random().max(1)
}

/// The next number of this thread's SplitMix64 (Steele, Lea, Flood 2014).
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    STATE.with(|state| {
        let mut z = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(z);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn seed() -> u64 {
    // Both halves, because six bits of a v7 UUID's low half are fixed.
    let (high, low) = Uuid::now_v7().as_u64_pair();
    let (more, _) = Uuid::now_v7().as_u64_pair();
    low.rotate_left(32) ^ high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ more.rotate_left(17)
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(uuid) => uuid.as_hyphenated().fmt(f),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_ID_BYTES || text.chars().any(char::is_control) {
            return Err(EventIdError);
        }
        // Only the form that would be written back is kept as a UUID; `{…}` or upper case stay text.
        match Uuid::try_parse(text) {
            Ok(uuid) if *uuid.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *text => {
                Ok(Self(Repr::Uuid(uuid)))
            }
            _ => Ok(Self(Repr::Text(text.into()))),
        }
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use runtime::{Clock, SystemClock};

    use super::*;

    #[test]
    fn generated_ids_are_version_7_and_sort_by_time() {
        let now = SystemClock.now();
        let id = EventId::generate(now).as_uuid().unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        let (secs, nanos) = id.get_timestamp().unwrap().to_unix();
        assert_eq!(i64::try_from(secs).unwrap(), now.as_second());
        assert_eq!(nanos / 1_000_000, u32::try_from(now.subsec_millisecond()).unwrap());
        let later = EventId::generate(now + runtime_micro());
        assert!(later > EventId(Repr::Uuid(id)));
    }

    fn runtime_micro() -> std::time::Duration {
        std::time::Duration::from_micros(1)
    }

    #[test]
    fn ids_of_one_instant_differ_across_threads() {
        let now = SystemClock.now();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || (0..10_000).map(|_| EventId::generate(now)).collect::<Vec<_>>())
            })
            .collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 40_000);
    }

    #[test]
    fn foreign_ids_survive_as_they_are() {
        for text in
            ["A234-1234-1234", "0190a6b8-9c4e-7a7e-8e5d-2f5a3c1b0d9e", "0190A6B8-9C4E-7A7E-8E5D-2F5A3C1B0D9E"]
        {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
        assert!("".parse::<EventId>().is_err());
        assert!("a\nb".parse::<EventId>().is_err());
        assert!("x".repeat(256).parse::<EventId>().is_err());
    }
}
