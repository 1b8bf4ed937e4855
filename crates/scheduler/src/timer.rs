//! The one structure that knows what is due when.
//!
//! A hierarchy of 64 buckets a level, as in a timing wheel, over exact times: an entry stands in the level
//! of the highest six-bit digit in which its time differs from the wheel's, and moves down a level each time
//! the wheel reaches its bucket. Entries are 16 bytes and lie one behind the other, so that moving them
//! streams through memory. What falls due within a short lead is taken out and sorted before it is due, so
//! that a great number of tasks due at one instant costs nothing at that instant.
//!
//! Nothing is ever looked for in here: an entry whose task has changed since is left where it is, and is
//! known to be stale when it comes out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::schedule::{Micros, NEVER};

/// Something that falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) at: Micros,
    /// The lower goes first among what is due at the same time.
    pub(crate) rank: u8,
    pub(crate) kind: Kind,
    /// The place of the task, or of the run.
    pub(crate) index: u32,
}

/// What falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A task's next run.
    Task,
    /// The next attempt of a run.
    Attempt,
}

/// Bits of a digit.
const DIGIT: u32 = 6;
const BUCKETS: usize = 1 << DIGIT;
/// Enough digits for 63 bits.
const LEVELS: usize = 11;
/// The wheel's unit: entries nearer to each other than this are told apart by sorting.
const TICK: u32 = 10;
/// How long before it is due an entry is sorted.
const LEAD: Micros = 50_000;

/// All that is due some time.
#[derive(Debug)]
pub(crate) struct Timer {
    /// Up to where the wheel has been emptied, in ticks.
    turned: u64,
    levels: Box<[Level; LEVELS]>,
    /// What is due before `turned`, in order.
    sorted: std::collections::VecDeque<Entry>,
    /// The same, for what was put in after the sorting.
    late: BinaryHeap<Reverse<Entry>>,
    len: usize,
}

#[derive(Debug)]
struct Level {
    /// A bit for each bucket that is not empty.
    occupied: u64,
    buckets: [Vec<Entry>; BUCKETS],
}

impl Timer {
    pub(crate) fn new(now: Micros) -> Self {
        Self {
            turned: ticks(now),
            levels: Box::new(std::array::from_fn(|_| Level {
                occupied: 0,
                buckets: std::array::from_fn(|_| Vec::new()),
            })),
            sorted: std::collections::VecDeque::new(),
            late: BinaryHeap::new(),
            len: 0,
        }
    }

