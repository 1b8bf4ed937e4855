//! Days on which a schedule has no times.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use super::{Micros, timestamp};
use crate::id::is_task_id;

/// How many entries a calendar may have.
const CALENDAR_LEN_MAX: usize = 4096;
/// How many entries a schedule may have.
const EXCLUDE_LEN_MAX: usize = 64;
/// How many days in a row are looked through for one that is not left out: ten years.
const DAYS_MAX: usize = 3660;

/// Days that are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Weekday(Weekday),
    /// From one date to another, both included.
    Dates(Date, Date),
    /// The same each year, from a month and day to another; over the turn of the year where the first is the
    /// later one.
    Yearly((i8, i8), (i8, i8)),
}

impl Rule {
    fn has(&self, date: Date) -> bool {
        let day = (date.month(), date.day());
        match *self {
            Self::Weekday(weekday) => date.weekday() == weekday,
            Self::Dates(from, until) => from <= date && date <= until,
            Self::Yearly(from, until) if from <= until => from <= day && day <= until,
            Self::Yearly(from, until) => from <= day || day <= until,
        }
    }

    /// Reads an entry that is no name of a calendar.
    fn read(text: &str) -> Option<Self> {
        if let Some(weekday) = weekday(text) {
            return Some(Self::Weekday(weekday));
        }
        let (from, until) = text.split_once("..").map_or((text, text), |(from, until)| (from, until));
        let (from, until) = (from.trim(), until.trim());
        match (date(from), date(until)) {
            (Some(from), Some(until)) => return (from <= until).then_some(Self::Dates(from, until)),
            (None, None) => {}
            _ => return None,
        }
        Some(Self::Yearly(month_and_day(from)?, month_and_day(until)?))
    }
}

fn weekday(text: &str) -> Option<Weekday> {
    const NAMES: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let text = text.to_ascii_lowercase();
    let found = NAMES.into_iter().find(|(name, _)| *name == text || name.get(..3) == Some(text.as_str()));
    found.map(|(_, weekday)| weekday)
}

/// `2026-12-25`, and nothing else that a date could be written as.
fn date(text: &str) -> Option<Date> {
    let is_plain = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_plain { text.parse().ok() } else { None }
}

/// `12-25`; 29 February is one.
fn month_and_day(text: &str) -> Option<(i8, i8)> {
    let is_plain = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let (month, day) = text.split_once('-').filter(|_| is_plain)?;
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    Date::new(2024, month, day).ok().map(|_| (month, day))
}

/// The named calendars of a scheduler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calendars(BTreeMap<String, Arc<[Rule]>>);

impl Calendars {
    /// Reads them; what is wrong is told with its place.
    pub(crate) fn new(calendars: &BTreeMap<String, Vec<String>>) -> Result<Self, (String, String)> {
        let mut read = BTreeMap::new();
        for (name, entries) in calendars {
            if !is_task_id(name) || Rule::read(name).is_some() {
                let detail = "a name is 1 to 128 of `A-Za-z0-9._:-`, and no day".to_owned();
                return Err((format!("calendars.{name}"), detail));
            }
            if entries.len() > CALENDAR_LEN_MAX {
                let detail = format!("must have {CALENDAR_LEN_MAX} entries or less");
                return Err((format!("calendars.{name}"), detail));
            }
            let mut rules = Vec::with_capacity(entries.len());
            for (at, entry) in entries.iter().enumerate() {
                let rule = Rule::read(entry.trim());
                rules.push(rule.ok_or_else(|| (format!("calendars.{name}[{at}]"), no_day(entry)))?);
            }
            read.insert(name.clone(), rules.into());
        }
        Ok(Self(read))
    }
}

fn no_day(entry: &str) -> String {
    let entry: String = entry.chars().take(64).collect();
    format!(
        "`{entry}` is not a weekday, a date (`2026-12-25`), a day of each year (`12-25`), or two of these with `..` between"
    )
}

