//! The handle that callers hold.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::{Sampler, SharedClock, TaskOwner};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::builder::{BuildError, SchedulerBuilder, SchedulerConfig};
use crate::core::{Action, Core, Ended, TaskSnapshot};
use crate::def::Def;
use crate::dispatch::{drive, work};
use crate::error::TaskError;
use crate::executor::{ExecutorGuard, ExecutorRegistry};
use crate::persist::Keeper;
use crate::publish::{BATCH, Teller};
use crate::schedule::days::Calendars;
use crate::schedule::{Micros, NEVER, floor_micros};
use crate::spec::TaskSpec;
use crate::store::{Change, StoreError};
use crate::view::{ExecutorInfo, TaskView};

mod backfill;
mod bulk;
mod create;
mod dry_run;
mod metered;
mod owned;
mod query;
mod transfer;
mod trigger;

pub use dry_run::DryRun;
pub use transfer::Import;

/// What a stop could not finish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// How many runs were cancelled at the deadline; due tasks and these are run by misfire policy later.
    pub canceled_runs: u64,
    /// How many runs did not yield at all and were left behind.
    pub stuck_runs: u64,
}

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
            loops.driver.cancel();
            loops.workers.cancel();
        }
        self.0.keeping.cancel();
    }
}

/// The tasks of a scheduler that runs.
pub(crate) struct Loops {
    driver: TaskOwner,
    workers: TaskOwner,
}

/// What all clones, the driver and the workers share.
pub(crate) struct Inner {
    pub(crate) core: Mutex<Core>,
    pub(crate) clock: SharedClock,
    pub(crate) executors: ExecutorRegistry,
    pub(crate) calendars: Calendars,
    pub(crate) node: String,
    pub(crate) teller: Option<Teller>,
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
    pub(crate) loops: Mutex<Option<Loops>>,
    /// Where the workers poll runs, if not where the driver is.
    pub(crate) runs_on: Option<Handle>,
    /// Which runs are traced.
    pub(crate) sampler: Sampler,
    pub(crate) keeper: Option<Keeper>,
    /// Writes to the store, and follows the cluster.
    pub(crate) keeping: TaskOwner,
    pub(crate) _built_in: Vec<ExecutorGuard>,
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
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let alive = Arc::new(Alive(Arc::clone(&inner)));
        Self { inner, _alive: alive }
    }

    /// A scheduler with its settings to be said.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder::new()
    }

    /// Begins to run what is due, on the runtime of the caller unless the builder was
    /// [told](SchedulerBuilder::runs_on) another one for the runs. Does nothing if it runs already.
    pub fn start(&self) {
        let inner = &self.inner;
        let mut loops = inner.loops.lock().unwrap_or_else(PoisonError::into_inner);
        if loops.is_some() {
            return;
        }
        let driver = TaskOwner::new("scheduler");
        let runs = match &inner.runs_on {
            Some(handle) => TaskOwner::on(handle.clone(), "scheduler-runs"),
            None => TaskOwner::new("scheduler-runs"),
        };
        {
            let mut core = inner.core();
            core.running = true;
            core.crowded_since = NEVER;
        }
        inner.runs.reopen();
        let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(16);
        for number in 0..workers {
            let token = runs.token();
            runs.spawn(format!("worker-{number}"), work(Arc::clone(inner), token));
        }
        driver.spawn("driver", drive(Arc::clone(inner), driver.token()));
        *loops = Some(Loops { driver, workers: runs });
    }

    /// Starts nothing more, lets runs under way end, cancels the rest shortly before the deadline, and
    /// tells what did not end. What falls due meanwhile is treated by misfire policy after the next start.
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        let inner = &self.inner;
        let loops = inner.loops.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Loops { driver, workers }) = loops else { return StopReport::default() };
        inner.core().running = false;
        let grace = (deadline / 5).min(Duration::from_secs(1));
        driver.cancel();
        workers.shutdown(grace).await;
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

    /// Puts another definition in place of a task's; with `if_version` only if the task is at that version.
    /// An id that is left out is that of the task. What was paused stays paused.
    ///
    /// # Errors
    ///
    /// If there is no such task, a field is wrong, or the version is another. Nothing has changed then.
    pub async fn replace(
        &self,
        id: &str,
        spec: TaskSpec,
        if_version: Option<u64>,
    ) -> Result<TaskView, TaskError> {
        let def = self.admit_replacement(id, spec, self.inner.now())?;
        let snapshot = self.replace_def(id, def, if_version).await?;
        self.view(snapshot, id)
    }

    /// Puts a checked definition in place of a task's.
    async fn replace_def(
        &self,
        id: &str,
        def: Arc<Def>,
        if_version: Option<u64>,
    ) -> Result<Option<TaskSnapshot>, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
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
        Ok(snapshot)
    }

    fn admit_replacement(&self, id: &str, mut spec: TaskSpec, now: Micros) -> Result<Arc<Def>, TaskError> {
        if spec.id.is_empty() {
            id.clone_into(&mut spec.id);
        } else if spec.id != id {
            return Err(TaskError::invalid("id", format!("is not that of the task, `{id}`")));
        }
        let (present, anchor) = self.inner.core().given(id)?;
        // A schedule that stays was given when it was: its times may have passed since.
        let given_at = if present.schedule_spec() == spec.schedule { anchor } else { now };
        let (executors, calendars) = (&self.inner.executors, &self.inner.calendars);
        Def::admit(&spec, present.owner(), executors, calendars, given_at).map(Arc::new)
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

    /// The same changes, only tried.
    #[must_use]
    pub fn dry_run(&self) -> DryRun<'_> {
        DryRun::new(self)
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
                    move |core| core.preview_control(&name, action, now)
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
        let id = id.to_owned();
        let then = move |core: &mut Core, answer: Result<(), StoreError>| match answer {
            Ok(()) => {
                let applied = apply(core);
                // It may have changed in between: what it is now goes to the store again.
                if let Some(task) = core.find(&id) {
                    core.store_task(task, false);
                }
                applied
            }
            Err(error) => Err(refused(&id, error)),
        };
        inner.change(keeper, preview, then).await
    }

    /// What can run tasks.
    #[must_use]
    pub fn executors(&self) -> Vec<ExecutorInfo> {
        self.inner.executors.list()
    }

    /// The registry of executors, to register one's own.
    #[must_use]
    pub fn registry(&self) -> &ExecutorRegistry {
        &self.inner.executors
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> SchedulerConfig {
        self.inner.core().config.clone()
    }

    /// Puts other bounds in force. What is there beyond them stays, but for records, which go as new
    /// ones come; `auto_start` and `store` matter at the next start.
    ///
    /// # Errors
    ///
    /// [`BuildError::Invalid`]; the bounds before are in force then.
    pub fn reconfigure(&self, config: SchedulerConfig) -> Result<(), BuildError> {
        config.check()?;
        let now = self.inner.now();
        let wanted = {
            let mut core = self.inner.core();
            core.history.bound(&config);
            core.config = config;
            core.wanted_at(now)
        };
        // There may be room for runs that wait.
        self.inner.nudge(wanted);
        Ok(())
    }

    fn view(&self, snapshot: Option<TaskSnapshot>, id: &str) -> Result<TaskView, TaskError> {
        Ok(self.show(snapshot.ok_or_else(|| not_found(id))?))
    }
}

fn not_found(id: &str) -> TaskError {
    TaskError::NotFound(id.chars().take(128).collect())
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

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("node", &self.inner.node).finish_non_exhaustive()
    }
}
