//! The store and the cluster beside the loop: what is written, and which shards this node holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use runtime::{CancellationToken, Timestamp};
use tokio::sync::{Notify, oneshot};
use tracing::{debug, warn};

use crate::coordinator::{Assignment, Coordinator, Grant, Membership};
use crate::core::{Batch, Core, Pending, Restored, Tails, Then};
use crate::error::TaskError;
use crate::schedule::floor_micros;
use crate::scheduler::Inner;
use crate::store::{Change, Commit, Loaded, Records, StoreError, StorePlace, TaskStore};
use crate::view::{ClusterStatus, StoreStatus};

/// Which shards this node holds.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) shards: u32,
    pub(crate) epochs: HashMap<u32, u64>,
}

/// How many tasks are read at once.
const PAGE: usize = 4096;
/// In how many parts shards are read beside each other. The same on every machine, so that tasks come in the
/// same order.
const PARTS: usize = 4;
/// The first and the longest wait before a store that failed is tried again. Callers wait for it too.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The same for a cluster.
const REJOIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What has become of commits.
#[derive(Debug, Default)]
pub(crate) struct StoreCounts {
    pub(crate) commits: u64,
    pub(crate) changes: u64,
    pub(crate) errors: u64,
    last_error: Option<String>,
    last_commit_at: Option<Timestamp>,
    /// How long those took that there have been since these were last taken.
    took: Vec<Duration>,
}

