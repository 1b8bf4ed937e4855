//! Events: what happened of late, what is published, who listens.

use std::collections::BTreeSet;
use std::time::Duration;

use event_bus::{
    Event, EventBus, EventId, EventStream, HistoryFilter, Pattern, PublishError, Since, SubscribeOptions,
    SubscriptionInfo,
};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::management::not_available;
use crate::{Caller, Management, Page, PageRequest, Permission, Problem, ProblemKind};

/// Topics below these are the host's to publish.
const HOST_TOPICS: [&str; 3] = ["plugin", "system", "scheduler"];
/// How long subscriptions that hold publishers up may do so to one request.
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);
/// The topic of a test event.
const TEST_TOPIC: &str = "test.demo";

/// Which events to show; all of what is kept where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// A pattern of topics.
    pub pattern: Option<String>,
    /// Published by this source.
    pub source: Option<String>,
    /// Later than the event of this id, or not earlier than this time.
    pub since: Option<String>,
}

/// What a test event says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestEventRequest {
    /// Any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub message: Option<String>,
}

/// An event that was published.
#[derive(Debug, Clone, Serialize)]
pub struct PublishedEvent {
    /// The event, with what the host filled in.
    pub event: Event,
    /// How many subscriptions have it; none in a dry run.
    pub delivered_to: usize,
}

impl Management {
    pub(crate) fn bus(&self) -> Result<&EventBus, Problem> {
        self.inner.bus.as_ref().ok_or_else(|| not_available("event bus"))
    }

    /// The events that the host has kept, the newest first.
    ///
    /// # Errors
    ///
    /// `invalid_field` for a pattern, a `since` or a cursor that is none.
    pub fn recent_events(
        &self,
        caller: &Caller,
        filter: &EventFilter,
        page: &PageRequest,
    ) -> Result<Page<Event>, Problem> {
        caller.require(Permission::EventRead)?;
        let mut wanted = HistoryFilter::new();
        if let Some(pattern) = &filter.pattern {
            wanted = wanted.pattern(read_pattern(pattern)?);
        }
        if let Some(source) = &filter.source {
            wanted = wanted.source(source);
        }
        if let Some(since) = &filter.since {
            wanted = wanted.since(self.read_since(since)?);
        }
        let kept = self.bus()?.history(&wanted);
        let total = kept.len() as u64;
        let mut older: Box<dyn Iterator<Item = Event>> = Box::new(kept.into_iter().rev());
        if let Some(cursor) = page.cursor() {
            // An event that has been given up since was older than all that are kept.
            let cursor = cursor.to_owned();
            older = Box::new(older.skip_while(move |event| *event.id().to_string() != cursor).skip(1));
        }
        let mut items: Vec<Event> = older.take(page.limit() + 1).collect();
        let more = items.len() > page.limit();
        items.truncate(page.limit());
        let next_cursor = if more { items.last().map(|event| event.id().to_string()) } else { None };
        Ok(Page { items, total, next_cursor })
    }

