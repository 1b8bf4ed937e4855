//! The handle that callers hold.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_bus::{EventBus, TopicError};
use runtime::{SharedClock, SystemClock, TaskOwner, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::coordinator::{Coordinator, CoordinatorError, MemoryCoordinator};
use crate::core::{Action, Core, Ended, Filter, Insert, RunIds, Search, TaskSnapshot, flag};
use crate::def::{Def, payload_text};
use crate::dispatch::{drive, work};
use crate::error::TaskError;
use crate::executor::{ExecutorGuard, ExecutorRegistry, RegisterError};
use crate::executors;
use crate::id::RunId;
use crate::persist::{Keeper, Owned, coordinate, keep};
use crate::publish::{BATCH, Teller};
use crate::schedule::admit::admit;
use crate::schedule::{Bounds, Micros, NEVER, ceil_micros, floor_micros, timestamp};
use crate::spec::{ScheduleSpec, TaskSpec};
use crate::store::{Change, StoreError, TaskStore};
use crate::view::{
    ClusterStatus, ExecutorInfo, Page, Paged, RunView, SchedulerStatus, StoreStatus, TaskFilter, TaskStatus,
    TaskView,
};

/// The bounds of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Whether due tasks are run as soon as the scheduler is there.
    pub auto_start: bool,
    /// How many runs may be under way at once; further ones wait, the higher priority first.
    pub max_concurrent_tasks: usize,
    /// How many tasks there may be.
    pub max_tasks: usize,
    /// How many records of runs are kept.
    pub max_records: usize,
    /// How many runs of one task may wait for each other under `overlap: queue_all`.
    pub max_queued_runs: usize,
    /// How long one attempt may take where the task does not say.
    #[serde(with = "runtime::duration_text")]
    pub default_timeout: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            auto_start: true,
            max_concurrent_tasks: 10_000,
            max_tasks: 5_000_000,
            max_records: 100_000,
            max_queued_runs: 1000,
            default_timeout: Duration::from_secs(24 * 3600),
        }
    }
}

impl SchedulerConfig {
    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`BuildError::Invalid`] with the setting that is out of them.
    pub fn check(&self) -> Result<(), BuildError> {
        for (field, value) in [
            ("max_concurrent_tasks", self.max_concurrent_tasks),
            ("max_tasks", self.max_tasks),
            ("max_records", self.max_records),
            ("max_queued_runs", self.max_queued_runs),
        ] {
            // Places are counted in 32 bits.
            if value == 0 || value > 1 << 30 {
                let detail = "must be from 1 to 1073741824".to_owned();
                return Err(BuildError::Invalid { field: field.to_owned(), detail });
            }
        }
        if self.default_timeout.is_zero() {
            let detail = "must be 1ms or more".to_owned();
            return Err(BuildError::Invalid { field: "default_timeout".to_owned(), detail });
        }
        Ok(())
    }
}

