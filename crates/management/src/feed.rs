//! Live events for one follower, from the last one that it knows.

use std::collections::{HashSet, VecDeque};

use event_bus::{Event, EventId, HandlerError, HistoryFilter, Overflow, SubscribeOptions, Subscription};
use tokio::sync::mpsc;

use crate::events::read_pattern;
use crate::{Caller, Management, Problem, ProblemKind, Role};

/// What a follower is told.
#[derive(Debug, Clone)]
pub enum FeedItem {
    /// An event.
    Event(Event),
    /// That it has missed some, and how many as far as that is known.
    Lagged(Option<u64>),
}

/// Events as they come, for one follower. Dropped, it ends its subscription.
///
/// A follower that is slow loses the oldest events beyond its bound, is told how many, and slows nobody.
#[derive(Debug)]
pub struct EventFeed {
    replay: VecDeque<FeedItem>,
    /// Events that are in the replay and may come once more over the subscription, which began before the
    /// replay was taken so that none lies between the two.
    replayed: HashSet<EventId>,
    live: mpsc::Receiver<Event>,
    subscription: Subscription,
    /// How many lost events the follower has been told of.
    told_dropped: u64,
    held: Option<Event>,
}

impl EventFeed {
    /// What comes next. Nothing once the bus has been shut down.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<FeedItem> {
        if let Some(item) = self.replay.pop_front() {
            return Some(item);
        }
        loop {
            let event = match self.held.take() {
                Some(event) => event,
                None => self.live.recv().await?,
            };
            if self.replayed.remove(event.id()) {
                continue;
            }
            let dropped = self.subscription.stats().dropped;
            if dropped > self.told_dropped {
                let missed = dropped - self.told_dropped;
                self.told_dropped = dropped;
                self.held = Some(event);
                return Some(FeedItem::Lagged(Some(missed)));
            }
            return Some(FeedItem::Event(event));
        }
    }
}

impl Management {
    /// Follows the events that a pattern takes, from now on or from the event that the follower knows last,
    /// as far back as the host keeps events.
    ///
    /// # Errors
    ///
    /// `invalid_field` for a pattern or an id that is none.
    pub fn follow_events(
        &self,
        caller: &Caller,
        pattern: &str,
        last_known: Option<&str>,
        lag_max: usize,
    ) -> Result<EventFeed, Problem> {
        caller.require(Role::Viewer)?;
        let bus = self.bus()?;
        let pattern = read_pattern(pattern)?;
        let last_known: Option<EventId> = match last_known.filter(|id| !id.is_empty()) {
            None => None,
            Some(id) => {
                Some(id.parse().map_err(|_| Problem::invalid("Last-Event-ID", "is not the id of an event"))?)
            }
        };
        // One place: what waits, waits in the subscription, which has the bound and the policy.
        let (sender, live) = mpsc::channel(1);
        let options = SubscribeOptions::new()
            .name(format!("follower {}", caller.origin))
            .owner("management")
            .capacity(lag_max)
            .overflow(Overflow::DropOldest);
        let forward = move |event: Event| {
            let sender = sender.clone();
            async move {
                // Nobody receives any more: the subscription is about to end.
                let _ = sender.send(event).await;
                Ok::<_, HandlerError>(())
            }
        };
        let subscription = bus.subscribe(pattern.clone(), options, forward).map_err(|error| {
            tracing::warn!(%error, "follower not subscribed");
            Problem::new(ProblemKind::Unavailable, "the event bus takes no more followers")
        })?;
        let mut replay = VecDeque::new();
        let mut replayed = HashSet::new();
        if let Some(id) = last_known {
            let kept = bus.history(&HistoryFilter::new().pattern(pattern));
            let from = match kept.iter().rposition(|event| *event.id() == id) {
                Some(at) => at + 1,
                None => {
                    replay.push_back(FeedItem::Lagged(None));
                    0
                }
            };
            for event in kept.into_iter().skip(from) {
                replayed.insert(event.id().clone());
                replay.push_back(FeedItem::Event(event));
            }
        }
        Ok(EventFeed { replay, replayed, live, subscription, told_dropped: 0, held: None })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use event_bus::{EventBus, Topic};

    use super::*;

    fn management() -> (Management, EventBus) {
        let bus = EventBus::builder().history(100).build();
        (Management::builder().bus(bus.clone()).build(), bus)
    }

    fn publish(bus: &EventBus, n: u64) -> EventId {
        let event = bus.event(Topic::new("test.n").unwrap()).data(n).build(&**bus.clock()).unwrap();
        let id = event.id().clone();
        bus.try_publish(event).unwrap();
        id
    }

    async fn numbers(feed: &mut EventFeed, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let item =
                tokio::time::timeout(Duration::from_secs(10), feed.next()).await.expect("in time").unwrap();
            seen.push(match item {
                FeedItem::Event(event) => event.data().to_string(),
                FeedItem::Lagged(missed) => format!("lagged {missed:?}"),
            });
        }
        seen
    }

