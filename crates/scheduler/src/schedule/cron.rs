//! Cron expressions.
//!
//! What an expression means is `croner`'s: five, six (seconds first) or seven (year last) fields, `L W #`,
//! names, Sunday as 0 or 7, and day-of-month *or* weekday where both are given. At a change of the clock:
//!
//! - a fixed time of day (one second, one minute, one hour) that the clock jumps over runs at the first
//!   instant after the gap, and one that comes twice runs the first time;
//! - an expression with a list, a range or a step in its time of day follows the clock on the wall: it has
//!   no run within the gap, and runs in both passes of an hour that comes twice.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use croner::Cron;
use jiff::civil::{self, Date};
use jiff::tz::TimeZone;
use runtime::Timestamp;

use super::{Micros, timestamp};

/// An expression in its zone. The parsed form takes some kilobytes, so that it stands in a bounded cache
/// and not here.
#[derive(Debug)]
pub(crate) struct CronPlan {
    text: Arc<str>,
    zone: TimeZone,
    zone_given: bool,
}

/// How many characters an expression may have.
pub(crate) const TEXT_LEN_MAX: usize = 256;

/// How far ahead an expression must have a day. The calendar of weekdays and leap days repeats within 400
/// years, but nobody waits so long.
const HORIZON_YEARS: i16 = 100;

/// Why an expression or a zone is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CronError {
    Expression(String),
    Zone(String),
}

impl CronPlan {
    /// Checks an expression and its zone; `now` is where the search for a first day begins.
    pub(crate) fn new(text: &str, zone: Option<&str>, now: Micros) -> Result<Self, CronError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CronError::Expression(format!("is longer than {TEXT_LEN_MAX} characters")));
        }
        let text = text.trim();
        let tz = match zone {
            None => TimeZone::UTC,
            // Only names from the database: a POSIX rule such as `EST5EDT,M3.2.0` has no name to show.
            Some(name) => TimeZone::get(name).map_err(|_| {
                let name: String = name.chars().take(64).collect();
                CronError::Zone(format!("`{name}` is not an IANA time zone"))
            })?,
        };
        let cron = parsed(text).map_err(CronError::Expression)?;
        let today = timestamp(now).to_zoned(tz.clone()).date();
        if !has_day_from(&cron, today) {
            return Err(CronError::Expression(why_no_day(&cron)));
        }
        Ok(Self { text: text.into(), zone: tz, zone_given: zone.is_some() })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn zone_name(&self) -> Option<&str> {
        if self.zone_given { self.zone.iana_name() } else { None }
    }

    /// The first time later than `after`.
    pub(crate) fn next_after(&self, after: Micros) -> Option<Micros> {
        let cron = parsed(&self.text).ok()?;
        // Croner searches whole seconds that are later than the one it is given.
        let from = Timestamp::from_second(after.div_euclid(1_000_000)).ok()?.to_zoned(self.zone.clone());
        if !cron.pattern.years.from_wildcard && !has_day_from(&cron, from.date()) {
            return None;
        }
        let next = cron.find_next_occurrence(&from, false).ok()?;
        let next = next.timestamp().as_second().checked_mul(1_000_000)?;
        (next > after).then_some(next)
    }

    /// The latest time that is not later than `at`.
    pub(crate) fn latest_until(&self, at: Micros) -> Option<Micros> {
        let cron = parsed(&self.text).ok()?;
        // Backwards croner has not the forward search's rules at a change of the clock; so it only finds a
        // time to begin with, a good way back, and the forward search decides.
        let until = Timestamp::from_second(at.div_euclid(1_000_000)).ok()?.to_zoned(self.zone.clone());
        let back = cron.find_previous_occurrence(&until, true).ok()?;
        let back = back.timestamp().as_second().checked_mul(1_000_000)?;
        let mut latest = None;
        let mut from = back.saturating_sub(1);
        for _ in 0..8 {
            match self.next_after(from) {
                Some(next) if next <= at => {
                    latest = Some(next);
                    from = next;
                }
                _ => break,
            }
        }
        latest
    }
}

/// Whether the expression has a day on or after `from`, within the horizon.
fn has_day_from(cron: &Cron, from: Date) -> bool {
    let pattern = &cron.pattern;
    let first_year = from.year();
    for year in first_year..=first_year.saturating_add(HORIZON_YEARS).min(4999) {
        if !pattern.year_match(i32::from(year)).unwrap_or(false) {
            continue;
        }
        for month in 1..=12_i8 {
            let is_past = year == first_year && month < from.month();
            if is_past || !pattern.month_match(u32::from(month.unsigned_abs())).unwrap_or(false) {
                continue;
            }
            let first_day = if year == first_year && month == from.month() { from.day() } else { 1 };
            let Ok(mut date) = Date::new(year, month, first_day) else { continue };
            while date.month() == month {
                if day_matches(cron, date) {
                    return true;
                }
                let Ok(tomorrow) = date.tomorrow() else { break };
                date = tomorrow;
            }
        }
    }
    false
}

