//! Tasks with an owner.

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, warn};

use crate::panic_message;

/// Owns the tasks that a component spawns: names them, cancels them together, and joins them.
///
/// A clone is the same owner. Dropping the last clone cancels [`TaskOwner::token`] and waits for nobody: a
/// task that does not watch the token goes on. Whoever wants an end to all calls [`TaskOwner::shutdown`].
#[derive(Clone)]
pub struct TaskOwner {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    handle: Option<Handle>,
    token: CancellationToken,
    tracker: TaskTracker,
    next_id: AtomicU64,
    running: Mutex<HashMap<u64, Running>>,
    panics: AtomicU64,
    last_panic: Mutex<Option<String>>,
    panicked: Notify,
}

struct Running {
    name: String,
    abort: Option<AbortHandle>,
}

/// A task's place among those that run; given back with its future, also where that is never polled.
struct Entry {
    owner: Weak<Inner>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.upgrade() {
            owner.running().remove(&self.id);
        }
    }
}

/// How a [`TaskOwner::shutdown`] went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Tasks that had not ended by the deadline and were cut off at their next await.
    pub aborted: Vec<String>,
    /// Tasks that block their thread and could not even be cut off.
    pub stuck: Vec<String>,
}

impl ShutdownReport {
    /// Whether every task ended by itself within the deadline.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.aborted.is_empty() && self.stuck.is_empty()
    }
}

