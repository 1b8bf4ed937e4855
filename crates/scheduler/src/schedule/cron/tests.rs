//! Changes of the clock, against a walk that knows nothing of how the search works: over every zone and
//! every change between 1970 and 2037 with `GANTRY_TEST_FULL=1`, and over a sample of the changes of every
//! zone otherwise.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use runtime::Timestamp;

use super::*;

fn stamp(at: i64) -> Timestamp {
    Timestamp::from_second(at).unwrap()
}

/// An expression as the oracle reads it.
struct Expression {
    text: String,
    minutes: Vec<i8>,
    hours: Vec<i8>,
    /// Day and month, or a weekday counted from Sunday; all of them where it is `None`.
    day: Option<(i8, i8)>,
    weekday: Option<i8>,
    /// Whether minute or hour is a wildcard.
    is_wildcard: bool,
}

impl Expression {
    fn new(minute: &str, hour: &str, day: Option<(i8, i8)>, weekday: Option<i8>) -> Self {
        let values = |field: &str, count: i8| -> Vec<i8> {
            match field.strip_prefix("*/") {
                _ if field == "*" => (0..count).collect(),
                Some(step) => (0..count).step_by(step.parse().unwrap()).collect(),
                None => field.split(',').map(|value| value.parse().unwrap()).collect(),
            }
        };
        let (day_field, month_field) = match day {
            Some((day, month)) => (day.to_string(), month.to_string()),
            None => ("*".to_owned(), "*".to_owned()),
        };
        let weekday_field = weekday.map_or_else(|| "*".to_owned(), |weekday| weekday.to_string());
        Self {
            text: format!("{minute} {hour} {day_field} {month_field} {weekday_field}"),
            minutes: values(minute, 60),
            hours: values(hour, 24),
            day,
            weekday,
            is_wildcard: minute.contains('*') || hour.contains('*'),
        }
    }

    fn has(&self, wall: DateTime) -> bool {
        wall.second() == 0
            && self.minutes.contains(&wall.minute())
            && self.hours.contains(&wall.hour())
            && self.day.is_none_or(|day| day == (wall.day(), wall.month()))
            && self.weekday.is_none_or(|weekday| weekday == wall.weekday().to_sunday_zero_offset())
    }

    /// Its runs within a walk, which is instants and what the wall shows at them.
    fn oracle(&self, walk: &[(i64, i64)], step: i64) -> Vec<i64> {
        let mut runs = Vec::new();
        let mut shown: HashSet<i64> = HashSet::new();
        for (at, (instant, wall)) in walk.iter().enumerate() {
            if self.is_wildcard {
                if self.has(Offset::UTC.to_datetime(stamp(*wall))) {
                    runs.push(*instant);
                }
                continue;
            }
            // What the clock has jumped over to show this, and this.
            let before = if at == 0 { *wall - step } else { walk[at - 1].1 };
            let from = if before < *wall { before + step } else { *wall };
            let is_due = (from..=*wall)
                .step_by(step as usize)
                .filter(|wall| shown.insert(*wall))
                .any(|wall| self.has(Offset::UTC.to_datetime(stamp(wall))));
            if is_due {
                runs.push(*instant);
            }
        }
        runs
    }
}

/// Expressions whose times of day lie about what is left out, or comes twice.
fn expressions(low: i64, high: i64) -> Vec<Expression> {
    let minute = |at: i64| Offset::UTC.to_datetime(stamp(at.div_euclid(60) * 60));
    let fixed = |at: DateTime, day, weekday| {
        Expression::new(&at.minute().to_string(), &at.hour().to_string(), day, weekday)
    };
    let (first, middle, end) = (minute(low + 59), minute((low + high) / 2), minute(high));
    let hours = [first.hour(), middle.hour(), end.hour(), (end.hour() + 1) % 24];
    let hours: Vec<String> = hours.iter().map(ToString::to_string).collect();
    let weekday = middle.weekday().to_sunday_zero_offset();
    vec![
        fixed(first, None, None),
        fixed(minute(low - 60), None, None),
        fixed(middle, None, None),
        fixed(middle, Some((middle.day(), middle.month())), None),
        fixed(middle, None, Some(weekday)),
        fixed(minute(high - 60), None, None),
        fixed(end, None, None),
        Expression::new("0,15,45", &hours.join(","), None, None),
        Expression::new("*/20", "*", None, None),
        Expression::new("*/30", &hours[1], None, Some(weekday)),
        Expression::new("*/10", &hours[1], Some((middle.day(), middle.month())), None),
        Expression::new(&middle.minute().to_string(), "*/2", None, None),
    ]
}

