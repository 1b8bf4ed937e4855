//! One timer for all the waits of a connection.
//!
//! `hyper` limits how long the head of a request may take by a timer that it makes for each request and drops
//! with it: on a busy connection each goes into the runtime's queue of timers and out again, under its lock,
//! some hundred thousand times a second. Here the limits are noted, and one timer of the connection's own,
//! which is not touched while requests come, looks at the note when it fires.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use tokio::time::Instant;

/// No wait is under way.
const NONE: u64 = u64::MAX;

/// The wait that a connection is in. A clone is of the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Waits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What the others count nanoseconds from.
    opened: Instant,
    /// When the wait is over.
    deadline: AtomicU64,
    /// Up to when it is known that time has come.
    passed: AtomicU64,
}

impl Waits {
    /// Those of a connection that has just been opened.
    pub(crate) fn new() -> Self {
        let (deadline, passed) = (AtomicU64::new(NONE), AtomicU64::new(0));
        Self(Arc::new(Inner { opened: Instant::now(), deadline, passed }))
    }

    /// When the wait that is under way is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let at = self.0.deadline.load(Ordering::Relaxed);
        if at == NONE { None } else { self.0.opened.checked_add(Duration::from_nanos(at)) }
    }

    /// Lets the waits end whose time has come.
    pub(crate) fn look_at(&self, now: Instant) {
        self.0.passed.store(self.0.since_opened(now), Ordering::Relaxed);
    }
}

impl Inner {
    fn since_opened(&self, at: Instant) -> u64 {
        let span = at.saturating_duration_since(self.opened).as_nanos();
        // 584 years.
        u64::try_from(span).unwrap_or(NONE).min(NONE - 1)
    }
}

impl hyper::rt::Timer for Waits {
    fn sleep(&self, span: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now().into_std() + span)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let deadline = self.0.since_opened(Instant::from_std(deadline));
        Box::pin(Wait { waits: self.clone(), deadline })
    }

    fn now(&self) -> StdInstant {
        Instant::now().into_std()
    }
}

/// One wait. A connection has one at a time: while a request is answered, none.
struct Wait {
    waits: Waits,
    deadline: u64,
}

impl Future for Wait {
    type Output = ();

    /// Whoever drives the connection polls it again when the time has come.
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let inner = &self.waits.0;
        if inner.passed.load(Ordering::Relaxed) >= self.deadline {
            return Poll::Ready(());
        }
        inner.deadline.store(self.deadline, Ordering::Relaxed);
        Poll::Pending
    }
}

impl hyper::rt::Sleep for Wait {}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.0.deadline.store(NONE, Ordering::Relaxed);
    }
}