/// How many times of commits wait to be reported at the most.
const TOOK_MAX: usize = 16_384;

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
    counts: Mutex<StoreCounts>,
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
            counts: Mutex::default(),
            members: Mutex::default(),
        }
    }

    fn counts(&self) -> MutexGuard<'_, StoreCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store as it stands, with so many changes that wait for it.
    pub(crate) fn status(&self, pending: usize) -> StoreStatus {
        let StorePlace { location, bytes } = self.store.place();
        let counts = self.counts();
        StoreStatus {
            kind: self.store.kind().to_owned(),
            durable: self.store.is_durable(),
            healthy: !self.is_failing.load(Ordering::Relaxed),
            last_error: counts.last_error.clone(),
            errors: counts.errors,
            pending: pending as u64,
            last_commit_at: counts.last_commit_at,
            location,
            bytes,
        }
    }

    /// What has been counted, for the metrics facade.
    pub(crate) fn report_metrics(&self, pending: usize) {
        let (commits, changes, errors, took) = {
            let mut counts = self.counts();
            (counts.commits, counts.changes, counts.errors, std::mem::take(&mut counts.took))
        };
        metrics::counter!("scheduler_store_commits_total").absolute(commits);
        metrics::counter!("scheduler_store_changes_total").absolute(changes);
        metrics::counter!("scheduler_store_errors_total").absolute(errors);
        metrics::gauge!("scheduler_store_pending").set(pending as f64);
        if let Some(bytes) = self.store.place().bytes {
            metrics::gauge!("scheduler_store_bytes").set(bytes as f64);
        }
        let duration = metrics::histogram!("scheduler_store_commit_duration_seconds");
        for took in took {
            duration.record(took);
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

    /// Notes what has become of a commit of so many changes.
    fn note(&self, failure: Option<&StoreError>, changes: usize, took: Duration, now: Timestamp) {
        self.is_failing.store(failure.is_some(), Ordering::Relaxed);
        let mut counts = self.counts();
        match failure {
            Some(failure) => {
                counts.errors += 1;
                counts.last_error = Some(failure.to_string());
            }
            None => {
                counts.commits += 1;
                counts.changes += changes as u64;
                counts.last_commit_at = Some(now);
            }
        }
        if counts.took.len() < TOOK_MAX {
            counts.took.push(took);
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
            core.pending.push_back(Pending::Change { change: Box::new(change), then });
        }
        keeper.wake.notify_one();
        receiver.await.map_err(|_| TaskError::Stopped)?
    }

    /// Writes what waits, in order, until nothing does.
    pub(crate) async fn flush(&self, keeper: &Keeper) {
        let _turn = keeper.writing.lock().await;
        let mut wait = RETRY.0;
        // What nobody waits for and the store has not taken: it is written when the store is back.
        let mut unwritten: Vec<Commit> = Vec::new();
        loop {
            let Batch { commits: new, thens: new_thens } = self.core().take_batch(self.node());
            let mut thens: Vec<Option<Then>> =
                std::iter::repeat_with(|| None).take(unwritten.len()).collect();
            thens.extend(new_thens);
            unwritten.extend(new);
            if unwritten.is_empty() {
                break;
            }
            let commits: Arc<[Commit]> = std::mem::take(&mut unwritten).into();
            let begun = tokio::time::Instant::now();
            let answers = keeper.store.commit(Arc::clone(&commits)).await;
            let failure = answers.iter().find_map(|answer| match answer {
                Err(error @ StoreError::Engine(_)) => Some(error),
                _ => None,
            });
            keeper.note(failure, commits.len(), begun.elapsed(), self.clock.now());
            let has_failed = failure.is_some();
            if let Some(error) = failure {
                warn!(%error, changes = commits.len(), "the store does not take changes");
            }
            unwritten = self.settle(&commits, thens, answers);
            if has_failed {
                self.clock.sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            } else {
                wait = RETRY.0;
            }
        }
        keeper.written.notify_waiters();
    }

    /// Does what follows from the store's answers, and tells what it has to be asked again.
    fn settle(
        &self,
        commits: &[Commit],
        thens: Vec<Option<Then>>,
        answers: Vec<Result<(), StoreError>>,
    ) -> Vec<Commit> {
        let now = floor_micros(self.clock.now());
        let mut unwritten = Vec::new();
        let mut core = self.core();
        for ((answer, then), commit) in answers.into_iter().zip(thens).zip(commits) {
            match (answer, then) {
                (answer, Some(then)) => {
                    let has_failed = matches!(answer, Err(StoreError::Engine(_)));
                    then(&mut core, answer);
                    if has_failed {
                        // It had the task's state with it, which nothing else of the batch has.
                        core.note_changed(commit.change.task());
                    }
                }
                (Err(StoreError::Fenced { shard, .. }), None) => core.drop_shard(shard, now),
                (Err(StoreError::Engine(_)), None) => unwritten.push(commit.clone()),
                (Err(error), None) => debug!(%error, "change not stored"),
                (Ok(()), None) => {}
            }
        }
        core.unwritten = unwritten.len();
        let wanted = core.wanted_at(now);
        drop(core);
        self.nudge(wanted);
        unwritten
    }

    /// Takes over the shards that are new in the assignment, and lets go of those that are gone.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        keeper: &Keeper,
        assignment: Assignment,
    ) -> Result<(), StoreError> {
        let Assignment { members, grants } = assignment;
        *keeper.members.lock().unwrap_or_else(PoisonError::into_inner) = members;
        let held: HashMap<u32, u64> =
            self.core().owned.as_ref().map(|owned| owned.epochs.clone()).unwrap_or_default();
        let is_kept = |shard: &u32, epoch: &u64| grants.contains(&Grant { shard: *shard, epoch: *epoch });
        for (shard, _) in held.iter().filter(|(shard, epoch)| !is_kept(shard, epoch)) {
            let now = floor_micros(self.clock.now());
            self.core().drop_shard(*shard, now);
        }
        let new: Vec<Grant> =
            grants.into_iter().filter(|grant| held.get(&grant.shard) != Some(&grant.epoch)).collect();
        if !new.is_empty() {
            self.take_over(keeper, &new).await?;
        }
        let now = floor_micros(self.clock.now());
        let mut core = self.core();
        core.link_restored();
        let wanted = core.wanted_at(now);
        drop(core);
        self.nudge(wanted);
        Ok(())
    }

    /// Takes in what the store has of these shards: pages are read and made into tasks on several threads,
    /// while those before them are taken in.
    async fn take_over(self: &Arc<Self>, keeper: &Keeper, grants: &[Grant]) -> Result<(), StoreError> {
        keeper.store.claim(grants).await?;
        let mut parts: Vec<Part> = std::iter::repeat_with(Part::default).take(PARTS).collect();
        for (part, grant) in (0..PARTS).cycle().zip(grants) {
            if let Some(part) = parts.get_mut(part) {
                part.shards.push(grant.shard);
            }
        }
        parts.retain(|part| !part.shards.is_empty());
        let mut pages = Vec::new();
        while !(parts.is_empty() && pages.is_empty()) {
            let reading = try_join_all(parts.iter_mut().map(|part| self.read_page(keeper, part)));
            let (read, ()) = tokio::join!(reading, self.take_in(pages));
            pages = read?;
            parts.retain(|part| !part.is_read);
        }
        let shards: Vec<u32> = grants.iter().map(|grant| grant.shard).collect();
        self.take_over_records(keeper, &shards).await?;
        if let Some(owned) = &mut self.core().owned {
            owned.epochs.extend(grants.iter().map(|grant| (grant.shard, grant.epoch)));
        }
        Ok(())
    }

    /// Takes in the records that there are of the tasks of these shards, as far as there is room.
    async fn take_over_records(&self, keeper: &Keeper, shards: &[u32]) -> Result<(), StoreError> {
        let mut tails = Tails::default();
        let mut cursor = None;
        loop {
            let Records { runs, next } = keeper.store.history(shards, cursor.as_deref(), PAGE).await?;
            let now = floor_micros(self.clock.now());
            let has_room = self.core().adopt(runs, &mut tails, self.node(), now);
            match next {
                Some(next) if has_room => cursor = Some(next),
                _ => return Ok(()),
            }
        }
    }

    /// The next page of a part.
    async fn read_page(
        self: &Arc<Self>,
        keeper: &Keeper,
        part: &mut Part,
    ) -> Result<Vec<Restored>, StoreError> {
        let Loaded { tasks, next } = keeper.store.load(&part.shards, part.cursor.as_deref(), PAGE).await?;
        part.is_read = next.is_none();
        part.cursor = next;
        let inner = Arc::clone(self);
        beside(move || {
            let now = floor_micros(inner.clock.now());
            let read = |stored| Restored::read(stored, &inner.executors, &inner.calendars, now);
            let restored = tasks.into_iter().map(read).filter_map(|read| match read {
                Ok(restored) => Some(restored),
                Err((task, error)) => {
                    warn!(task, %error, "stored task left alone");
                    None
                }
            });
            restored.collect()
        })
        .await
    }

    async fn take_in(self: &Arc<Self>, pages: Vec<Vec<Restored>>) {
        let inner = Arc::clone(self);
        let taken_in = beside(move || {
            let now = floor_micros(inner.clock.now());
            for page in pages {
                let mut core = inner.core();
                for restored in page {
                    core.restore(restored, now);
                }
            }
        });
        if let Err(error) = taken_in.await {
            warn!(%error, "stored tasks left alone");
        }
    }
}

/// Some of the shards that are taken over, and how far they have been read.
#[derive(Default)]
struct Part {
    shards: Vec<u32>,
    cursor: Option<String>,
    is_read: bool,
}

/// Does work that takes a while on a thread where that keeps nobody waiting.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Engine(format!("a thread that reads tasks has ended: {error}")))
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
    let mut wait = REJOIN.0;
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
                    wait = REJOIN.0;
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
            wait = (wait * 2).min(REJOIN.1);
            match keeper.coordinator.join(inner.node()).await {
                Ok(member) => break member,
                Err(error) => debug!(%error, "join failed"),
            }
        };
    }
}
