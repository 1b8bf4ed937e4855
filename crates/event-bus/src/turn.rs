//! Taking turns on a thread.
//!
//! Not by `tokio::task::yield_now`, nor by tokio's budget: both put the task on a list that only its
//! present thread looks at, once that thread is idle. A handler that blocks the thread would hold up every
//! task on that list, which breaks promise 5. A task that wakes itself goes to the queue that other threads
//! steal from.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

/// How many events a thread publishes before the publisher lets the handlers run.
const PUBLISHES: u32 = 64;

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
pub(crate) async fn after_publish() {
    thread_local! {
        static LEFT: Cell<u32> = const { Cell::new(PUBLISHES) };
    }
    let left = LEFT.get();
    if left == 0 {
        LEFT.set(PUBLISHES);
        yield_now().await;
    } else {
        LEFT.set(left - 1);
    }
}
