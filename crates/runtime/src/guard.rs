//! Running code that is not ours: its panic, its missed deadline and its blocking stay its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a cancelled call may take to reach its next await before it is reported as stuck.
const YIELD_GRACE: Duration = Duration::from_millis(250);

/// The time given to an operation ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline of {} exceeded", crate::format_duration(*.0))]
pub struct DeadlineExceeded(pub Duration);

/// Awaits `work` for `limit` at the most; past it, `work` is dropped at its present await.
///
/// # Errors
///
/// [`DeadlineExceeded`] if the time ran out first.
pub async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, DeadlineExceeded> {
    tokio::time::timeout(limit, work).await.map_err(|_| DeadlineExceeded(limit))
}

/// Why a guarded call gave no value.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The code panicked; the text is the panic's.
    #[error("panicked: {0}")]
    Panicked(String),
    /// The deadline passed and the code was cancelled at its next await, or before it had begun.
    #[error("deadline of {} exceeded", crate::format_duration(*.0))]
    TimedOut(Duration),
    /// The deadline passed and the code does not yield: it blocks its thread still.
    #[error("stuck: no await reached since its deadline of {} passed", crate::format_duration(*.limit))]
    Stuck {
        /// The deadline that was missed.
        limit: Duration,
        /// Resolves when the code comes back after all.
        watched: Watched,
    },
    /// The runtime that the code ran on was shut down.
    #[error("cancelled by the runtime's shutdown")]
    Cancelled,
}

/// A call that went on past its deadline without yielding; its owner keeps it to know when its slot is
/// free again.
#[derive(Debug)]
pub struct Watched(JoinHandle<()>);

impl Watched {
    /// Waits until the stuck code has ended.
    pub async fn ended(self) {
        let _ = self.0.await;
    }

    /// Whether the stuck code has ended by now.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.0.is_finished()
    }
}

/// Runs `work` as a task of its own on `handle`, with a deadline, and tells how it went.
///
/// The caller never blocks: code that panics, misses its deadline, or blocks its thread is an error value.
/// Dropping the returned future before it is ready lets the work go on detached until its deadline. Both
/// runtimes should see the same time: where a test pauses only the caller's, every call is late at once.
///
/// # Errors
///
/// [`CallError`], one kind for each way in which foreign code fails.
pub async fn guarded<T, F>(handle: &Handle, limit: Duration, work: F) -> Result<T, CallError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let asked = Instant::now();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let task = handle.spawn(async move {
        begins.store(true, Ordering::Release);
        // From when it was asked for: what a busy runtime takes to begin is not given on top.
        let left = limit.saturating_sub(asked.elapsed());
        let outcome = match tokio::time::timeout(left, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(CallError::Panicked(panic_message(&*panic))),
            Err(_) => Err(CallError::TimedOut(limit)),
        };
        let _ = sender.send(outcome);
    });
    match tokio::time::timeout(limit.saturating_add(YIELD_GRACE), receiver).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => match task.await {
            // Not the work itself, which is caught above, but what it left to be dropped.
            Err(error) if error.is_panic() => Err(CallError::Panicked(panic_message(&*error.into_panic()))),
            _ => Err(CallError::Cancelled),
        },
        Err(_) => {
            task.abort();
            if !begun.load(Ordering::Acquire) {
                // Others keep the runtime's threads from it. It is late, but it holds none of them.
                return Err(CallError::TimedOut(limit));
            }
            Err(CallError::Stuck { limit, watched: Watched(task) })
        }
    }
}

/// The text of a panic's payload, as far as it has one.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_value_comes_back() {
        assert_eq!(guarded(&Handle::current(), LIMIT, async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_a_value() {
        let error = guarded(&Handle::current(), LIMIT, async { panic!("bad luck {}", 13) }).await;
        let error: Result<(), _> = error;
        assert_eq!(error.unwrap_err().to_string(), "panicked: bad luck 13");
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_deadline_cancels_at_the_next_await() {
        let (dropped, seen) = tokio::sync::oneshot::channel::<()>();
        let error = guarded(&Handle::current(), LIMIT, async move {
            let _held = dropped;
            pending::<()>().await;
        })
        .await
        .unwrap_err();
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
        assert!(seen.await.is_err(), "the future was dropped");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn code_that_blocks_is_reported_as_stuck_and_watched() {
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let error = guarded(&Handle::current(), LIMIT, async move {
            let _ = gate.recv();
        })
        .await
        .unwrap_err();
        let CallError::Stuck { watched, .. } = error else { panic!("{error}") };
        assert!(!watched.is_ended());
        release.send(()).unwrap();
        watched.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_what_is_dropped_at_the_deadline_is_a_value() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("dropped badly");
            }
        }
        let work = async {
            let _bad = Bad;
            pending::<()>().await;
        };
        let error = guarded(&Handle::current(), LIMIT, work).await.unwrap_err();
        assert_eq!(error.to_string(), "panicked: dropped badly");
    }

    #[tokio::test]
    async fn work_that_others_keep_from_beginning_is_late_and_not_stuck() {
        let busy =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (release, gate) = mpsc::sync_channel::<()>(0);
        let (begun, begin) = tokio::sync::oneshot::channel();
        let blocker = busy.handle().spawn(async move {
            let _ = begun.send(());
            let _ = gate.recv();
        });
        begin.await.unwrap();
        let error = guarded(busy.handle(), LIMIT, async {}).await.unwrap_err();
        assert!(matches!(error, CallError::TimedOut(_)), "{error}");
        release.send(()).unwrap();
        blocker.await.unwrap();
        busy.shutdown_background();
    }
}
