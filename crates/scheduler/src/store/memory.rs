//! The store in memory: shared by schedulers of one process, and the measure for all others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Change, Commit, RunKey, StoreError, StoredTask, TaskStore};
use crate::view::RunView;

/// How many records of a task are kept. The keys of older runs are forgotten, up to the latest of which
/// nothing of that task and origin is taken any more.
const RUNS_MAX: usize = 100;

/// Keeps tasks in memory. A clone is the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryTaskStore {
    inner: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    epochs: HashMap<u32, u64>,
    /// By shard and id.
    tasks: BTreeMap<(u32, String), StoredTask>,
    runs: HashMap<String, Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    latest: VecDeque<RunView>,
    /// For each incarnation and origin, up to where keys have been forgotten.
    forgotten: HashMap<(u64, crate::view::RunOrigin), jiff::Timestamp>,
}

impl MemoryTaskStore {
    /// A store with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn check_epoch(&self, shard: u32, ours: u64) -> Result<(), StoreError> {
        match self.epochs.get(&shard) {
            Some(theirs) if *theirs > ours => Err(StoreError::Fenced { shard, ours, theirs: *theirs }),
            _ => Ok(()),
        }
    }

    fn task(&mut self, shard: u32, id: &str, incarnation: u64) -> Result<&mut StoredTask, StoreError> {
        self.tasks
            .get_mut(&(shard, id.to_owned()))
            .filter(|task| task.incarnation == incarnation)
            .ok_or_else(|| StoreError::NotFound(id.to_owned()))
    }

    fn apply(&mut self, Commit { shard, epoch, change }: &Commit) -> Result<(), StoreError> {
        self.check_epoch(*shard, *epoch)?;
        match change {
            Change::Insert(task) => {
                let key = (*shard, task.spec.id.clone());
                if self.tasks.contains_key(&key) {
                    return Err(StoreError::Exists(task.spec.id.clone()));
                }
                self.tasks.insert(key, (**task).clone());
            }
            Change::Replace(task) => {
                *self.task(*shard, &task.spec.id, task.incarnation)? = (**task).clone();
            }
            Change::State { id, incarnation, state } => {
                self.task(*shard, id, *incarnation)?.state = state.clone();
            }
            Change::Remove { id, incarnation } => {
                self.task(*shard, id, *incarnation)?;
                self.tasks.remove(&(*shard, id.clone()));
                self.runs.remove(id);
            }
            Change::Run { run, state } => {
                self.task(*shard, &run.task, run.incarnation)?;
                let runs = self.runs.entry(run.task.clone()).or_default();
                let key = RunKey::from(&**run);
                let is_forgotten = runs
                    .forgotten
                    .get(&(run.incarnation, run.origin))
                    .is_some_and(|until| run.scheduled_for <= *until);
                if is_forgotten || runs.latest.iter().any(|known| RunKey::from(known) == key) {
                    return Err(StoreError::Duplicate(run.task.clone()));
                }
                runs.latest.push_front((**run).clone());
                if runs.latest.len() > RUNS_MAX
                    && let Some(oldest) = runs.latest.pop_back()
                {
                    let until = runs.forgotten.entry((oldest.incarnation, oldest.origin)).or_default();
                    *until = oldest.scheduled_for.max(*until);
                }
                self.task(*shard, &run.task, run.incarnation)?.state = state.clone();
            }
        }
        Ok(())
    }
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn claim(&self, shard: u32, epoch: u64) -> Result<(), StoreError> {
        let mut tables = self.tables();
        tables.check_epoch(shard, epoch)?;
        tables.epochs.insert(shard, epoch);
        Ok(())
    }

    async fn load(
        &self,
        shard: u32,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredTask>, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded((shard, after.to_owned())),
            None => Included((shard, String::new())),
        };
        let tables = self.tables();
        let tasks = tables.tasks.range((from, Unbounded)).take_while(|((at, _), _)| *at == shard);
        Ok(tasks.take(limit).map(|(_, task)| task.clone()).collect())
    }

    async fn commit(&self, commits: &[Commit]) -> Vec<Result<(), StoreError>> {
        let mut tables = self.tables();
        commits.iter().map(|commit| tables.apply(commit)).collect()
    }

    async fn runs(&self, task: &str, limit: usize) -> Result<Vec<RunView>, StoreError> {
        let tables = self.tables();
        Ok(tables
            .runs
            .get(task)
            .map(|runs| runs.latest.iter().take(limit).cloned().collect())
            .unwrap_or_default())
    }
}
