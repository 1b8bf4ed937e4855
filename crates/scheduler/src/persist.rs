//! The store and the cluster beside the loop: what is written, and which shards this node holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use runtime::CancellationToken;
use tokio::sync::{Notify, oneshot};
use tracing::{debug, warn};

use crate::coordinator::{Assignment, Coordinator, Grant, Membership};
use crate::core::{Core, Pending};
use crate::error::TaskError;
use crate::schedule::floor_micros;
use crate::scheduler::Inner;
use crate::store::{Change, Commit, StoreError, TaskStore, shard_of};
use crate::view::{ClusterStatus, StoreStatus};

/// Which shards this node holds.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) shards: u32,
    pub(crate) epochs: HashMap<u32, u64>,
}

/// How many changes are written at once.
const BATCH: usize = 1024;
/// How many tasks are read at once.
const PAGE: usize = 1000;
/// The first and the longest wait before a store or a cluster that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A store, and what is known about it.
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn TaskStore>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    /// Something waits to be written.
    pub(crate) wake: Notify,
    /// What waited has been written.
    written: Notify,
    writing: tokio::sync::Mutex<()>,
    is_failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    members: Mutex<Vec<String>>,
}

impl Keeper {
    pub(crate) fn new(store: Arc<dyn TaskStore>, coordinator: Arc<dyn Coordinator>) -> Self {
        Self {
            store,
            coordinator,
            wake: Notify::new(),
            written: Notify::new(),
            writing: tokio::sync::Mutex::new(()),
            is_failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
            members: Mutex::default(),
        }
    }

    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            kind: self.store.kind().to_owned(),
            durable: self.store.is_durable(),
            healthy: !self.is_failing.load(Ordering::Relaxed),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    pub(crate) fn cluster(&self, node: &str, core: &Core) -> ClusterStatus {
        ClusterStatus {
            node: node.to_owned(),
            members: self.members.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            shards: self.coordinator.shards(),
            owned: core.owned.as_ref().map_or(0, |owned| owned.epochs.len() as u32),
        }
    }

    fn note(&self, failure: Option<&StoreError>) {
        self.is_failing.store(failure.is_some(), Ordering::Relaxed);
        if let Some(failure) = failure {
            *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.to_string());
        }
    }
}

