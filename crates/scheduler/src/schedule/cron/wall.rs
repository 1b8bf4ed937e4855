//! From the clock on the wall to instants, and back.
//!
//! A zone is a row of stretches of time, each with one offset. Both rules for changes of the clock are
//! stated over that row:
//!
//! - a **fixed** time of day runs at the first instant at which the wall shows it *or a later one*. That is
//!   the end of the gap for a time that is left out, and the first pass for one that comes twice;
//! - a **wildcard** runs at every instant at which the wall shows a time that it names.
//!
//! Changes of any length are treated alike: an hour, half an hour, or the whole day that Samoa left out.

use jiff::tz::TimeZone;
use runtime::Timestamp;

use super::civil::{CivilTimes, HORIZON_YEARS};

/// Offsets reach from −26 to 26 hours: at instants further apart than this the wall's order is time's.
const SPREAD: i64 = 3 * super::civil::DAY;

/// How long a search goes on.
const HORIZON: i64 = HORIZON_YEARS as i64 * 366 * super::civil::DAY;

/// An expression in a zone. All times are whole seconds since 1970.
pub(super) struct Wall<'a> {
    pub(super) times: &'a CivilTimes,
    pub(super) zone: &'a TimeZone,
}

impl Wall<'_> {
    /// The first instant later than `after`.
    pub(super) fn next_after(&self, after: i64) -> Option<i64> {
        if self.times.is_wildcard {
            self.shown_from(after.checked_add(1)?)
        } else {
            let civil = self.times.at_or_after(self.reached(after)? + 1)?;
            self.first_reaching(civil, after)
        }
    }

    /// The latest instant that is not later than `at`.
    pub(super) fn latest_until(&self, at: i64) -> Option<i64> {
        if self.times.is_wildcard {
            self.shown_until(at)
        } else {
            let civil = self.times.at_or_before(self.reached(at)?)?;
            self.first_reaching(civil, civil.checked_sub(SPREAD)?)
        }
    }

    /// The latest time that the wall has shown by `at`.
    fn reached(&self, at: i64) -> Option<i64> {
        let mut latest = at + self.offset(at)?;
        // The clock may have been set back a little while ago.
        for change in self.zone.preceding(stamp(at + 1)?) {
            let change = change.timestamp().as_second();
            if change < at - SPREAD {
                break;
            }
            latest = latest.max(change - 1 + self.offset(change - 1)?);
        }
        Some(latest)
    }

    /// The first instant from `from` on at which the wall shows `civil` or a later time.
    fn first_reaching(&self, civil: i64, from: i64) -> Option<i64> {
        let mut at = from.max(civil.checked_sub(SPREAD)?);
        loop {
            let found = at.max(civil - self.offset(at)?);
            match self.change_after(at)? {
                Some(change) if change <= found => at = change,
                _ => return Some(found),
            }
        }
    }

    /// The first instant from `from` on at which the wall shows a time of the expression.
    fn shown_from(&self, from: i64) -> Option<i64> {
        let mut at = from;
        while at <= from.saturating_add(HORIZON) {
            let offset = self.offset(at)?;
            let civil = self.times.at_or_after(at + offset);
            let change = self.change_after(at)?;
            let found = civil.map(|civil| civil - offset);
            match (found, change) {
                (Some(found), Some(change)) if change <= found => {
                    // Nothing until the change; and if that is far off, nothing until shortly before what
                    // was found either, whatever offsets come in between.
                    at = if change - at > SPREAD { change.max(found - SPREAD) } else { change };
                }
                (Some(found), _) => return Some(found),
                // A clock that is set back soon may show an earlier time again.
                (None, Some(change)) if change - at <= SPREAD => at = change,
                (None, _) => return None,
            }
        }
        None
    }

    /// The latest instant up to `until` at which the wall shows a time of the expression.
    fn shown_until(&self, until: i64) -> Option<i64> {
        let mut at = until;
        while at >= until.saturating_sub(HORIZON) {
            let offset = self.offset(at)?;
            let civil = self.times.at_or_before(at + offset);
            let change = self.change_until(at)?;
            let found = civil.map(|civil| civil - offset);
            match (found, change) {
                (Some(found), Some(change)) if found < change => {
                    at = if at - change > SPREAD { (change - 1).min(found + SPREAD) } else { change - 1 };
                }
                (Some(found), _) => return Some(found),
                (None, Some(change)) if at - change <= SPREAD => at = change - 1,
                (None, _) => return None,
            }
        }
        None
    }

    fn offset(&self, at: i64) -> Option<i64> {
        Some(i64::from(self.zone.to_offset(stamp(at)?).seconds()))
    }

    /// When the offset changes next, later than `at`.
    fn change_after(&self, at: i64) -> Option<Option<i64>> {
        let change = self.zone.following(stamp(at)?).next();
        Some(change.map(|change| change.timestamp().as_second()))
    }

    /// When the offset that is in force at `at` came into force.
    fn change_until(&self, at: i64) -> Option<Option<i64>> {
        let change = self.zone.preceding(stamp(at.checked_add(1)?)?).next();
        Some(change.map(|change| change.timestamp().as_second()))
    }
}

fn stamp(at: i64) -> Option<Timestamp> {
    Timestamp::from_second(at).ok()
}
