use proptest::prelude::*;

use super::*;
use crate::schedule::admit::admit;
use crate::schedule::{Bounds, NEVER, Schedule, floor_micros};
use crate::spec::ScheduleSpec;

const NOW: &str = "2026-12-20T00:00:00Z";

fn micros(text: &str) -> Micros {
    floor_micros(text.parse().unwrap())
}

fn calendars() -> Calendars {
    let holidays = ["2026-12-28", "01-06", "2027-01-08..2027-01-09"].map(str::to_owned).to_vec();
    Calendars::new(&BTreeMap::from([("holidays".to_owned(), holidays)])).unwrap()
}

fn admitted(body: &str) -> (Schedule, Bounds) {
    let spec: ScheduleSpec = serde_json::from_str(body).unwrap();
    let admitted = admit(&spec, &calendars(), micros(NOW)).unwrap();
    let mut given = admitted.schedule.describe().unwrap();
    (given.start_at, given.end_at) = (spec.start_at, spec.end_at);
    assert_eq!(given, spec, "what was given can be shown again");
    (admitted.schedule, Bounds { anchor: micros(NOW), start: admitted.start, end: admitted.end })
}

fn times(body: &str, count: usize) -> Vec<String> {
    let (schedule, bounds) = admitted(body);
    let mut after = micros(NOW);
    let mut times = Vec::new();
    while times.len() < count {
        after = schedule.next_after(&bounds, after).unwrap();
        if !schedule.waits_for_end() {
            assert_eq!(schedule.latest_until(&bounds, after - 1, after), Some(after));
        }
        times.push(timestamp(after).to_string());
    }
    times
}

#[test]
fn times_on_days_that_are_left_out_do_not_exist() {
    assert_eq!(
        times(
            r#"{"type": "cron", "cron": "0 9 * * *", "exclude": ["SAT", "sunday", "12-24..12-26", "2026-12-31", "holidays"]}"#,
            8
        ),
        [
            "2026-12-21T09:00:00Z",
            "2026-12-22T09:00:00Z",
            "2026-12-23T09:00:00Z",
            "2026-12-29T09:00:00Z",
            "2026-12-30T09:00:00Z",
            "2027-01-01T09:00:00Z",
            "2027-01-04T09:00:00Z",
            "2027-01-05T09:00:00Z",
        ]
    );
    // Over the turn of the year; the days are those of the zone.
    assert_eq!(
        times(
            r#"{"type": "cron", "cron": "0 0 * * *", "timezone": "Asia/Shanghai", "exclude": ["12-22..01-03"]}"#,
            2
        ),
        ["2026-12-20T16:00:00Z", "2027-01-03T16:00:00Z"]
    );
    assert_eq!(
        times(
            r#"{"type": "interval", "interval": "12h", "timezone": "Asia/Shanghai", "exclude": ["2026-12-20"]}"#,
            2
        ),
        ["2026-12-21T00:00:00Z", "2026-12-21T12:00:00Z"]
    );
    // A span after an end has no times of its own, and goes on when the day is over.
    assert_eq!(
        times(r#"{"type": "interval", "interval": "13h", "mode": "delay", "exclude": ["MON"]}"#, 3),
        ["2026-12-20T13:00:00Z", "2026-12-22T00:00:00Z", "2026-12-22T13:00:00Z"]
    );
}

#[test]
fn what_is_no_day_is_refused_with_its_place() {
    let refused = |exclude: &[&str]| {
        let spec = ScheduleSpec::cron("@daily").except(exclude.iter().copied());
        admit(&spec, &calendars(), micros(NOW)).map(drop).unwrap_err().to_string()
    };
    for entry in [
        "",
        "weekend",
        "12-32",
        "02-30",
        "13-01",
        "2026-02-29",
        "2026-1-1",
        "2027-01-01..2026-01-01",
        "2026-12-24..01-06",
        "MON..FRI",
        "20261225",
        "2026-12-25T00:00:00Z",
    ] {
        let said = refused(&["SAT", entry]);
        assert!(said.starts_with("schedule.exclude[1]: "), "{said}");
    }
    assert!(
        refused(&["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"])
            .starts_with("schedule.exclude: leaves no time")
    );
    assert!(refused(&["01-01..12-31"]).starts_with("schedule.exclude: leaves no time"));
    assert!(refused(&["SAT"; 65]).starts_with("schedule.exclude: must have 64"));
    let once = ScheduleSpec {
        exclude: vec!["SAT".to_owned()],
        ..ScheduleSpec::once_after(std::time::Duration::from_secs(1))
    };
    let said = admit(&once, &calendars(), micros(NOW)).map(drop).unwrap_err().to_string();
    assert_eq!(said, "schedule.exclude: does not go with type `once`");
    for (name, entry) in [("SAT", "12-25"), ("a b", "12-25"), ("bank", "christmas")] {
        let calendars = BTreeMap::from([(name.to_owned(), vec![entry.to_owned()])]);
        let (field, _) = Calendars::new(&calendars).unwrap_err();
        assert!(field.starts_with(&format!("calendars.{name}")), "{field}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Against the whole schedule, one time after the other.
    #[test]
    fn what_is_left_are_the_times_on_other_days(
        interval_h in 1_u64..60,
        days in prop::collection::btree_set(0_usize..8, 1..5),
        from_h in 0_i64..4000,
    ) {
        const ENTRIES: [&str; 8] = ["MON", "WED", "SAT", "12-24..01-02", "2027-01-15", "2027-01-03..2027-01-12", "holidays", "02-01..02-20"];
        let entries: Vec<String> = days.iter().map(|at| ENTRIES[*at].to_owned()).collect();
        let spec = ScheduleSpec::every(std::time::Duration::from_secs(interval_h * 3600)).except(entries);
        let admitted = admit(&spec, &calendars(), micros(NOW)).unwrap();
        let bounds = Bounds { anchor: micros(NOW), start: Micros::MIN, end: NEVER };
        let (schedule, whole) = (&admitted.schedule, admitted.schedule.whole());
        let excluded = schedule.excluded().unwrap();
        let mut at = micros(NOW) + from_h * 3_600_000_000;
        let mut expected = at;
        for _ in 0..20 {
            expected = loop {
                expected = whole.next_after(&bounds, expected).unwrap();
                if !excluded.covers(expected) {
                    break expected;
                }
            };
            let next = schedule.next_after(&bounds, at).unwrap();
            prop_assert_eq!(timestamp(next), timestamp(expected));
            prop_assert_eq!(schedule.latest_until(&bounds, at, next), Some(next));
            prop_assert_eq!(schedule.latest_until(&bounds, at, next - 1), None);
            at = next;
        }
    }
}
