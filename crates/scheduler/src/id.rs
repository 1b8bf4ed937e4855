//! Names of tasks and runs.

use std::fmt;
use std::str::FromStr;

use runtime::TraceId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How long the id of a task may be, in bytes.
pub(crate) const ID_LEN_MAX: usize = 128;

/// Whether a text may be the id of a task: 1 to 128 of `A-Za-z0-9._:-`.
pub(crate) fn is_task_id(text: &str) -> bool {
    (1..=ID_LEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// Why a text is not the id of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a run id is a UUID")]
pub struct ParseRunIdError;

/// The name of one execution of a task: a UUID of version 7, so that ids sort by their start.
///
/// Written without its dashes it is the trace id of the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u128);

impl RunId {
    /// Composes an id from the time at which its scheduler began, the scheduler's random part, and a
    /// number that counts its runs. No random number is drawn per run.
    pub(crate) const fn compose(begun_ms: u64, salt: u32, seq: u64) -> Self {
        // 48 bits of time, version, 12 + 2 bits of salt and variant, then the counter in the low 42 bits
        // with the rest of the salt above it.
        let salt = salt as u128;
        let seq = (seq & SEQ_MASK) as u128;
        Self(
            ((begun_ms as u128 & 0xffff_ffff_ffff) << 80)
                | (0x7 << 76)
                | ((salt & 0xfff) << 64)
                | (0b10 << 62)
                | (((salt >> 12) & 0xf_ffff) << 42)
                | seq,
        )
    }

    /// The counter in the id.
    pub(crate) const fn seq(self) -> u64 {
        (self.0 as u64) & SEQ_MASK
    }

    /// The same as an id; `None` for a run id that is zero, which none is that a scheduler made.
    pub(crate) fn trace(self) -> Option<TraceId> {
        TraceId::from_bytes(self.0.to_be_bytes())
    }

    /// The W3C trace id of a run that nothing traced has caused: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.0)
    }

    /// The id as a number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The id that [`RunId::as_u128`] gave.
    #[must_use]
    pub const fn from_u128(id: u128) -> Self {
        Self(id)
    }
}

/// What the ids of this scheduler's runs begin with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunIds {
    pub(crate) begun_ms: u64,
    pub(crate) salt: u32,
}

impl RunIds {
    pub(crate) fn id(self, record: u64) -> RunId {
        RunId::compose(self.begun_ms, self.salt, record)
    }

    /// The number of the record, if the id is one of this scheduler's.
    pub(crate) fn record(self, id: RunId) -> Option<u64> {
        (self.id(id.seq()) == id).then(|| id.seq())
    }
}

/// 42 bits: four million million runs of one scheduler.
const SEQ_MASK: u64 = (1 << 42) - 1;

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (id >> 96) as u32,
            (id >> 80) as u16,
            (id >> 64) as u16,
            (id >> 48) as u16,
            id & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let dashed = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|at| bytes[*at] == b'-');
        if !dashed {
            return Err(ParseRunIdError);
        }
        let mut id: u128 = 0;
        let mut digits = 0;
        for byte in bytes.iter().filter(|b| **b != b'-') {
            let digit = (*byte as char).to_digit(16).ok_or(ParseRunIdError)?;
            id = (id << 4) | u128::from(digit);
            digits += 1;
        }
        if digits == 32 { Ok(Self(id)) } else { Err(ParseRunIdError) }
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_reads_back_and_counts() {
        let id = RunId::compose(1_700_000_000_000, 0xdead_beef, 77);
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.seq(), 77);
        assert_eq!(id.to_string().as_bytes()[14], b'7');
        assert!(matches!(id.to_string().as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert!(RunId::compose(1_700_000_000_000, 0xdead_beef, 78) > id);
        assert_eq!(id.trace_id(), id.to_string().replace('-', ""));
    }

    #[test]
    fn what_is_no_run_id_is_refused() {
        for text in ["", "x", "0190b5c5-0000-7000-8000-00000000000", "0190b5c5-0000-7000-8000-00000000000g"] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
        }
    }

    #[test]
    fn task_ids_are_checked() {
        for good in ["a", "A.b_c:d-9", &"x".repeat(128)] {
            assert!(is_task_id(good));
        }
        for bad in ["", "a b", "ü", "a/b", &"x".repeat(129)] {
            assert!(!is_task_id(bad));
        }
    }
}
