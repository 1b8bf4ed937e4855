//! Tasks on their way to the store and back.

use std::sync::Arc;

use super::passed::given_at;
use super::query::RunSnapshot;
use super::{Core, Slot, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::rare::{Rare, RareState};
use crate::schedule::{Micros, NEVER, Schedule, floor_micros, timestamp};
use crate::store::{Change, StoreError, StoredTask, TaskState, shard_of};
use crate::view::TaskStatus;

/// What is done once the store has answered.
pub(crate) type Then = Box<dyn FnOnce(&mut Core, Result<(), StoreError>) + Send>;

/// A change that waits to be written, in the order in which it was made.
pub(crate) enum Pending {
    /// Of a definition or a state.
    Change { change: Change, then: Option<Then> },
    /// The end of a run.
    Run { run: Box<RunSnapshot>, state: TaskState },
}

/// How many changes may wait before no further run is started.
const PENDING_MAX: usize = 65_536;

impl Core {
    /// Whether the store lags so far behind that runs must wait for it.
    pub(super) fn is_held_up(&self) -> bool {
        self.pending.len() >= PENDING_MAX
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
        })
    }

    /// Hands the task's present state to the store, without waiting for it.
    pub(crate) fn store_state(&mut self, task: u32) {
        if self.owned.is_none() {
            return;
        }
        let state = self.state(task);
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = &slot.def else { return };
        let incarnation = slot.created.unsigned_abs();
        let change = Change::State { id: def.id.to_string(), incarnation, state };
        self.pending.push_back(Pending::Change { change, then: None });
    }

    /// Hands the whole task to the store, as new or in place of what it has, without waiting for it.
    pub(crate) fn store_task(&mut self, task: u32, is_new: bool) {
        if self.owned.is_none() {
            return;
        }
        if let Some(stored) = self.stored(task) {
            let stored = Box::new(stored);
            let change = if is_new { Change::Insert(stored) } else { Change::Replace(stored) };
            self.pending.push_back(Pending::Change { change, then: None });
        }
    }

    /// Hands the end of the task to the store, without waiting for it.
    pub(crate) fn store_removal(&mut self, task: u32) {
        if self.owned.is_none() {
            return;
        }
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = &slot.def else { return };
        let change = Change::Remove { id: def.id.to_string(), incarnation: slot.created.unsigned_abs() };
        self.pending.push_back(Pending::Change { change, then: None });
    }

    /// Hands a record to the store, with the state of its task.
    pub(super) fn store_run(&mut self, task: u32, record: u64) {
        if self.owned.is_none() {
            return;
        }
        if let Some(run) = self.run_snapshot(record) {
            let state = self.state(task);
            self.pending.push_back(Pending::Run { run: Box::new(run), state });
        }
    }

    /// Takes a task in that the store has kept.
    pub(crate) fn restore(&mut self, stored: StoredTask, now: Micros) -> Result<(), TaskError> {
        let anchor = floor_micros(stored.anchor);
        // As it was when it was given: a time that was ahead then may have passed since.
        let def = Def::admit(&stored.spec, stored.owner.as_deref(), &self.executors, anchor)?;
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
            slot.next = match def.schedule {
                // What was planned may have been by the schedule before.
                Schedule::OnceAt(at) => {
                    Some(at.max(def.bounds(anchor).start)).filter(|at| *at > planned).unwrap_or(NEVER)
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
