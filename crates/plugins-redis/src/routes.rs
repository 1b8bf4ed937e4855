//! The plugin's own routes.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::KeysInterface;
use fred::types::Expiration;
use http::StatusCode;
use plugin_core::{Access, Endpoint, PluginContext, RegisterError, Reply, RouteError, RouteRequest};
use runtime::DurationText;
use serde::{Deserialize, Serialize};

use crate::client::{NodePing, Redis};

/// What the plugin asks to be allowed for its routes.
pub(crate) const PREFIX: &str = "route:/redis";

/// The longest key that the routes take.
const MAX_KEY_BYTES: usize = 1024;

#[derive(Serialize)]
struct Node {
    address: String,
    took: Option<DurationText>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    key: String,
    value: String,
    #[serde(default)]
    ttl: Option<DurationText>,
}

/// Adds the routes to a plugin that starts.
pub(crate) fn register(ctx: &PluginContext, redis: &Redis) -> Result<(), RegisterError> {
    route(ctx, redis, Endpoint::get("/redis/nodes").summary("how each master answers"), nodes)?;
    route(ctx, redis, Endpoint::post("/redis/set").summary("sets a key"), set)?;
    // Data is not for everybody who may look at the host.
    let get = Endpoint::get("/redis/get/{*key}").access(Access::Operator).summary("the value of a key");
    route(ctx, redis, get, self::get)?;
    route(ctx, redis, Endpoint::delete("/redis/delete/{*key}").summary("removes a key"), delete)
}

fn route<Fut>(
    ctx: &PluginContext,
    redis: &Redis,
    endpoint: Endpoint,
    handler: fn(Redis, RouteRequest) -> Fut,
) -> Result<(), RegisterError>
where
    Fut: Future<Output = Result<Reply, RouteError>> + Send + 'static,
{
    let redis = redis.clone();
    ctx.route(endpoint, move |request: RouteRequest| handler(redis.clone(), request))
}

async fn nodes(redis: Redis, _: RouteRequest) -> Result<Reply, RouteError> {
    let node = |ping: NodePing| Node {
        address: ping.address,
        took: ping.took.as_ref().ok().map(|took| DurationText::measured(*took)),
        error: ping.took.err().map(|error| error.to_string()),
    };
    let nodes: Vec<_> = redis.ping().await.map_err(refused)?.into_iter().map(node).collect();
    Reply::data(&serde_json::json!({ "nodes": nodes }))
}

async fn set(redis: Redis, request: RouteRequest) -> Result<Reply, RouteError> {
    let Set { key, value, ttl } = request.json().await?;
    check_key(&key)?;
    let wrong = || RouteError::new(StatusCode::UNPROCESSABLE_ENTITY, "ttl: must be 1ms or more");
    let expiry = match ttl {
        None => None,
        Some(DurationText(ttl)) if ttl < Duration::from_millis(1) => return Err(wrong()),
        Some(DurationText(ttl)) => Some(i64::try_from(ttl.as_millis()).map_err(|_| wrong())?),
    };
    let expiry = expiry.map(Expiration::PX);
    redis
        .call("SET", redis.client().set::<(), _, _>(&key, value, expiry, None, false))
        .await
        .map_err(refused)?;
    Reply::data(&serde_json::json!({ "key": key }))
}

async fn get(redis: Redis, request: RouteRequest) -> Result<Reply, RouteError> {
    let key = key_of(&request)?;
    let found: Option<Bytes> = redis.call("GET", redis.client().get(&key)).await.map_err(refused)?;
    let value = found.ok_or_else(|| not_found(&key))?;
    // What is no text is shown as well as it goes.
    Reply::data(&serde_json::json!({ "key": key, "value": String::from_utf8_lossy(&value) }))
}

async fn delete(redis: Redis, request: RouteRequest) -> Result<Reply, RouteError> {
    let key = key_of(&request)?;
    let removed: u64 = redis.call("DEL", redis.client().del(&key)).await.map_err(refused)?;
    if removed == 0 {
        return Err(not_found(&key));
    }
    Reply::data(&serde_json::json!({ "key": key }))
}

fn key_of(request: &RouteRequest) -> Result<String, RouteError> {
    let key = request.param("key").unwrap_or_default();
    check_key(key)?;
    Ok(key.to_owned())
}

fn check_key(key: &str) -> Result<(), RouteError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let message = format!("key: must be 1 to {MAX_KEY_BYTES} bytes");
        return Err(RouteError::new(StatusCode::UNPROCESSABLE_ENTITY, message));
    }
    Ok(())
}

fn not_found(key: &str) -> RouteError {
    RouteError::new(StatusCode::NOT_FOUND, format!("there is no key `{key}`"))
}

/// What the server or the connection said, as a refusal.
fn refused(error: Error) -> RouteError {
    let status = match error.kind() {
        // Such as the wrong kind of value under the key.
        ErrorKind::InvalidArgument => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    RouteError::new(status, format!("redis: {error}"))
}
