use proptest::prelude::*;

use super::*;

const NOW: Micros = 1_700_000_000_000_000;

fn entry(at: Micros, index: u32) -> Entry {
    Entry { at, rank: 100, kind: Kind::Task, index }
}

/// Walks the wheel as the loop does, and says at which times what came out.
fn drain(timer: &mut Timer, mut now: Micros) -> Vec<(Micros, Entry)> {
    let mut out = Vec::new();
    loop {
        timer.turn(now);
        while let Some(due) = timer.pop_due(now) {
            out.push((now, due));
        }
        let next = timer.next_at();
        if next == NEVER {
            return out;
        }
        assert!(next > now || timer.len() > 0, "the wheel makes progress");
        now = next.max(now + 1);
    }
}

#[test]
fn a_million_at_one_instant_come_out_by_rank() {
    let mut timer = Timer::new(NOW);
    let at = NOW + 10_000_000;
    for index in 0..100_000 {
        timer.insert(Entry { at, rank: (index % 3) as u8, kind: Kind::Task, index });
    }
    timer.turn(at - 1);
    assert_eq!(timer.pop_due(at - 1), None, "promise 2: nothing comes out early");
    let ranks: Vec<u8> = std::iter::from_fn(|| timer.pop_due(at)).map(|entry| entry.rank).collect();
    assert_eq!(ranks.len(), 100_000);
    assert!(ranks.is_sorted());
}

#[test]
fn stale_entries_can_be_dropped() {
    let mut timer = Timer::new(NOW);
    for index in 0..1000_u32 {
        timer.insert(entry(NOW + i64::from(index) * 7_777_777, index));
    }
    timer.retain(|entry| entry.index % 2 == 0);
    assert_eq!(timer.len(), 500);
    let out = drain(&mut timer, NOW);
    assert_eq!(out.len(), 500);
    assert_eq!(timer.len(), 0);
}

proptest! {
    /// Against a plain sort: every entry comes out once, in order, at the first look at or past its time.
    #[test]
    fn comes_out_in_order_and_never_early(
        spans in prop::collection::vec((0_u32..43, any::<u64>(), -2_i64..3), 1..200),
        steps in prop::collection::vec(0_i64..200_000, 0..50),
    ) {
        let mut timer = Timer::new(NOW);
        let mut now = NOW;
        let mut out = Vec::new();
        let mut steps = steps.into_iter();
        let mut expected = Vec::new();
        for (index, (bits, value, offset)) in (0_u32..).zip(spans) {
            // Spans of all magnitudes, near the borders of buckets too.
            let span = ((value & ((1 << bits) - 1)) as i64 | 1 << bits) + offset;
            let new = entry(now + span, index);
            timer.insert(new);
            expected.push(new);
            if let Some(step) = steps.next() {
                now += step;
                timer.turn(now);
                while let Some(due) = timer.pop_due(now) {
                    prop_assert!(due.at <= now);
                    out.push((now, due));
                }
            }
        }
        for (at, due) in drain(&mut timer, now) {
            prop_assert!(due.at <= at, "promise 2");
            prop_assert!(at <= due.at.max(now + 1), "{} late", at - due.at);
            out.push((at, due));
        }
        let mut got: Vec<Entry> = out.iter().map(|(_, entry)| *entry).collect();
        prop_assert_eq!(timer.len(), 0);
        got.sort();
        expected.sort();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing(
        times in prop::collection::vec(-10_000_000_i64..10_000_000, 1..100),
        jumps in prop::collection::vec(-5_000_000_i64..5_000_000, 1..100),
    ) {
        let mut timer = Timer::new(NOW);
        let mut now = NOW;
        let mut count = 0;
        for ((index, span), jump) in (0_u32..).zip(&times).zip(jumps.iter().cycle()) {
            timer.insert(entry(NOW + span, index));
            now += jump;
            timer.turn(now);
            while let Some(due) = timer.pop_due(now) {
                prop_assert!(due.at <= now);
                count += 1;
            }
        }
        prop_assert_eq!(count + drain(&mut timer, now).len(), times.len());
    }
}

/// Gives out as much as other structures do. With a million entries, the figures of
/// docs/decisions/0003-scheduler-timer.md:
/// `GANTRY_TEST_FULL=1 cargo test --release -p scheduler --lib -- --nocapture timer_beside`.
#[test]
fn timer_beside_other_structures() {
    let count = if std::env::var_os("GANTRY_TEST_FULL").is_some() { 1_000_000 } else { 10_000 };
    let measure = |name: &str, at: &dyn Fn(u32) -> Micros| {
        let entries: Vec<Entry> = (0..count).map(|index| entry(at(index), index)).collect();
        let last = entries.iter().map(|entry| entry.at).max().unwrap();
        let each = |began: std::time::Instant| began.elapsed().as_nanos() / u128::from(count);

        let began = std::time::Instant::now();
        let mut wheel = Timer::new(NOW);
        entries.iter().for_each(|entry| wheel.insert(*entry));
        let inserted = each(began);
        wheel.turn(last - LEAD / 2);
        let began = std::time::Instant::now();
        wheel.turn(last);
        let mut taken = 0;
        while wheel.pop_due(last).is_some() {
            taken += 1;
        }
        assert_eq!(taken, count, "nothing stays in the wheel");
        println!("{name}: wheel       insert {inserted} ns, out at the instant {} ns ({taken})", each(began));

        let began = std::time::Instant::now();
        let mut heap: BinaryHeap<Reverse<Entry>> = BinaryHeap::new();
        entries.iter().for_each(|entry| heap.push(Reverse(*entry)));
        let inserted = each(began);
        let began = std::time::Instant::now();
        while heap.pop().is_some() {}
        println!("{name}: binary heap insert {inserted} ns, out at the instant {} ns", each(began));

        let began = std::time::Instant::now();
        let mut tree = std::collections::BTreeSet::new();
        tree.extend(entries.iter().copied());
        let inserted = each(began);
        let began = std::time::Instant::now();
        while tree.pop_first().is_some() {}
        println!("{name}: b-tree      insert {inserted} ns, out at the instant {} ns", each(began));
    };
    measure("one instant", &|_| NOW + 60_000_000);
    measure("one hour, random", &|index| {
        NOW + i64::from(index.wrapping_mul(2_654_435_761)) % 3_600_000_000 + 100_000
    });
}
