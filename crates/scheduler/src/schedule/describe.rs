//! A schedule in words.
//!
//! The words come from the values that an expression takes and not from its text, so that they say what will
//! happen: two expressions have one description only if they name the same times.

use std::time::Duration;

use croner::CronPattern;
use serde::{Deserialize, Serialize};

use super::cron;
use crate::spec::{IntervalMode, ScheduleKind, ScheduleSpec};

mod chinese;
mod english;

/// A language that schedules are described in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Language {
    /// English.
    #[serde(rename = "en")]
    English,
    /// Simplified Chinese.
    #[serde(rename = "zh")]
    Chinese,
}

/// A schedule in words, in each language that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Description {
    /// In English.
    #[cfg_attr(feature = "openapi", schema(example = "At 02:00, from Monday to Friday"))]
    pub en: String,
    /// In simplified Chinese.
    #[cfg_attr(feature = "openapi", schema(example = "周一至周五 02:00"))]
    pub zh: String,
}

/// Says in words when a cron expression runs; `None` if it is not one.
///
/// ```
/// use scheduler::{Language, describe_cron};
///
/// let said = describe_cron("*/15 9-17 * * MON-FRI", Language::English);
/// assert_eq!(said.as_deref(), Some("Every 15 minutes from 09:00 to 17:59, from Monday to Friday"));
/// ```
#[must_use]
pub fn describe_cron(expression: &str, language: Language) -> Option<String> {
    ScheduleSpec::cron(expression).describe(language)
}

impl ScheduleSpec {
    /// Says in words when the schedule runs; `None` if it cannot be read.
    #[must_use]
    pub fn describe(&self, language: Language) -> Option<String> {
        let words = Words::of(self)?;
        Some(match language {
            Language::English => english::say(&words),
            Language::Chinese => chinese::say(&words),
        })
    }

    /// The same in each language.
    #[must_use]
    pub fn description(&self) -> Option<Description> {
        let words = Words::of(self)?;
        Some(Description { en: english::say(&words), zh: chinese::say(&words) })
    }
}

/// What there is to say.
struct Words<'a> {
    spec: &'a ScheduleSpec,
    what: What,
}

enum What {
    Cron(Box<Fields>),
    Every(Duration),
    AfterEnd(Duration),
    OnceAt,
    OnceAfter(Duration),
}

impl<'a> Words<'a> {
    fn of(spec: &'a ScheduleSpec) -> Option<Self> {
        let what = match spec.kind {
            ScheduleKind::Cron => {
                let text = spec.cron.as_deref()?.trim();
                match text.split_once(char::is_whitespace) {
                    Some((word, every)) if word.eq_ignore_ascii_case("@every") => {
                        What::Every(runtime::parse_duration(every.trim()).ok()?)
                    }
                    _ => What::Cron(Fields::new(&cron::pattern(text)?).into()),
                }
            }
            ScheduleKind::Interval => match (spec.interval?.0, spec.mode) {
                (every, Some(IntervalMode::Delay)) => What::AfterEnd(every),
                (every, _) => What::Every(every),
            },
            ScheduleKind::Once => match (spec.at, spec.delay) {
                (Some(_), _) => What::OnceAt,
                (None, Some(delay)) => What::OnceAfter(delay.0),
                (None, None) => return None,
            },
        };
        Some(Self { spec, what })
    }
}

/// The values of each field of an expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fields {
    seconds: Values,
    minutes: Values,
    hours: Values,
    /// `None` for all days.
    days: Option<Days>,
    /// `None` for all.
    weekdays: Option<Weekdays>,
    /// Whether a day has to be in both.
    both: bool,
    months: Values,
    /// `None` for all.
    years: Option<Vec<u16>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Days {
    numbers: Vec<u16>,
    last: bool,
    last_workday: bool,
    nearest_workday: Vec<u16>,
}

/// From Sunday, which is 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Weekdays {
    every: Vec<u16>,
    /// The first to the fifth of the month.
    nth: [Vec<u16>; 5],
    last: Vec<u16>,
}

/// The values of a field, and what they look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Values {
    All,
    /// From the field's first value to its end, each so many.
    Step(u16),
    List(Vec<u16>),
}

impl Values {
    fn of(values: Vec<u16>, min: u16, max: u16) -> Self {
        if values.len() == usize::from(max - min) + 1 {
            return Self::All;
        }
        match values.as_slice() {
            [first, second, ..] => {
                let step = second - first;
                let whole: Vec<u16> = (min..=max).step_by(usize::from(step)).collect();
                if step > 1 && whole == values { Self::Step(step) } else { Self::List(values) }
            }
            _ => Self::List(values),
        }
    }

    fn list(&self) -> &[u16] {
        if let Self::List(values) = self { values } else { &[] }
    }

    fn is_zero(&self) -> bool {
        self.list() == [0]
    }
}

