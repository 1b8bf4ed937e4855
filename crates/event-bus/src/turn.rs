//! Taking turns on a thread.
//!
//! Not by `tokio::task::yield_now`, nor by tokio's budget: both put the task on a list that only its
//! present thread looks at, once that thread is idle. A handler that blocks the thread would hold up every
//! task on that list, which breaks promise 5. A task that wakes itself goes to the queue that other threads
//! steal from.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How many events a thread publishes before the publisher lets the handlers run: less than the default
/// capacity, so that a burst that handlers can keep up with does not overflow it.
const PUBLISHES: u32 = 512;
/// After so many publishes the time is looked at.
const CHECK_EACH: u32 = 64;
/// How long a thread publishes before the publisher lets the handlers run.
const TURN: Duration = Duration::from_micros(50);

/// Lets other tasks run.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Lets other tasks run once in a while, so that a loop that publishes does not outrun those who handle.
#[inline]
pub(crate) async fn after_publish() {
    thread_local! {
        static COUNT: Cell<u32> = const { Cell::new(0) };
    }
    let count = COUNT.get() + 1;
    COUNT.set(count);
    if count.is_multiple_of(CHECK_EACH) && is_over(count) {
        COUNT.set(0);
        yield_now().await;
    }
}

fn is_over(count: u32) -> bool {
    thread_local! {
        static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let began = BEGAN.get();
    let over = count >= PUBLISHES || began.is_some_and(|began| now.saturating_duration_since(began) > TURN);
    if over || began.is_none() {
        BEGAN.set(Some(now));
    }
    over
}
