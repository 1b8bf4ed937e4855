//! Tasks on their way to the store.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::query::RunSnapshot;
use super::{Cause, Core, Slot, flag};
use crate::error::TaskError;
use crate::persist::Owned;
use crate::rare::RareState;
use crate::schedule::{Micros, NEVER, timestamp};
use crate::spec::TaskSpec;
use crate::store::{Change, Commit, OpenRun, StoreError, StoredTask, TaskState, shard_of};
use crate::view::RunOrigin;

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
        self.waiting_changes() >= PENDING_MAX
    }

    /// How many changes wait to be written.
    pub(crate) fn waiting_changes(&self) -> usize {
        self.pending.len() + self.unwritten
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
        let def = self.table.get(task)?.def.as_ref()?;
        self.stored_as(task, def.to_spec_without_payload(&self.executors.name_of(def.executor)))
    }

    /// The task with the body that its definition was made of.
    fn stored_as(&self, task: u32, mut spec: TaskSpec) -> Option<StoredTask> {
        let slot = self.table.get(task)?;
        let def = slot.def.as_ref()?;
        spec.payload = Value::Null;
        Some(StoredTask {
            spec,
            payload: def.payload.clone(),
            owner: def.owner().map(str::to_owned),
            incarnation: slot.created.unsigned_abs(),
            version: u64::from(slot.version),
            anchor: timestamp(slot.anchor),
            updated_at: timestamp(slot.updated),
            state: state_of(slot),
            open: Vec::new(),
        })
    }

    /// Has a new task written that is held until then; `spec` is what its definition was made of, if that is
    /// at hand.
    pub(crate) fn store_new(&mut self, task: u32, spec: Option<TaskSpec>, then: Then) {
        let stored = match spec {
            Some(spec) => self.stored_as(task, spec),
            None => self.stored(task),
        };
        if let Some(stored) = stored {
            let change = Box::new(Change::Insert(Box::new(stored)));
            self.pending.push_back(Pending::Change { change, then });
        }
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
                // Nothing else is told of a new task before it is released.
                Pending::Change { change, .. } if !matches!(**change, Change::Insert(_)) => {
                    self.find(change.task())
                }
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
            trace: cause.trace.as_deref().copied(),
        };
        let id = slot.def.as_ref()?.id.to_string();
        Some(Change::Open { id, incarnation: slot.created.unsigned_abs(), run: Box::new(run) })
    }

    fn state_change(&self, task: u32) -> Option<Change> {
        let slot = self.table.get(task)?;
        let id = slot.def.as_ref()?.id.to_string();
        Some(Change::State { id, incarnation: slot.created.unsigned_abs(), state: state_of(slot) })
    }

    /// Brings a change that a caller asked for up to what has become of the task since he did.
    fn refresh(&self, change: &mut Change) {
        if matches!(change, Change::Insert(_)) {
            return;
        }
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
        rare: rare_of(slot).filter(|rare| *rare != RareState::default()).map(Box::new),
    }
}

fn rare_of(slot: &Slot) -> Option<RareState> {
    let trace = slot.def.as_ref().and_then(|def| def.trace.as_deref().copied());
    let mut rare = match slot.side.as_ref() {
        Some(side) => match &side.rare {
            Some(rare) => rare.store(side.failures),
            None => RareState { consecutive_failures: side.failures, ..RareState::default() },
        },
        None if trace.is_none() => return None,
        None => RareState::default(),
    };
    rare.trace = trace;
    Some(rare)
}
