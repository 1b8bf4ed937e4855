//! All tasks of this node and what they do, behind one lock and without a clock, a thread or a wait.
//!
//! The layout is what makes a million tasks cheap: a task is one place in a table of blocks that never
//! move, one shared definition, one 16-byte timer entry and one 8-byte index entry. Whatever few tasks need
//! stands beside it in a box of its own.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use runtime::TraceContext;

use crate::builder::SchedulerConfig;
use crate::def::Def;
use crate::executor::{ExecutorKey, ExecutorRegistry, Registration, RunCell};
use crate::history::{History, Note, Record, SkipReason};
use crate::id::{RunId, RunIds};
use crate::notice::{Notice, NoticeKind};
use crate::persist::Owned;
use crate::rare::Rare;
use crate::schedule::{Micros, NEVER};
use crate::stats::Stats;
use crate::timer::{Entry, Kind, Timer};
use crate::upstream::Caused;
use crate::view::{RunOrigin, RunOutcome, TaskStatus};

mod adopt;
mod backfill;
mod control;
mod depend;
mod dry_run;
mod facets;
mod failures;
mod finish;
mod fire;
mod graph;
mod held;
mod index;
mod passed;
mod query;
mod restore;
mod stored;
mod table;
mod why;

pub(crate) use adopt::Tails;
pub(crate) use backfill::{BackfillGround, BackfillPlan};
pub(crate) use control::{Action, Insert};
pub(crate) use finish::{Ended, Output};
pub(crate) use fire::Launch;
pub use query::TaskSnapshot;
pub(crate) use query::{Filter, RunSearch, Search};
pub(crate) use restore::Restored;
pub(crate) use stored::{Batch, Pending, Then};

use index::Index;
use table::Table;

/// The count that a task's first record has; those that an earlier process has left go below.
const FIRST_NTH: u32 = 1 << 30;

/// No place.
pub(crate) const NONE: u32 = u32::MAX;

/// Why a task does not stand in the timer as usual.
pub(crate) mod flag {
    /// An operator has paused it.
    pub(crate) const PAUSED: u16 = 1;
    /// Its plugin has stopped.
    pub(crate) const SUSPENDED: u16 = 1 << 1;
    /// Has been cancelled.
    pub(crate) const CANCELED: u16 = 1 << 2;
    /// The store has not yet taken it.
    pub(crate) const HELD: u16 = 1 << 3;
    /// Is due, and its executor is absent.
    pub(crate) const WAITS_EXECUTOR: u16 = 1 << 4;
    /// Is due, and the tasks that it runs after have not run.
    pub(crate) const WAITS_AFTER: u16 = 1 << 5;
    /// The last run that ended has failed.
    pub(crate) const LAST_FAILED: u16 = 1 << 6;
    /// Other tasks run after this one.
    pub(crate) const HAS_DEPENDENTS: u16 = 1 << 7;
    /// Its next time is reckoned from the end of the run under way.
    pub(crate) const AWAITS_END: u16 = 1 << 8;
    /// Was due while its executor was absent.
    pub(crate) const WAITED_EXECUTOR: u16 = 1 << 9;

    /// Not to be started by its schedule.
    pub(crate) const AT_REST: u16 = PAUSED | SUSPENDED | CANCELED | HELD;
}

/// One task.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) def: Option<Arc<Def>>,
    /// The time that it is due at without its jitter; [`NEVER`] for none.
    pub(crate) next: Micros,
    /// The latest time that a run was planned for: none is planned for it or an earlier one again.
    pub(crate) planned: Micros,
    /// What intervals and delays count from.
    pub(crate) anchor: Micros,
    /// When it was created, unique among all tasks: the incarnation.
    pub(crate) created: Micros,
    pub(crate) updated: Micros,
    pub(crate) last_run: Micros,
    /// The number of its newest record.
    pub(crate) last_record: u64,
    pub(crate) run_count: u64,
    pub(crate) side: Option<Box<Side>>,
    pub(crate) failure_count: u32,
    /// How many scheduled runs have been planned, for `max_runs`.
    pub(crate) fired: u32,
    pub(crate) version: u32,
    /// The first of its runs under way.
    pub(crate) active_first: u32,
    pub(crate) active_count: u32,
    pub(crate) flags: u16,
}

/// What few tasks need.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) last_error: Option<Box<str>>,
    /// Runs that wait for an earlier one of the same task.
    pub(crate) queue: VecDeque<Ready>,
    /// How many runs in a row have failed.
    pub(crate) failures: u32,
    pub(crate) rare: Option<Box<Rare>>,
}

impl Side {
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// What makes a run happen, and what it gets.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub(crate) origin: RunOrigin,
    /// In place of the task's own.
    pub(crate) payload: Option<Arc<str>>,
    /// The runs of other tasks that let this one go.
    pub(crate) by: Option<Arc<Caused>>,
    /// The work that the run goes on with the trace of.
    pub(crate) trace: Option<Box<TraceContext>>,
}

