//! Events: what happened of late, what is published, who listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use event_bus::{Event, SubscriptionInfo};
use http::HeaderMap;
use management::{EventFilter, PageRequest, Problem, ProblemKind, PublishedEvent, TestEventRequest};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::envelope::{Answer, Envelope, Outcome, Refusal, list_data, whole};
use crate::extract::{Ctx, Json, OptionalJson, Query};
use crate::sse::{self, Following};

/// An event as a CloudEvent 1.0. Extension attributes stand beside these.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventSchema {
    /// `1.0`.
    specversion: String,
    /// Unique together with the source.
    id: String,
    /// Who published it.
    source: String,
    /// Its topic.
    r#type: String,
    /// When it was published.
    time: Timestamp,
    /// Whom it is meant for.
    target: Option<String>,
    /// The W3C trace context of the publisher.
    traceparent: Option<String>,
    /// That of its data, `application/json` as a rule.
    datacontenttype: Option<String>,
    /// What happened.
    data: Option<Value>,
    /// Extension attributes: texts, integers and booleans.
    #[serde(flatten)]
    extensions: BTreeMap<String, Value>,
}

/// An event to publish, as a CloudEvent 1.0: only `type` has to be given. Extension attributes stand beside
/// these.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventRequest {
    /// The topic: segments of `A-Za-z0-9_-` with dots between. Not below `plugin`, `system`, `scheduler`.
    #[schema(example = "custom.greeting", max_length = 255)]
    r#type: String,
    /// `1.0`.
    specversion: Option<String>,
    /// A new one where it is left out.
    id: Option<String>,
    /// The caller where it is left out.
    source: Option<String>,
    /// Now where it is left out.
    time: Option<Timestamp>,
    /// Whom it is meant for.
    target: Option<String>,
    /// What happened.
    data: Option<Value>,
}

/// An event that was published.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PublishedEvent)]
pub(crate) struct PublishedData {
    /// The event, with what the host filled in.
    #[schema(value_type = EventSchema)]
    event: Event,
    /// How many subscriptions have it.
    delivered_to: usize,
}

impl From<PublishedEvent> for PublishedData {
    fn from(published: PublishedEvent) -> Self {
        Self { event: published.event, delivered_to: published.delivered_to }
    }
}

/// Events, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventsData {
    /// The entries of this page.
    #[schema(value_type = Vec<EventSchema>)]
    events: Vec<Event>,
    /// How many there are on all pages.
    total: u64,
    /// What to ask the next page with; null on the last.
    next_cursor: Option<String>,
}

list_data!(
    /// Who listens to what.
    SubscriptionsData, subscriptions, SubscriptionInfo);

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// A pattern of topics: `*` is one segment, `**` any number.
    #[serde(rename = "type")]
    #[param(example = "scheduler.task.*")]
    pattern: Option<String>,
    /// Published by this source.
    source: Option<String>,
    /// Later than the event of this id, or not earlier than this time.
    since: Option<String>,
    /// How many entries at the most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The events of late, the newest first.
#[utoipa::path(get, path = "/plugins/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<EventsData>)))]
pub(crate) async fn recent(ctx: Ctx, Query(query): Query<EventsQuery>) -> Outcome {
    let filter = EventFilter { pattern: query.pattern, source: query.source, since: query.since };
    let page = PageRequest::new(query.limit, query.cursor)?;
    let page = ctx.management().recent_events(ctx.caller(), &filter, &page)?;
    Answer::ok(&EventsData { events: page.items, total: page.total, next_cursor: page.next_cursor })
}

/// Publishes a test event of the topic `test.demo`.
#[utoipa::path(post, path = "/plugins/events/test", tag = "events", request_body = Option<TestEventRequest>,
    responses((status = 200, description = "The event.", body = Envelope<PublishedData>)))]
pub(crate) async fn test(ctx: Ctx, OptionalJson(request): OptionalJson<TestEventRequest>) -> Outcome {
    Answer::ok(&PublishedData::from(ctx.management().publish_test_event(ctx.caller(), request).await?))
}

/// Publishes an event.
#[utoipa::path(post, path = "/events", tag = "events", request_body = EventRequest,
    responses((status = 200, description = "The event.", body = Envelope<PublishedData>)))]
pub(crate) async fn publish(ctx: Ctx, Json(event): Json<Map<String, Value>>) -> Outcome {
    Answer::ok(&PublishedData::from(ctx.management().publish_event(ctx.caller(), event).await?))
}

/// Who listens to what, and how far each lags behind.
#[utoipa::path(get, path = "/events/subscriptions", tag = "events",
    responses((status = 200, description = "All of them.", body = Envelope<SubscriptionsData>)))]
pub(crate) async fn subscriptions(ctx: Ctx) -> Outcome {
    Answer::ok(&SubscriptionsData::from(whole(ctx.management().subscriptions(ctx.caller())?)))
}

/// Which events to follow.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FollowQuery {
    /// A pattern of topics; all where it is left out.
    #[serde(rename = "type")]
    #[param(example = "scheduler.**")]
    pattern: Option<String>,
    /// As the header `Last-Event-ID`, for clients that cannot set it.
    last_event_id: Option<String>,
}

/// Live events, as server-sent events.
///
/// Each message is an event as JSON with its id. A message of the type `lagged` says how many the client
/// has missed, null where that is not known. A client that comes back with `Last-Event-ID` gets what
/// happened meanwhile, as far as the host keeps it.
#[utoipa::path(get, path = "/events/stream", tag = "events",
    params(FollowQuery, ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has.")),
    responses(
        (status = 200, description = "Events, until the client leaves.", content_type = "text/event-stream", body = String),
        (status = 429, description = "As many clients follow events as may.", body = crate::envelope::ErrorEnvelope)))]
pub(crate) async fn follow(
    ctx: Ctx,
    Query(query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Ok(place) = Arc::clone(&ctx.shared.event_streams).try_acquire_owned() else {
        let problem = Problem::new(ProblemKind::TooMany, "as many clients follow events as may");
        return Err(problem.retry_after(Duration::from_secs(5)).into());
    };
    let last = match headers.get("last-event-id").map(|id| id.to_str()) {
        Some(Ok(id)) => Some(id.to_owned()),
        Some(Err(_)) => return Err(Problem::malformed("`Last-Event-ID` cannot be read").into()),
        None => query.last_event_id,
    };
    let pattern = query.pattern.as_deref().unwrap_or("**");
    let config = &ctx.shared.config;
    let feed =
        ctx.management().follow_events(ctx.caller(), pattern, last.as_deref(), config.event_lag_max)?;
    let following = Following { heartbeat: config.heartbeat, closing: ctx.shared.closing.clone(), place };
    Ok(sse::answer(feed, following))
}
