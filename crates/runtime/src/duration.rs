//! Durations as people write them: `500ms`, `30s`, `1m30s`, `2h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, FractionalUnit, Spacing, SpanParser, SpanPrinter};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

static PARSER: SpanParser = SpanParser::new();
static SECONDS: SpanPrinter = printer(FractionalUnit::Second);
static MILLIS: SpanPrinter = printer(FractionalUnit::Millisecond);
static MICROS: SpanPrinter = printer(FractionalUnit::Microsecond);

/// Writes no unit below `least`: `2.5ms` is easier to read than `2ms500µs`.
const fn printer(least: FractionalUnit) -> SpanPrinter {
    SpanPrinter::new()
        .spacing(Spacing::None)
        .designator(Designator::Compact)
        .hours_minutes_seconds(false)
        .fractional(Some(least))
}

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

/// Writes a duration in the form that [`parse_duration`] reads, exactly: `1m30s`, `500ms`, `2.5ms`, `0s`.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let printer = match span.as_nanos() {
        1..1_000_000 => &MICROS,
        1_000_000..1_000_000_000 => &MILLIS,
        _ => &SECONDS,
    };
    printer.duration_to_string(&SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX))
}

/// A [`Duration`] whose text form is [`format_duration`]'s, in `Display`, `FromStr` and serde.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DurationText(pub Duration);

impl DurationText {
    /// A duration that was measured, to three digits: what comes after them is noise to whoever reads it.
    #[must_use]
    pub fn measured(span: Duration) -> Self {
        let nanos = span.as_nanos();
        let digits = nanos.checked_ilog10().map_or(0, |log| log + 1);
        // Whole seconds are never rounded away: from a minute on they are what is left.
        let step = 10_u128.pow(digits.saturating_sub(3).min(9));
        let rounded = (nanos + step / 2) / step * step;
        Self(u64::try_from(rounded).map_or(span, Duration::from_nanos))
    }
}

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
        deserializer.deserialize_str(DurationVisitor)
    }
}

/// Says what is expected in the words of whoever writes a duration.
struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = DurationText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as `500ms`, `30s` or `1m30s`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DurationText, E> {
        text.parse().map_err(E::custom)
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

    #[test]
    fn writes_at_most_one_unit_below_a_second() {
        for (ns, text) in [
            (1, "0.001µs"),
            (1_500, "1.5µs"),
            (2_500_000, "2.5ms"),
            (61_287_647, "61.287647ms"),
            (1_500_000_000, "1.5s"),
            (90_250_000_000, "1m30.25s"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(ns)), text);
        }
    }

    #[test]
    fn what_was_measured_has_three_digits() {
        for (ns, text) in [
            (0, "0s"),
            (7, "0.007µs"),
            (838_932, "839µs"),
            (999_999, "1ms"),
            (2_857_885, "2.86ms"),
            (61_287_647, "61.3ms"),
            (139_581_212, "140ms"),
            (1_371_499_999, "1.37s"),
            (83_456_789_012, "1m23.5s"),
            (4_000_600_000_000, "1h6m41s"),
        ] {
            assert_eq!(DurationText::measured(Duration::from_nanos(ns)).to_string(), text);
        }
        assert_eq!(DurationText::measured(Duration::MAX).0, Duration::MAX);
    }

    #[test]
    fn what_is_no_duration_is_told_what_one_looks_like() {
        let error = serde_json::from_str::<DurationText>("30").unwrap_err().to_string();
        assert!(error.contains("expected a duration such as `500ms`, `30s`"), "{error}");
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
