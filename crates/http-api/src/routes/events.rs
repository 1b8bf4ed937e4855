//! Events: what happened of late, what is published, who listens.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use event_bus::{Event, SubscriptionInfo};
use http::HeaderMap;
use management::{EventFilter, PageRequest, Problem, PublishedEvent, TestEventRequest};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::cloud_events::Publication;
use crate::envelope::{Answer, Envelope, Outcome, Refusal, list_data};
use crate::extract::{Ctx, OptionalJson, PageQuery, Query};
use crate::origin::check_own_page;
use crate::socket::{Upgrade, place};
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
    /// How many subscriptions have it; none in a dry run.
    delivered_to: usize,
}

impl From<PublishedEvent> for PublishedData {
    fn from(published: PublishedEvent) -> Self {
        Self { event: published.event, delivered_to: published.delivered_to }
    }
}

/// The events of a batch that were published, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchData {
    events: Vec<PublishedData>,
    /// How many there are.
    total: usize,
}

/// What was published.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Publications {
    One(PublishedData),
    Batch(BatchData),
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
#[utoipa::path(get, path = "/plugins/events", tag = "events", security(("bearer" = ["event.read"])), params(EventsQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<EventsData>)))]
pub(crate) async fn recent(ctx: Ctx, Query(query): Query<EventsQuery>) -> Outcome {
    let filter = EventFilter { pattern: query.pattern, source: query.source, since: query.since };
    let page = PageRequest::new(query.limit, query.cursor)?;
    let page = ctx.management().recent_events(ctx.caller(), &filter, &page)?;
    Answer::ok(&EventsData { events: page.items, total: page.total, next_cursor: page.next_cursor })
}

/// Publishes a test event of the topic `test.demo`.
#[utoipa::path(post, path = "/plugins/events/test", tag = "events", security(("bearer" = ["event.publish"])), request_body = Option<TestEventRequest>,
    responses((status = 200, description = "The event.", body = Envelope<PublishedData>)))]
pub(crate) async fn test(ctx: Ctx, OptionalJson(request): OptionalJson<TestEventRequest>) -> Outcome {
    Answer::ok(&PublishedData::from(ctx.management().publish_test_event(ctx.caller(), request).await?))
}

/// Publishes an event.
///
/// As plain JSON, of which everything but `type` may be left out, or as CloudEvents 1.0 in any of the modes of
/// their HTTP binding: structured, in batches of up to 1000, and binary, that is with the attributes in `ce-`
/// headers and the data as the body. If one event of a batch is wrong, none is published.
#[utoipa::path(post, path = "/events", tag = "events", security(("bearer" = ["event.publish"])),
    params(
        ("ce-specversion" = Option<String>, Header, description = "Binary mode: `1.0`.", example = "1.0"),
        ("ce-id" = Option<String>, Header, description = "Binary mode: unique together with the source."),
        ("ce-source" = Option<String>, Header, description = "Binary mode: who publishes it."),
        ("ce-type" = Option<String>, Header, description = "Binary mode: the topic. Further attributes, \
            extensions among them, are headers of the same form, percent-encoded.", example = "custom.greeting"),
    ),
    request_body(content(
        (EventRequest = "application/json", example = json!({"type": "custom.greeting", "data": {"hello": "world"}})),
        (EventSchema = "application/cloudevents+json", example = json!({
            "specversion": "1.0", "id": "1", "source": "me", "type": "custom.greeting", "data": {"hello": "world"}})),
        (Vec<EventSchema> = "application/cloudevents-batch+json", example = json!([
            {"specversion": "1.0", "id": "1", "source": "me", "type": "custom.greeting"},
            {"specversion": "1.0", "id": "2", "source": "me", "type": "custom.greeting"}])),
        (Vec<u8> = "*/*"),
    )),
    responses(
        (status = 200, description = "The event or, for a batch, the events.", body = Envelope<Publications>),
        (status = 504, description = "A subscription holds publishers up.")))]
pub(crate) async fn publish(ctx: Ctx, publication: Publication) -> Outcome {
    let management = ctx.management();
    Answer::ok(&match publication {
        Publication::One(event) => {
            Publications::One(management.publish_event(ctx.caller(), event).await?.into())
        }
        Publication::Batch(events) => {
            let published = management.publish_events(ctx.caller(), events).await?;
            Publications::Batch(BatchData {
                total: published.len(),
                events: published.into_iter().map(PublishedData::from).collect(),
            })
        }
    })
}

/// Who listens to what, and how far each lags behind.
#[utoipa::path(get, path = "/events/subscriptions", tag = "events", security(("bearer" = ["event.read"])), params(PageQuery),
    responses((status = 200, description = "A page of them, the oldest first.", body = Envelope<SubscriptionsData>)))]
pub(crate) async fn subscriptions(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&SubscriptionsData::from(ctx.management().subscriptions(ctx.caller(), &query.page()?)?))
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
#[utoipa::path(get, path = "/events/stream", tag = "events", security(("bearer" = ["event.read"])),
    params(FollowQuery, ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has.")),
    responses(
        (status = 200, description = "Events, until the client leaves.", content_type = "text/event-stream", body = String),
        (status = 429, description = "As many clients follow events as may.", body = crate::envelope::ErrorEnvelope)))]
pub(crate) async fn follow(
    ctx: Ctx,
    Query(query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let place = place(&ctx)?;
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

/// Events both ways over a WebSocket.
///
/// Messages are JSON texts, each an object with a `type` and an `id` of the client's. A client says `subscribe`,
/// `unsubscribe`, `publish` and `ack`, and is told `subscribed`, `unsubscribed`, `event`, `lagged`, `published` and
/// `error`. The reference of the HTTP API has the fields of each.
#[utoipa::path(get, path = "/ws", tag = "events", security(("bearer" = ["event.read"])),
    responses(
        (status = 101, description = "The connection is a WebSocket from here on."),
        (status = 426, description = "The request asks for no WebSocket, or not over HTTP/1.1.", body = crate::envelope::ErrorEnvelope),
        (status = 429, description = "As many clients follow events as may.", body = crate::envelope::ErrorEnvelope)))]
pub(crate) async fn socket(ctx: Ctx, mut request: Request) -> Result<Response, Refusal> {
    // A browser lets any page open one, and sends along what proves the user.
    check_own_page(request.uri(), request.headers())?;
    let upgrade = match Upgrade::of(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refused) => return Ok(refused.into_response()),
    };
    let place = place(&ctx)?;
    Ok(upgrade.accept(&ctx, place))
}
