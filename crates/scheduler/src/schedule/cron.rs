//! Cron expressions.
//!
//! What an expression means is `croner`'s: five, six (seconds first) or seven (year last) fields, `L W #`,
//! names, Sunday as 0 or 7, and day-of-month *or* weekday where both are given. What a change of the clock
//! does to it is our own ([`wall`]), the rules of Vixie's cron:
//!
//! - **fixed times of day**: one that the clock jumps over runs once, at the first instant after the gap, and
//!   one that comes twice runs once, the first time. Several that fall into one gap make one run;
//! - a **wildcard** in the second, the minute or the hour (`*`, `*/15`, `0/15`) follows the clock on the
//!   wall: it has no run within the gap, and runs in both passes of an hour that comes twice.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use croner::Cron;
use croner::parser::CronParser;
use jiff::tz::TimeZone;

use super::{Micros, timestamp};

mod civil;
mod wall;

use civil::{CivilTimes, HORIZON_YEARS};
use wall::Wall;

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

/// Why an expression or a zone is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CronError {
    Expression(String),
    Zone(String),
}

impl CronPlan {
    /// Checks an expression and its zone, and that there is a day from `now` on, if that is given.
    pub(crate) fn new(text: &str, zone: Option<&str>, now: Option<Micros>) -> Result<Self, CronError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CronError::Expression(format!("is longer than {TEXT_LEN_MAX} characters")));
        }
        let text = text.trim();
        let tz = zone_named(zone).map_err(CronError::Zone)?;
        let times = parsed(text).map_err(CronError::Expression)?;
        if let Some(now) = now
            && times.day_from(tz.to_datetime(timestamp(now)).date()).is_none()
        {
            return Err(CronError::Expression(why_no_day(&times.cron)));
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
        let times = parsed(&self.text).ok()?;
        let wall = Wall { times: &times, zone: &self.zone };
        wall.next_after(after.div_euclid(1_000_000))?.checked_mul(1_000_000)
    }

    /// The latest time that is not later than `at`.
    pub(crate) fn latest_until(&self, at: Micros) -> Option<Micros> {
        let times = parsed(&self.text).ok()?;
        let wall = Wall { times: &times, zone: &self.zone };
        wall.latest_until(at.div_euclid(1_000_000))?.checked_mul(1_000_000)
    }
}

/// A zone by its name in the database, UTC where none is given.
pub(super) fn zone_named(zone: Option<&str>) -> Result<TimeZone, String> {
    match zone {
        None => Ok(TimeZone::UTC),
        // Only names from the database: a POSIX rule such as `EST5EDT,M3.2.0` has no name to show.
        Some(name) => TimeZone::get(name).map_err(|_| {
            let name: String = name.chars().take(64).collect();
            format!("`{name}` is not an IANA time zone")
        }),
    }
}

/// An expression as it was read, for its description; `None` if it is not one.
pub(super) fn pattern(text: &str) -> Option<croner::CronPattern> {
    parsed(text.trim()).ok().filter(|_| text.len() <= TEXT_LEN_MAX).map(|times| times.cron.pattern.clone())
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
static PARSED: LazyLock<Mutex<HashMap<Arc<str>, Arc<CivilTimes>>>> = LazyLock::new(Mutex::default);

/// About 6 KiB each, so 6 MiB in all.
const PARSED_MAX: usize = 1024;

/// The parsed form of an expression, or what is wrong with it.
fn parsed(text: &str) -> Result<Arc<CivilTimes>, String> {
    if let Some(times) = PARSED.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
        return Ok(Arc::clone(times));
    }
    let times = Arc::new(parse(text)?);
    let mut cache = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= PARSED_MAX {
        // Which half goes is the hasher's choice: what is used comes back at the cost of parsing it.
        let mut keep = false;
        cache.retain(|_, _| {
            keep = !keep;
            keep
        });
    }
    cache.insert(text.into(), Arc::clone(&times));
    Ok(times)
}

fn parse(text: &str) -> Result<CivilTimes, String> {
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
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if !(5..=7).contains(&fields.len()) {
        let count = fields.len();
        return Err(format!(
            "has {count} fields; there are 5, 6 with seconds first, or 7 with the year last"
        ));
    }
    let cron = read(text).map_err(|()| what_is_wrong(&fields))?;
    if fields.iter().any(|field| !is_complete(field)) {
        return Err(what_is_wrong(&fields));
    }
    let of_the_day = if fields.len() == 5 { 2 } else { 3 };
    let is_wildcard = fields.iter().take(of_the_day).any(|field| is_open(field));
    CivilTimes::new(cron, is_wildcard).ok_or_else(|| "has no time of day".to_owned())
}

/// Reads an expression. A parser is foreign code and its input is anybody's: a panic in it is a refusal.
fn read(text: &str) -> Result<Cron, ()> {
    // `0/15`, as Quartz has it, is `*/15` with its beginning said.
    let parser = || CronParser::builder().sloppy_ranges(true).build().parse(text);
    std::panic::catch_unwind(parser).map_err(drop)?.map_err(drop)
}

/// The parser passes over what is missing in a list and before a step: `1,,2`, `/10`.
fn is_complete(field: &str) -> bool {
    field.split(',').all(|part| !part.is_empty() && !part.starts_with('/'))
}

/// Whether a field of the time of day is a wildcard: `*`, `*/15`, or with its beginning said, `0/15`.
fn is_open(field: &str) -> bool {
    field.contains('*')
        || field.split(',').any(|part| part.split_once('/').is_some_and(|(range, _)| !range.contains('-')))
}

/// Names the first field that is wrong by itself; the parser tells only that something is.
fn what_is_wrong(fields: &[&str]) -> String {
    const NAMES: [&str; 7] = ["second", "minute", "hour", "day of month", "month", "weekday", "year"];
    let names = NAMES.iter().skip(usize::from(fields.len() == 5));
    for (at, (name, field)) in names.zip(fields).enumerate() {
        let mut alone = vec!["*"; fields.len()];
        if let Some(place) = alone.get_mut(at) {
            *place = field;
        }
        if !is_complete(field) || read(&alone.join(" ")).is_err() {
            return format!("`{field}` is not a {name} of an expression");
        }
    }
    "cannot be read".to_owned()
}

#[cfg(test)]
mod tests;