    /// A time, or the id of an event. An id may be any text, so that one that is no UUID has to be known.
    fn read_since(&self, text: &str) -> Result<Since, Problem> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Since::Time(time));
        }
        let refused = || Problem::invalid("since", "is neither a time nor the id of an event");
        let id: EventId = text.parse().map_err(|_| refused())?;
        let looks_like_one = text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let known =
            || Ok::<_, Problem>(self.bus()?.history(&HistoryFilter::new()).iter().any(|e| *e.id() == id));
        if looks_like_one || known()? { Ok(Since::Id(id)) } else { Err(refused()) }
    }

    /// Publishes an event that is described as a CloudEvent; `id`, `source`, `time` and `specversion` may be
    /// left out.
    ///
    /// # Errors
    ///
    /// `invalid_field` for what is no event, and for topics that are the host's to publish; `timeout` where a
    /// subscription that may hold publishers up does so.
    pub async fn publish_event(
        &self,
        caller: &Caller,
        event: Map<String, Value>,
    ) -> Result<PublishedEvent, Problem> {
        let topic = topic_of(&event).to_owned();
        self.write(caller, Permission::EventPublish, &topic, async |dry_run| {
            let bus = self.bus()?;
            let event = read_event(caller, bus, event)?;
            publish(bus, event, Instant::now() + PUBLISH_WITHIN, dry_run).await
        })
        .await
    }

    /// Publishes events in their order. All are read first, and if one is wrong none is published.
    ///
    /// # Errors
    ///
    /// As for [`Management::publish_event`], the field below the event's place, such as `[2].type`. Where
    /// the bus takes no more of them, `detail` says how many had been published.
    pub async fn publish_events(
        &self,
        caller: &Caller,
        events: Vec<Map<String, Value>>,
    ) -> Result<Vec<PublishedEvent>, Problem> {
        let topics: BTreeSet<&str> = events.iter().map(topic_of).collect();
        let target = topics.into_iter().collect::<Vec<_>>().join(", ");
        self.write(caller, Permission::EventPublish, &target, async |dry_run| {
            let bus = self.bus()?;
            let read = events.into_iter().enumerate().map(|(at, event)| {
                read_event(caller, bus, event).map_err(|problem| problem.under(&format!("[{at}]")))
            });
            let events = read.collect::<Result<Vec<_>, _>>()?;
            let (total, deadline) = (events.len(), Instant::now() + PUBLISH_WITHIN);
            let mut published = Vec::with_capacity(total);
            for event in events {
                match publish(bus, event, deadline, dry_run).await {
                    Ok(event) => published.push(event),
                    Err(problem) => {
                        return Err(problem.detail(format!("{} of {total} were published", published.len())));
                    }
                }
            }
            Ok(published)
        })
        .await
    }

    /// Publishes an event of the topic `test.demo`, to see that events arrive.
    ///
    /// # Errors
    ///
    /// `invalid_field` for a message that is too long.
    pub async fn publish_test_event(
        &self,
        caller: &Caller,
        request: TestEventRequest,
    ) -> Result<PublishedEvent, Problem> {
        let message = request.message.unwrap_or_else(|| "hello from the management API".to_owned());
        if message.chars().count() > 1024 {
            return Err(Problem::invalid("message", "is longer than 1024 characters"));
        }
        let mut event = Map::new();
        event.insert("type".to_owned(), TEST_TOPIC.into());
        event.insert("data".to_owned(), json!({ "message": message, "caller": &*caller.name }));
        self.publish_event(caller, event).await
    }

    /// Who listens to what, and how far each lags behind; by id, the oldest first.
    ///
    /// # Errors
    ///
    /// For callers without a role, and for a cursor that is none.
    pub fn subscriptions(
        &self,
        caller: &Caller,
        page: &PageRequest,
    ) -> Result<Page<SubscriptionInfo>, Problem> {
        caller.require(Permission::EventRead)?;
        let after: Option<u64> = page.cursor_as()?;
        let all = self.bus()?.subscriptions();
        let total = all.len() as u64;
        let mut later = all.into_iter().filter(|info| after.is_none_or(|after| info.id.0 > after));
        let items: Vec<SubscriptionInfo> = later.by_ref().take(page.limit()).collect();
        let more = later.next().is_some();
        let next_cursor = items.last().filter(|_| more).map(|last| last.id.to_string());
        Ok(Page { items, total, next_cursor })
    }
}

impl Management {
    /// Follows the events that a pattern takes, from now on or from the event that the follower knows last,
    /// as far back as the host keeps events. A follower that falls behind by more than `lag_max` events
    /// loses the oldest, is told how many, and slows nobody.
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
    ) -> Result<EventStream, Problem> {
        caller.require(Permission::EventRead)?;
        let bus = self.bus()?;
        let pattern = read_pattern(pattern)?;
        let since = match last_known.filter(|id| !id.is_empty()).map(str::parse) {
            None => None,
            Some(Ok(id)) => Some(Since::Id(id)),
            Some(Err(_)) => return Err(Problem::invalid("Last-Event-ID", "is not the id of an event")),
        };
        let options = SubscribeOptions::new()
            .name(format!("follower {}", caller.origin))
            .owner("management")
            .capacity(lag_max);
        bus.stream_with(pattern, options, since).map_err(|error| {
            tracing::warn!(%error, "follower not subscribed");
            Problem::new(ProblemKind::Unavailable, "the event bus takes no more followers")
        })
    }
}

fn topic_of(event: &Map<String, Value>) -> &str {
    event.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn read_event(caller: &Caller, bus: &EventBus, mut event: Map<String, Value>) -> Result<Event, Problem> {
    if HOST_TOPICS.contains(&topic_of(&event).split('.').next().unwrap_or_default()) {
        let detail = "topics below `plugin`, `system` and `scheduler` are the host's";
        return Err(Problem::invalid("type", detail));
    }
    if !event.contains_key("source") {
        event.insert("source".to_owned(), format!("api/{}", caller.name).into());
    }
    if !event.contains_key("traceparent") {
        event.insert("traceparent".to_owned(), caller.trace.to_string().into());
    }
    Event::from_json(event, &**bus.clock(), bus.limits().data_bytes)
        .map_err(|error| field_problem(error.field(), &error.to_string()))
}

async fn publish(
    bus: &EventBus,
    event: Event,
    deadline: Instant,
    dry_run: bool,
) -> Result<PublishedEvent, Problem> {
    if dry_run {
        return Ok(PublishedEvent { event, delivered_to: 0 });
    }
    match tokio::time::timeout_at(deadline, bus.publish(event.clone())).await {
        Ok(published) => Ok(PublishedEvent { event, delivered_to: published?.delivered_to }),
        Err(_) => Err(Problem::new(ProblemKind::Timeout, "a subscription holds publishers up")),
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Event(event) => field_problem(event.field(), &error.to_string()),
            PublishError::NotDurable(_) => Self::invalid("durable", error.to_string()),
            PublishError::TimedOut { .. } => Self::new(ProblemKind::Timeout, error.to_string()),
            PublishError::Closed | PublishError::NoRoom(_) => {
                Self::new(ProblemKind::Unavailable, error.to_string())
            }
        }
    }
}