/// Every zone of the database under one of its names, without the copies that count leap seconds.
fn zones() -> Vec<(String, TimeZone)> {
    let names = jiff::tz::db().available().map(|name| name.to_string());
    let mut names: Vec<String> =
        names.filter(|name| !name.starts_with("right/") && !name.starts_with("posix/")).collect();
    names.sort();
    names.into_iter().filter_map(|name| TimeZone::get(&name).ok().map(|zone| (name, zone))).collect()
}

/// When the offset changes, and from what to what.
fn changes(zone: &TimeZone, years: RangeInclusive<i16>) -> Vec<(i64, i64, i64)> {
    let begin = |year: i16| Offset::UTC.to_timestamp(jiff::civil::date(year, 1, 1).into()).unwrap();
    let (from, until) = (begin(*years.start()), begin(*years.end() + 1));
    zone.following(from)
        .map(|change| change.timestamp().as_second())
        .take_while(|at| *at < until.as_second())
        .map(|at| {
            let offset = |at| i64::from(zone.to_offset(stamp(at)).seconds());
            (at, offset(at - 1), offset(at))
        })
        .filter(|(_, before, after)| before != after)
        .collect()
}

fn greatest_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a.abs() } else { greatest_divisor(b, a % b) }
}

/// Compares all runs about one change, found forwards and backwards, with those of the walk.
fn check(name: &str, zone: &TimeZone, (at, before, after): (i64, i64, i64)) {
    let margin = (after - before).abs() + 4 * 3600;
    // Until the seventies a few zones had offsets that are no whole minutes.
    let step = greatest_divisor(greatest_divisor(before, after), 60);
    let (from, until) = (at - margin, at + margin);
    let first = from - (from + before).rem_euclid(step);
    let walk: Vec<(i64, i64)> = (first..=until)
        .step_by(step as usize)
        .map(|at| (at, at + i64::from(zone.to_offset(stamp(at)).seconds())))
        .collect();
    // A second change close by may be one to another fraction of a minute.
    if walk.iter().any(|(_, wall)| wall.rem_euclid(step) != 0) {
        return;
    }
    for expression in expressions(at + before.min(after), at + before.max(after)) {
        let plan = CronPlan { text: expression.text.as_str().into(), zone: zone.clone(), zone_given: true };
        // What happened before the walk began is not known to it: its first hour is only a run-up.
        let known = first + 3600;
        let expected: Vec<i64> =
            expression.oracle(&walk, step).into_iter().filter(|run| *run > known).collect();
        let mut found = Vec::new();
        let mut last = known * 1_000_000;
        while let Some(next) = plan.next_after(last).filter(|next| *next <= until * 1_000_000) {
            found.push(next / 1_000_000);
            last = next;
        }
        assert_eq!(found, expected, "`{}` in {name} about {}", expression.text, stamp(at));
        for run in &found {
            assert_eq!(plan.latest_until(*run * 1_000_000), Some(*run * 1_000_000));
        }
        // From afar, over other changes: an expression with a date has no other runs within half a year.
        if let (Some(_), Some(first), Some(last)) = (expression.day, expected.first(), expected.last()) {
            let far = 150 * civil::DAY;
            assert_eq!(plan.next_after((first - far) * 1_000_000), Some(first * 1_000_000));
            assert_eq!(plan.latest_until((last + far) * 1_000_000), Some(last * 1_000_000));
        }
        for probe in [at - 1, at, at + 1, at + 1799, until] {
            let latest = expected.iter().rev().find(|run| **run <= probe).map(|run| run * 1_000_000);
            let found = plan.latest_until(probe * 1_000_000).filter(|run| *run > known * 1_000_000);
            assert_eq!(found, latest, "`{}` in {name} until {}", expression.text, stamp(probe));
        }
    }
}

