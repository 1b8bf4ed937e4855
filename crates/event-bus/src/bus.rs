//! The handle of a bus.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use runtime::{SharedClock, SystemClock, Timestamp};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::event::{Event, EventBuilder, MAX_DATA_BYTES, TraceContext};
use crate::handler::EventHandler;
use crate::history::{History, HistoryFilter};
use crate::hub::Hub;
use crate::options::SubscribeOptions;
use crate::pattern::Pattern;
use crate::subscribe::{SubscribeError, SubscriptionSpec};
use crate::subscription::{Subscription, SubscriptionId, SubscriptionInfo, SubscriptionStats};
use crate::topic::Topic;

/// What a bus holds at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// JSON data of one event, in bytes.
    pub data_bytes: usize,
    /// Subscriptions, streams among them.
    pub subscriptions: usize,
    /// JSON data and overhead of the events that the history keeps, in bytes.
    pub history_bytes: usize,
    /// Dead letters of all subscriptions together. Where there is no room, the oldest letter of the
    /// subscription that has the most makes it.
    pub dead_letters: usize,
    /// JSON data and overhead of all dead letters, in bytes.
    pub dead_letter_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_bytes: MAX_DATA_BYTES,
            subscriptions: 1_000_000,
            history_bytes: 32 * 1024 * 1024,
            dead_letters: 10_000,
            dead_letter_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Carries events from those who publish to those who subscribed. A clone is the same bus.
///
/// When the last clone goes, every subscription ends; [`EventBus::shutdown`] lets them finish first.
#[derive(Clone)]
pub struct EventBus {
    pub(crate) hub: Arc<Hub>,
}

/// Builds an [`EventBus`].
#[derive(Debug)]
#[must_use]
pub struct EventBusBuilder {
    clock: SharedClock,
    source: Arc<str>,
    history: usize,
    limits: Limits,
    handle: Option<Handle>,
    spans: bool,
}

/// What a bus counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BusStats {
    /// Events that were published.
    pub published: u64,
    /// Events that were refused: over a limit, or after the shutdown.
    pub refused: u64,
    /// Subscriptions now.
    pub subscriptions: usize,
    /// Events that the history holds now.
    pub history: usize,
    /// Events that have become dead letters, those that are none any more included.
    pub dead_lettered: u64,
    /// Dead letters that were given to a subscription again.
    pub redriven: u64,
    /// The counts of all subscriptions together, ended ones included.
    #[serde(flatten)]
    pub totals: SubscriptionStats,
}

/// What a shutdown left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct DrainReport {
    /// Deliveries that were not made: an event that waited for three subscriptions counts three.
    pub undelivered: u64,
    /// Subscriptions whose handler was cut off or is stuck.
    pub unfinished: Vec<String>,
}

impl EventBusBuilder {
    /// Where events get their time from; the machine's clock, if nothing is said.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The source of events that the bus itself builds; `gantry`, if nothing is said.
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = source.into();
        self
    }

    /// How many events to keep for [`EventBus::history`] and for streams that resume; none, if nothing is
    /// said.
    pub fn history(mut self, events: usize) -> Self {
        self.history = events;
        self
    }

    /// What the bus holds at the most.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The runtime that handlers are called on. Left out, it is the one that the bus is built in or, if
    /// there is none, the one that `subscribe` is called in.
    pub fn handle(mut self, handle: Handle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// Makes a `tracing` span around each call of a handler, with the topic, the subscription and, where the
    /// event has one, the trace of its publisher: the span's field `traceparent` continues it. None, if
    /// nothing is said, and then it costs nothing.
    ///
    /// The span of a batch has no one to continue: its field `links` names the traces of its first events.
    pub fn spans(mut self, on: bool) -> Self {
        self.spans = on;
        self
    }

    /// The bus.
    #[must_use]
    pub fn build(self) -> EventBus {
        let history = (self.history > 0).then(|| History::new(self.history, self.limits.history_bytes));
        let handle = self.handle.or_else(|| Handle::try_current().ok());
        EventBus { hub: Hub::new((self.clock, self.source, self.limits), history, handle, self.spans) }
    }
}

impl EventBus {
    /// Begins a bus.
    pub fn builder() -> EventBusBuilder {
        EventBusBuilder {
            clock: SystemClock::shared(),
            source: "gantry".into(),
            history: 0,
            limits: Limits::default(),
            handle: None,
            spans: false,
        }
    }

