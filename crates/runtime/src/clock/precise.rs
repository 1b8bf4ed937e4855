//! Waits that end on the microsecond instead of the millisecond.
//!
//! The runtime's timer and its poll round up to whole milliseconds each, so that a sleep ends up to two of
//! them late. One thread of the process waits out the last stretch of each sleep with a condition variable,
//! which the kernel ends within some fifty microseconds, and costs nothing while nobody sleeps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Stretches up to here are waited out by the thread: what the runtime's timer may be late by.
pub(super) const STRETCH_MAX: Duration = Duration::from_millis(2);

/// How many sleepers there may be; further ones are content with the runtime's timer.
const SLEEPERS_MAX: usize = 4096;

/// Waits for a short span, to the microsecond if the thread takes it.
pub(super) async fn sleep(span: Duration) {
    let timer = TIMER.get_or_init(Timer::start);
    match timer.as_ref().and_then(|timer| timer.wake_at(Instant::now() + span)) {
        Some(wait) => wait.await,
        None => tokio::time::sleep(span).await,
    }
}

static TIMER: OnceLock<Option<Arc<Timer>>> = OnceLock::new();

#[derive(Default)]
struct Timer {
    sleepers: Mutex<BinaryHeap<Reverse<Sleeper>>>,
    /// An earlier one has come.
    changed: Condvar,
}

struct Sleeper {
    at: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_over: bool,
    waker: Option<Waker>,
}

impl Timer {
    /// `None` where the process may have no further thread.
    fn start() -> Option<Arc<Self>> {
        let timer = Arc::new(Self::default());
        let own = Arc::clone(&timer);
        let thread = std::thread::Builder::new().name("precise-timer".to_owned()).spawn(move || own.run());
        thread.is_ok().then_some(timer)
    }

    fn wake_at(&self, at: Instant) -> Option<Wait> {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        if sleepers.len() >= SLEEPERS_MAX {
            return None;
        }
        let state = Arc::new(Mutex::new(State::default()));
        let is_first = sleepers.peek().is_none_or(|first| at < first.0.at);
        sleepers.push(Reverse(Sleeper { at, state: Arc::clone(&state) }));
        drop(sleepers);
        if is_first {
            self.changed.notify_one();
        }
        Some(Wait(state))
    }

    /// The thread: it lives as long as the process, and sleeps while nobody else does.
    fn run(&self) {
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            while sleepers.peek().is_some_and(|first| first.0.at <= now) {
                if let Some(Reverse(sleeper)) = sleepers.pop() {
                    sleeper.wake();
                }
            }
            let left = sleepers.peek().map(|first| first.0.at.saturating_duration_since(now));
            sleepers = match left {
                None => self.changed.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed.wait_timeout(sleepers, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Sleeper {
    fn wake(self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A wait that the thread ends. Dropped, it leaves an entry behind for what was left of its short span.
struct Wait(Arc<Mutex<State>>);

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_sleeper_is_woken_and_none_early() {
        let mut sleepers = tokio::task::JoinSet::new();
        for number in 0..200_u64 {
            let span = Duration::from_micros(number * 7919 % 2000);
            sleepers.spawn(async move {
                let begun = Instant::now();
                sleep(span).await;
                assert!(begun.elapsed() >= span);
            });
        }
        while let Some(woken) = sleepers.join_next().await {
            woken.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_goes_keeps_none_of_the_others() {
        let mut gone = Box::pin(sleep(Duration::from_micros(100)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        drop(gone);
        sleep(Duration::from_micros(500)).await;
    }
}
