//! The context that the present work belongs to.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::TraceContext;

thread_local! {
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

impl TraceContext {
    /// The context of the work that this thread is at; `None` for work that belongs to no trace.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Cell::get).ok().flatten()
    }

    /// Makes this the current context while `future` is polled.
    pub fn scope<F: Future>(self, future: F) -> InTrace<F> {
        InTrace { context: self, future }
    }

    /// Makes this the current context while `work` runs.
    pub fn in_scope<T>(self, work: impl FnOnce() -> T) -> T {
        let _restored = Restored(Self::replace_current(Some(self)));
        work()
    }

    /// Makes another context the thread's, and gives back the one before: for a subscriber, which learns of
    /// spans being entered and left. Everybody else uses [`scope`](Self::scope) and
    /// [`in_scope`](Self::in_scope), which cannot forget to put it back.
    pub fn replace_current(context: Option<Self>) -> Option<Self> {
        CURRENT.try_with(|current| current.replace(context)).ok().flatten()
    }
}

/// Puts the context before back, also where the work panics.
struct Restored(Option<TraceContext>);

impl Drop for Restored {
    fn drop(&mut self) {
        TraceContext::replace_current(self.0);
    }
}

pin_project_lite::pin_project! {
    /// A future that has a context: see [`TraceContext::scope`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct InTrace<F> {
        context: TraceContext,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for InTrace<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.context.in_scope(|| this.future.poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[tokio::test]
    async fn a_context_is_current_within_its_scope_and_across_waits() {
        let (outer, inner) = (TraceContext::root(true), TraceContext::root(false));
        assert_eq!(TraceContext::current(), None);
        outer
            .scope(async {
                tokio::task::yield_now().await;
                assert_eq!(TraceContext::current(), Some(outer));
                inner.scope(async { assert_eq!(TraceContext::current(), Some(inner)) }).await;
                assert_eq!(TraceContext::current(), Some(outer));
                let elsewhere = std::thread::spawn(TraceContext::current).join().unwrap();
                assert_eq!(elsewhere, None, "another thread has its own");
            })
            .await;
        assert_eq!(TraceContext::current(), None);
    }

    #[test]
    fn a_panic_leaves_no_context_behind() {
        let panicked = || TraceContext::root(true).in_scope(|| panic!("oops"));
        assert!(catch_unwind(AssertUnwindSafe(panicked)).is_err());
        assert_eq!(TraceContext::current(), None);
    }
}
