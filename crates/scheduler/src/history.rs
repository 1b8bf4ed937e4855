//! The records of runs: one bounded ring for all tasks.
//!
//! A record takes its place when its run begins to exist and names the task's record before it, so that
//! the history of a task is a walk along its own chain, and costs a task that has none nothing. The latest
//! few records of a recurring task are kept past the ring, so that one that runs each second does not take
//! away what is known of one that runs each month.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use runtime::TraceId;

use crate::builder::SchedulerConfig;
use crate::id::RunId;
use crate::schedule::{Micros, span_micros};
use crate::upstream::Caused;
use crate::view::{RunOrigin, RunOutcome};

mod foreign;

use foreign::ForeignIds;

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
    /// Which of its task's records this is; zero for a task that runs once only.
    pub(crate) nth: u32,
    pub(crate) attempt: u16,
    pub(crate) outcome: RunOutcome,
    pub(crate) origin: RunOrigin,
    pub(crate) note: Option<Box<Note>>,
}

impl Record {
    /// Whether the run has failed for good.
    const fn is_dead(&self) -> bool {
        matches!(self.outcome, RunOutcome::Failed)
    }
}

/// What most records do without.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    pub(crate) error: Option<Box<str>>,
    pub(crate) skip_reason: Option<Box<str>>,
    /// As JSON.
    pub(crate) output: Option<Box<str>>,
    /// The runs of other tasks that let this one go.
    pub(crate) caused: Option<Arc<Caused>>,
    /// The trace that the run went on with.
    pub(crate) trace: Option<Box<TraceId>>,
    /// The node that it ran on, where that is another.
    pub(crate) node: Option<Arc<str>>,
}

/// What keeps a run from taking place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SkipKind {
    Overlap,
    Misfire,
    Dependency,
    Backoff,
}

impl SkipKind {
    pub(crate) const ALL: [Self; 4] = [Self::Overlap, Self::Misfire, Self::Dependency, Self::Backoff];

    /// What the reasons of this kind begin with.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::Misfire => "missed",
            Self::Dependency => "dependency",
            Self::Backoff => "backoff",
        }
    }

    pub(crate) fn because(self, detail: impl std::fmt::Display) -> SkipReason {
        SkipReason { kind: self, text: format!("{}: {detail}", self.as_str()).into() }
    }
}

/// Why a run does not take place.
#[derive(Debug, Clone)]
pub(crate) struct SkipReason {
    pub(crate) kind: SkipKind,
    pub(crate) text: Box<str>,
}

/// The bounded ring.
#[derive(Debug)]
pub(crate) struct History {
    /// The number of the first record in the ring; numbers begin at [`FIRST`].
    first: u64,
    /// The lowest number that was given.
    lowest: u64,
    ring: VecDeque<Record>,
    records_max: usize,
    per_task_max: u32,
    /// How long after its end a record is kept.
    age_max: Micros,
    /// Records of runs that the ring has passed while they were under way.
    aged: BTreeMap<u64, Record>,
    /// Up to where they have been gone through for ended ones.
    swept: u64,
    /// The latest few records of recurring tasks that the ring has passed, the dead runs, and what earlier
    /// processes have left; as many as the ring at the most.
    kept: BTreeMap<u64, Record>,
    /// Ids that do not follow from the number.
    foreign: ForeignIds,
}

/// The first record of this process. Those of processes before it go below.
const FIRST: u64 = 1 << 32;

/// How many ended ones of these are kept.
const AGED_MAX: usize = 4096;
/// How many records of one recurring task outlive the ring.
const KEPT_PER_TASK: u32 = 5;
/// How many records a new one pushes out by their age: more than one, so that they go sooner than they come.
const EXPIRE_MAX: usize = 4;