/// Why a scheduler was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of bounds.
    #[error("{field}: {detail}")]
    Invalid {
        /// The setting.
        field: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A built-in executor could not be registered.
    #[error("register the built-in executors")]
    Executors(#[from] RegisterError),
    /// The store could not be read.
    #[error("read the store")]
    Store(#[from] StoreError),
    /// The cluster could not be joined.
    #[error("join the cluster")]
    Cluster(#[from] CoordinatorError),
    /// The node's name makes no event.
    #[error("name the topics of events")]
    Topics(#[from] TopicError),
}

/// What a stop could not finish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// How many runs were cancelled at the deadline; due tasks and these are run by misfire policy later.
    pub canceled_runs: u64,
    /// How many runs did not yield at all and were left behind.
    pub stuck_runs: u64,
}

/// Makes a [`Scheduler`].
pub struct SchedulerBuilder {
    clock: SharedClock,
    executors: ExecutorRegistry,
    config: SchedulerConfig,
    node: String,
    bus: Option<EventBus>,
    start_later: bool,
    store: Option<Arc<dyn TaskStore>>,
    coordinator: Option<Arc<dyn Coordinator>>,
}

impl SchedulerBuilder {
    /// Where tasks are kept beyond this scheduler. Without a store they are kept in its memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn TaskStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Who divides the tasks among nodes that share a store. Without a coordinator this node has them all.
    #[must_use]
    pub fn coordinator(mut self, coordinator: Arc<dyn Coordinator>) -> Self {
        self.coordinator = Some(coordinator);
        self
    }

    /// Leaves it to [`Scheduler::start`] to begin, whatever the configuration says: for a host in which the
    /// scheduler is a plugin, and begins when that starts.
    #[must_use]
    pub fn start_later(mut self) -> Self {
        self.start_later = true;
        self
    }

    /// Where `scheduler.task.*` events go, and what the executor `event` publishes to.
    #[must_use]
    pub fn bus(mut self, bus: EventBus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Where the time comes from; the machine's clock where it is not said.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The names under which executors are found; the built-in ones are added to them.
    #[must_use]
    pub fn executors(mut self, executors: ExecutorRegistry) -> Self {
        self.executors = executors;
        self
    }

    /// The bounds.
    #[must_use]
    pub fn config(mut self, config: SchedulerConfig) -> Self {
        self.config = config;
        self
    }

    /// The name of this node in records; `local` where it is not said.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Builds the scheduler, and starts it if the configuration says so, on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// If a setting is out of bounds.
    pub async fn build(self) -> Result<Scheduler, BuildError> {
        let config = self.config;
        config.check()?;
        let built_in = executors::register(&self.executors, self.bus.as_ref())?;
        let teller = self.bus.map(|bus| Teller::new(bus, &self.node)).transpose()?;
        let now = floor_micros(self.clock.now());
        let ids =
            RunIds { begun_ms: now.unsigned_abs() / 1000, salt: RandomState::new().hash_one(now) as u32 };
        let auto_start = config.auto_start && !self.start_later;
        let mut core = Core::new(config.clone(), self.executors.clone(), ids, now);
        core.tells = teller.is_some();
        let keeper = match (self.store, self.coordinator) {
            (None, None) => None,
            (None, Some(_)) => {
                let detail = "is needed where a coordinator is given".to_owned();
                return Err(BuildError::Invalid { field: "store".to_owned(), detail });
            }
            (Some(store), coordinator) => {
                // Epochs must be greater than those of the process before, which the time is.
                let alone = || Arc::new(MemoryCoordinator::new(SHARDS, now.unsigned_abs())) as Arc<_>;
                Some(Keeper::new(store, coordinator.unwrap_or_else(alone)))
            }
        };
        core.owned =
            keeper.as_ref().map(|keeper| Owned { shards: keeper.coordinator.shards(), ..Owned::default() });
        let inner = Arc::new(Inner {
            core: Mutex::new(core),
            clock: self.clock,
            executors: self.executors,
            node: self.node,
            config,
            teller,
            wake: Notify::new(),
            work: Notify::new(),
            sleeping_until: AtomicI64::new(NEVER),
            notices_max: NOTICES_MAX,
            runs: TaskTracker::new(),
            loops: Mutex::new(None),
            keeper,
            keeping: TaskOwner::new("scheduler-store"),
            _built_in: built_in,
        });
        if let Some(keeper) = &inner.keeper {
            let mut member = keeper.coordinator.join(&inner.node).await?;
            inner.follow(keeper, member.assignment().await?).await?;
            let token = inner.keeping.token();
            inner.keeping.spawn("store", keep(Arc::clone(&inner), token.clone()));
            inner.keeping.spawn("cluster", coordinate(Arc::clone(&inner), member, token));
        }
        let alive = Arc::new(Alive(Arc::clone(&inner)));
        let scheduler = Scheduler { inner, _alive: alive };
        if auto_start {
            scheduler.start();
        }
        Ok(scheduler)
    }
}

/// Into how many shards the tasks of a store are divided that one node has to itself: enough that nodes can
/// join later without moving them.
const SHARDS: u32 = 64;

/// How many notices may wait to be published while runs are started: some 64 MB.
const NOTICES_MAX: usize = 1 << 20;

/// Schedules tasks and runs them. A clone is the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
    _alive: Arc<Alive>,
}

/// Ends the loops when the last handle goes, since they hold what they work on themselves.
struct Alive(Arc<Inner>);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(loops) = self.0.loops.lock().unwrap_or_else(PoisonError::into_inner).take() {
            loops.cancel();
        }
        self.0.keeping.cancel();
    }
}

/// What all clones, the driver and the workers share.
pub(crate) struct Inner {
    core: Mutex<Core>,
    pub(crate) clock: SharedClock,
    pub(crate) executors: ExecutorRegistry,
    node: String,
    config: SchedulerConfig,
    teller: Option<Teller>,
    /// Wakes the driver: what it sleeps for has changed.
    pub(crate) wake: Notify,
    /// Wakes a worker: something is due.
    pub(crate) work: Notify,
    /// Until when the driver sleeps.
    pub(crate) sleeping_until: AtomicI64,
    /// How many notices may wait to be published.
    pub(crate) notices_max: usize,
    /// Runs that did not end at their first poll.
    pub(crate) runs: TaskTracker,
    /// The driver and the workers, while the scheduler runs.
    loops: Mutex<Option<TaskOwner>>,
    pub(crate) keeper: Option<Keeper>,
    /// Writes to the store, and follows the cluster.
    keeping: TaskOwner,
    _built_in: Vec<ExecutorGuard>,
}

impl Inner {
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // Foreign code never runs under this lock, and a panic of our own in it is a defect: what was
        // changed by then is kept, since losing all tasks would be worse.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        floor_micros(self.clock.now())
    }

    /// Wakes the driver if it would sleep past what is wanted now.
    pub(crate) fn nudge(&self, wanted_at: Micros) {
        if wanted_at < self.sleeping_until.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// A run that was spawned has ended.
    pub(crate) fn finish(&self, run: u32, ended: Ended, started: Micros, at: Micros) {
        let wanted = {
            let mut core = self.core();
            core.finish(run, ended, started, at);
            core.wanted_at(at)
        };
        self.nudge(wanted);
        self.tell();
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Publishes what has happened, and has it written.
    pub(crate) fn tell(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.wake.notify_one();
        }
        let Some(teller) = &self.teller else { return };
        teller.tell(|batch| {
            let mut core = self.core();
            let count = core.notices.len().min(BATCH);
            batch.extend(core.notices.drain(..count));
        });
    }
}

impl Scheduler {
    /// A scheduler with its settings to be said.
    #[must_use]
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder {
            clock: SystemClock::shared(),
            executors: ExecutorRegistry::new(),
            config: SchedulerConfig::default(),
            node: "local".to_owned(),
            bus: None,
            start_later: false,
            store: None,
            coordinator: None,
        }
    }

    /// Begins to run what is due, on the runtime of the caller. Does nothing if it runs already.
    pub fn start(&self) {
        let inner = &self.inner;
        let mut loops = inner.loops.lock().unwrap_or_else(PoisonError::into_inner);
        if loops.is_some() {
            return;
        }
        let owner = TaskOwner::new("scheduler");
        inner.core().running = true;
        inner.runs.reopen();
        let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16);
        for number in 0..workers {
            owner.spawn(format!("worker-{number}"), work(Arc::clone(inner), owner.token()));
        }
        owner.spawn("driver", drive(Arc::clone(inner), owner.token()));
        *loops = Some(owner);
    }

    /// Starts nothing more, lets runs under way end, cancels the rest shortly before the deadline, and
    /// tells what did not end. What falls due meanwhile is treated by misfire policy after the next start.
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        let inner = &self.inner;
        let owner = inner.loops.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(owner) = owner else { return StopReport::default() };
        inner.core().running = false;
        let grace = (deadline / 5).min(Duration::from_secs(1));
        owner.shutdown(grace).await;
        inner.runs.close();
        let mut report = StopReport::default();
        if runtime::within(deadline.saturating_sub(2 * grace), inner.runs.wait()).await.is_err() {
            report.canceled_runs = inner.runs.len() as u64;
            inner.core().cancel_all();
            if runtime::within(grace, inner.runs.wait()).await.is_err() {
                report.stuck_runs = inner.runs.len() as u64;
                report.canceled_runs -= report.stuck_runs.min(report.canceled_runs);
            }
        }
        inner.tell();
        if let Some(keeper) = &inner.keeper
            && runtime::within(grace, inner.flush(keeper)).await.is_err()
        {
            warn!("the store has not taken everything before the deadline");
        }
        report
    }

    /// Whether due tasks are run.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.inner.core().running
    }

    /// Takes a new task in.
    ///
    /// # Errors
    ///
    /// If a field is wrong, the id is taken, or there is no room. No task is left then.
    pub async fn create(&self, spec: TaskSpec) -> Result<TaskView, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let def = Arc::new(Def::admit(&spec, None, &inner.executors, now)?);
        let (snapshot, wanted) = match &inner.keeper {
            None => {
                let mut core = inner.core();
                let task = core.insert(def, Insert::Ready, now)?;
                (core.snapshot(task), core.wanted_at(now))
            }
            Some(keeper) => self.create_kept(keeper, def, now).await?,
        };
        inner.nudge(wanted);
        inner.tell();
        self.view(snapshot, &spec.id)
    }

    /// Takes a task in that does not run before the store has it.
    async fn create_kept(
        &self,
        keeper: &Keeper,
        def: Arc<Def>,
        now: Micros,
    ) -> Result<(Option<TaskSnapshot>, Micros), TaskError> {
        let id = def.id.to_string();
        let place = Arc::new(AtomicU32::new(0));
        let chosen = Arc::clone(&place);
        let begin = move |core: &mut Core| {
            let task = core.insert(Arc::clone(&def), Insert::Held, now)?;
            chosen.store(task, Ordering::SeqCst);
            let stored = core.stored(task).ok_or(TaskError::Stopped)?;
            Ok((def.id.clone(), Change::Insert(Box::new(stored))))
        };
        let then = move |core: &mut Core, answer: Result<(), StoreError>| {
            let task = place.load(Ordering::SeqCst);
            match answer {
                Ok(()) => {
                    core.release(task, now);
                    Ok((core.snapshot(task), core.wanted_at(now)))
                }
                Err(error) => {
                    core.discard(task, now);
                    Err(refused(&id, error))
                }
            }
        };
        self.inner.change(keeper, begin, then).await
    }

    /// Takes many tasks in, each on its own: one that is refused does not keep the others out.
    pub async fn create_many(&self, specs: Vec<TaskSpec>) -> Vec<Result<(), TaskError>> {
        /// How many are taken in before the lock is let go for a moment.
        const STRETCH: usize = 64;
        let inner = &self.inner;
        let mut results = Vec::with_capacity(specs.len());
        if inner.keeper.is_some() {
            // They are written together: each waits for the store, and all of them at once.
            let all = specs.into_iter().map(|spec| self.create(spec));
            results
                .extend(futures_util::future::join_all(all).await.into_iter().map(|result| result.map(drop)));
            return results;
        }
        let mut ready = Vec::with_capacity(STRETCH);
        for specs in specs.chunks(STRETCH) {
            let now = inner.now();
            ready
                .extend(specs.iter().map(|spec| Def::admit(spec, None, &inner.executors, now).map(Arc::new)));
            let wanted = {
                let mut core = inner.core();
                results.extend(
                    ready
                        .drain(..)
                        .map(|def| def.and_then(|def| core.insert(def, Insert::Ready, now)).map(drop)),
                );
                core.wanted_at(now)
            };
            inner.nudge(wanted);
            inner.tell();
        }
        results
    }

    /// Puts another definition in place of a task's; with `if_version` only if the task is at that version.
    /// An id that is left out is that of the task. What was paused stays paused.
    ///
    /// # Errors
    ///
    /// If there is no such task, a field is wrong, or the version is another. Nothing has changed then.
    pub async fn replace(
        &self,
        id: &str,
        mut spec: TaskSpec,
        if_version: Option<u64>,
    ) -> Result<TaskView, TaskError> {
        let inner = &self.inner;
        if spec.id.is_empty() {
            id.clone_into(&mut spec.id);
        } else if spec.id != id {
            return Err(TaskError::invalid("id", format!("is not that of the task, `{id}`")));
        }
        let owner = inner.core().owner_of(id)?;
        let now = inner.now();
        let def = Arc::new(Def::admit(&spec, owner.as_deref(), &inner.executors, now)?);
        let (snapshot, wanted) = self
            .kept(
                id,
                {
                    let def = Arc::clone(&def);
                    move |core| core.preview_replace(&def, if_version, now)
                },
                move |core| {
                    let task = core.replace(def, if_version, now)?;
                    Ok((core.snapshot(task), core.wanted_at(now)))
                },
            )
            .await?;
        inner.nudge(wanted);
        inner.tell();
        self.view(snapshot, id)
    }

    /// One task.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn get(&self, id: &str) -> Result<TaskView, TaskError> {
        let snapshot = {
            let core = self.inner.core();
            core.find(id).and_then(|task| core.snapshot(task))
        };
        self.view(snapshot, id)
    }

    /// Takes a task out, and cancels its runs. Tells what it was.
    ///
    /// # Errors
    ///
    /// If there is none, other tasks run after it, or the version is another.
    pub async fn remove(&self, id: &str, if_version: Option<u64>) -> Result<TaskView, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let name = id.to_owned();
        let snapshot = self
            .kept(
                id,
                {
                    let name = name.clone();
                    move |core| core.preview_remove(&name, if_version)
                },
                move |core| {
                    let task = core.check_remove(&name, if_version)?;
                    let snapshot = core.snapshot(task);
                    core.remove(task, now);
                    Ok(snapshot)
                },
            )
            .await?;
        inner.tell();
        self.view(snapshot, id)
    }

    /// Lets no further run start until the task is resumed. Runs under way go on.
    ///
    /// # Errors
    ///
    /// If there is no such task, or its state does not allow it.
    pub async fn pause(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Pause).await
    }

    /// Lets a paused task run again, at its next time. A one-off task whose time has passed runs at once.
    ///
    /// # Errors
    ///
    /// If there is no such task, or it is not paused.
    pub async fn resume(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Resume).await
    }

    /// Ends a task, its runs under way too. It stays, as canceled.
    ///
    /// # Errors
    ///
    /// If there is no such task, or it is done already.
    pub async fn cancel(&self, id: &str) -> Result<TaskView, TaskError> {
        self.control(id, Action::Cancel).await
    }

    async fn control(&self, id: &str, action: Action) -> Result<TaskView, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let name = id.to_owned();
        let (snapshot, wanted) = self
            .kept(
                id,
                {
                    let name = name.clone();
                    move |core| core.preview_control(&name, action)
                },
                move |core| {
                    let task = match action {
                        Action::Pause => core.pause(&name, now)?,
                        Action::Resume => core.resume(&name, now)?,
                        Action::Cancel | Action::Trigger => core.cancel(&name, now)?,
                    };
                    Ok((core.snapshot(task), core.wanted_at(now)))
                },
            )
            .await?;
        inner.nudge(wanted);
        inner.tell();
        self.view(snapshot, id)
    }

    /// Makes a change to a task once the store has taken what `preview` says it will come to; at once where
    /// there is no store.
    async fn kept<T: Send + 'static>(
        &self,
        id: &str,
        preview: impl FnOnce(&mut Core) -> Result<Change, TaskError>,
        apply: impl FnOnce(&mut Core) -> Result<T, TaskError> + Send + 'static,
    ) -> Result<T, TaskError> {
        let inner = &self.inner;
        let Some(keeper) = &inner.keeper else { return apply(&mut inner.core()) };
        let name: Box<str> = id.into();
        let id = id.to_owned();
        let begin = move |core: &mut Core| preview(core).map(|change| (name, change));
        let then = move |core: &mut Core, answer: Result<(), StoreError>| match answer {
            Ok(()) => apply(core).inspect_err(|_| {
                // It has changed in between; what it is now goes to the store again.
                if let Some(task) = core.find(&id) {
                    core.store_task(task, false);
                }
            }),
            Err(error) => Err(refused(&id, error)),
        };
        inner.change(keeper, begin, then).await
    }

    /// Runs a task now, beside its schedule; `payload` stands in for its own. The answer is the record of a
    /// run that is under way, or in line.
    ///
    /// # Errors
    ///
    /// If there is no such task, its state does not allow it, or a run is under way and the overlap policy
    /// allows no other.
    pub async fn trigger(&self, id: &str, payload: Option<Value>) -> Result<RunView, TaskError> {
        let inner = &self.inner;
        let payload = payload.as_ref().map(|payload| payload_text("payload", payload)).transpose()?;
        // A null in place of a payload is a payload all the same.
        let payload = payload.map(|text| text.map_or_else(|| "null".into(), Arc::from));
        // Each caller's run has a time of its own, so that no two share a key; calls within one microsecond
        // wait for theirs, so that none runs before it.
        let at = inner.core().trigger_time(inner.now());
        inner.clock.sleep_until(timestamp(at)).await;
        let now = inner.now();
        let (snapshot, wanted) = {
            let mut core = inner.core();
            let record = core.trigger(id, payload, at, now)?;
            (core.run_snapshot(record), core.wanted_at(now))
        };
        inner.nudge(wanted);
        inner.tell();
        snapshot.map(|run| run.view(&inner.node)).ok_or_else(|| TaskError::NotFound(id.to_owned()))
    }

    /// A page of the tasks that match, in the order of their creation as a rule: a task may take the place
    /// of one that was removed. A task that is there throughout stands on exactly one page.
    ///
    /// # Errors
    ///
    /// If the limit or the cursor is wrong.
    pub async fn list(&self, filter: &TaskFilter, page: &Page) -> Result<Paged<TaskView>, TaskError> {
        let inner = &self.inner;
        let limit = checked_limit(page)?;
        let from = cursor(page)?.unwrap_or(0);
        let from =
            u32::try_from(from).map_err(|_| TaskError::invalid("cursor", "is not one of this list"))?;
        let filter = Filter::new(filter, &inner.executors);
        let mut search = Search::from(from);
        // The lock is let go between stretches, so that looking through a million tasks delays no run.
        while !inner.core().search(&filter, limit, &mut search) {
            tokio::task::yield_now().await;
        }
        let items = search.found.into_iter().map(|task| {
            let executor = inner.executors.name_of(task.def.executor);
            task.view(&executor)
        });
        Ok(Paged {
            items: items.collect(),
            total: search.total,
            next_cursor: search.next.map(|place| place.to_string()),
        })
    }

    /// A page of a task's records, newest first.
    ///
    /// # Errors
    ///
    /// If there is no such task, or the limit or the cursor is wrong.
    pub async fn runs(&self, id: &str, page: &Page) -> Result<Paged<RunView>, TaskError> {
        let limit = checked_limit(page)?;
        let before = cursor(page)?;
        let (runs, total, next) = {
            let core = self.inner.core();
            let task = core.find(id).ok_or_else(|| TaskError::NotFound(id.to_owned()))?;
            core.run_page(task, before, limit)
        };
        Ok(Paged {
            items: runs.into_iter().map(|run| run.view(&self.inner.node)).collect(),
            total,
            next_cursor: next.map(|number| number.to_string()),
        })
    }

    /// The record of one run.
    ///
    /// # Errors
    ///
    /// If there is none, or none any more.
    pub async fn run(&self, id: RunId) -> Result<RunView, TaskError> {
        let snapshot = {
            let core = self.inner.core();
            core.ids().record(id).and_then(|number| core.run_snapshot(number))
        };
        snapshot.map(|run| run.view(&self.inner.node)).ok_or_else(|| TaskError::RunNotFound(id.to_string()))
    }

    /// The next times of a schedule that would be given now, without creating anything; `from` looks from a
    /// later time on. 1 to 1000 times.
    ///
    /// # Errors
    ///
    /// If a field is wrong.
    pub fn preview(
        &self,
        schedule: &ScheduleSpec,
        times: usize,
        from: Option<Timestamp>,
    ) -> Result<Vec<Timestamp>, TaskError> {
        if !(1..=1000).contains(&times) {
            return Err(TaskError::invalid("times", "must be from 1 to 1000"));
        }
        let now = self.inner.now();
        let admitted = admit(schedule, now)?;
        let bounds = Bounds { anchor: now, start: admitted.start, end: admitted.end };
        let mut after = from.map_or(now, |from| ceil_micros(from).saturating_sub(1)).max(now);
        if admitted.schedule.is_once() && from.is_none() {
            after = Micros::MIN;
        }
        let times = if admitted.max_runs == 0 { times } else { times.min(admitted.max_runs as usize) };
        let mut found = Vec::new();
        while found.len() < times
            && let Some(next) = admitted.schedule.next_after(&bounds, after)
        {
            found.push(timestamp(next));
            after = next;
        }
        Ok(found)
    }

    /// The scheduler as it stands.
    #[must_use]
    pub fn status(&self) -> SchedulerStatus {
        let inner = &self.inner;
        let now = inner.now();
        let mut core = inner.core();
        let (lateness, due_rate) = core.stats.recent(now);
        let counts = TaskStatus::ALL.into_iter().map(|status| (status, core.table.count(status)));
        SchedulerStatus {
            running: core.running,
            total_tasks: core.table.len() as u64,
            status_counts: counts.filter(|(_, count)| *count > 0).collect(),
            active_runs: core.active_count as u64,
            queued_runs: core.queued() as u64,
            waiting_tasks: core.waiting_tasks() as u64,
            due_rate,
            lateness,
            runs: core.stats.totals(),
            store: inner.keeper.as_ref().map_or_else(in_memory, Keeper::status),
            cluster: inner.keeper.as_ref().map_or_else(
                || ClusterStatus {
                    node: inner.node.clone(),
                    members: vec![inner.node.clone()],
                    shards: 1,
                    owned: 1,
                },
                |keeper| keeper.cluster(&inner.node, &core),
            ),
            next_run_at: Some(core.earliest(now)).filter(|next| *next != NEVER).map(timestamp),
        }
    }

    /// What can run tasks.
    #[must_use]
    pub fn executors(&self) -> Vec<ExecutorInfo> {
        self.inner.executors.list()
    }

    /// Hands what has been counted to the metrics facade; before each scrape, say.
    pub fn report_metrics(&self) {
        let inner = &self.inner;
        let (counts, (lateness, executors)) = {
            let mut core = inner.core();
            (TaskStatus::ALL.map(|status| (status, core.table.count(status))), core.stats.take_report())
        };
        for (status, count) in counts {
            metrics::gauge!("scheduler_tasks_total", "status" => status.as_str()).set(count as f64);
        }
        let late = metrics::histogram!("scheduler_task_lateness_seconds");
        for (seconds, count) in lateness {
            late.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
        }
        for report in executors {
            // As many as there are executors that have run: what plugins register, and the built-in ones.
            let executor = inner.executors.name_of(report.key).to_string();
            metrics::counter!("scheduler_task_executions_total", "executor" => executor.clone())
                .absolute(report.ended);
            metrics::counter!("scheduler_task_failures_total", "executor" => executor.clone())
                .absolute(report.failed);
            let duration = metrics::histogram!("scheduler_task_duration_seconds", "executor" => executor);
            for (seconds, count) in report.durations {
                duration.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
    }

    /// The registry of executors, to register one's own.
    #[must_use]
    pub fn registry(&self) -> &ExecutorRegistry {
        &self.inner.executors
    }

    /// Inserts a plugin's task, or updates it: by (plugin, id). A task that was suspended with its plugin
    /// runs again; what an operator paused stays paused.
    ///
    /// # Errors
    ///
    /// If a field is wrong, or the id is that of somebody else's task.
    pub async fn upsert_owned(&self, plugin: &str, spec: TaskSpec) -> Result<TaskView, TaskError> {
        let id = spec.id.clone();
        self.apply_owned(plugin, spec, 0)?;
        self.get(&id).await
    }

    /// Whether [`Scheduler::upsert_owned`] would take the task.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn check_owned(&self, plugin: &str, spec: &TaskSpec) -> Result<(), TaskError> {
        let inner = &self.inner;
        let def = Def::admit(spec, Some(plugin), &inner.executors, inner.now())?;
        inner.core().check_owned(plugin, &def)
    }

    /// Inserts or updates a plugin's task; `registration` numbers the plugin's incarnation, so that an old
    /// one that goes does not take away what its successor has made its own.
    pub(crate) fn apply_owned(
        &self,
        plugin: &str,
        spec: TaskSpec,
        registration: u64,
    ) -> Result<(), TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let def = Arc::new(Def::admit(&spec, Some(plugin), &inner.executors, now)?);
        let wanted = {
            let mut core = inner.core();
            core.check_owned(plugin, &def)?;
            let task = match core.find(&spec.id) {
                None => {
                    let task = core.insert(def, Insert::Ready, now)?;
                    core.store_task(task, true);
                    task
                }
                Some(task) => {
                    let present = core.snapshot(task);
                    let is_same =
                        present.is_some_and(|present| same_definition(&present.def, &def, &inner.executors));
                    if !is_same {
                        core.replace(def, None, now)?;
                    }
                    task
                }
            };
            core.registrations.insert(task, registration);
            core.lift(task, flag::SUSPENDED, now);
            core.store_task(task, false);
            core.wanted_at(now)
        };
        inner.nudge(wanted);
        inner.tell();
        Ok(())
    }

    /// A plugin's incarnation stops: its task rests, unless another incarnation has it by now.
    #[cfg(feature = "plugin")]
    pub(crate) fn suspend_registered(&self, plugin: &str, id: &str, registration: u64) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        if let Some(task) = core.registered(plugin, id, registration) {
            core.suspend(task, now);
            core.store_state(task);
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin is gone for good: what it left suspended goes too. A successor of its name has lifted that
    /// from what it has.
    #[cfg(feature = "plugin")]
    pub(crate) fn remove_left_by(&self, plugin: &str) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        for task in core.owned_by(plugin) {
            if core.is_suspended(task) {
                core.store_removal(task);
                core.remove(task, now);
            }
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin's incarnation goes, and its task with it, unless another incarnation has it by now.
    #[cfg(feature = "plugin")]
    pub(crate) fn remove_registered(&self, plugin: &str, id: &str, registration: u64) {
        let now = self.inner.now();
        let mut core = self.inner.core();
        if let Some(task) = core.registered(plugin, id, registration) {
            core.store_removal(task);
            core.remove(task, now);
        }
        drop(core);
        self.inner.tell();
    }

    /// A plugin has stopped: its tasks rest, and their runs are cancelled. Tells how many tasks it has.
    ///
    /// # Errors
    ///
    /// If the store does not take the change.
    pub async fn suspend_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        let now = self.inner.now();
        let mut core = self.inner.core();
        let tasks = core.owned_by(plugin);
        for task in &tasks {
            core.suspend(*task, now);
            core.store_state(*task);
        }
        drop(core);
        self.inner.tell();
        Ok(tasks.len())
    }

    /// A plugin has been unloaded: its tasks go. Tells how many there were.
    ///
    /// # Errors
    ///
    /// If the store does not take the change.
    pub async fn remove_owned(&self, plugin: &str) -> Result<usize, TaskError> {
        let now = self.inner.now();
        let mut core = self.inner.core();
        let tasks = core.owned_by(plugin);
        for task in &tasks {
            core.store_removal(*task);
            core.remove(*task, now);
        }
        drop(core);
        self.inner.tell();
        Ok(tasks.len())
    }

    /// The bounds that it was built with.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.inner.config
    }

    fn view(&self, snapshot: Option<TaskSnapshot>, id: &str) -> Result<TaskView, TaskError> {
        let snapshot = snapshot.ok_or_else(|| TaskError::NotFound(id.chars().take(128).collect()))?;
        let executor = self.inner.executors.name_of(snapshot.def.executor);
        Ok(snapshot.view(&executor))
    }
}