/// The bus says "field: what is wrong"; a problem keeps the two apart.
fn field_problem(field: &str, text: &str) -> Problem {
    let inner = format!("metadata.{field}");
    let named = [field, "topic", "pattern", "metadata", &inner];
    let detail = named.iter().find_map(|name| text.strip_prefix(name)?.strip_prefix(": ")).unwrap_or(text);
    Problem::invalid(field, detail)
}

pub(crate) fn read_pattern(text: &str) -> Result<Pattern, Problem> {
    Pattern::new(text).map_err(|error| field_problem("type", &error.to_string()))
}

#[cfg(test)]
mod tests {
    use event_bus::{StreamItem, Topic};
    use futures_util::StreamExt;

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

    async fn numbers(stream: EventStream, count: usize) -> Vec<String> {
        let told = stream.take(count).map(|item| match item {
            StreamItem::Event(event) => event.data().to_string(),
            StreamItem::Lagged(missed) => format!("lagged {missed}"),
            StreamItem::Gap => "gap".to_owned(),
        });
        tokio::time::timeout(Duration::from_secs(30), told.collect()).await.expect("in time")
    }

    #[tokio::test]
    async fn a_follower_goes_on_after_the_event_that_it_knows_and_leaves_nothing_behind() {
        let (management, bus) = management();
        publish(&bus, 1);
        let known = publish(&bus, 2).to_string();
        publish(&bus, 3);
        let follow = |pattern, last: Option<&str>| {
            management.follow_events(&Caller::host(), pattern, last, 10).unwrap()
        };
        let stream = follow("test.*", Some(&known));
        publish(&bus, 4);
        assert_eq!(bus.subscriptions()[0].owner.as_deref(), Some("management"));
        assert_eq!(numbers(stream, 2).await, ["3", "4"]);
        assert_eq!(numbers(follow("**", Some("gone")), 5).await, ["gap", "1", "2", "3", "4"]);
        assert!(bus.subscriptions().is_empty());
        assert!(management.follow_events(&Caller::host(), "a..b", None, 4).is_err());
    }

    /// Promise 8: every queue has a bound. A slow follower loses the oldest, and is told.
    #[tokio::test]
    async fn promise_8_a_slow_follower_is_told_what_it_missed() {
        let (management, bus) = management();
        let stream = management.follow_events(&Caller::host(), "test.*", None, 4).unwrap();
        for n in 0..50 {
            publish(&bus, n);
        }
        assert_eq!(numbers(stream, 5).await, ["lagged 46", "46", "47", "48", "49"]);
    }

    /// Promise 10: bad input changes nothing.
    #[tokio::test]
    async fn promise_10_a_batch_with_one_wrong_event_publishes_none() {
        let (management, bus) = management();
        let event = |topic: &str| Map::from_iter([("type".to_owned(), topic.into())]);
        let batch = vec![event("a.b"), event("a..b")];
        let problem = management.publish_events(&Caller::host(), batch).await.unwrap_err();
        assert_eq!((problem.status(), problem.field.as_deref()), (422, Some("[1].type")));
        let host = vec![event("a.b"), event("scheduler.task.started")];
        let problem = management.publish_events(&Caller::host(), host).await.unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("[1].type"));
        let both = || vec![event("a.b"), event("b.a")];
        management.publish_events(&Caller::host().dry_run(true), both()).await.unwrap();
        assert_eq!(bus.stats().published, 0);
        let published = management.publish_events(&Caller::host(), both()).await.unwrap();
        assert_eq!(published.len(), 2);
        let audited = management.audit(&Caller::host(), &PageRequest::default()).unwrap().items;
        let seen: Vec<_> = audited.iter().map(|e| (e.target.as_str(), e.outcome.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("a.b, b.a", "done"),
                ("a.b, scheduler.task.started", "invalid_field"),
                ("a..b, a.b", "invalid_field")
            ]
        );
    }
}