impl Cause {
    pub(crate) const fn of(origin: RunOrigin) -> Self {
        Self { origin, payload: None, by: None, trace: None }
    }

    /// What the record of the run keeps of it.
    fn note(&self) -> Option<Note> {
        if self.by.is_none() && self.trace.is_none() {
            return None;
        }
        let trace = self.trace.as_deref().map(|trace| Box::new(trace.trace_id()));
        Some(Note { caused: self.by.clone(), trace, ..Note::default() })
    }
}

/// A run that may start as soon as there is room.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) priority: i8,
    pub(crate) task: u32,
    pub(crate) incarnation: Micros,
    pub(crate) record: u64,
    pub(crate) scheduled: Micros,
    pub(crate) due: Micros,
    /// How many attempts there were before, in a process that has ended.
    pub(crate) attempts: u16,
    pub(crate) cause: Cause,
}

impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ready {}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The greatest goes first: the higher priority, then what has waited longer.
impl Ord for Ready {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.priority.cmp(&other.priority).then(other.record.cmp(&self.record))
    }
}

/// A run that has started and not ended.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) cell: Arc<RunCell>,
    /// Its task; [`NONE`] once that has been removed.
    pub(crate) task: u32,
    pub(crate) before: u32,
    pub(crate) after: u32,
    pub(crate) record: u64,
    pub(crate) due: Micros,
    /// When its next attempt is; [`NEVER`] while one is under way.
    pub(crate) retry_at: Micros,
    pub(crate) attempt: u16,
    /// Whether its start has been told.
    pub(crate) told: bool,
    /// Whether it has been told that it does not yield.
    pub(crate) told_stuck: bool,
}

/// A group's runs.
#[derive(Debug, Default)]
pub(crate) struct GroupState {
    pub(crate) active: u32,
    /// As its tasks said it last.
    pub(crate) limit: u32,
    pub(crate) waiting: BinaryHeap<Ready>,
}

/// Everything behind the lock.
pub(crate) struct Core {
    pub(crate) config: SchedulerConfig,
    pub(crate) table: Table,
    index: Index,
    pub(crate) timer: Timer,
    pub(crate) history: History,
    active: Vec<Option<Active>>,
    active_free: Vec<u32>,
    /// How many runs count against the bound.
    pub(crate) active_count: usize,
    backlog: BinaryHeap<Ready>,
    groups: HashMap<Box<str>, GroupState>,
    /// Runs that a group has let into the line again, by record, and the group: if one does not take its
    /// place after all, the next of the group does.
    called_up: HashMap<u64, Box<str>>,
    /// Runs that the store does not have yet, once their turn has come.
    held_runs: HashMap<u64, Option<Ready>>,
    /// Due tasks by the executor that is absent.
    waiting: HashMap<ExecutorKey, HashSet<u32>>,
    /// Runs by the executor that is absent.
    parked: HashMap<ExecutorKey, Vec<Ready>>,
    parked_count: usize,
    /// Runs whose next attempt is due while their executor is absent.
    retries_waiting: Vec<u32>,
    /// Which tasks run after a task: the task and the place of the edge in its list.
    dependents: HashMap<u32, Vec<(u32, u8)>>,
    /// Which incarnation of its plugin has registered a task.
    pub(crate) registrations: HashMap<u32, u64>,
    executors: ExecutorRegistry,
    present: Vec<Option<Arc<Registration>>>,
    generation: u64,
    /// Executors as they were before: what nobody holds any more is dropped without the lock, since that is
    /// foreign code.
    pub(crate) gone: Vec<Option<Arc<Registration>>>,
    pub(crate) notices: VecDeque<Notice>,
    /// Whether anybody wants notices.
    pub(crate) tells: bool,
    pub(crate) stats: Stats,
    last_unique: Micros,
    last_trigger: Micros,
    /// The time at the latest call that brought one.
    last_seen: Micros,
    /// When this scheduler began.
    pub(crate) begun: Micros,
    ids: RunIds,
    /// Which shards this node holds; none where there is no store.
    pub(crate) owned: Option<Owned>,
    /// What waits to be written.
    pub(crate) pending: VecDeque<Pending>,
    /// How many changes the store has been given and has not taken.
    pub(crate) unwritten: usize,
    pub(crate) running: bool,
    /// Since when there is no room for all that is due; [`NEVER`] while there is.
    pub(crate) crowded_since: Micros,
}