impl History {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        Self {
            first: FIRST,
            lowest: FIRST,
            ring: VecDeque::new(),
            records_max: config.max_records.max(1),
            per_task_max: u32::try_from(config.max_records_per_task).unwrap_or(u32::MAX),
            age_max: span_micros(config.record_retention),
            aged: BTreeMap::new(),
            swept: 0,
            kept: BTreeMap::new(),
            foreign: ForeignIds::default(),
        }
    }

    /// Sets how many records are kept and how long; those beyond that go when the next one comes.
    pub(crate) fn bound(&mut self, config: &SchedulerConfig) {
        self.records_max = config.max_records.max(1);
        self.per_task_max = u32::try_from(config.max_records_per_task).unwrap_or(u32::MAX);
        self.age_max = span_micros(config.record_retention);
    }

    /// Makes room for one more: takes a record out that has ended, if there are too many, and drops some of
    /// those that are too old.
    pub(crate) fn evict(&mut self, now: Micros) -> Option<(u64, Record)> {
        for _ in 0..EXPIRE_MAX {
            if self.ring.front().is_none_or(|oldest| !self.is_expired(oldest, now)) {
                break;
            }
            self.ring.pop_front();
            self.foreign.remove(self.first);
            self.first += 1;
        }
        while self.kept.first_key_value().is_some_and(|(_, oldest)| self.is_expired(oldest, now)) {
            self.drop_oldest_kept();
        }
        while self.ring.len() >= self.records_max {
            let oldest = self.ring.pop_front()?;
            let number = self.first;
            self.first += 1;
            if self.aged.len() > AGED_MAX {
                self.sweep_aged();
            }
            if oldest.outcome.is_final() {
                return Some((number, oldest));
            }
            self.aged.insert(number, oldest);
        }
        None
    }

    /// Gives up a record that has been [taken out](History::evict).
    pub(crate) fn forget(&mut self, number: u64) {
        self.foreign.remove(number);
    }

    fn drop_oldest_kept(&mut self) {
        if let Some((number, _)) = self.kept.pop_first() {
            self.foreign.remove(number);
        }
    }

    /// Keeps a record past the ring, if its run is dead or it is among the latest few of its task, whose
    /// newest is the `newest`-th.
    pub(crate) fn keep(&mut self, number: u64, record: Record, newest: u32) {
        // Those before it that are not among the latest any more.
        let mut previous = record.previous;
        let mut stale = [0; KEPT_PER_TASK as usize];
        for stale in &mut stale {
            let Some(before) = self.kept.get(&previous) else { break };
            if newest.wrapping_sub(before.nth) >= KEPT_PER_TASK && !before.is_dead() {
                *stale = previous;
            }
            previous = before.previous;
        }
        for number in stale {
            self.kept.remove(&number);
            self.foreign.remove(number);
        }
        if newest.wrapping_sub(record.nth) < KEPT_PER_TASK || record.is_dead() {
            self.kept.insert(number, record);
            if self.kept.len() > self.records_max {
                self.drop_oldest_kept();
            }
        } else {
            self.foreign.remove(number);
        }
    }

    /// Takes a record in that an earlier process has left, as the oldest of all. Tells its number, or
    /// nothing where there is no room.
    pub(crate) fn adopt(&mut self, record: Record, id: RunId) -> Option<u64> {
        if self.kept.len() >= self.records_max || self.lowest <= 1 {
            return None;
        }
        self.lowest -= 1;
        self.kept.insert(self.lowest, record);
        self.foreign.insert(self.lowest, id);
        Some(self.lowest)
    }

    /// Whether nothing more of an earlier process would be [taken in](History::adopt).
    pub(crate) fn is_full(&self) -> bool {
        self.kept.len() >= self.records_max
    }

    /// The run of this record has an id that another process gave it.
    pub(crate) fn name(&mut self, number: u64, id: RunId) {
        self.foreign.insert(number, id);
    }

    /// The id of a record's run, if another process gave it.
    pub(crate) fn foreign_id(&self, number: u64) -> Option<RunId> {
        self.foreign.id(number)
    }

    /// The record of a run that another process gave its id.
    pub(crate) fn foreign_number(&self, id: RunId) -> Option<u64> {
        self.foreign.number(id)
    }

    pub(crate) fn is_expired(&self, record: &Record, now: Micros) -> bool {
        record.outcome.is_final() && record.ended < now.saturating_sub(self.age_max)
    }

    /// Takes a record in, and tells its number. There is room: see [`History::evict`].
    pub(crate) fn push(&mut self, record: Record) -> u64 {
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
            self.foreign.remove(number);
        }
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Record> {
        match number.checked_sub(self.first) {
            Some(at) => self.ring.get(usize::try_from(at).ok()?),
            None => self.aged.get(&number).or_else(|| self.kept.get(&number)),
        }
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Record> {
        match number.checked_sub(self.first) {
            Some(at) => self.ring.get_mut(usize::try_from(at).ok()?),
            None => self.aged.get_mut(&number).or_else(|| self.kept.get_mut(&number)),
        }
    }

    /// The records of the chain that are within the bounds of one task.
    pub(crate) fn visible(&self, number: u64, now: Micros) -> impl Iterator<Item = (u64, &Record)> {
        self.chain(number)
            .take(self.per_task_max as usize)
            .filter(move |(_, record)| !self.is_expired(record, now))
    }

    /// The newest record below a number.
    pub(crate) fn newest_below(&self, below: u64) -> Option<(u64, &Record)> {
        let end = self.first + self.ring.len() as u64;
        if below > self.first && end > self.first {
            let number = below.min(end) - 1;
            return self.get(number).map(|record| (number, record));
        }
        let aged = self.aged.range(..below).next_back();
        let kept = self.kept.range(..below).next_back();
        let (number, record) = match (aged, kept) {
            (Some(aged), Some(kept)) => {
                if aged.0 > kept.0 {
                    aged
                } else {
                    kept
                }
            }
            (one, other) => one.or(other)?,
        };
        Some((*number, record))
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
            nth: 1,
            attempt: 1,
            outcome,
            origin: RunOrigin::Schedule,
            note: None,
        }
    }

    fn history(max_records: usize) -> History {
        History::new(&SchedulerConfig { max_records, ..SchedulerConfig::default() })
    }

    fn push(history: &mut History, record: Record) -> u64 {
        while history.evict(0).is_some() {}
        history.push(record)
    }

    #[test]
    fn the_ring_is_bounded_and_keeps_what_is_under_way() {
        let mut history = history(3);
        let running = push(&mut history, record(0, RunOutcome::Running));
        let mut last = running;
        for _ in 0..5 {
            last = push(&mut history, record(last, RunOutcome::Completed));
        }
        assert_eq!(history.chain(last).map(|(number, _)| number - FIRST).collect::<Vec<_>>(), [5, 4, 3]);
        assert_eq!(history.get(running).unwrap().outcome, RunOutcome::Running);
        history.get_mut(running).unwrap().outcome = RunOutcome::Completed;
        for absent in [0, FIRST - 1, FIRST + 1, FIRST + 6] {
            assert!(history.get(absent).is_none(), "{absent}");
        }
        history.get_mut(running).unwrap().outcome = RunOutcome::Running;
        history.bound(&SchedulerConfig { max_records: 1, ..SchedulerConfig::default() });
        last = push(&mut history, record(last, RunOutcome::Completed));
        assert_eq!(history.chain(last).map(|(number, _)| number - FIRST).collect::<Vec<_>>(), [6]);
        assert!(history.get(running).is_some());
    }

    #[test]
    fn dead_runs_outlive_others_and_what_was_left_stands_before_all() {
        let mut history = history(4);
        let last = push(&mut history, record(0, RunOutcome::Completed));
        let left: Vec<u64> = (1..=5)
            .filter_map(|id| history.adopt(record(0, RunOutcome::Completed), RunId::from_u128(id)))
            .collect();
        assert_eq!(left, [FIRST - 1, FIRST - 2, FIRST - 3, FIRST - 4], "as many as there is room for");
        assert_eq!(history.newest_below(last).map(|(number, _)| number), Some(FIRST - 1));
        assert_eq!(history.foreign_number(RunId::from_u128(2)), Some(FIRST - 2));
        assert_eq!(history.foreign_id(FIRST - 4), Some(RunId::from_u128(4)));
        let dead = push(&mut history, record(last, RunOutcome::Failed));
        let mut newest = 1;
        for _ in 0..40 {
            newest += 1;
            while let Some((number, record)) = history.evict(0) {
                history.keep(number, record, newest + 10);
            }
            history.push(Record { nth: newest, ..record(0, RunOutcome::Completed) });
        }
        assert!(history.get(dead).is_some(), "kept by its outcome alone");
        assert!(history.get(FIRST - 4).is_none(), "the oldest makes room for it");
        assert_eq!(history.foreign_number(RunId::from_u128(4)), None, "and its id is forgotten");
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 64, "{}", size_of::<Record>());
    }

    #[test]
    fn ended_ones_among_the_aged_are_bounded_while_many_wait() {
        let mut history = history(1);
        let waiting: Vec<u64> =
            (0..5000).map(|_| push(&mut history, record(0, RunOutcome::Queued))).collect();
        for number in waiting.iter().skip(1).step_by(2) {
            history.get_mut(*number).unwrap().outcome = RunOutcome::Completed;
        }
        for _ in 0..2000 {
            push(&mut history, record(0, RunOutcome::Completed));
        }
        assert!(history.aged.len() <= AGED_MAX, "{}", history.aged.len());
        assert!(waiting.iter().step_by(2).all(|number| history.get(*number).is_some()));
    }
}
