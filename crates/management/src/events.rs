//! Events: what happened of late, what is published, who listens.

use event_bus::{Event, EventBus, EventId, HistoryFilter, Pattern, PublishError, Since, SubscriptionInfo};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::management::not_available;
use crate::{Caller, Management, Page, PageRequest, Problem, Role};

/// Topics below these are the host's to publish.
const HOST_TOPICS: [&str; 3] = ["plugin", "system", "scheduler"];
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
    /// How many subscriptions have it.
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
        caller.require(Role::Viewer)?;
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
    /// `invalid_field` for what is no event, and for topics that are the host's to publish.
    pub async fn publish_event(
        &self,
        caller: &Caller,
        mut event: Map<String, Value>,
    ) -> Result<PublishedEvent, Problem> {
        let topic = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.audited(caller, Role::Operator, "event.publish", &topic, async {
            let bus = self.bus()?;
            if HOST_TOPICS.contains(&topic.split('.').next().unwrap_or_default()) {
                return Err(Problem::invalid(
                    "type",
                    "topics below `plugin`, `system` and `scheduler` are the host's",
                ));
            }
            if !event.contains_key("source") {
                event.insert("source".to_owned(), format!("api/{}", caller.name).into());
            }
            if !event.contains_key("traceparent") {
                event.insert("traceparent".to_owned(), caller.trace.to_string().into());
            }
            let event = Event::from_json(event, &**bus.clock(), bus.limits().data_bytes)
                .map_err(|error| field_problem(error.field(), &error.to_string()))?;
            let published = bus.publish(event.clone()).await?;
            Ok(PublishedEvent { event, delivered_to: published.delivered_to })
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

    /// Who listens to what, and how far each lags behind.
    ///
    /// # Errors
    ///
    /// For callers without a role, and where the host has no event bus.
    pub fn subscriptions(&self, caller: &Caller) -> Result<Vec<SubscriptionInfo>, Problem> {
        caller.require(Role::Viewer)?;
        Ok(self.bus()?.subscriptions())
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Event(event) => field_problem(event.field(), &error.to_string()),
            PublishError::NotDurable(_) => Self::invalid("durable", error.to_string()),
            PublishError::TimedOut { .. } => Self::new(crate::ProblemKind::Timeout, error.to_string()),
            PublishError::Closed => Self::new(crate::ProblemKind::Unavailable, error.to_string()),
        }
    }
}

/// The bus says "field: what is wrong"; a problem keeps the two apart.
fn field_problem(field: &str, text: &str) -> Problem {
    let named = [field, "topic", "pattern"];
    let detail = named.iter().find_map(|name| text.strip_prefix(name)?.strip_prefix(": ")).unwrap_or(text);
    Problem::invalid(field, detail)
}

pub(crate) fn read_pattern(text: &str) -> Result<Pattern, Problem> {
    Pattern::new(text).map_err(|error| field_problem("type", &error.to_string()))
}