    /// How many entries there are, stale ones included.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        self.len += 1;
        self.place(entry);
    }

    fn place(&mut self, entry: Entry) {
        let at = ticks(entry.at);
        if at < self.turned {
            self.late.push(Reverse(entry));
            return;
        }
        // The level of the highest digit that differs.
        let level = ((at ^ self.turned) | 1).ilog2() / DIGIT;
        let digit = (at >> (level * DIGIT)) as usize % BUCKETS;
        if let Some(level) = self.levels.get_mut(level as usize)
            && let Some(bucket) = level.buckets.get_mut(digit)
        {
            level.occupied |= 1 << digit;
            bucket.push(entry);
        }
    }

    /// Takes out the next entry that is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Micros) -> Option<Entry> {
        let from_sorted = self.sorted.front();
        let from_late = self.late.peek().map(|entry| &entry.0);
        let take_late = match (from_sorted, from_late) {
            (None, None) => return None,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(sorted), Some(late)) => late < sorted,
        };
        let first = if take_late { from_late } else { from_sorted };
        if first.is_none_or(|first| first.at > now) {
            return None;
        }
        self.len -= 1;
        if take_late { self.late.pop().map(|entry| entry.0) } else { self.sorted.pop_front() }
    }

    /// Brings what is due up to `now` and a little later within reach of [`Timer::pop_due`].
    pub(crate) fn turn(&mut self, now: Micros) {
        let until = ticks(now.saturating_add(LEAD)) + 1;
        while let Some((level, digit)) = self.first_bucket() {
            let begin = self.begin_of(level, digit);
            if begin >= until {
                break;
            }
            let Some(entries) = self.levels.get_mut(level as usize).and_then(|level| {
                level.occupied &= !(1 << digit);
                level.buckets.get_mut(digit).map(std::mem::take)
            }) else {
                break;
            };
            if level == 0 {
                self.take_sorted(entries);
                self.turned_to(begin + 1);
            } else {
                self.turned = self.turned.max(begin);
                for entry in entries {
                    self.place(entry);
                }
            }
        }
        self.turned_to(until);
    }

    /// Moves the wheel's time on over empty buckets. What stands in a bucket must be taken out before the
    /// wheel's digits pass it, which the caller has done.
    fn turned_to(&mut self, until: u64) {
        if self.turned >= until {
            return;
        }
        let before = self.turned;
        self.turned = until;
        // Entries of a bucket that the wheel has now entered belong on a lower level.
        let highest = ((before ^ until) | 1).ilog2() / DIGIT;
        for level in 1..=highest {
            let digit = (until >> (level * DIGIT)) as usize % BUCKETS;
            let Some(entries) = self.levels.get_mut(level as usize).and_then(|level| {
                let occupied = level.occupied & (1 << digit) != 0;
                level.occupied &= !(1 << digit);
                if occupied { level.buckets.get_mut(digit).map(std::mem::take) } else { None }
            }) else {
                continue;
            };
            for entry in entries {
                self.place(entry);
            }
        }
    }

    /// Appends a bucket of the lowest level: all of it is later than what is sorted already.
    fn take_sorted(&mut self, mut entries: Vec<Entry>) {
        entries.sort_unstable();
        if self.sorted.is_empty() {
            self.sorted = entries.into();
        } else {
            self.sorted.extend(entries);
        }
    }

    /// The first bucket that is not empty: the lowest level's are the earliest.
    fn first_bucket(&self) -> Option<(u32, usize)> {
        self.levels.iter().zip(0_u32..).find_map(|(level, number)| {
            (level.occupied != 0).then(|| (number, level.occupied.trailing_zeros() as usize))
        })
    }

    /// When to look again: at the first entry that is sorted, or in time to sort the first bucket.
    pub(crate) fn next_at(&self) -> Micros {
        let sorted = self.sorted.front().map_or(NEVER, |entry| entry.at);
        let late = self.late.peek().map_or(NEVER, |entry| entry.0.at);
        let bucket = self
            .first_bucket()
            .map_or(NEVER, |(level, digit)| time_of(self.begin_of(level, digit)).saturating_sub(LEAD));
        sorted.min(late).min(bucket)
    }

    /// The time of the first entry.
    pub(crate) fn first_at(&self) -> Micros {
        let sorted = self.sorted.front().map_or(NEVER, |entry| entry.at);
        let late = self.late.peek().map_or(NEVER, |entry| entry.0.at);
        let bucket = self.first_bucket().and_then(|(level, digit)| {
            let bucket = self.levels.get(level as usize)?.buckets.get(digit)?;
            bucket.iter().map(|entry| entry.at).min()
        });
        sorted.min(late).min(bucket.unwrap_or(NEVER))
    }

    /// The tick at which a bucket begins: the wheel's digits above its own, its own, and zeros.
    fn begin_of(&self, level: u32, digit: usize) -> u64 {
        let shift = level * DIGIT;
        let above = shift + DIGIT;
        let base = if above >= u64::BITS { 0 } else { self.turned >> above << above };
        base | ((digit as u64) << shift)
    }

    /// Drops the entries that `keep` does not want: the stale ones, once they are many.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        self.sorted.retain(&mut keep);
        self.late.retain(|entry| keep(&entry.0));
        let mut len = self.sorted.len() + self.late.len();
        for level in self.levels.iter_mut() {
            for (digit, bucket) in level.buckets.iter_mut().enumerate() {
                bucket.retain(&mut keep);
                len += bucket.len();
                if bucket.is_empty() {
                    level.occupied &= !(1 << digit);
                    *bucket = Vec::new();
                }
            }
        }
        self.len = len;
    }
}

/// The tick that a time lies in, with times before 1970 as zero.
fn ticks(at: Micros) -> u64 {
    at.max(0).unsigned_abs() >> TICK
}

fn time_of(tick: u64) -> Micros {
    Micros::try_from(tick << TICK).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests;
