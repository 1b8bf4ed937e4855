//! Tasks on their way to the store and back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::passed::given_at;
use super::query::RunSnapshot;
use super::{Cause, Core, Ready, Slot, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::history::Note;
use crate::persist::Owned;
use crate::rare::{Rare, RareState};
use crate::schedule::{Micros, NEVER, Schedule, floor_micros, timestamp};
use crate::store::{Change, Commit, OpenRun, StoreError, StoredTask, TaskState, shard_of};
use crate::timer::{Entry, Kind};
use crate::upstream::Caused;
use crate::view::{RunOrigin, RunOutcome, TaskStatus};

/// What is done once the store has answered.
pub(crate) type Then = Box<dyn FnOnce(&mut Core, Result<(), StoreError>) + Send>;

/// A change that waits to be written, in the order in which it was made.
pub(crate) enum Pending {
    /// Of a definition or a state, which somebody waits for: it is made once the store has taken it.
    Change { change: Box<Change>, then: Then },
    /// The end of a task.
    Removal { change: Box<Change> },
    /// A task is another than the store knows, or new to it.
    Task { task: u32, is_new: bool },
    /// A task's state is another than the store knows.
    State { task: u32 },
    /// A run has begun, or waits for its next attempt.
    Open { task: u32, record: u64, attempt: u16, retry_at: Micros, cause: Box<Cause>, then: Option<Then> },
    /// The end of a run, with the task's state after it.
    Run { task: u32, run: Box<RunSnapshot> },
}

/// What is handed to the store together.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) commits: Vec<Commit>,
    /// What is done with the answer to each.
    pub(crate) thens: Vec<Option<Then>>,
}

impl Batch {
    fn push(&mut self, owned: Option<&Owned>, change: Change, then: Option<Then>) {
        let (shard, epoch) = owned.map_or((0, 0), |owned| {
            let shard = shard_of(change.task(), owned.shards);
            // A shard that has been lost meanwhile has no epoch, and zero is refused by the store.
            (shard, owned.epochs.get(&shard).copied().unwrap_or(0))
        });
        self.commits.push(Commit { shard, epoch, change });
        self.thens.push(then);
    }
}

/// How many changes may wait before no further run is started.
const PENDING_MAX: usize = 65_536;

impl Core {
    /// Whether the store lags so far behind that runs must wait for it.
    pub(super) fn is_held_up(&self) -> bool {
        self.pending.len() + self.unwritten >= PENDING_MAX
    }

