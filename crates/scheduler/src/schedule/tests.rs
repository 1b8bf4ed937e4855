use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use proptest::prelude::*;
use proptest::sample::select;

use super::admit::admit;
use super::cron::CronError;
use super::days::Calendars;
use super::*;
use crate::spec::ScheduleSpec;

fn micros(text: &str) -> Micros {
    floor_micros(text.parse().unwrap())
}

fn plan(text: &str, zone: &str) -> CronPlan {
    CronPlan::new(text, Some(zone), Some(micros("2020-01-01T00:00:00Z"))).unwrap()
}

fn next_times(text: &str, zone: &str, after: &str, times: usize) -> Vec<String> {
    let plan = plan(text, zone);
    let mut after = micros(after);
    let mut found = Vec::new();
    for _ in 0..times {
        after = plan.next_after(after).unwrap();
        found.push(timestamp(after).to_string());
    }
    found
}

/// One field of an expression as the oracle reads it: a set of numbers.
#[derive(Debug, Clone)]
struct Field {
    text: String,
    values: Vec<i8>,
}

impl Field {
    fn is_star(&self) -> bool {
        self.text == "*"
    }

    /// Whether it takes every value that it could, or every so many.
    fn is_wildcard(&self, count: usize) -> bool {
        self.text.contains('*') || self.values.len() == count
    }
}

fn field(min: i8, max: i8) -> impl Strategy<Value = Field> {
    let every = Just(Field { text: "*".into(), values: (min..=max).collect() });
    let one = (min..=max).prop_map(|value| Field { text: value.to_string(), values: vec![value] });
    let step = (2_i8..=30).prop_map(move |step| Field {
        text: format!("*/{step}"),
        values: (min..=max).step_by(step as usize).collect(),
    });
    let range = (min..=max, min..=max).prop_map(|(a, b)| {
        let (a, b) = (a.min(b), a.max(b));
        Field { text: format!("{a}-{b}"), values: (a..=b).collect() }
    });
    let list = prop::collection::btree_set(min..=max, 2..4).prop_map(|values| Field {
        text: values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        values: values.into_iter().collect(),
    });
    prop_oneof![3 => every, 3 => one, 1 => step.prop_filter("fits", move |f| !f.values.is_empty()), 1 => range, 1 => list]
}

#[derive(Debug, Clone)]
struct Expression {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Expression {
    fn text(&self) -> String {
        let Self { minute, hour, day, month, weekday } = self;
        format!("{} {} {} {} {}", minute.text, hour.text, day.text, month.text, weekday.text)
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.day.values.contains(&date.day());
        let weekday = self.weekday.values.contains(&date.weekday().to_sunday_zero_offset());
        self.month.values.contains(&date.month())
            && match (self.day.is_star(), self.weekday.is_star()) {
                (true, true) => true,
                (true, false) => weekday,
                (false, true) => day,
                // Both given: one of them is enough.
                (false, false) => day || weekday,
            }
    }

    fn has_minute(&self, at: DateTime) -> bool {
        self.minute.values.contains(&at.minute())
            && self.hour.values.contains(&at.hour())
            && self.has_day(at.date())
    }