impl Core {
    pub(crate) fn new(
        config: SchedulerConfig,
        executors: ExecutorRegistry,
        ids: RunIds,
        now: Micros,
    ) -> Self {
        Self {
            table: Table::default(),
            index: Index::new(),
            timer: Timer::new(now),
            history: History::new(&config),
            active: Vec::new(),
            active_free: Vec::new(),
            active_count: 0,
            backlog: BinaryHeap::new(),
            groups: HashMap::new(),
            called_up: HashMap::new(),
            held_runs: HashMap::new(),
            waiting: HashMap::new(),
            parked: HashMap::new(),
            parked_count: 0,
            retries_waiting: Vec::new(),
            dependents: HashMap::new(),
            registrations: HashMap::new(),
            executors,
            present: Vec::new(),
            generation: u64::MAX,
            gone: Vec::new(),
            notices: VecDeque::new(),
            tells: false,
            stats: Stats::new(now),
            last_unique: now,
            last_trigger: Micros::MIN,
            last_seen: now,
            begun: now,
            ids,
            owned: None,
            pending: VecDeque::new(),
            unwritten: 0,
            running: false,
            crowded_since: NEVER,
            config,
        }
    }

    /// A time that has not been given before: the present one, or a little later.
    fn unique(&mut self, now: Micros) -> Micros {
        self.last_unique = now.max(self.last_unique + 1);
        self.last_unique
    }

