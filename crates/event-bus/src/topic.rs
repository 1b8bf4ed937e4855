//! Topics: the dotted type names that events carry.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refused::Reason;

/// The longest topic and the longest pattern, in bytes.
pub const MAX_TOPIC_BYTES: usize = 255;

/// Keyed per process, so that nobody can choose names that collide in the topic table.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Why a text is not a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing stands there.
    #[error("topic: is empty")]
    Empty,
    /// More than [`MAX_TOPIC_BYTES`].
    #[error("topic: has {0} bytes, at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(usize),
    /// Two dots in a row, or a dot at an end.
    #[error("topic: `{0}` has an empty segment")]
    EmptySegment(String),
    /// A character that a segment cannot have.
    #[error(
        "topic: `{topic}` has the character `{found}`; segments are made of letters, digits, `_` and `-`"
    )]
    Character {
        /// The text.
        topic: String,
        /// The first character that does not belong there.
        found: char,
    },
}

/// The type of an event: segments of `A-Z a-z 0-9 _ -`, joined by dots, such as `orders.created`.
///
/// At most [`MAX_TOPIC_BYTES`] long. A clone is a reference to the same text. Make one and keep it: it
/// carries its hash, so that publishing does not read the text again.
#[derive(Clone)]
pub struct Topic {
    name: Arc<str>,
    hash: u64,
}

impl Topic {
    /// Checks a text and makes it a topic.
    ///
    /// # Errors
    ///
    /// [`TopicError`] says which rule the text breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self, TopicError> {
        let name = name.as_ref();
        Self::check(name).inspect_err(|_| Reason::Topic.count())?;
        Ok(Self { hash: HASHER.hash_one(name), name: name.into() })
    }

    fn check(name: &str) -> Result<(), TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong(name.len()));
        }
        for segment in name.split('.') {
            if segment.is_empty() {
                return Err(TopicError::EmptySegment(name.to_owned()));
            }
            if let Some(found) = segment.chars().find(|c| !is_segment_char(*c)) {
                return Err(TopicError::Character { topic: name.to_owned(), found });
            }
        }
        Ok(())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The topic of a text that was checked, which it shares.
    pub(crate) fn of_checked(name: Arc<str>) -> Self {
        Self { hash: HASHER.hash_one(&*name), name }
    }

    /// The same text, shared.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.name
    }

    /// The parts between the dots; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.name.split('.')
    }

    /// The hash that the topic carries.
    #[inline]
    pub(crate) fn precomputed_hash(&self) -> u64 {
        self.hash
    }
}

pub(crate) fn is_segment_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

impl PartialEq for Topic {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.name, &other.name) || self.name == other.name)
    }
}

impl Eq for Topic {}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Topic {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

impl PartialEq<str> for Topic {
    fn eq(&self, other: &str) -> bool {
        &*self.name == other
    }
}

impl PartialEq<&str> for Topic {
    fn eq(&self, other: &&str) -> bool {
        &*self.name == *other
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.name)
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Topic {
    type Error = TopicError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_dotted_names() {
        for text in ["a", "orders.created", "scheduler.task.started", "A-1.b_2", "custom.0"] {
            assert_eq!(Topic::new(text).unwrap(), text);
        }
        assert!(Topic::new("a".repeat(MAX_TOPIC_BYTES)).is_ok());
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, says) in [
            ("", "topic: is empty"),
            (".", "topic: `.` has an empty segment"),
            ("a..b", "topic: `a..b` has an empty segment"),
            ("a.", "topic: `a.` has an empty segment"),
            ("a b", "topic: `a b` has the character ` `; segments are made of letters, digits, `_` and `-`"),
            ("a.*", "topic: `a.*` has the character `*`; segments are made of letters, digits, `_` and `-`"),
            ("ä", "topic: `ä` has the character `ä`; segments are made of letters, digits, `_` and `-`"),
        ] {
            assert_eq!(Topic::new(text).unwrap_err().to_string(), says);
        }
        let long = Topic::new("a".repeat(256)).unwrap_err();
        assert_eq!(long.to_string(), "topic: has 256 bytes, at most 255 are allowed");
    }

    #[test]
    fn equal_text_is_the_same_topic() {
        let (a, b) = (Topic::new("x.y").unwrap(), Topic::new("x.y").unwrap());
        assert_eq!(a, b);
        assert_eq!(a.precomputed_hash(), b.precomputed_hash());
        assert_ne!(a, Topic::new("x.z").unwrap());
    }
}