    /// The first time after `after`, by walking minute by minute along the wall's clock and along time.
    fn oracle(&self, zone: &TimeZone, after: Micros) -> Option<Micros> {
        let is_fixed = !self.minute.is_wildcard(60) && !self.hour.is_wildcard(24);
        let minute = 60_000_000;
        let first = after.div_euclid(minute) + 1;
        for number in first..first + 60 * 24 * 40 {
            let at = timestamp(number * minute);
            let local = zone.to_datetime(at);
            if is_fixed {
                // The minutes that the clock jumped over to get here, and this one's first pass only.
                let before = zone.to_datetime(timestamp((number - 1) * minute));
                let mut wall = before;
                while wall < local {
                    wall = wall.saturating_add(jiff::Span::new().minutes(1));
                    if self.has_minute(wall) {
                        let is_second_pass = match zone.to_ambiguous_timestamp(wall).offset() {
                            AmbiguousOffset::Fold { before, .. } => zone.to_offset(at) != before,
                            _ => false,
                        };
                        if !is_second_pass {
                            return Some(number * minute);
                        }
                    }
                }
            } else if self.has_minute(local) {
                return Some(number * minute);
            }
        }
        None
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
        .prop_map(|(minute, hour, day, month, weekday)| Expression { minute, hour, day, month, weekday })
}

/// Zones with changes of an hour, of half an hour, at midnight, across the date line, and with none.
const ZONES: [&str; 9] = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Asia/Shanghai",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/St_Johns",
];

/// Instants near changes of the clock, where mistakes are.
const CHANGES: [&str; 10] = [
    "2024-03-10T06:59:00Z",
    "2024-11-03T05:30:00Z",
    "2024-03-31T00:59:00Z",
    "2024-10-27T00:30:00Z",
    "2024-04-06T14:40:00Z",
    "2024-10-05T15:10:00Z",
    "2018-11-04T02:50:00Z",
    "2018-02-18T01:30:00Z",
    "2011-12-30T09:30:00Z",
    "2024-02-29T12:00:00Z",
];

proptest! {
    // A case walks up to forty days; `PROPTEST_CASES` asks for more of them.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn next_times_are_those_of_a_walk_minute_by_minute(
        expression in expression(),
        zone in select(&ZONES[..]),
        from in select(&CHANGES[..]),
        offset in -3000_i64..3000,
    ) {
        let tz = TimeZone::get(zone).unwrap();
        let mut after = micros(from) + offset * 60_000_000;
        let Ok(plan) = CronPlan::new(&expression.text(), Some(zone), Some(after)) else {
            // Refused is what has no day; the walk must find none either.
            prop_assert_eq!(expression.oracle(&tz, after), None);
            return Ok(());
        };
        for _ in 0..4 {
            let Some(expected) = expression.oracle(&tz, after) else { break };
            let got = plan.next_after(after);
            prop_assert_eq!(
                got.map(timestamp), Some(timestamp(expected)),
                "{} in {} after {}", expression.text(), zone, timestamp(after)
            );
            // Backwards it is the same set of times.
            prop_assert_eq!(plan.latest_until(expected).map(timestamp), Some(timestamp(expected)));
            prop_assert!(plan.latest_until(expected - 1).is_none_or(|latest| latest <= after));
            after = expected;
        }
    }

}

proptest! {
    #[test]
    fn no_text_panics_or_hangs(text in "[-*/,0-9LW#?+@ A-Za-z\\t]{0,40}|.{0,60}") {
        let began = std::time::Instant::now();
        let spec = ScheduleSpec::cron(text.clone());
        if let Ok(admitted) = admit(&spec, &Calendars::default(), micros("2026-03-01T12:00:00Z")) {
            let bounds = Bounds { anchor: 0, start: Micros::MIN, end: NEVER };
            let mut after = micros("2026-03-01T12:00:00Z");
            for _ in 0..3 {
                match admitted.schedule.next_after(&bounds, after) {
                    Some(next) => {
                        prop_assert!(next > after);
                        after = next;
                    }
                    None => break,
                }
            }
        }
        prop_assert!(began.elapsed() < std::time::Duration::from_secs(30), "{text:?}");
    }

    /// What looks like an expression, with everything that one may have.
    #[test]
    fn no_expression_panics_or_hangs(
        fields in prop::collection::vec("\\*|\\*/[0-9]{1,3}|[0-9]{1,4}(-[0-9]{1,4})?(/[0-9]{1,2})?|L|LW|[0-9]{1,2}W|[0-7]#[0-9]|[A-Z]{3}(-[A-Z]{3})?|[0-7]L", 4..8),
        zone in prop::option::of(select(&ZONES[..])),
    ) {
        let began = std::time::Instant::now();
        let text = fields.join(" ");
        let spec = ScheduleSpec { timezone: zone.map(str::to_owned), ..ScheduleSpec::cron(text.clone()) };
        let now = micros("2026-03-01T12:00:00Z");
        if let Ok(admitted) = admit(&spec, &Calendars::default(), now) {
            let bounds = Bounds { anchor: 0, start: Micros::MIN, end: NEVER };
            let next = admitted.schedule.next_after(&bounds, now);
            prop_assert!(next.is_some_and(|next| next > now));
            let _ = admitted.schedule.latest_until(&bounds, now, now + 1_000_000_000_000);
        }
        prop_assert!(began.elapsed() < std::time::Duration::from_secs(30), "{text:?}");
    }
}

