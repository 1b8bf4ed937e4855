//! Durations as people write them: `500ms`, `30s`, `1m30s`, `2h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, Spacing, SpanParser, SpanPrinter};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

static PARSER: SpanParser = SpanParser::new();
static PRINTER: SpanPrinter =
    SpanPrinter::new().spacing(Spacing::None).designator(Designator::Compact).hours_minutes_seconds(false);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration such as `500ms`, `30s` or `1m30s`")]
pub struct ParseDurationError {
    text: String,
}

/// Reads a duration: a sequence of numbers with a unit each (`ns us ms s m h`, and `d` of 24 hours).
///
/// # Errors
///
/// If the text is not of that form, is negative, or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let refused = || ParseDurationError { text: text.chars().take(64).collect() };
    // Days are 24 hours here: a timeout knows no calendar.
    let trimmed = text.trim();
    let (days, rest) = match trimmed.split_once('d') {
        Some((days, rest)) if !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit()) => {
            (days.parse::<u32>().map_err(|_| refused())?, rest)
        }
        _ => (0, trimmed),
    };
    let days = Duration::from_secs(u64::from(days) * 24 * 3600);
    if rest.is_empty() && trimmed.ends_with('d') {
        return Ok(days);
    }
    let span: SignedDuration = PARSER.parse_duration(rest.as_bytes()).map_err(|_| refused())?;
    let span = Duration::try_from(span).map_err(|_| refused())?;
    span.checked_add(days).ok_or_else(refused)
}

/// Writes a duration in the form that [`parse_duration`] reads: `1m30s`, `500ms`, `0s`.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    PRINTER.duration_to_string(&span)
}

/// A [`Duration`] whose text form is [`format_duration`]'s, in `Display`, `FromStr` and serde.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_duration(self.0))
    }
}

impl FromStr for DurationText {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_duration(text).map(Self)
    }
}

impl From<Duration> for DurationText {
    fn from(span: Duration) -> Self {
        Self(span)
    }
}

impl From<DurationText> for Duration {
    fn from(text: DurationText) -> Self {
        text.0
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with = "runtime::duration_text")]` on a [`Duration`].
pub mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::DurationText;

    /// Writes the duration as text.
    ///
    /// # Errors
    ///
    /// Only those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        DurationText(*span).serialize(serializer)
    }

    /// Reads the duration from text.
    ///
    /// # Errors
    ///
    /// If the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        DurationText::deserialize(deserializer).map(|text| text.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1d12h", 129_600_000),
            ("0s", 0),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "s", "30", "-5s", "1x", "d", "99999999999999999999s", "1d-5s", "forever", "1mo"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration(&"9".repeat(10_000)).unwrap_err().to_string().len() < 200);
    }

    #[test]
    fn writes_the_short_form() {
        for text in ["500ms", "30s", "1m30s", "2h", "0s", "36h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(ns in 0_u64..1 << 60) {
            let span = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(span)).unwrap(), span);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
