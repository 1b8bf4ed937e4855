//! etcd over HTTP: `/etcd/put`, `/etcd/get/{key}`, `/etcd/delete/{key}` and `/etcd/watch/{key}`.
//!
//! All of them ask for the role `operator`, reading too: there are settings with secrets among the keys.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use etcd_client::KeyValue;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use plugin_core::{
    Access, Body, BoxError, Endpoint, PluginContext, RegisterError, Registration, Reply, RouteError,
    RouteRequest, Withdraw, Withdrawal,
};
use runtime::CancellationToken;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::{Change, Etcd, EtcdError, Seen, Watch};

/// How many watches may be open over HTTP.
const WATCHES_MAX: usize = 64;

/// How often a watch that has nothing to tell says so: a client that has gone is noticed by that.
const HEARTBEAT: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    key: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WatchQuery {
    /// All keys that begin so.
    prefix: bool,
    /// The first revision to tell of.
    revision: Option<i64>,
}

/// A key as clients see it. A value that is no text is given as `base64`.
#[derive(Serialize)]
struct Shown {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
}

impl From<&KeyValue> for Shown {
    fn from(item: &KeyValue) -> Self {
        let value = item.value_str().ok().map(str::to_owned);
        Self {
            key: String::from_utf8_lossy(item.key()).into_owned(),
            base64: value.is_none().then(|| BASE64.encode(item.value())),
            value,
            create_revision: item.create_revision(),
            mod_revision: item.mod_revision(),
            version: item.version(),
            lease: item.lease(),
        }
    }
}

pub(crate) fn register(ctx: &PluginContext, etcd: &Etcd) -> Result<(), RegisterError> {
    let operator = |endpoint: Endpoint, summary| endpoint.access(Access::Operator).summary(summary);
    let client = etcd.clone();
    ctx.route(operator(Endpoint::post("/etcd/put"), "Writes a key"), move |request: RouteRequest| {
        let etcd = client.clone();
        async move {
            let Put { key, value } = request.json().await?;
            if key.is_empty() {
                return Err(RouteError::new(StatusCode::UNPROCESSABLE_ENTITY, "key: is empty"));
            }
            let revision = etcd.put(key.as_str(), value).await.map_err(refusal)?;
            Reply::data(&json!({ "key": key, "revision": revision }))
        }
    })?;
    let client = etcd.clone();
    ctx.route(operator(Endpoint::get("/etcd/get/{*key}"), "Reads a key"), move |request: RouteRequest| {
        let etcd = client.clone();
        async move {
            let key = request.param("key").unwrap_or_default();
            match etcd.get(key).await.map_err(refusal)? {
                Some(item) => Reply::data(&Shown::from(&item)),
                None => Err(RouteError::new(StatusCode::NOT_FOUND, format!("no key `{}`", short(key)))),
            }
        }
    })?;
    let client = etcd.clone();
    ctx.route(
        operator(Endpoint::delete("/etcd/delete/{*key}"), "Removes a key"),
        move |request: RouteRequest| {
            let etcd = client.clone();
            async move {
                let key = request.param("key").unwrap_or_default();
                let deleted = etcd.delete(key).await.map_err(refusal)?;
                Reply::data(&json!({ "key": key, "deleted": deleted }))
            }
        },
    )?;
    let (client, ended) = (etcd.clone(), CancellationToken::new());
    ctx.register(OpenWatches(ended.clone()))?;
    let places = Arc::new(Semaphore::new(WATCHES_MAX));
    let watch = operator(Endpoint::get("/etcd/watch/{*key}"), "Tells of changes of a key as they happen");
    ctx.route(watch, move |request: RouteRequest| {
        let (etcd, ended) = (client.clone(), ended.clone());
        let place = places.clone().try_acquire_owned();
        async move {
            let Ok(place) = place else {
                let message = format!("{WATCHES_MAX} watches are open, which is the limit");
                return Err(RouteError::new(StatusCode::TOO_MANY_REQUESTS, message));
            };
            let watch = open(&etcd, request).await?;
            Ok(events(Told { watch, ended, _place: place }))
        }
    })
}

