//! The dates and times of day that an expression names, without a zone.
//!
//! A place on the wall's calendar is a count of seconds as if the zone were UTC: two of them compare and
//! subtract as numbers. What a day field means (`L W #`, day-of-month *or* weekday) is `croner`'s; the walk
//! over days and times of day is here, so that its work is bounded.

use croner::{Cron, Weekday};
use jiff::civil::{self, Date, DateTime};
use jiff::tz::Offset;
use runtime::Timestamp;

/// Seconds of the wall's calendar, as if the zone were UTC.
pub(super) type Civil = i64;

pub(super) const DAY: i64 = 86_400;

/// How far ahead an expression must have a day. The calendar of weekdays and leap days repeats within 400
/// years, but nobody waits so long.
pub(super) const HORIZON_YEARS: i16 = 100;

/// An expression made ready for the search.
#[derive(Debug)]
pub(super) struct CivilTimes {
    pub(super) cron: Cron,
    seconds: u64,
    minutes: u64,
    hours: u64,
    /// Whether the time of day goes by the clock on the wall through every hour that it shows, twice where
    /// it shows it twice; else it is a list of fixed times of day.
    pub(super) is_wildcard: bool,
}

impl CivilTimes {
    /// `None` if the expression has no time of day at all.
    pub(super) fn new(cron: Cron, is_wildcard: bool) -> Option<Self> {
        let mask = |field: &croner::CronComponent| {
            field.values().into_iter().fold(0_u64, |mask, value| mask | 1 << value)
        };
        let pattern = &cron.pattern;
        let (seconds, minutes, hours) =
            (mask(&pattern.seconds), mask(&pattern.minutes), mask(&pattern.hours));
        if seconds == 0 || minutes == 0 || hours == 0 {
            return None;
        }
        let takes_all = seconds == (1 << 60) - 1 || minutes == (1 << 60) - 1 || hours == (1 << 24) - 1;
        Some(Self { seconds, minutes, hours, is_wildcard: is_wildcard || takes_all, cron })
    }

    /// The first time that is `from` or later.
    pub(super) fn at_or_after(&self, from: Civil) -> Option<Civil> {
        let (day, time) = (from.div_euclid(DAY), from.rem_euclid(DAY) as u32);
        let today = date_of(day)?;
        if self.has_day(today)
            && let Some(time) = self.time_from(time)
        {
            return Some(day * DAY + i64::from(time));
        }
        let next = self.day_from(today.tomorrow().ok()?)?;
        Some(civil_of(next) + i64::from(self.time_from(0)?))
    }

    /// The latest time that is `until` or earlier.
    pub(super) fn at_or_before(&self, until: Civil) -> Option<Civil> {
        let (day, time) = (until.div_euclid(DAY), until.rem_euclid(DAY) as u32);
        let today = date_of(day)?;
        if self.has_day(today)
            && let Some(time) = self.time_until(time)
        {
            return Some(day * DAY + i64::from(time));
        }
        let previous = self.day_until(today.yesterday().ok()?)?;
        Some(civil_of(previous) + i64::from(self.time_until(DAY as u32 - 1)?))
    }

    /// The first day on or after `from`, within the horizon.
    pub(super) fn day_from(&self, from: Date) -> Option<Date> {
        let last_year = from.year().saturating_add(HORIZON_YEARS);
        let mut date = from;
        while date.year() <= last_year {
            if !self.has_year(date.year()) {
                date = Date::new(date.year().checked_add(1)?, 1, 1).ok()?;
            } else if !self.has_month(date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
            } else if self.day_matches(date) {
                return Some(date);
            } else {
                date = date.tomorrow().ok()?;
            }
        }
        None
    }