fn in_memory() -> StoreStatus {
    StoreStatus { kind: "memory".to_owned(), durable: false, healthy: true, last_error: None }
}

/// What a refusal of the store means for the caller.
fn refused(id: &str, error: StoreError) -> TaskError {
    match error {
        StoreError::Exists(id) => TaskError::Exists(id),
        StoreError::NotFound(id) => TaskError::NotFound(id),
        StoreError::Fenced { .. } => TaskError::NotOwner(id.to_owned()),
        other => TaskError::Store(other),
    }
}

/// Whether two definitions say the same.
fn same_definition(a: &Def, b: &Def, executors: &ExecutorRegistry) -> bool {
    a.executor == b.executor && {
        let executor = executors.name_of(a.executor);
        a.to_spec(&executor) == b.to_spec(&executor)
    }
}

fn checked_limit(page: &Page) -> Result<usize, TaskError> {
    if (1..=1000).contains(&page.limit) {
        Ok(page.limit)
    } else {
        Err(TaskError::invalid("limit", "must be from 1 to 1000"))
    }
}

fn cursor(page: &Page) -> Result<Option<u64>, TaskError> {
    page.cursor
        .as_deref()
        .map(|text| text.parse().map_err(|_| TaskError::invalid("cursor", "is not one of this list")))
        .transpose()
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerBuilder").field("node", &self.node).finish_non_exhaustive()
    }
}