    #[tokio::test]
    async fn a_follower_goes_on_after_the_event_that_it_knows() {
        let (management, bus) = management();
        publish(&bus, 1);
        let known = publish(&bus, 2).to_string();
        publish(&bus, 3);
        let mut feed = management.follow_events(&Caller::host(), "test.*", Some(&known), 10).unwrap();
        publish(&bus, 4);
        assert_eq!(numbers(&mut feed, 2).await, ["3", "4"]);
        let mut feed = management.follow_events(&Caller::host(), "**", Some("gone"), 10).unwrap();
        assert_eq!(numbers(&mut feed, 5).await, ["lagged None", "1", "2", "3", "4"]);
        let mut feed = management.follow_events(&Caller::host(), "other.**", Some(&known), 10).unwrap();
        assert_eq!(numbers(&mut feed, 1).await, ["lagged None"], "not an event of this pattern");
    }

    /// Events that are published while the follower takes up again are told once each, in order.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_lost_or_told_twice_between_the_kept_and_the_live() {
        const EVENTS: u64 = 2000;
        for _ in 0..20 {
            let bus = EventBus::builder().history(EVENTS as usize + 1).build();
            let management = Management::builder().bus(bus.clone()).build();
            let known = publish(&bus, 0).to_string();
            let publisher = bus.clone();
            let publishing = tokio::task::spawn_blocking(move || {
                for n in 1..=EVENTS {
                    publish(&publisher, n);
                }
            });
            while bus.stats().published < EVENTS / 10 {
                std::hint::spin_loop();
            }
            let mut feed = management.follow_events(&Caller::host(), "**", Some(&known), 10_000).unwrap();
            let seen = numbers(&mut feed, EVENTS as usize).await;
            publishing.await.unwrap();
            let expected: Vec<_> = (1..=EVENTS).map(|n| n.to_string()).collect();
            assert_eq!(seen, expected);
        }
    }

    /// Promise 8: every queue has a bound. A slow follower loses the oldest, and is told.
    #[tokio::test]
    async fn promise_8_a_slow_follower_is_told_what_it_missed() {
        let (management, bus) = management();
        let mut feed = management.follow_events(&Caller::host(), "test.*", None, 4).unwrap();
        for n in 0..50 {
            publish(&bus, n);
            tokio::task::yield_now().await;
        }
        let mut missed = 0;
        let mut seen = 0;
        loop {
            match tokio::time::timeout(Duration::from_secs(10), feed.next()).await.expect("in time").unwrap()
            {
                FeedItem::Lagged(n) => missed += n.unwrap(),
                FeedItem::Event(event) => {
                    seen += 1;
                    if *event.data() == 49 {
                        break;
                    }
                }
            }
        }
        assert_eq!(missed + seen, 50);
        assert!(missed >= 40, "{missed}");
    }

    #[tokio::test]
    async fn a_follower_that_leaves_leaves_no_subscription() {
        let (management, bus) = management();
        let feed = management.follow_events(&Caller::host(), "**", None, 4).unwrap();
        assert_eq!(bus.subscriptions().len(), 1);
        drop(feed);
        for n in 0..3 {
            publish(&bus, n);
        }
        let gone = async {
            while !bus.subscriptions().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("ended");
        assert!(management.follow_events(&Caller::host(), "a..b", None, 4).is_err());
    }
}