    /// Calls the handler for each event whose topic the pattern takes, from now on, until the handle is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] names the option that was refused.
    pub fn subscribe<P>(
        &self,
        pattern: P,
        options: SubscribeOptions,
        handler: impl EventHandler,
    ) -> Result<Subscription, SubscribeError>
    where
        P: TryInto<Pattern>,
        SubscribeError: From<P::Error>,
    {
        self.subscribe_spec(SubscriptionSpec::new(pattern.try_into()?, options, handler))
    }

    /// [`EventBus::subscribe`] with its arguments in one value.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn subscribe_spec(&self, spec: SubscriptionSpec) -> Result<Subscription, SubscribeError> {
        self.replace(&[], vec![spec])?.pop().ok_or(SubscribeError::Closed)
    }

    /// Ends some subscriptions and begins others in one step: an event goes to those that end or to those
    /// that begin, never to both and never to neither. Those that end handle what they have, for as long as
    /// their handle is kept; one that has ended already is no hindrance.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]; nothing has changed then.
    pub fn replace(
        &self,
        remove: &[SubscriptionId],
        add: Vec<SubscriptionSpec>,
    ) -> Result<Vec<Subscription>, SubscribeError> {
        let joined = self.hub.change(remove, add)?;
        let hub = Arc::downgrade(&self.hub);
        Ok(joined.into_iter().map(|subscriber| Subscription::new(subscriber, hub.clone())).collect())
    }

    /// Ends a subscription by its id, as [`Subscription::cancel`] does. Answers whether it was there.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let Some(subscriber) = self.hub.subscriber(id) else { return false };
        subscriber.stop();
        self.hub.leave(&subscriber);
        true
    }

    /// Begins an event whose source is the bus's, in the trace of the caller's work.
    pub fn event(&self, topic: Topic) -> EventBuilder {
        Event::builder(topic)
            .source(self.hub.source.clone())
            .max_data_bytes(self.hub.limits.data_bytes)
            .trace(TraceContext::current())
    }

    /// Where events get their time from.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.hub.clock
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.hub.clock.now()
    }

    /// What the bus holds at the most.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.hub.limits
    }

    /// The kept events that the filter takes, oldest first; none if the bus was built without a history.
    #[must_use]
    pub fn history(&self, filter: &HistoryFilter) -> Vec<Event> {
        self.hub.history.as_ref().map_or_else(Vec::new, |history| history.select(filter).0)
    }

    /// Every subscription, oldest first.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        let now = self.now();
        self.hub.subscribers().iter().map(|subscriber| subscriber.info(now)).collect()
    }

    /// What the bus counts.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let (subscriptions, totals) = self.hub.totals();
        BusStats {
            published: self.hub.published.sum(),
            refused: self.hub.refused.sum(),
            subscriptions,
            history: self.hub.history.as_ref().map_or(0, History::len),
            dead_lettered: self.hub.dead_lettered.sum(),
            redriven: self.hub.redriven.sum(),
            totals,
        }
    }

    /// Refuses new events, lets the handlers finish what waits, and cuts off at the deadline. Streams end
    /// once their readers have read what waits; nobody waits for that.
    pub async fn shutdown(&self, deadline: Duration) -> DrainReport {
        self.hub.close();
        let subscribers = self.hub.subscribers();
        for subscriber in &subscribers {
            self.hub.leave(subscriber);
        }
        let subscribers: Vec<_> = subscribers.into_iter().filter(|s| !s.is_stream()).collect();
        let all_ended = async {
            for subscriber in &subscribers {
                subscriber.ended.cancelled().await;
            }
        };
        if tokio::time::timeout(deadline, all_ended).await.is_err() {
            for subscriber in &subscribers {
                subscriber.cut_off();
            }
        }
        let late = self.hub.tasks().shutdown(Duration::from_millis(200)).await;
        let mut report = DrainReport { undelivered: 0, unfinished: late.aborted };
        report.unfinished.extend(late.stuck);
        for subscriber in &subscribers {
            let stats = subscriber.stats();
            report.undelivered += stats.discarded
                + if subscriber.ended.is_cancelled() { 0 } else { stats.depth + stats.retrying };
        }
        report
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBus").field("source", &self.hub.source).finish_non_exhaustive()
    }
}
