use proptest::prelude::*;

use super::*;
use crate::schedule::admit::admit;
use crate::schedule::days::Calendars;
use crate::spec::ScheduleSpec;

const S: Micros = 1_000_000;

fn every(seconds: u64) -> (Schedule, Bounds) {
    let spec = ScheduleSpec::every(std::time::Duration::from_secs(seconds));
    let admitted = admit(&spec, &Calendars::default(), 0).unwrap();
    (admitted.schedule, Bounds { anchor: 0, start: admitted.start, end: admitted.end })
}

fn policy(text: &str) -> Misfire {
    serde_json::from_str(text).unwrap()
}

#[test]
fn on_time_is_one_run_and_the_next_time() {
    let (schedule, bounds) = every(10);
    for misfire in [r#""skip""#, r#""run_once""#, r#""run_all""#] {
        let plan = plan(&schedule, &bounds, &policy(misfire), u32::MAX, 20 * S, 20 * S + 5);
        let expected = Plan { run: Some(20 * S), more: vec![], missed: None, until: 20 * S, next: 30 * S };
        assert_eq!(plan, expected);
    }
}

#[test]
fn a_one_off_time_that_is_late_is_run_late_unless_the_policy_says_no() {
    let schedule = Schedule::OnceAt(10 * S);
    let bounds = Bounds { anchor: 0, start: Micros::MIN, end: NEVER };
    let late = plan(&schedule, &bounds, &policy(r#""run_once""#), u32::MAX, 10 * S, 5000 * S);
    assert_eq!(late, Plan { run: Some(10 * S), more: vec![], missed: None, until: 10 * S, next: NEVER });
    let skipped = plan(&schedule, &bounds, &policy(r#""skip""#), u32::MAX, 10 * S, 5000 * S);
    let missed = Some(Missed { from: 10 * S, times: 1, at_least: false });
    assert_eq!(skipped, Plan { run: None, more: vec![], missed, until: 10 * S, next: NEVER });
}

#[test]
fn a_year_of_missed_cron_times_is_planned_at_once() {
    let spec = ScheduleSpec::cron("* * * * * *");
    let admitted = admit(&spec, &Calendars::default(), 0).unwrap();
    let bounds = Bounds { anchor: 0, start: admitted.start, end: admitted.end };
    let began = std::time::Instant::now();
    let year = 365 * 24 * 3600 * S;
    let plan = plan(&admitted.schedule, &bounds, &policy(r#""run_once""#), u32::MAX, S, year);
    assert_eq!((plan.run, plan.next), (Some(year), year + S));
    assert!(plan.missed.unwrap().at_least);
    assert!(began.elapsed() < std::time::Duration::from_secs(30));
}

proptest! {
    /// Every due time up to now is run or counted as missed, and none twice; nothing is early.
    #[test]
    fn every_due_time_is_accounted_for(
        interval in 1_u64..100,
        first in 1_i64..50,
        passed in 0_i64..5000,
        kind in 0..3,
        limit in prop::option::of(1_u32..40),
        window in prop::option::of(1_u64..3000),
        left in 1_u32..50,
    ) {
        let (schedule, bounds) = every(interval);
        let every = interval as Micros * S;
        let due = first * every;
        let now = due + passed * S / 7;
        let misfire = Misfire {
            policy: [MisfirePolicy::Skip, MisfirePolicy::RunOnce, MisfirePolicy::RunAll][kind as usize],
            limit,
            window: window.map(|seconds| std::time::Duration::from_secs(seconds).into()),
        };
        let plan = plan(&schedule, &bounds, &misfire, left, due, now);
        let runs: Vec<Micros> = plan.run.into_iter().chain(plan.more.clone()).collect();
        prop_assert!(runs.iter().all(|at| *at >= due && *at <= now), "promise 2: {plan:?}");
        prop_assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "promise 3: {plan:?}");
        prop_assert!(runs.len() <= left as usize);
        prop_assert!(misfire.policy == MisfirePolicy::RunAll || runs.len() <= 1, "never floods");
        prop_assert!(runs.len() <= misfire.limit.unwrap_or(RUN_ALL_LIMIT) as usize);
        let all = ((now - due) / every + 1) as u64;
        prop_assert_eq!(runs.len() as u64 + plan.missed.map_or(0, |missed| missed.times), all);
        prop_assert!(plan.next > now && plan.next <= now + every);
        prop_assert_eq!(plan.until, plan.next - every, "what has been dealt with ends where the rest begins");
    }
}
