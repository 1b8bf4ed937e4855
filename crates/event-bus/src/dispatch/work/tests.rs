use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A step of a subscription's life.
#[derive(Debug, Clone)]
enum Step {
    /// A job of that key arrives.
    Add(u64),
    /// A call begins, if there is one.
    Begin,
    /// One of the calls that run ends; each of its jobs fails or not.
    End(usize, Vec<bool>),
    /// Time passes, and what is due comes back.
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_u64).prop_map(Step::Add),
        3 => Just(Step::Begin),
        3 => (any::<usize>(), prop::collection::vec(prop::bool::weighted(0.3), 4))
            .prop_map(|(call, fails)| Step::End(call, fails)),
        1 => (1..20_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails and in whatever order calls end: no key is in two calls, every job is finished once,
    /// those of one key that never failed in their order, and with order kept all of them.
    #[test]
    fn order_is_kept_by_key_and_nothing_is_lost(
        steps in steps(), batch in 1..4_usize, concurrency in 1..4_usize, keep_order in any::<bool>(),
    ) {
        let mut now = Moment::now();
        let mut work = Work::new(keep_order, batch, Duration::ZERO);
        let mut calls: Vec<Vec<(Key, u64)>> = Vec::new();
        let mut added = 0;
        let mut failed = HashSet::new();
        let mut finished: Vec<(u64, u64)> = Vec::new();
        // At the end everything succeeds until nothing is left.
        let rest = std::iter::repeat_n([Step::Wait(1000), Step::Begin, Step::End(0, vec![false; 4])], 500);
        for step in steps.into_iter().chain(rest.flatten()) {
            match step {
                Step::Add(key) => {
                    work.add(Some(key), added, now);
                    added += 1;
                }
                Step::Begin => if calls.len() < concurrency && work.has_call(now, true) {
                    let mut call = Vec::new();
                    work.take(now, &mut call);
                    prop_assert!((1..=batch).contains(&call.len()));
                    let keys: HashSet<_> = call.iter().map(|(key, _)| *key).collect();
                    let busy: HashSet<_> = calls.iter().flatten().map(|(key, _)| *key).collect();
                    prop_assert!(keys.is_disjoint(&busy), "a key is in two calls");
                    calls.push(call);
                },
                Step::End(which, fails) => if !calls.is_empty() {
                    let call = calls.swap_remove(which % calls.len());
                    // One in three failures is for good.
                    for ((key, job), fails) in call.into_iter().zip(fails) {
                        if fails && job % 3 != 0 {
                            failed.insert(job);
                            work.set_aside(key, job, now + Duration::from_secs(5), now);
                        } else {
                            finished.push((key.unwrap(), job));
                            work.finished(key, now);
                        }
                    }
                },
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    while work.wake(now) {}
                }
            }
        }
        prop_assert!(work.is_empty() && work.lines.is_empty());
        let all: HashSet<_> = finished.iter().map(|(_, job)| *job).collect();
        prop_assert_eq!(all.len(), finished.len());
        prop_assert_eq!(all, (0..added).collect::<HashSet<_>>());
        for key in 0..3 {
            // Within one call what succeeds overtakes what fails, so a batch keeps the order of the others.
            let in_order = |job: &u64| (keep_order && batch == 1) || !failed.contains(job);
            let of_key = finished.iter().filter(|(k, _)| *k == key).map(|(_, job)| *job);
            let jobs: Vec<_> = of_key.filter(in_order).collect();
            prop_assert!(jobs.is_sorted(), "{jobs:?}");
        }
    }
}

#[test]
fn a_batch_waits_to_become_full_and_no_longer_than_it_may() {
    let now = Moment::now();
    let mut work = Work::new(false, 3, Duration::from_secs(1));
    work.add(None, 1, now);
    let later = now + Duration::from_millis(500);
    work.add(None, 2, later);
    assert!(!work.has_call(later, false));
    assert!(work.has_call(later, true), "at the end nothing is waited for");
    assert_eq!(work.next_time(), Some(now + Duration::from_secs(1)), "the first counts");
    assert!(work.has_call(now + Duration::from_secs(1), false));
    work.add(None, 3, later);
    assert!(work.has_call(later, false));
    let mut call = Vec::new();
    work.take(later, &mut call);
    assert_eq!(call, [(None, 1), (None, 2), (None, 3)]);
    assert_eq!(work.next_time(), None);
}

#[test]
fn what_keeps_order_holds_its_key_and_no_other() {
    let now = Moment::now();
    let later = now + Duration::from_secs(1);
    for keep_order in [true, false] {
        let mut work = Work::new(keep_order, 1, Duration::ZERO);
        let take = |work: &mut Work<u64>| {
            let mut call = Vec::new();
            work.take(now, &mut call);
            call.pop().map(|(_, job)| job)
        };
        for (key, job) in [(1, 10), (1, 11), (2, 20)] {
            work.add(Some(key), job, now);
        }
        assert_eq!(take(&mut work), Some(10));
        work.set_aside(Some(1), 10, later, now);
        assert_eq!(take(&mut work), Some(20), "another key");
        assert_eq!(take(&mut work), (!keep_order).then_some(11));
        assert!(work.wake(later));
        // Without order it waits for the one that overtook it.
        assert_eq!(take(&mut work), keep_order.then_some(10));
        work.finished(Some(1), later);
        assert_eq!(take(&mut work), Some(if keep_order { 11 } else { 10 }));
    }
}