impl TaskOwner {
    /// An owner whose tasks run on the runtime of whoever spawns them.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::build(name.into(), None, CancellationToken::new())
    }

    /// An owner whose tasks run on the given runtime, wherever they are spawned from.
    #[must_use]
    pub fn on(handle: Handle, name: impl Into<String>) -> Self {
        Self::build(name.into(), Some(handle), CancellationToken::new())
    }

    /// An owner whose tasks are cancelled when `parent` is, too.
    #[must_use]
    pub fn child_of(parent: &CancellationToken, name: impl Into<String>) -> Self {
        Self::build(name.into(), None, parent.child_token())
    }

    fn build(name: String, handle: Option<Handle>, token: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                name,
                handle,
                token,
                tracker: TaskTracker::new(),
                next_id: AtomicU64::new(0),
                running: Mutex::new(HashMap::new()),
                panics: AtomicU64::new(0),
                last_panic: Mutex::new(None),
                panicked: Notify::new(),
            }),
        }
    }

    /// The token that the owned tasks watch; cancelled at shutdown.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Spawns a task. Its panic is logged and counted, and ends only itself.
    ///
    /// After [`TaskOwner::cancel`] or [`TaskOwner::shutdown`] nothing is spawned any more and the work is
    /// dropped.
    pub fn spawn<F>(&self, name: impl Into<String>, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let span = tracing::debug_span!("task", owner = %self.inner.name, name = %name);
        let inner = Arc::downgrade(&self.inner);
        let _counted = {
            let mut running = self.inner.running();
            // Under the lock, which `cancel` waits for: either a shutdown counts this task, or it is refused.
            if self.inner.token.is_cancelled() {
                return;
            }
            running.insert(id, Running { name, abort: None });
            self.inner.tracker.token()
        };
        let entry = Entry { owner: inner.clone(), id };
        let guarded = async move {
            let _entry = entry;
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let Some(inner) = inner.upgrade() else { return };
            let ended = inner.running().remove(&id);
            if let Err(panic) = outcome {
                let task = ended.map_or_else(String::new, |task| task.name);
                let panic = panic_message(&*panic);
                error!(owner = %inner.name, task, panic, "task panicked");
                *inner.last_panic.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(format!("task `{task}` panicked: {panic}"));
                inner.panics.fetch_add(1, Ordering::AcqRel);
                inner.panicked.notify_waiters();
            }
        };
        let tracked = self.inner.tracker.track_future(guarded.instrument(span));
        #[expect(clippy::disallowed_methods, reason = "this is the owner that bare spawns lack")]
        let task = match &self.inner.handle {
            Some(handle) => handle.spawn(tracked),
            None => tokio::spawn(tracked),
        };
        // The task may have ended already, and then has left no entry to complete.
        if let Some(entry) = self.inner.running().get_mut(&id) {
            entry.abort = Some(task.abort_handle());
        }
    }

    /// Asks every task to end, and spawns no more. Does not wait.
    pub fn cancel(&self) {
        self.inner.token.cancel();
        // Whoever spawns and has not seen the token yet is done when this lock is had.
        drop(self.inner.running());
        self.inner.tracker.close();
    }

    /// How many tasks run now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.running().len()
    }

    /// Whether no task runs now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tasks have ended in a panic.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Acquire)
    }

    /// Waits until a task has ended in a panic, at once if one has; gives which, and the panic's text.
    pub async fn panicked(&self) -> String {
        loop {
            let panicked = self.inner.panicked.notified();
            tokio::pin!(panicked);
            // Registered before the count is read, so that a panic between the two is not missed.
            panicked.as_mut().enable();
            if self.panics() > 0 {
                let last = self.inner.last_panic.lock().unwrap_or_else(PoisonError::into_inner);
                return last.clone().unwrap_or_default();
            }
            panicked.await;
        }
    }

    /// Cancels the tasks, waits for them until the deadline, cuts off the rest, and names them.
    ///
    /// A task that blocks its thread cannot be cut off; it is named as stuck and left behind.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.cancel();
        let inner = &self.inner;
        if tokio::time::timeout(deadline, inner.tracker.wait()).await.is_ok() {
            return ShutdownReport::default();
        }
        let aborted: HashMap<u64, String> =
            inner.running().iter().map(|(id, task)| (*id, task.name.clone())).collect();
        let aborts: Vec<_> = inner.running().values().filter_map(|task| task.abort.clone()).collect();
        // Not under the lock: to abort may be to drop the work, whose entry goes with it.
        aborts.iter().for_each(AbortHandle::abort);
        let ended = tokio::time::timeout(Duration::from_millis(250), inner.tracker.wait()).await.is_ok();
        let mut report = ShutdownReport::default();
        if ended {
            report.aborted = aborted.into_values().collect();
        } else {
            let running = inner.running();
            for (id, name) in aborted {
                let stuck = running
                    .get(&id)
                    .is_some_and(|task| task.abort.as_ref().is_none_or(|abort| !abort.is_finished()));
                if stuck { report.stuck.push(name) } else { report.aborted.push(name) }
            }
        }
        report.aborted.sort();
        report.stuck.sort();
        warn!(owner = %inner.name, aborted = ?report.aborted, stuck = ?report.stuck, "tasks outlived their deadline");
        report
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        // A panic cannot leave the map half changed: each critical section is one map operation.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl fmt::Debug for TaskOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskOwner").field("name", &self.inner.name).field("running", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn cancelled_tasks_are_joined() {
        let owner = TaskOwner::new("t");
        let token = owner.token();
        owner.spawn("waits", async move { token.cancelled().await });
        assert_eq!(owner.len(), 1);
        assert!(owner.shutdown(Duration::from_secs(5)).await.is_clean());
        assert!(owner.is_empty());
        owner.spawn("late", pending());
        assert!(owner.is_empty(), "nothing is spawned after shutdown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_its_cancellation_is_cut_off_and_named() {
        let owner = TaskOwner::new("t");
        owner.spawn("deaf", pending());
        let report = owner.shutdown(Duration::from_secs(5)).await;
        assert_eq!(report.aborted, ["deaf"]);
        assert!(report.stuck.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_that_blocks_is_named_as_stuck() {
        let owner = TaskOwner::new("t");
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let (begun, begin) = tokio::sync::oneshot::channel();
        owner.spawn("blocks", async move {
            let _ = begun.send(());
            let _ = gate.recv();
        });
        begin.await.unwrap();
        let report = owner.shutdown(Duration::from_millis(5)).await;
        assert_eq!(report.stuck, ["blocks"]);
        release.send(()).unwrap();
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_and_is_counted() {
        let owner = TaskOwner::new("t");
        owner.spawn("bad", async { panic!("oops") });
        owner.spawn("good", async {});
        assert!(owner.shutdown(Duration::from_secs(5)).await.is_clean());
        assert_eq!(owner.panics(), 1);
        assert_eq!(owner.panicked().await, "task `bad` panicked: oops");
    }

    #[tokio::test]
    async fn dropping_the_owner_cancels() {
        let owner = TaskOwner::new("t");
        let token = owner.token();
        drop(owner);
        assert!(token.is_cancelled());
    }

    #[test]
    fn work_that_is_never_polled_leaves_no_entry() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let owner = TaskOwner::on(runtime.handle().clone(), "t");
        drop(runtime);
        owner.spawn("too late", pending());
        assert!(owner.is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_begins_after_a_shutdown_that_spawning_races_with() {
        let late = Arc::new(AtomicU64::new(0));
        for _ in 0..2_000 {
            let (owner, down) = (TaskOwner::new("t"), Arc::new(AtomicU64::new(0)));
            let spawner = tokio::task::spawn_blocking({
                let (owner, down, late) = (owner.clone(), down.clone(), late.clone());
                move || {
                    for _ in 0..20 {
                        let (down, late) = (down.clone(), late.clone());
                        let work = async move {
                            late.fetch_add(down.load(Ordering::SeqCst), Ordering::SeqCst);
                        };
                        owner.spawn("racing", work);
                    }
                }
            });
            assert!(owner.shutdown(Duration::from_secs(10)).await.is_clean());
            down.store(1, Ordering::SeqCst);
            spawner.await.unwrap();
        }
        assert_eq!(late.load(Ordering::SeqCst), 0);
    }
}