/// The watches that clients read. They end when the plugin is shut out: a stop waits for calls that are under
/// way, and these would not end by themselves.
struct OpenWatches(CancellationToken);

#[async_trait]
impl Registration for OpenWatches {
    fn describe(&self) -> String {
        "watches over HTTP".to_owned()
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        self
    }
}

impl Withdraw for OpenWatches {
    fn withdraw(&mut self, _: Withdrawal) {
        self.0.cancel();
    }
}

/// A watch from now on, from the revision that the query names, or from where a client was cut off.
async fn open(etcd: &Etcd, request: RouteRequest) -> Result<Watch, RouteError> {
    let WatchQuery { prefix, revision } = request.query()?;
    let last = request.parts.headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let from = match last.map(str::parse::<i64>) {
        Some(Ok(last)) if last >= 0 => Some(last.saturating_add(1)),
        Some(_) => return Err(RouteError::new(StatusCode::BAD_REQUEST, "last-event-id: is no revision")),
        None => revision,
    };
    if from.is_some_and(|revision| revision < 1) {
        return Err(RouteError::new(StatusCode::UNPROCESSABLE_ENTITY, "revision: is not above 0"));
    }
    let key = request.param("key").unwrap_or_default();
    let opened = match (prefix, from) {
        (true, None) => etcd.watch_prefix(key).await,
        (true, Some(revision)) => etcd.watch_prefix_from(key, revision).await,
        (false, None) => etcd.watch(key).await,
        (false, Some(revision)) => etcd.watch_from(key, revision).await,
    };
    opened.map_err(refusal)
}

/// A watch that somebody reads.
struct Told {
    watch: Watch,
    ended: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Server-sent events: `put`, `delete`, and `state` with all keys in place of changes that are not to be had.
/// The id of an event is its revision; one revision may change several keys, and only the last of them has it.
fn events(told: Told) -> Response<Body> {
    let frames = stream::unfold(told, |mut told| async move {
        let seen = tokio::select! {
            seen = timeout(HEARTBEAT, told.watch.next()) => seen,
            () = told.ended.cancelled() => return None,
        };
        let text = match seen {
            Err(_) => ":\n\n".to_owned(),
            Ok(Ok(seen)) => text_of(&seen),
            // The client comes again with the last revision that it has, and is told what is wrong.
            Ok(Err(_)) => return None,
        };
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from(text))), told))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text_of(seen: &Seen) -> String {
    match seen {
        Seen::State(listing) => {
            let items: Vec<Shown> = listing.items.iter().map(Shown::from).collect();
            event("state", Some(listing.revision), &json!({ "items": items }))
        }
        Seen::Changes(changes) => {
            let mut text = String::new();
            for (at, change) in changes.iter().enumerate() {
                let last = changes.get(at + 1).is_none_or(|next| next.revision() != change.revision());
                let id = last.then(|| change.revision());
                text += &match change {
                    Change::Put(item) => event("put", id, &json!(Shown::from(item))),
                    Change::Delete { key, revision } => event(
                        "delete",
                        id,
                        &json!({ "key": String::from_utf8_lossy(key), "mod_revision": revision }),
                    ),
                };
            }
            text
        }
    }
}

fn event(name: &str, id: Option<i64>, data: &serde_json::Value) -> String {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("event: {name}\n{id}data: {data}\n\n")
}

fn refusal(error: EtcdError) -> RouteError {
    let status = match &error {
        EtcdError::Refused { code: tonic::Code::InvalidArgument | tonic::Code::OutOfRange, .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        // Whatever is the matter, it is with etcd and not with the request.
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    RouteError::new(status, error.to_string())
}

/// As much of a key as belongs into a message.
fn short(key: &str) -> String {
    key.chars().take(128).collect()
}