/// What an entry stands for.
#[derive(Debug, Clone)]
enum Days {
    Own(Rule),
    Calendar(Arc<[Rule]>),
}

impl Days {
    fn has(&self, date: Date) -> bool {
        match self {
            Self::Own(rule) => rule.has(date),
            Self::Calendar(rules) => rules.iter().any(|rule| rule.has(date)),
        }
    }
}

/// The days that a schedule leaves out, in its zone.
#[derive(Debug, Clone)]
pub(crate) struct Excluded {
    entries: Vec<String>,
    /// What they say, in their order.
    days: Vec<Days>,
    zone: TimeZone,
    /// Whether the zone was given for the days alone.
    zone_given: bool,
}

impl Excluded {
    /// Reads the entries; what is wrong is told with its place.
    pub(crate) fn new(
        entries: &[String],
        calendars: &Calendars,
        zone: TimeZone,
        zone_given: bool,
    ) -> Result<Self, (String, String)> {
        if entries.len() > EXCLUDE_LEN_MAX {
            return Err(("exclude".to_owned(), format!("must have {EXCLUDE_LEN_MAX} entries or less")));
        }
        let mut read =
            Self { entries: entries.to_vec(), days: Vec::with_capacity(entries.len()), zone, zone_given };
        for (at, entry) in entries.iter().enumerate() {
            let entry = entry.trim();
            if let Some(rule) = Rule::read(entry) {
                read.days.push(Days::Own(rule));
            } else if let Some(calendar) = calendars.0.get(entry) {
                read.days.push(Days::Calendar(Arc::clone(calendar)));
            } else {
                return Err((
                    format!("exclude[{at}]"),
                    format!("{}, nor the name of a calendar", no_day(entry)),
                ));
            }
        }
        Ok(read)
    }

    pub(crate) fn entries(&self) -> &[String] {
        &self.entries
    }

    pub(crate) fn zone_name(&self) -> Option<&str> {
        if self.zone_given { self.zone.iana_name() } else { None }
    }

    fn has(&self, date: Date) -> bool {
        self.days.iter().any(|days| days.has(date))
    }

    /// By which entry the time lies on a day that is left out, in words.
    pub(crate) fn named(&self, at: Micros) -> Option<String> {
        let date = self.date_of(at);
        let (days, entry) = self.days.iter().zip(&self.entries).find(|(days, _)| days.has(date))?;
        Some(match days {
            Days::Own(_) => format!("by `{}`", entry.trim()),
            Days::Calendar(_) => format!("by the calendar `{}`", entry.trim()),
        })
    }

    /// Whether the time lies on a day that is left out.
    pub(crate) fn covers(&self, at: Micros) -> bool {
        self.has(self.date_of(at))
    }

    /// Where the days that are left out about `at` end: the first instant of the day after them.
    pub(crate) fn end_after(&self, at: Micros) -> Option<Micros> {
        let mut date = self.date_of(at);
        for _ in 0..DAYS_MAX {
            date = date.tomorrow().ok()?;
            if !self.has(date) {
                return self.begin_of(date);
            }
        }
        None
    }

    /// Where the days that are left out about `at` begin: their first instant.
    pub(crate) fn begin_before(&self, at: Micros) -> Option<Micros> {
        let mut date = self.date_of(at);
        for _ in 0..DAYS_MAX {
            let yesterday = date.yesterday().ok()?;
            if !self.has(yesterday) {
                return self.begin_of(date);
            }
            date = yesterday;
        }
        None
    }

    fn date_of(&self, at: Micros) -> Date {
        self.zone.to_datetime(timestamp(at)).date()
    }

    fn begin_of(&self, date: Date) -> Option<Micros> {
        let begin = self.zone.to_zoned(date.into()).ok()?;
        Some(begin.timestamp().as_microsecond())
    }
}

#[cfg(test)]
mod tests;