#[test]
fn every_change_of_the_clock_is_treated_as_documented() {
    let is_full = std::env::var_os("GANTRY_TEST_FULL").is_some();
    let mut seen = HashSet::new();
    let (mut zones_seen, mut changes_seen) = (0, 0);
    for (name, zone) in zones() {
        let all = changes(&zone, 1970..=2037);
        // Many names are links to one zone.
        if all.is_empty() || !seen.insert(all.clone()) {
            continue;
        }
        zones_seen += 1;
        for (number, change) in all.iter().enumerate() {
            // The sample moves on from zone to zone; what is out of the ordinary is always in it.
            let is_odd = !matches!((change.2 - change.1).abs(), 3600);
            if is_full || is_odd || number % 59 == zones_seen % 59 {
                changes_seen += 1;
                check(&name, &zone, *change);
            }
        }
    }
    println!("{changes_seen} changes of the clock in {zones_seen} zones");
    assert!(zones_seen > 100, "the zone database has {zones_seen} zones with changes");
}

fn plan(text: &str, zone: &str) -> CronPlan {
    CronPlan::new(text, Some(zone), Some(1_577_836_800_000_000)).unwrap()
}

fn next_times(text: &str, zone: &str, after: &str, times: usize) -> Vec<String> {
    let plan = plan(text, zone);
    let mut after = after.parse::<Timestamp>().unwrap().as_microsecond();
    let mut found = Vec::new();
    for _ in 0..times {
        after = plan.next_after(after).unwrap();
        found.push(timestamp(after).to_string());
    }
    found
}

#[test]
fn a_change_of_the_clock_is_treated_as_documented() {
    // New York: 02:00 to 03:00 is left out on 8 March 2026, 01:00 to 02:00 comes twice on 1 November.
    let new_york = |text: &str, after: &str, times| next_times(text, "America/New_York", after, times);
    assert_eq!(
        new_york("30 2 * * *", "2026-03-07T08:00:00Z", 2),
        ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        "in the gap: at the first instant after it"
    );
    assert_eq!(
        new_york("0,30 2,3 * * *", "2026-03-08T05:00:00Z", 3),
        ["2026-03-08T07:00:00Z", "2026-03-08T07:30:00Z", "2026-03-09T06:00:00Z"],
        "several in one gap: one run"
    );
    assert_eq!(
        new_york("30 1 * * *", "2026-10-31T12:00:00Z", 2),
        ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        "in the overlap: the first time only"
    );
    assert_eq!(
        new_york("0,30 1 * * *", "2026-11-01T04:30:00Z", 3),
        ["2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z", "2026-11-02T06:00:00Z"],
        "a list is a list of fixed times"
    );
    assert_eq!(
        new_york("*/30 1 * * *", "2026-11-01T04:30:00Z", 4),
        ["2026-11-01T05:00:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T06:30:00Z"],
        "a wildcard follows the wall's clock through both passes"
    );
    assert_eq!(new_york("*/30 2 * * *", "2026-03-08T05:00:00Z", 1), ["2026-03-09T06:00:00Z"]);
    assert_eq!(
        new_york("0 0/2 * * *", "2026-11-01T03:30:00Z", 3),
        new_york("0 */2 * * *", "2026-11-01T03:30:00Z", 3),
        "a step with its beginning said is the same step"
    );
    // Samoa left out 30 December 2011.
    assert_eq!(
        next_times("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00:00Z", 2),
        ["2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
        "a day that is left out: at the first instant after it"
    );
    assert_eq!(
        next_times("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 2),
        ["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"],
    );
}

#[test]
fn a_wildcard_that_always_falls_into_the_gap_never_runs_and_the_search_ends() {
    let plan = plan("* 2 * 3 SUN#2", "America/New_York");
    assert_eq!(plan.next_after(1_774_000_000_000_000), None);
}