fn day_matches(cron: &Cron, date: Date) -> bool {
    let (month, day) = (u32::from(date.month().unsigned_abs()), u32::from(date.day().unsigned_abs()));
    cron.pattern.day_match(i32::from(date.year()), month, day, weekday(date.weekday())).unwrap_or(false)
}

const fn weekday(day: civil::Weekday) -> croner::Weekday {
    match day {
        civil::Weekday::Sunday => croner::Weekday::Sunday,
        civil::Weekday::Monday => croner::Weekday::Monday,
        civil::Weekday::Tuesday => croner::Weekday::Tuesday,
        civil::Weekday::Wednesday => croner::Weekday::Wednesday,
        civil::Weekday::Thursday => croner::Weekday::Thursday,
        civil::Weekday::Friday => croner::Weekday::Friday,
        civil::Weekday::Saturday => croner::Weekday::Saturday,
    }
}

const MONTHS: [(&str, u32); 12] = [
    ("january", 31),
    ("february", 29),
    ("march", 31),
    ("april", 30),
    ("may", 31),
    ("june", 30),
    ("july", 31),
    ("august", 31),
    ("september", 30),
    ("october", 31),
    ("november", 30),
    ("december", 31),
];

/// Says why an expression has no day, as exactly as can be told.
fn why_no_day(cron: &Cron) -> String {
    let pattern = &cron.pattern;
    let months: Vec<_> = (1..=12)
        .filter(|month| pattern.month_match(*month).unwrap_or(false))
        .filter_map(|month| MONTHS.get(month as usize - 1))
        .collect();
    let first_day = pattern.days.values().into_iter().min();
    if let Some(day) = first_day
        && pattern.is_dow_wildcard()
        && months.iter().all(|(_, days)| u32::from(day) > *days)
    {
        let names: Vec<_> = months.iter().map(|(name, _)| *name).collect();
        return format!("day {day} does not exist in {}", names.join(" or "));
    }
    format!("has no time within the next {HORIZON_YEARS} years")
}

/// The parsed expressions that were used of late.
static PARSED: LazyLock<Mutex<HashMap<Arc<str>, Arc<Cron>>>> = LazyLock::new(Mutex::default);

/// About 6 KiB each, so 6 MiB in all.
const PARSED_MAX: usize = 1024;

/// The parsed form of an expression, or what is wrong with it.
fn parsed(text: &str) -> Result<Arc<Cron>, String> {
    if let Some(cron) = PARSED.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
        return Ok(Arc::clone(cron));
    }
    let cron = Arc::new(parse(text)?);
    let mut cache = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= PARSED_MAX {
        // Which half goes is the hasher's choice: what is used comes back at the cost of parsing it.
        let mut keep = false;
        cache.retain(|_, _| {
            keep = !keep;
            keep
        });
    }
    cache.insert(text.into(), Arc::clone(&cron));
    Ok(cron)
}

fn parse(text: &str) -> Result<Cron, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if !text.is_ascii() || text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err("has a character that no expression has".to_owned());
    }
    let text = if let Some(word) = text.strip_prefix('@') {
        match word.to_ascii_lowercase().as_str() {
            "hourly" => "0 * * * *",
            "daily" | "midnight" => "0 0 * * *",
            "weekly" => "0 0 * * 0",
            "monthly" => "0 0 1 * *",
            "yearly" | "annually" => "0 0 1 1 *",
            _ => {
                return Err(
                    "is not one of `@hourly @daily @midnight @weekly @monthly @yearly @annually @every`"
                        .to_owned(),
                );
            }
        }
    } else {
        text
    };
    let fields = text.split_ascii_whitespace().count();
    if !(5..=7).contains(&fields) {
        return Err(format!(
            "has {fields} fields; there are 5, 6 with seconds first, or 7 with the year last"
        ));
    }
    // A parser is foreign code and its input is anybody's: a panic in it is a refusal.
    match std::panic::catch_unwind(|| Cron::from_str(text)) {
        Ok(Ok(cron)) => Ok(cron),
        Ok(Err(_)) => Err(what_is_wrong(text)),
        Err(_) => Err("cannot be read".to_owned()),
    }
}

/// Names the first field that is wrong by itself; the parser tells only that something is.
fn what_is_wrong(text: &str) -> String {
    const NAMES: [&str; 7] = ["second", "minute", "hour", "day of month", "month", "weekday", "year"];
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let names = NAMES.iter().skip(usize::from(fields.len() == 5));
    for (at, (name, field)) in names.zip(&fields).enumerate() {
        let mut alone = vec!["*"; fields.len()];
        if let Some(place) = alone.get_mut(at) {
            *place = field;
        }
        let alone = alone.join(" ");
        if !matches!(std::panic::catch_unwind(|| Cron::from_str(&alone)), Ok(Ok(_))) {
            return format!("`{field}` is not a {name} of an expression");
        }
    }
    "cannot be read".to_owned()
}
