//! Events as a stream, which can begin where an earlier one ended.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::bus::EventBus;
use crate::event::Event;
use crate::history::{History, HistoryFilter, Since};
use crate::hub::Hub;
use crate::options::{Overflow, SubscribeOptions};
use crate::pattern::Pattern;
use crate::ring::{Found, Hands};
use crate::subscribe::SubscribeError;
use crate::subscription::{Subscriber, SubscriptionId, SubscriptionStats};

/// What an [`EventStream`] yields.
#[derive(Debug, Clone)]
pub enum StreamItem {
    /// An event.
    Event(Event),
    /// So many events were passed over, since whoever reads the stream is too slow for its bound.
    Lagged(u64),
    /// The event that the stream was to go on from is no longer kept: some may be missing before the next.
    Gap,
}

/// The events whose topic a pattern takes, as they are published. Made by [`EventBus::stream`].
///
/// Ends when the bus is shut down. Dropping it ends its subscription.
pub struct EventStream {
    subscriber: Arc<Subscriber>,
    hub: Weak<Hub>,
    hands: Hands,
    /// What is yielded first: the past that was asked for.
    first: VecDeque<StreamItem>,
    /// What of the drops has been told.
    told: u64,
}

impl EventBus {
    /// The events whose topic the pattern takes, from now on or, with `since`, from there, as far as the
    /// history reaches: no event is missing and none comes twice where past and present meet.
    ///
    /// A reader that falls behind by more than `bound` events is told how many it has missed.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] names what was refused.
    pub fn stream<P>(
        &self,
        pattern: P,
        bound: usize,
        since: Option<Since>,
    ) -> Result<EventStream, SubscribeError>
    where
        P: TryInto<Pattern>,
        SubscribeError: From<P::Error>,
    {
        self.stream_with(pattern, SubscribeOptions::new().capacity(bound).name("stream"), since)
    }

    /// [`EventBus::stream`] with a name, an owner and a bound in options, of which nothing else counts here.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn stream_with<P>(
        &self,
        pattern: P,
        options: SubscribeOptions,
        since: Option<Since>,
    ) -> Result<EventStream, SubscribeError>
    where
        P: TryInto<Pattern>,
        SubscribeError: From<P::Error>,
    {
        let pattern = pattern.try_into()?;
        let options = options.overflow(Overflow::DropOldest);
        let mut first = VecDeque::new();
        let kept = self.hub.history.as_ref().map(History::hold);
        if let Some(since) = since {
            let filter = HistoryFilter::new().pattern(pattern.clone()).since(since);
            let (events, known) = kept.as_ref().map_or((Vec::new(), false), |kept| kept.select(&filter));
            if !known {
                first.push_back(StreamItem::Gap);
            }
            first.extend(events.into_iter().map(StreamItem::Event));
        }
        // The history is held until the stream has its place in the ring: publishers hold it, too.
        let joined = self.hub.change_members(&[], vec![(pattern, options)]);
        drop(kept);
        let subscriber = joined?.pop().ok_or(SubscribeError::Closed)?;
        let hub = Arc::downgrade(&self.hub);
        Ok(EventStream { subscriber, hub, hands: Hands::default(), first, told: 0 })
    }
}

impl EventStream {
    /// What its subscription is known by.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.subscriber.id
    }

    /// Its counts now.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.subscriber.stats()
    }
}

impl Stream for EventStream {
    type Item = StreamItem;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        let Self { subscriber, hands, first, told, .. } = self.get_mut();
        let Subscriber { ring, member, .. } = &**subscriber;
        if let Some(item) = first.pop_front() {
            return Poll::Ready(Some(item));
        }
        if member.is_stopped() {
            return Poll::Ready(None);
        }
        ring.skip_late(member, hands, &mut |entry| subscriber.passed_over(entry));
        let mut found = Found::Entries;
        if hands.is_empty() {
            hands.clear();
            found = ring.read(member, hands, Some(cx.waker()), &mut |entry| subscriber.passed_over(entry));
        }
        let dropped = member.skipped();
        if dropped > *told {
            let lagged = dropped - *told;
            *told = dropped;
            return Poll::Ready(Some(StreamItem::Lagged(lagged)));
        }
        match (found, hands.current()) {
            (Found::Nothing, _) => Poll::Pending,
            (Found::Entries, Some(entry)) => {
                let event = entry.event.clone();
                if let Some(ack) = &entry.ack {
                    ack.handled();
                }
                hands.next();
                member.advance(member.cursor() + 1);
                member.calls.count(1);
                Poll::Ready(Some(StreamItem::Event(event)))
            }
            _ => Poll::Ready(None),
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let Self { subscriber, hub, hands, .. } = self;
        subscriber.member.stop();
        subscriber.finish(hub, hands);
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("id", &self.subscriber.id)
            .field("pattern", &self.subscriber.pattern)
            .finish_non_exhaustive()
    }
}