    /// Whether this node may change the task.
    pub(super) fn check_owner(&self, id: &str) -> Result<(), TaskError> {
        match &self.owned {
            Some(owned) if !owned.epochs.contains_key(&shard_of(id, owned.shards)) => {
                Err(TaskError::NotOwner(id.to_owned()))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn state(&self, task: u32) -> TaskState {
        self.table.get(task).map_or_else(TaskState::default, state_of)
    }

    pub(crate) fn stored(&self, task: u32) -> Option<StoredTask> {
        let slot = self.table.get(task)?;
        let def = slot.def.as_ref()?;
        Some(StoredTask {
            spec: def.to_spec(&self.executors.name_of(def.executor)),
            owner: def.owner().map(str::to_owned),
            incarnation: slot.created.unsigned_abs(),
            version: u64::from(slot.version),
            anchor: timestamp(slot.anchor),
            updated_at: timestamp(slot.updated),
            state: state_of(slot),
            open: Vec::new(),
        })
    }

    /// Has the task's state written, without waiting for it.
    pub(crate) fn store_state(&mut self, task: u32) {
        if self.owned.is_some() {
            self.pending.push_back(Pending::State { task });
        }
    }

    /// Has the whole task written, as new or in place of what the store has, without waiting for it.
    pub(crate) fn store_task(&mut self, task: u32, is_new: bool) {
        if self.owned.is_some() {
            self.pending.push_back(Pending::Task { task, is_new });
        }
    }

    /// Has the end of the task written, without waiting for it.
    pub(crate) fn store_removal(&mut self, task: u32) {
        if self.owned.is_none() {
            return;
        }
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = &slot.def else { return };
        let change = Change::Remove { id: def.id.to_string(), incarnation: slot.created.unsigned_abs() };
        self.pending.push_back(Pending::Removal { change: Box::new(change) });
    }

    /// Has a run written that has begun, unless it has ended by then.
    pub(super) fn store_open(
        &mut self,
        task: u32,
        record: u64,
        attempt: u16,
        retry_at: Micros,
        cause: impl FnOnce() -> Cause,
    ) {
        if self.owned.is_some() {
            let cause = Box::new(cause());
            self.pending.push_back(Pending::Open { task, record, attempt, retry_at, cause, then: None });
        }
    }

    /// Has a record written, with the state of its task.
    pub(super) fn store_run(&mut self, task: u32, record: u64) {
        if self.owned.is_none() {
            return;
        }
        if let Some(run) = self.run_snapshot(record) {
            self.pending.push_back(Pending::Run { task, run: Box::new(run) });
        }
    }

    /// A task's state is to be written again.
    pub(crate) fn note_changed(&mut self, id: &str) {
        if let Some(task) = self.find(id) {
            self.store_state(task);
        }
    }

    /// Takes everything that waits to be written, as it stands at this moment.
    ///
    /// States are read here and not when they changed: so that a batch has one for each task, and together
    /// with the runs that have ended says all that has become of the task.
    pub(crate) fn take_batch(&mut self, node: &str) -> Batch {
        let pending = std::mem::take(&mut self.pending);
        let mut batch = Batch::default();
        if pending.is_empty() {
            return batch;
        }
        // What a caller waits for brings a state with what he asked for, which no other may undo.
        let mut told: HashSet<u32> = pending
            .iter()
            .filter_map(|pending| match pending {
                Pending::Change { change, .. } => self.find(change.task()),
                _ => None,
            })
            .collect();
        let mut ends: HashMap<u32, u32> = HashMap::new();
        for pending in &pending {
            if let Pending::Run { task, .. } = pending {
                *ends.entry(*task).or_default() += 1;
            }
        }
        // Backwards, since the last of a task's changes has its state.
        for pending in pending.into_iter().rev() {
            let (change, then) = match pending {
                Pending::Change { mut change, then } => {
                    self.refresh(&mut change);
                    (*change, Some(then))
                }
                Pending::Removal { change } => (*change, None),
                Pending::Task { task, is_new } => {
                    let Some(stored) = self.stored(task).map(Box::new) else { continue };
                    told.insert(task);
                    (if is_new { Change::Insert(stored) } else { Change::Replace(stored) }, None)
                }
                Pending::State { task } => {
                    if !told.insert(task) {
                        continue;
                    }
                    let Some(change) = self.state_change(task) else { continue };
                    (change, None)
                }
                Pending::Open { task, record, attempt, retry_at, cause, then } => {
                    // A run that is over within the batch is told by its end, unless others of its task are
                    // too: the store then needs to know that it is none of them.
                    let is_over = self.history.get(record).is_none_or(|record| record.outcome.is_final());
                    let is_alone = ends.get(&task) == Some(&1) && cause.origin == RunOrigin::Schedule;
                    if is_over && is_alone {
                        continue;
                    }
                    let Some(change) = self.open_change(task, record, attempt, retry_at, &cause) else {
                        continue;
                    };
                    if told.insert(task)
                        && let Some(state) = self.state_change(task)
                    {
                        // Backwards: it comes after the run.
                        batch.push(self.owned.as_ref(), state, None);
                    }
                    (change, then)
                }
                Pending::Run { task, run } => {
                    let is_there = self.table.get(task).is_some_and(|slot| slot.created == run.incarnation);
                    let state = (is_there && told.insert(task)).then(|| Box::new(self.state(task)));
                    (Change::Run { run: Box::new(run.view(node)), state }, None)
                }
            };
            batch.push(self.owned.as_ref(), change, then);
        }
        batch.commits.reverse();
        batch.thens.reverse();
        batch
    }

    fn open_change(
        &self,
        task: u32,
        record: u64,
        attempt: u16,
        retry_at: Micros,
        cause: &Cause,
    ) -> Option<Change> {
        let slot = self.table.get(task)?;
        let known = self.history.get(record).filter(|record| record.incarnation == slot.created)?;
        let by = cause.by.as_deref();
        let run = OpenRun {
            id: self.run_id(record),
            scheduled_for: timestamp(known.scheduled),
            origin: cause.origin,
            attempt: u32::from(attempt),
            retry_at: (retry_at != NEVER).then(|| timestamp(retry_at)),
            payload: cause.payload.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            upstream: by.map(|by| by.by.iter().map(|run| (**run).clone()).collect()).unwrap_or_default(),
            chain: by.map(|by| by.chain),
        };
        let id = slot.def.as_ref()?.id.to_string();
        Some(Change::Open { id, incarnation: slot.created.unsigned_abs(), run: Box::new(run) })
    }

    /// Takes up a run that had begun before the process ended: it stands in line, and what was under way is
    /// done again.
    fn resume_run(&mut self, task: u32, open: OpenRun, now: Micros) {
        let scheduled = floor_micros(open.scheduled_for);
        let by = open.chain.map(|chain| {
            let by = open.upstream.into_iter().map(Arc::new).collect();
            Arc::new(Caused { by, chain })
        });
        let payload = open.payload.map(|payload| Arc::from(payload.to_string()));
        let cause = Cause { origin: open.origin, payload, by };
        let note = cause.by.clone().map(|by| Note { caused: Some(by), ..Note::default() });
        let record = self.open_record(task, open.origin, RunOutcome::Queued, scheduled, NEVER, 1, note);
        self.history.name(record, open.id);
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        let ready = Ready {
            priority: def.priority,
            task,
            incarnation: slot.created,
            record,
            scheduled,
            due: scheduled.saturating_add(def.jitter()),
            // An attempt that was under way did not end, and counts as none.
            attempts: match open.retry_at {
                Some(_) => u16::try_from(open.attempt).unwrap_or(u16::MAX),
                None => u16::try_from(open.attempt.saturating_sub(1)).unwrap_or(u16::MAX),
            },
            cause,
        };
        let retry_at = open.retry_at.map(floor_micros).filter(|at| *at > now);
        let Some(retry_at) = retry_at else {
            Self::side(slot).queue.push_back(ready);
            return;
        };
        slot.active_count += 1;
        if let Some(group) = def.group() {
            let state = self.groups.entry(group.name.as_str().into()).or_default();
            state.limit = group.limit;
            state.active += 1;
        }
        if let Some(record) = self.history.get_mut(record) {
            record.outcome = RunOutcome::Retrying;
        }
        let rank = super::rank(def.priority);
        let attempts = ready.attempts;
        let (run, _) = self.activate(ready, def, attempts, retry_at);
        self.timer.insert(Entry { at: retry_at, rank, kind: Kind::Attempt, index: run });
    }

    fn state_change(&self, task: u32) -> Option<Change> {
        let slot = self.table.get(task)?;
        let id = slot.def.as_ref()?.id.to_string();
        Some(Change::State { id, incarnation: slot.created.unsigned_abs(), state: state_of(slot) })
    }

    /// Brings a change that a caller asked for up to what has become of the task since he did.
    fn refresh(&self, change: &mut Change) {
        let Some(task) = self.find(change.task()) else { return };
        match change {
            Change::State { state, .. } => {
                let asked = std::mem::replace(state, self.state(task));
                state.paused = asked.paused;
                state.canceled = asked.canceled;
                state.rare = asked.rare;
            }
            Change::Replace(stored) => {
                let asked = std::mem::replace(&mut stored.state, self.state(task));
                stored.state.canceled = asked.canceled;
                stored.state.rare = asked.rare;
                stored.state.fired = asked.fired.min(stored.state.fired);
            }
            _ => {}
        }
    }

    /// Takes a task in that the store has kept.
    pub(crate) fn restore(&mut self, stored: StoredTask, now: Micros) -> Result<(), TaskError> {
        let anchor = floor_micros(stored.anchor);
        // As it was when it was given: a time that was ahead then may have passed since.
        let def =
            Def::admit(&stored.spec, stored.owner.as_deref(), &self.executors, &self.calendars, anchor)?;
        if self.find(&def.id).is_some() {
            return Ok(());
        }
        let def = Arc::new(def);
        let state = stored.state;
        let planned = state.planned.map_or(Micros::MIN, floor_micros);
        let mut slot = Slot::new(Arc::clone(&def), stored.incarnation.cast_signed());
        slot.anchor = anchor;
        slot.updated = floor_micros(stored.updated_at);
        slot.version = u32::try_from(stored.version).unwrap_or(u32::MAX);
        slot.planned = planned;
        slot.fired = state.fired;
        slot.run_count = state.run_count;
        slot.failure_count = u32::try_from(state.failure_count).unwrap_or(u32::MAX);
        slot.last_run = state.last_run_at.map_or(NEVER, floor_micros);
        for (is_set, bit) in [
            (state.paused, flag::PAUSED),
            // A plugin that runs registers its tasks again, which lifts this.
            (state.suspended || stored.owner.is_some(), flag::SUSPENDED),
            (state.canceled, flag::CANCELED),
            (state.last_failed, flag::LAST_FAILED),
        ] {
            slot.flags |= if is_set { bit } else { 0 };
        }
        if let Some(error) = state.last_error {
            Self::side(&mut slot).last_error = Some(error.into());
        }
        let backoff_until = state.rare.as_ref().and_then(|rare| rare.backoff_until).map(floor_micros);
        if let Some(rare) = state.rare {
            let side = Self::side(&mut slot);
            side.failures = rare.consecutive_failures;
            side.rare = Some(Box::new(Rare::restore(*rare, def.after())));
        }
        let is_done = state.canceled || (def.max_runs > 0 && slot.fired >= def.max_runs);
        if !is_done {
            slot.next = match *def.schedule.whole() {
                // What was planned may have been by the schedule before.
                Schedule::OnceAt(at) => {
                    Some(at.max(def.bounds(anchor).start)).filter(|at| *at > planned).unwrap_or(NEVER)
                }
                // It is reckoned from the end of the run that is taken up again.
                Schedule::Delay { .. } if !stored.open.is_empty() => {
                    slot.flags |= flag::AWAITS_END;
                    NEVER
                }
                Schedule::Delay { .. } if planned != Micros::MIN && state.next.is_some() => {
                    state.next.map_or(NEVER, floor_micros)
                }
                Schedule::Delay { .. } if planned != Micros::MIN => {
                    let ended = state.last_run_at.map_or(now, floor_micros);
                    def.schedule.next_after(&def.bounds(anchor), ended.max(planned)).unwrap_or(NEVER)
                }
                _ => {
                    let after = planned.max(given_at(&def.schedule, anchor));
                    def.schedule.next_after(&def.bounds(anchor), after).unwrap_or(NEVER)
                }
            };
        }
        if let Some(until) = backoff_until
            && slot.next < until
        {
            slot.next = if def.schedule.waits_for_end() {
                until
            } else {
                def.schedule.next_after(&def.bounds(anchor), until - 1).unwrap_or(NEVER)
            };
        }
        self.last_unique = self.last_unique.max(slot.created);
        let task = self.table.insert(slot, TaskStatus::Pending);
        self.index.insert(&def.id, task);
        for open in stored.open {
            self.resume_run(task, open, now);
        }
        self.arm(task);
        self.settle(task);
        Ok(())
    }

    /// Ties restored tasks to those that they run after, once all are there.
    pub(crate) fn link_restored(&mut self) {
        self.dependents.clear();
        for task in 0..self.table.end() {
            let def = self.table.get(task).and_then(|slot| slot.def.clone());
            if let Some(def) = def.filter(|def| !def.after().is_empty()) {
                self.link_edges(task, &def);
                // What it waits for may all have run before the host died.
                self.release_if_met(task, self.last_seen);
            }
            // So may what a backfill had in line.
            self.start_queued(task);
        }
    }

    /// Another node owns the shard now: its tasks go from here, and nothing is told or stored of that.
    pub(crate) fn drop_shard(&mut self, shard: u32, now: Micros) {
        let Some(owned) = &mut self.owned else { return };
        owned.epochs.remove(&shard);
        let shards = owned.shards;
        let tells = std::mem::replace(&mut self.tells, false);
        for task in 0..self.table.end() {
            let id =
                self.table.get(task).and_then(|slot| slot.def.as_ref()).map(|def| shard_of(&def.id, shards));
            if id == Some(shard) {
                self.remove(task, now);
            }
        }
        self.tells = tells;
    }

    /// The store has not taken a new task: it is as if it had never been.
    pub(crate) fn discard(&mut self, task: u32, now: Micros) {
        let tells = std::mem::replace(&mut self.tells, false);
        self.remove(task, now);
        self.tells = tells;
    }
}

fn state_of(slot: &Slot) -> TaskState {
    TaskState {
        paused: slot.flags & flag::PAUSED != 0,
        suspended: slot.flags & flag::SUSPENDED != 0,
        canceled: slot.flags & flag::CANCELED != 0,
        planned: (slot.planned != Micros::MIN).then(|| timestamp(slot.planned)),
        fired: slot.fired,
        run_count: slot.run_count,
        failure_count: u64::from(slot.failure_count),
        last_run_at: (slot.last_run != NEVER).then(|| timestamp(slot.last_run)),
        last_failed: slot.flags & flag::LAST_FAILED != 0,
        last_error: slot.side.as_ref().and_then(|side| side.last_error.as_deref()).map(str::to_owned),
        next: (slot.next != NEVER).then(|| timestamp(slot.next)),
        rare: slot
            .side
            .as_ref()
            .map(|side| match &side.rare {
                Some(rare) => rare.store(side.failures),
                None => RareState { consecutive_failures: side.failures, ..RareState::default() },
            })
            .filter(|rare| *rare != RareState::default())
            .map(Box::new),
    }
}
