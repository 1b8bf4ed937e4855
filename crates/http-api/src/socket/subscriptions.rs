//! What one client follows: several streams of events, none of which keeps the others from their turn.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use event_bus::{EventId, EventStream, StreamItem};
use futures_util::Stream;

/// How many subscriptions a client may have at once.
pub(super) const SUBSCRIPTIONS_MAX: usize = 64;

/// A client's subscriptions, by the ids that it gave them.
#[derive(Default)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    /// Whose turn it is.
    next: usize,
}

struct Subscription {
    id: String,
    events: Pin<Box<EventStream>>,
    window: Option<Window>,
}

/// What has been sent and not acknowledged yet, the oldest first.
struct Window {
    size: usize,
    sent: VecDeque<EventId>,
}

/// What came for a subscription; nothing where it has ended.
pub(super) type Told = (String, Option<StreamItem>);

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.all.iter().any(|subscription| subscription.id == id)
    }

    pub(super) fn add(&mut self, id: String, events: EventStream, window: Option<usize>) {
        let window = window.map(|size| Window { size, sent: VecDeque::new() });
        self.all.push(Subscription { id, events: Box::pin(events), window });
    }

    /// Ends a subscription; says whether there was one.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        let before = self.all.len();
        self.all.retain(|subscription| subscription.id != id);
        self.all.len() < before
    }

    /// Takes the events up to this one as acknowledged; says whether it was among those that wait to be.
    pub(super) fn acknowledge(&mut self, id: &str, event: &EventId) -> bool {
        let subscription = self.all.iter_mut().find(|subscription| subscription.id == id);
        let Some(window) = subscription.and_then(|subscription| subscription.window.as_mut()) else {
            return false;
        };
        let Some(at) = window.sent.iter().position(|sent| sent == event) else { return false };
        window.sent.drain(..=at);
        true
    }

    /// What comes next for any of them. Nothing comes while there is none, or all wait for acknowledgements.
    pub(super) async fn next(&mut self) -> Told {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Told> {
        let count = self.all.len();
        for at in (0..count).map(|n| (self.next + n) % count) {
            let Subscription { id, events, window } = &mut self.all[at];
            if window.as_ref().is_some_and(|window| window.sent.len() >= window.size) {
                continue;
            }
            let Poll::Ready(item) = events.as_mut().poll_next(cx) else { continue };
            self.next = at + 1;
            if let (Some(window), Some(StreamItem::Event(event))) = (window, &item) {
                window.sent.push_back(event.id().clone());
            }
            let id = if item.is_none() { self.all.remove(at).id } else { id.clone() };
            return Poll::Ready((id, item));
        }
        Poll::Pending
    }
}