    /// Puts the task's next time into the timer, if it is to stand there.
    fn arm(&mut self, task: u32) {
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = &slot.def else { return };
        if slot.next == NEVER || slot.flags & flag::AT_REST != 0 {
            return;
        }
        let entry = Entry {
            at: slot.next.saturating_add(def.jitter()),
            rank: rank(def.priority),
            kind: Kind::Task,
            index: task,
        };
        self.timer.insert(entry);
        // Stale entries are left in the timer; once they are many, they are swept out together.
        if self.timer.len() > 1024 && self.timer.len() > 2 * (self.table.len() + self.active_count) {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        let (table, active) = (&self.table, &self.active);
        // One task may have left several entries with its present time.
        let mut seen = vec![false; table.end() as usize];
        self.timer.retain(|entry| match entry.kind {
            Kind::Task => {
                let is_live = table.get(entry.index).is_some_and(|slot| {
                    let at = slot.def.as_ref().map(|def| slot.next.saturating_add(def.jitter()));
                    at == Some(entry.at) && slot.flags & flag::AT_REST == 0
                });
                is_live
                    && seen.get_mut(entry.index as usize).is_some_and(|seen| !std::mem::replace(seen, true))
            }
            Kind::Attempt => active
                .get(entry.index as usize)
                .and_then(Option::as_ref)
                .is_some_and(|run| run.retry_at == entry.at),
        });
    }

    /// The task's state follows from its parts, here and nowhere else.
    fn settle(&mut self, task: u32) {
        let Some(slot) = self.table.get(task) else { return };
        let status = if slot.flags & flag::CANCELED != 0 {
            TaskStatus::Canceled
        } else if slot.flags & (flag::PAUSED | flag::SUSPENDED) != 0 {
            TaskStatus::Paused
        } else if slot.active_count > 0 {
            TaskStatus::Running
        } else if slot.next != NEVER || self.waits_for_others(slot) {
            TaskStatus::Pending
        } else if slot.flags & flag::LAST_FAILED != 0 {
            TaskStatus::Failed
        } else {
            TaskStatus::Completed
        };
        self.table.set_status(task, status);
    }

    /// Whether a run may still come although no time is set.
    fn waits_for_others(&self, slot: &Slot) -> bool {
        let queued = slot.side.as_ref().is_some_and(|side| !side.queue.is_empty());
        let dependent = slot.def.as_ref().is_some_and(|def| {
            matches!(def.schedule, crate::schedule::Schedule::Dependent)
                && (def.max_runs == 0 || slot.fired < def.max_runs)
        });
        queued || dependent
    }

    fn side(slot: &mut Slot) -> &mut Side {
        slot.side.get_or_insert_default()
    }

    /// Opens a record for a run of the task.
    #[expect(clippy::too_many_arguments, reason = "these are the record's fields")]
    fn open_record(
        &mut self,
        task: u32,
        origin: RunOrigin,
        outcome: RunOutcome,
        scheduled: Micros,
        started: Micros,
        times: u64,
        note: Option<Note>,
    ) -> u64 {
        self.make_room(scheduled);
        let Some(slot) = self.table.get_mut(task) else { return 0 };
        let is_once = slot.def.as_ref().is_some_and(|def| def.schedule.is_once());
        let nth = match self.history.get(slot.last_record) {
            _ if is_once => 0,
            Some(last) => last.nth.saturating_add(1),
            None => FIRST_NTH,
        };
        let record = Record {
            previous: slot.last_record,
            nth,
            scheduled,
            started,
            ended: NEVER,
            incarnation: slot.created,
            task,
            times: u32::try_from(times).unwrap_or(u32::MAX),
            attempt: 1,
            outcome,
            origin,
            note: note.map(Box::new),
        };
        let number = self.history.push(record);
        slot.last_record = number;
        number
    }

    /// Gives up records that are over a bound. The latest few of a task that runs again and again outlive
    /// those of busier tasks.
    fn make_room(&mut self, now: Micros) {
        while let Some((number, record)) = self.history.evict(now) {
            let slot = self.table.get(record.task).filter(|slot| slot.created == record.incarnation);
            let newest = slot.and_then(|slot| match self.history.get(slot.last_record) {
                Some(newest) => Some(newest.nth),
                None => (slot.last_record == number).then_some(record.nth),
            });
            let is_once = record.nth == 0 && record.outcome != RunOutcome::Failed;
            match newest.filter(|_| !is_once) {
                Some(newest) => self.history.keep(number, record, newest),
                None => self.history.forget(number),
            }
        }
    }

    /// Records that a run does not take place.
    fn skip(
        &mut self,
        task: u32,
        cause: &Cause,
        scheduled: Micros,
        now: Micros,
        times: u64,
        reason: SkipReason,
    ) -> u64 {
        let SkipReason { kind, text: reason } = reason;
        let origin = cause.origin;
        let note = Note { skip_reason: Some(reason.clone()), ..cause.note().unwrap_or_default() };
        let number = self.open_record(task, origin, RunOutcome::Skipped, scheduled, NEVER, times, Some(note));
        if let Some(record) = self.history.get_mut(number) {
            record.ended = now;
            record.attempt = 0;
        }
        self.stats.skip(kind, times);
        self.store_run(task, number);
        self.tell_run(task, NoticeKind::Skipped, number, scheduled, now, 0, origin, Some(reason));
        number
    }

    fn tell_task(&mut self, task: u32, kind: NoticeKind, now: Micros, text: Option<Box<str>>) {
        if !self.tells {
            return;
        }
        if let Some(def) = self.table.get(task).and_then(|slot| slot.def.clone()) {
            self.notices.push_back(Notice {
                def,
                kind,
                run: None,
                scheduled: NEVER,
                at: now,
                started: NEVER,
                attempt: 0,
                origin: RunOrigin::Schedule,
                text,
                trace: None,
            });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "these are the notice's fields")]
    fn tell_run(
        &mut self,
        task: u32,
        kind: NoticeKind,
        record: u64,
        scheduled: Micros,
        now: Micros,
        attempt: u16,
        origin: RunOrigin,
        text: Option<Box<str>>,
    ) {
        if !self.tells {
            return;
        }
        if let Some(def) = self.table.get(task).and_then(|slot| slot.def.clone()) {
            let run = Some(self.run_id(record));
            let note = self.history.get(record).and_then(|record| record.note.as_deref());
            let trace = note.and_then(|note| note.trace.clone());
            self.notices.push_back(Notice {
                def,
                kind,
                run,
                scheduled,
                at: now,
                started: NEVER,
                attempt,
                origin,
                text,
                trace,
            });
        }
    }

    /// When a worker or the driver is wanted: now, at a time, or never unless something changes.
    pub(crate) fn wanted_at(&self, now: Micros) -> Micros {
        let has_room = self.active_count < self.config.max_concurrent_tasks;
        if !self.running || !has_room || self.is_held_up() {
            return NEVER;
        }
        if self.backlog.is_empty() { self.timer.next_at() } else { now }
    }

    /// When the next task is due, as far as it is known without going through all of them.
    pub(crate) fn earliest(&mut self, now: Micros) -> Micros {
        self.timer.turn(now);
        self.timer.first_at()
    }

    pub(crate) fn active_run(&self, index: u32) -> Option<&Active> {
        self.active.get(index as usize).and_then(Option::as_ref)
    }

    pub(crate) fn active_run_mut(&mut self, index: u32) -> Option<&mut Active> {
        self.active.get_mut(index as usize).and_then(Option::as_mut)
    }

    /// How many runs wait for their turn.
    pub(crate) fn queued(&self) -> usize {
        self.backlog.len()
            + self.parked_count
            + self.groups.values().map(|group| group.waiting.len()).sum::<usize>()
    }

    /// How many due tasks wait for an executor.
    pub(crate) fn waiting_tasks(&self) -> usize {
        self.waiting.values().map(HashSet::len).sum()
    }

    /// The id of a record's run.
    pub(crate) fn run_id(&self, record: u64) -> RunId {
        self.history.foreign_id(record).unwrap_or_else(|| self.ids.id(record))
    }

    /// The number of the record of a run.
    pub(crate) fn record_number(&self, id: RunId) -> Option<u64> {
        self.history.foreign_number(id).or_else(|| self.ids.record(id))
    }
}

/// The rank of a priority in the timer, where the lower goes first.
fn rank(priority: i8) -> u8 {
    (127 - i16::from(priority)).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests;
