//! The end of a task whose handler does not come to an end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::ring::Member;

/// The work of a subscription, until it ends or [`Member::cut`] is called.
pub(crate) struct UntilCut {
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
    member: Arc<Member>,
    /// By what it waits for the cut: a task has one waker, as a rule.
    waits_by: Option<Waker>,
}

impl UntilCut {
    pub(crate) fn new(work: Pin<Box<dyn Future<Output = ()> + Send>>, member: Arc<Member>) -> Self {
        Self { work, member, waits_by: None }
    }
}

impl Future for UntilCut {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.member.task_waits_by(cx.waker());
            self.waits_by = Some(cx.waker().clone());
        }
        // After the waker is known: whoever cuts sees it, or we see the cut.
        if self.member.is_cut() {
            return Poll::Ready(());
        }
        self.work.as_mut().poll(cx)
    }
}