    /// The latest day on or before `until`, within the horizon.
    fn day_until(&self, until: Date) -> Option<Date> {
        let first_year = until.year().saturating_sub(HORIZON_YEARS);
        let mut date = until;
        while date.year() >= first_year {
            if !self.has_year(date.year()) {
                date = Date::new(date.year().checked_sub(1)?, 12, 31).ok()?;
            } else if !self.has_month(date.month()) {
                date = date.first_of_month().yesterday().ok()?;
            } else if self.day_matches(date) {
                return Some(date);
            } else {
                date = date.yesterday().ok()?;
            }
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        self.has_year(date.year()) && self.has_month(date.month()) && self.day_matches(date)
    }

    fn has_year(&self, year: i16) -> bool {
        self.cron.pattern.year_match(i32::from(year)).unwrap_or(false)
    }

    fn has_month(&self, month: i8) -> bool {
        self.cron.pattern.month_match(u32::from(month.unsigned_abs())).unwrap_or(false)
    }

    fn day_matches(&self, date: Date) -> bool {
        let (month, day) = (u32::from(date.month().unsigned_abs()), u32::from(date.day().unsigned_abs()));
        self.cron
            .pattern
            .day_match(i32::from(date.year()), month, day, weekday(date.weekday()))
            .unwrap_or(false)
    }

    /// The first time of day that is `from` or later, in seconds.
    fn time_from(&self, from: u32) -> Option<u32> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        if bit_from(self.hours, hour) == Some(hour) {
            if bit_from(self.minutes, minute) == Some(minute)
                && let Some(second) = bit_from(self.seconds, second)
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = bit_from(self.minutes, minute + 1) {
                return Some(hour * 3600 + minute * 60 + bit_from(self.seconds, 0)?);
            }
        }
        let hour = bit_from(self.hours, hour + 1)?;
        Some(hour * 3600 + bit_from(self.minutes, 0)? * 60 + bit_from(self.seconds, 0)?)
    }

    /// The latest time of day that is `until` or earlier, in seconds.
    fn time_until(&self, until: u32) -> Option<u32> {
        let (hour, minute, second) = (until / 3600, until / 60 % 60, until % 60);
        if bit_until(self.hours, hour) == Some(hour) {
            if bit_until(self.minutes, minute) == Some(minute)
                && let Some(second) = bit_until(self.seconds, second)
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = minute.checked_sub(1).and_then(|minute| bit_until(self.minutes, minute)) {
                return Some(hour * 3600 + minute * 60 + bit_until(self.seconds, 59)?);
            }
        }
        let hour = hour.checked_sub(1).and_then(|hour| bit_until(self.hours, hour))?;
        Some(hour * 3600 + bit_until(self.minutes, 59)? * 60 + bit_until(self.seconds, 59)?)
    }
}

/// The lowest bit that is set, from `from` on.
fn bit_from(mask: u64, from: u32) -> Option<u32> {
    let rest = mask.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

/// The highest bit that is set, up to `until`.
fn bit_until(mask: u64, until: u32) -> Option<u32> {
    let rest = mask & (u64::MAX >> (63 - until.min(63)));
    (rest != 0).then(|| rest.ilog2())
}

fn civil_of(date: Date) -> Civil {
    Offset::UTC.to_timestamp(DateTime::from(date)).map_or(Civil::MAX, Timestamp::as_second)
}

fn date_of(day: i64) -> Option<Date> {
    let midnight = Timestamp::from_second(day.checked_mul(DAY)?).ok()?;
    Some(Offset::UTC.to_datetime(midnight).date())
}

const fn weekday(day: civil::Weekday) -> Weekday {
    match day {
        civil::Weekday::Sunday => Weekday::Sunday,
        civil::Weekday::Monday => Weekday::Monday,
        civil::Weekday::Tuesday => Weekday::Tuesday,
        civil::Weekday::Wednesday => Weekday::Wednesday,
        civil::Weekday::Thursday => Weekday::Thursday,
        civil::Weekday::Friday => Weekday::Friday,
        civil::Weekday::Saturday => Weekday::Saturday,
    }
}