#[test]
fn the_documented_forms_are_read() {
    let after = "2026-03-01T12:00:00Z";
    for (text, first) in [
        ("30 12 * * *", "2026-03-01T12:30:00Z"),
        ("15 30 12 * * *", "2026-03-01T12:30:15Z"),
        ("0 0 0 1 1 * 2030", "2030-01-01T00:00:00Z"),
        ("0 0 L * *", "2026-03-31T00:00:00Z"),
        ("0 0 15W * *", "2026-03-16T00:00:00Z"),
        ("0 0 LW * *", "2026-03-31T00:00:00Z"),
        ("0 0 * * FRI#2", "2026-03-13T00:00:00Z"),
        ("0 0 * * 5L", "2026-03-27T00:00:00Z"),
        ("0 0 * * 0", "2026-03-08T00:00:00Z"),
        ("0 0 * * 7", "2026-03-08T00:00:00Z"),
        ("0 0 * JUN MON-FRI", "2026-06-01T00:00:00Z"),
        ("0 0 13 * FRI", "2026-03-06T00:00:00Z"),
        ("@hourly", "2026-03-01T13:00:00Z"),
        ("@daily", "2026-03-02T00:00:00Z"),
        ("@midnight", "2026-03-02T00:00:00Z"),
        ("@weekly", "2026-03-08T00:00:00Z"),
        ("@monthly", "2026-04-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0/5 14 * * ?", "2026-03-01T14:00:00Z"),
        ("5/20 * * * *", "2026-03-01T12:05:00Z"),
        ("0 0 ? JAN,mar Fri-7", "2026-03-06T00:00:00Z"),
        ("@HOURLY", "2026-03-01T13:00:00Z"),
        (" 30\t12  * * * ", "2026-03-01T12:30:00Z"),
    ] {
        assert_eq!(next_times(text, "UTC", after, 1), [first], "{text}");
    }
}

#[test]
fn what_never_comes_is_refused_at_once() {
    let began = std::time::Instant::now();
    let refusal =
        |text: &str| CronPlan::new(text, None, Some(micros("2026-03-01T12:00:00Z"))).map(drop).unwrap_err();
    let said = |text: &str| match refusal(text) {
        CronError::Expression(detail) => detail,
        CronError::Zone(detail) => panic!("{detail}"),
    };
    assert_eq!(said("0 0 31 2 *"), "day 31 does not exist in february");
    assert_eq!(said("0 0 31 4,6 *"), "day 31 does not exist in april or june");
    assert!(said("0 0 0 1 1 * 2020").contains("has no time"));
    assert!(said("0 0 1 1").contains("4 fields"));
    assert!(said("").contains("empty"));
    assert!(said("@often").contains("@hourly"));
    assert_eq!(said("61 * * * *"), "`61` is not a minute of an expression");
    assert_eq!(said("0 0 * * MOON"), "`MOON` is not a weekday of an expression");
    assert_eq!(said("1,,2 * * * *"), "`1,,2` is not a minute of an expression");
    assert_eq!(said("/10 * * * *"), "`/10` is not a minute of an expression");
    assert_eq!(said("*/0 * * * *"), "`*/0` is not a minute of an expression");
    assert_eq!(said("0 0 30 2 *"), "day 30 does not exist in february");
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
    let zone = CronPlan::new("@daily", Some("Mars/Olympus"), None).map(drop).unwrap_err();
    assert_eq!(zone, CronError::Zone("`Mars/Olympus` is not an IANA time zone".into()));
}

#[test]
fn an_expression_with_a_year_ends_with_it() {
    let plan = plan("0 0 12 * * * 2026", "UTC");
    assert!(plan.next_after(micros("2026-12-30T12:00:00Z")).is_some());
    let began = std::time::Instant::now();
    assert_eq!(plan.next_after(micros("2026-12-31T12:00:00Z")), None);
    assert!(began.elapsed() < std::time::Duration::from_millis(500));
}

#[test]
fn grids_and_their_counts_agree() {
    let spec: ScheduleSpec = serde_json::from_str(
        r#"{"type": "interval", "interval": "7s", "delay": "3s", "start_at": "1970-01-01T00:00:01Z", "end_at": "2100-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let admitted = admit(&spec, &Calendars::default(), 0).unwrap();
    let bounds = Bounds { anchor: 0, start: admitted.start, end: admitted.end };
    let schedule = &admitted.schedule;
    let second = 1_000_000;
    assert_eq!(schedule.next_after(&bounds, 0), Some(4 * second));
    assert_eq!(schedule.next_after(&bounds, 4 * second), Some(11 * second));
    assert_eq!(schedule.latest_until(&bounds, 0, 30 * second), Some(25 * second));
    assert_eq!(schedule.latest_until(&bounds, 25 * second, 30 * second), None);
    assert_eq!(schedule.count_between(&bounds, 0, 25 * second), Some(4));
    assert_eq!(schedule.count_between(&bounds, 4 * second, 10 * second), Some(0));
}

#[test]
fn rounding_never_makes_a_run_early() {
    let at: runtime::Timestamp = "2026-03-01T12:00:00.000000001Z".parse().unwrap();
    assert_eq!(ceil_micros(at), floor_micros(at) + 1);
    assert!(timestamp(ceil_micros(at)) >= at);
    assert!(timestamp(floor_micros(at)) <= at);
}