/// Croner's marks for what a value of a field means, which it has no public names for; the golden texts hold
/// them to what they are.
mod mark {
    pub(super) const PLAIN: u8 = 1;
    pub(super) const NTH: [u8; 5] = [1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5];
    pub(super) const LAST: u8 = 1 << 6;
    pub(super) const NEAREST_WORKDAY: u8 = 1 << 7;
}

impl Fields {
    fn new(pattern: &CronPattern) -> Self {
        let days = &pattern.days;
        let has_last = days.is_feature_enabled(mark::LAST);
        let has_workday = days.is_feature_enabled(mark::NEAREST_WORKDAY);
        let weekdays = |bit| {
            // Sunday is 7 as well as 0.
            let mut found: Vec<u16> =
                pattern.days_of_week.get_set_values(bit).into_iter().map(|day| day % 7).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let years = pattern.years.values();
        Self {
            seconds: Values::of(pattern.seconds.values(), 0, 59),
            minutes: Values::of(pattern.minutes.values(), 0, 59),
            hours: Values::of(pattern.hours.values(), 0, 23),
            days: (!pattern.is_dom_wildcard()).then(|| Days {
                numbers: days.values(),
                last: has_last && !has_workday,
                last_workday: has_last && has_workday,
                nearest_workday: days.get_set_values(mark::NEAREST_WORKDAY),
            }),
            weekdays: (!pattern.is_dow_wildcard()).then(|| Weekdays {
                every: weekdays(mark::PLAIN),
                nth: mark::NTH.map(weekdays),
                last: weekdays(mark::LAST),
            }),
            both: pattern.matches_dom_and_dow(),
            months: Values::of(pattern.months.values(), 1, 12),
            years: (years.len() < 5000).then_some(years),
        }
    }

    /// The times of day, if they are few enough to be named one by one.
    fn times_of_day(&self) -> Option<Vec<(u16, u16, u16)>> {
        const TIMES_MAX: usize = 6;
        let values = |field: &Values| match field {
            Values::List(values) => Some(values.clone()),
            Values::All | Values::Step(_) => None,
        };
        let (hours, minutes, seconds) =
            (values(&self.hours)?, values(&self.minutes)?, values(&self.seconds)?);
        if hours.len() * minutes.len() * seconds.len() > TIMES_MAX {
            return None;
        }
        let mut times = Vec::new();
        for hour in &hours {
            for minute in &minutes {
                times.extend(seconds.iter().map(|second| (*hour, *minute, *second)));
            }
        }
        Some(times)
    }
}

/// A time of day, with its second if it has one.
fn clock((hour, minute, second): (u16, u16, u16)) -> String {
    if second == 0 { format!("{hour:02}:{minute:02}") } else { format!("{hour:02}:{minute:02}:{second:02}") }
}

/// A part of a list of values.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    One(u16),
    /// From, to.
    Range(u16, u16),
    /// From, to, each so many.
    Steps(u16, u16, u16),
}

/// Takes a list of ascending values apart into what is shortest to say.
fn pieces(values: &[u16]) -> Vec<Piece> {
    const STEPS_MIN: usize = 5;
    if let [first, second, .., last] = values {
        let step = second - first;
        let is_even = values.windows(2).all(|pair| matches!(pair, [a, b] if b - a == step));
        if step > 1 && is_even && values.len() >= STEPS_MIN {
            return vec![Piece::Steps(*first, *last, step)];
        }
    }
    let mut pieces = Vec::new();
    let mut rest = values;
    while let [first, ..] = rest {
        let run = rest.iter().zip(*first..).take_while(|(value, expected)| **value == *expected).count();
        let last = first + run as u16 - 1;
        match run {
            1 => pieces.push(Piece::One(*first)),
            2 => pieces.extend([Piece::One(*first), Piece::One(last)]),
            _ => pieces.push(Piece::Range(*first, last)),
        }
        rest = rest.get(run..).unwrap_or_default();
    }
    pieces
}

/// The stretches of hours that follow each other.
fn stretches(hours: &[u16]) -> Vec<(u16, u16)> {
    let mut stretches: Vec<(u16, u16)> = Vec::new();
    for hour in hours {
        match stretches.last_mut() {
            Some((_, last)) if *last + 1 == *hour => *last = *hour,
            _ => stretches.push((*hour, *hour)),
        }
    }
    stretches
}

/// A span as whole days, hours, minutes and seconds, and what is left as milliseconds.
fn parts(span: Duration) -> Vec<(u64, usize)> {
    let seconds = span.as_secs();
    let all = [
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        u64::from(span.subsec_millis()),
    ];
    let mut parts: Vec<(u64, usize)> = all.into_iter().zip(0..).filter(|(count, _)| *count > 0).collect();
    if parts.is_empty() {
        parts.push((0, 3));
    }
    parts
}

#[cfg(test)]
mod tests;
