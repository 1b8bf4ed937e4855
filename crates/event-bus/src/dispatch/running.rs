//! The calls of a handler that run now.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// One call after the other in a place that is used again, or several beside each other, for each of which memory
/// is allocated.
pub(super) enum Running<F> {
    One(Pin<Box<Option<F>>>),
    Several(FuturesUnordered<F>),
}

impl<F: Future> Running<F> {
    /// For at most so many at once.
    pub(super) fn new(concurrency: usize) -> Self {
        if concurrency == 1 { Self::One(Box::pin(None)) } else { Self::Several(FuturesUnordered::new()) }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(call) => usize::from(call.is_some()),
            Self::Several(calls) => calls.len(),
        }
    }

    /// Adds a call; there are fewer than were asked for.
    pub(super) fn push(&mut self, call: F) {
        match self {
            Self::One(place) => place.set(Some(call)),
            Self::Several(calls) => calls.push(call),
        }
    }

    /// The outcome of one that has ended; nothing at once where none runs.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        match self {
            Self::One(place) => {
                let Some(call) = place.as_mut().as_pin_mut() else { return Poll::Ready(None) };
                let outcome = ready!(call.poll(cx));
                place.set(None);
                Poll::Ready(Some(outcome))
            }
            Self::Several(calls) => calls.poll_next_unpin(cx),
        }
    }
}
