//! Patterns: which topics a subscription takes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refused::Reason;
use crate::topic::{MAX_TOPIC_BYTES, Topic, is_segment_char};

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing stands there.
    #[error("pattern: is empty")]
    Empty,
    /// More than [`MAX_TOPIC_BYTES`].
    #[error("pattern: has {0} bytes, at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(usize),
    /// Two dots in a row, or a dot at an end.
    #[error("pattern: `{0}` has an empty segment")]
    EmptySegment(String),
    /// A `*` that is not a segment of its own.
    #[error("pattern: in `{pattern}` the wildcard of `{segment}` must be a whole segment, `*` or `**`")]
    MisplacedWildcard {
        /// The text.
        pattern: String,
        /// The segment with the wildcard.
        segment: String,
    },
    /// A character that a segment cannot have.
    #[error(
        "pattern: `{pattern}` has the character `{found}`; segments are `*`, `**`, or letters, digits, `_` and `-`"
    )]
    Character {
        /// The text.
        pattern: String,
        /// The first character that does not belong there.
        found: char,
    },
}

/// A filter on topics: the segments of a topic, where `*` stands for any one segment and `**` for any
/// number of them, none included.
///
/// `orders.*` takes `orders.created` and not `orders` or `orders.created.eu`; `orders.**` takes all three.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    text: Arc<str>,
}

/// One segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// This text.
    Literal(&'a str),
    /// `*`
    One,
    /// `**`
    Any,
}

impl<'a> Part<'a> {
    fn of(segment: &'a str) -> Self {
        match segment {
            "*" => Self::One,
            "**" => Self::Any,
            text => Self::Literal(text),
        }
    }
}

impl Pattern {
    /// Checks a text and makes it a pattern.
    ///
    /// # Errors
    ///
    /// [`PatternError`] says which rule the text breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, PatternError> {
        let text = text.as_ref();
        Self::check(text).inspect_err(|_| Reason::Pattern.count())?;
        Ok(Self { text: text.into() })
    }

    fn check(text: &str) -> Result<(), PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > MAX_TOPIC_BYTES {
            return Err(PatternError::TooLong(text.len()));
        }
        for segment in text.split('.') {
            if segment.is_empty() {
                return Err(PatternError::EmptySegment(text.to_owned()));
            }
            if matches!(Part::of(segment), Part::One | Part::Any) {
                continue;
            }
            if let Some(found) = segment.chars().find(|c| !is_segment_char(*c) && *c != '*') {
                return Err(PatternError::Character { pattern: text.to_owned(), found });
            }
            if segment.contains('*') {
                return Err(PatternError::MisplacedWildcard {
                    pattern: text.to_owned(),
                    segment: segment.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The pattern that takes every topic, `**`.
    #[must_use]
    pub fn all() -> Self {
        Self { text: "**".into() }
    }

    /// The pattern that takes this topic and no other.
    #[must_use]
    pub fn exactly(topic: &Topic) -> Self {
        Self { text: topic.text().clone() }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The same text, shared.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// Whether the pattern has no wildcard and so takes one topic.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether the pattern takes the topic. Time is linear in the segments of both, times the stretch that
    /// `**` has to try.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.matches_str(topic.as_str())
    }

    /// Whether every topic that `other` takes is taken by this one, too. Used for permissions: a grant of
    /// `orders.**` covers a subscription to `orders.*.eu`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let wide: Vec<Part<'_>> = self.parts().collect();
        let narrow: Vec<Part<'_>> = other.parts().collect();
        // covered[j]: the wide parts read so far cover the first j narrow parts.
        let mut covered: Vec<bool> = vec![false; narrow.len() + 1];
        covered[0] = true;
        for part in wide {
            let mut next = vec![false; narrow.len() + 1];
            match part {
                Part::Any => {
                    let mut reached = false;
                    for (j, slot) in next.iter_mut().enumerate() {
                        reached |= covered[j];
                        *slot = reached;
                    }
                }
                Part::One | Part::Literal(_) => {
                    for (j, narrow) in narrow.iter().enumerate() {
                        let fits = match (part, narrow) {
                            (Part::One, Part::One | Part::Literal(_)) => true,
                            (Part::Literal(wide), Part::Literal(narrow)) => wide == *narrow,
                            _ => false,
                        };
                        next[j + 1] = covered[j] && fits;
                    }
                }
            }
            covered = next;
        }
        covered[narrow.len()]
    }

    pub(crate) fn matches_str(&self, topic: &str) -> bool {
        // The glob algorithm: on a mismatch, let the last `**` take one segment more.
        let (mut pattern, mut topic) = (Some(&*self.text), Some(topic));
        let mut retry: Option<(Option<&str>, &str)> = None;
        loop {
            let head = pattern.map(split_first);
            match (head, topic) {
                (Some(("**", rest)), _) => {
                    let Some(left) = topic else {
                        pattern = rest;
                        continue;
                    };
                    retry = Some((rest, left));
                    pattern = rest;
                    continue;
                }
                (Some((part, rest)), Some(left)) => {
                    let (segment, others) = split_first(left);
                    if part == "*" || part == segment {
                        pattern = rest;
                        topic = others;
                        continue;
                    }
                }
                (None, None) => return true,
                (Some(_), None) | (None, Some(_)) => {}
            }
            // `**` takes one more of what it began with.
            let Some((rest, left)) = retry else { return false };
            let (_, others) = split_first(left);
            pattern = rest;
            topic = others;
            match others {
                Some(others) => retry = Some((rest, others)),
                None => retry = None,
            }
        }
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.text.split('.').map(Part::of)
    }
}

fn split_first(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Pattern {
    type Error = PatternError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<&Topic> for Pattern {
    fn from(topic: &Topic) -> Self {
        Self::exactly(topic)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