impl Inner {
    /// Makes a change that the store must take first; `then` is done under the lock once it has answered,
    /// whether or not the caller still waits.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        keeper: &Keeper,
        begin: impl FnOnce(&mut Core) -> Result<Change, TaskError>,
        then: impl FnOnce(&mut Core, Result<(), StoreError>) -> Result<T, TaskError> + Send + 'static,
    ) -> Result<T, TaskError> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut core = self.core();
            let change = begin(&mut core)?;
            let then = Box::new(move |core: &mut Core, answer: Result<(), StoreError>| {
                let _ = sender.send(then(core, answer));
            });
            core.pending.push_back(Pending::Change { change, then: Some(then) });
        }
        keeper.wake.notify_one();
        receiver.await.map_err(|_| TaskError::Stopped)?
    }

    /// Writes what waits, in order, until nothing does.
    pub(crate) async fn flush(&self, keeper: &Keeper) {
        let _turn = keeper.writing.lock().await;
        let mut wait = RETRY.0;
        loop {
            let batch: Vec<Pending> = {
                let mut core = self.core();
                let count = core.pending.len().min(BATCH);
                core.pending.drain(..count).collect()
            };
            if batch.is_empty() {
                break;
            }
            let (commits, thens): (Vec<Commit>, Vec<_>) =
                batch.into_iter().map(|pending| self.commit_of(pending)).unzip();
            let answers = loop {
                let answers = keeper.store.commit(&commits).await;
                let failure = answers.iter().find_map(|answer| match answer {
                    Err(error @ StoreError::Engine(_)) => Some(error.clone()),
                    _ => None,
                });
                keeper.note(failure.as_ref());
                // A caller is told of a failure; a run that has ended is written when the store is back. A
                // run that the store did take the first time is refused as a duplicate the second time.
                if failure.is_none() || thens.iter().any(Option::is_some) {
                    break answers;
                }
                warn!(error = ?failure, "store failed, trying again");
                self.clock.sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            };
            wait = RETRY.0;
            let now = floor_micros(self.clock.now());
            let mut core = self.core();
            for ((answer, then), commit) in answers.into_iter().zip(thens).zip(commits) {
                match &answer {
                    Err(StoreError::Fenced { shard, .. }) => core.drop_shard(*shard, now),
                    Err(error @ StoreError::Engine(_)) if then.is_none() => {
                        // It shared its batch with a caller's change: it goes to the front of the line again.
                        debug!(%error, "to be written again");
                        core.unwritten.push(commit);
                    }
                    Err(error) if then.is_none() => debug!(%error, "change not stored"),
                    _ => {}
                }
                if let Some(then) = then {
                    then(&mut core, answer);
                }
            }
            let again = std::mem::take(&mut core.unwritten);
            for Commit { change, .. } in again.into_iter().rev() {
                core.pending.push_front(Pending::Change { change, then: None });
            }
            let wanted = core.wanted_at(now);
            drop(core);
            self.nudge(wanted);
        }
        keeper.written.notify_waiters();
    }

    fn commit_of(&self, pending: Pending) -> (Commit, Option<crate::core::Then>) {
        let (change, then) = match pending {
            Pending::Change { change, then } => (change, then),
            Pending::Run { run, state } => {
                (Change::Run { run: Box::new(run.view(self.node())), state }, None)
            }
        };
        let core = self.core();
        let (shard, epoch) = core.owned.as_ref().map_or((0, 0), |owned| {
            let shard = shard_of(id_of(&change), owned.shards);
            // A shard that has been lost meanwhile has no epoch, and zero is refused by the store.
            (shard, owned.epochs.get(&shard).copied().unwrap_or(0))
        });
        (Commit { shard, epoch, change }, then)
    }

    /// Takes over the shards that are new in the assignment, and lets go of those that are gone.
    pub(crate) async fn follow(&self, keeper: &Keeper, assignment: Assignment) -> Result<(), StoreError> {
        let Assignment { members, grants } = assignment;
        *keeper.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
        let held: HashMap<u32, u64> =
            self.core().owned.as_ref().map(|owned| owned.epochs.clone()).unwrap_or_default();
        let is_kept = |shard: &u32, epoch: &u64| grants.contains(&Grant { shard: *shard, epoch: *epoch });
        for (shard, _) in held.iter().filter(|(shard, epoch)| !is_kept(shard, epoch)) {
            let now = floor_micros(self.clock.now());
            self.core().drop_shard(*shard, now);
        }
        for grant in grants.iter().filter(|grant| held.get(&grant.shard) != Some(&grant.epoch)) {
            keeper.store.claim(grant.shard, grant.epoch).await?;
            let mut after: Option<String> = None;
            loop {
                let page = keeper.store.load(grant.shard, after.as_deref(), PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.spec.id.clone());
                let now = floor_micros(self.clock.now());
                let mut core = self.core();
                for stored in page {
                    let id = stored.spec.id.clone();
                    if let Err(error) = core.restore(stored, now) {
                        warn!(task = id, %error, "stored task left alone");
                    }
                }
            }
            let mut core = self.core();
            if let Some(owned) = &mut core.owned {
                owned.epochs.insert(grant.shard, grant.epoch);
            }
        }
        let now = floor_micros(self.clock.now());
        let mut core = self.core();
        core.link_restored();
        let wanted = core.wanted_at(now);
        drop(core);
        self.nudge(wanted);
        Ok(())
    }
}

fn id_of(change: &Change) -> &str {
    match change {
        Change::Insert(task) | Change::Replace(task) => &task.spec.id,
        Change::State { id, .. } | Change::Remove { id, .. } => id,
        Change::Run { run, .. } => &run.task,
    }
}

/// Writes whenever something waits.
pub(crate) async fn keep(inner: Arc<Inner>, token: CancellationToken) {
    let Some(keeper) = &inner.keeper else { return };
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = keeper.wake.notified() => inner.flush(keeper).await,
        }
    }
}

/// Follows the cluster's assignments, and joins again if the membership is lost.
pub(crate) async fn coordinate(inner: Arc<Inner>, mut member: Box<dyn Membership>, token: CancellationToken) {
    let Some(keeper) = &inner.keeper else { return };
    let mut wait = RETRY.0;
    loop {
        let assignment = tokio::select! {
            () = token.cancelled() => {
                member.leave().await;
                return;
            }
            assignment = member.assignment() => assignment,
        };
        let failure = match assignment {
            Ok(assignment) => match inner.follow(keeper, assignment).await {
                Ok(()) => {
                    wait = RETRY.0;
                    continue;
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        // What this node holds is not certain any more: it lets go of all, and begins again.
        warn!(error = failure, "cluster membership failed, joining again");
        member.leave().await;
        if inner.follow(keeper, Assignment::default()).await.is_err() {
            debug!("nothing was held");
        }
        member = loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = inner.clock.sleep(wait) => {}
            }
            wait = (wait * 2).min(RETRY.1);
            match keeper.coordinator.join(inner.node()).await {
                Ok(member) => break member,
                Err(error) => debug!(%error, "join failed"),
            }
        };
    }
}
