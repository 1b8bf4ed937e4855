//! The records of runs: one bounded ring for all tasks.
//!
//! A record takes its place when its run begins to exist and names the task's record before it, so that
//! the history of a task is a walk along its own chain, and costs a task that has none nothing.

use std::collections::{BTreeMap, VecDeque};

use crate::schedule::Micros;
use crate::view::{RunOrigin, RunOutcome};

/// What is known about a run.
#[derive(Debug)]
pub(crate) struct Record {
    /// The task's record before this one; zero for none.
    pub(crate) previous: u64,
    pub(crate) scheduled: Micros,
    /// [`crate::schedule::NEVER`] while it has not.
    pub(crate) started: Micros,
    pub(crate) ended: Micros,
    pub(crate) incarnation: Micros,
    pub(crate) task: u32,
    pub(crate) times: u32,
    pub(crate) attempt: u16,
    pub(crate) outcome: RunOutcome,
    pub(crate) origin: RunOrigin,
    pub(crate) note: Option<Box<Note>>,
}

/// What most records do without.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    pub(crate) error: Option<Box<str>>,
    pub(crate) skip_reason: Option<Box<str>>,
    /// As JSON.
    pub(crate) output: Option<Box<str>>,
}

/// The bounded ring.
#[derive(Debug)]
pub(crate) struct History {
    /// The number of the first record in the ring; numbers begin at one.
    first: u64,
    ring: VecDeque<Record>,
    records_max: usize,
    /// Records of runs that the ring has passed while they were under way.
    aged: BTreeMap<u64, Record>,
    /// Up to where they have been gone through for ended ones.
    swept: u64,
}

/// How many ended ones of these are kept.
const AGED_MAX: usize = 4096;

impl History {
    pub(crate) fn new(records_max: usize) -> Self {
        Self {
            first: 1,
            ring: VecDeque::new(),
            records_max: records_max.max(1),
            aged: BTreeMap::new(),
            swept: 0,
        }
    }

    /// Takes a record in, and tells its number.
    pub(crate) fn push(&mut self, record: Record) -> u64 {
        if self.ring.len() >= self.records_max
            && let Some(oldest) = self.ring.pop_front()
        {
            if !oldest.outcome.is_final() {
                self.aged.insert(self.first, oldest);
            }
            self.first += 1;
            if self.aged.len() > AGED_MAX {
                self.sweep_aged();
            }
        }
        self.ring.push_back(record);
        self.first + self.ring.len() as u64 - 1
    }

    /// Drops ended ones among the aged; the runs under way are bounded. A few are looked at each time, since
    /// a long line of waiting runs would make every new record pay for all of it.
    fn sweep_aged(&mut self) {
        const LOOKS: usize = 8;
        let mut ended = [None; LOOKS];
        let mut looked = 0;
        for ((number, record), ended) in self.aged.range(self.swept..).zip(&mut ended) {
            *ended = record.outcome.is_final().then_some(*number);
            self.swept = number + 1;
            looked += 1;
        }
        if looked < LOOKS {
            self.swept = 0;
        }
        for number in ended.into_iter().flatten() {
            self.aged.remove(&number);
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Record> {
        match number.checked_sub(self.first) {
            Some(at) => self.ring.get(usize::try_from(at).ok()?),
            None => self.aged.get(&number),
        }
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Record> {
        match number.checked_sub(self.first) {
            Some(at) => self.ring.get_mut(usize::try_from(at).ok()?),
            None => self.aged.get_mut(&number),
        }
    }

    /// The chain that begins at `number`, newest first, with the numbers.
    pub(crate) fn chain(&self, number: u64) -> impl Iterator<Item = (u64, &Record)> {
        let mut next = number;
        std::iter::from_fn(move || {
            let number = next;
            let record = self.get(number)?;
            next = record.previous;
            Some((number, record))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(previous: u64, outcome: RunOutcome) -> Record {
        Record {
            previous,
            scheduled: 0,
            started: 0,
            ended: 0,
            incarnation: 0,
            task: 0,
            times: 1,
            attempt: 1,
            outcome,
            origin: RunOrigin::Schedule,
            note: None,
        }
    }

    #[test]
    fn the_ring_is_bounded_and_keeps_what_is_under_way() {
        let mut history = History::new(3);
        let running = history.push(record(0, RunOutcome::Running));
        let mut last = running;
        for _ in 0..5 {
            last = history.push(record(last, RunOutcome::Completed));
        }
        assert_eq!(history.chain(last).map(|(number, _)| number).collect::<Vec<_>>(), [6, 5, 4]);
        assert_eq!(history.get(running).unwrap().outcome, RunOutcome::Running);
        history.get_mut(running).unwrap().outcome = RunOutcome::Completed;
        assert!(history.get(2).is_none());
        assert!(history.get(0).is_none());
        assert!(history.get(7).is_none());
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 64, "{}", size_of::<Record>());
    }

    #[test]
    fn ended_ones_among_the_aged_are_bounded_while_many_wait() {
        let mut history = History::new(1);
        let waiting: Vec<u64> = (0..5000).map(|_| history.push(record(0, RunOutcome::Queued))).collect();
        for number in waiting.iter().skip(1).step_by(2) {
            history.get_mut(*number).unwrap().outcome = RunOutcome::Completed;
        }
        for _ in 0..2000 {
            history.push(record(0, RunOutcome::Completed));
        }
        assert!(history.aged.len() <= AGED_MAX, "{}", history.aged.len());
        assert!(waiting.iter().step_by(2).all(|number| history.get(*number).is_some()));
    }
}
