//! Cache-aside: what is asked for often is computed once.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Expiration;
use fred::types::config::Options;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use plugin_core::BoxError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::Redis;

/// How a cache keeps what it is given.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheOptions {
    /// Put before every key, so that caches do not meet.
    pub prefix: String,
    /// How long a value is kept.
    pub ttl: Duration,
    /// The share of `ttl` by which it may be shorter, by chance, so that what was cached together does not
    /// expire together: 0 to 1.
    pub jitter: f64,
    /// How long Redis may take to answer before the value is computed instead.
    pub timeout: Duration,
}

impl CacheOptions {
    /// Keeps values for `ttl`, a tenth of it less by chance; waits a quarter of a second for Redis.
    pub fn new(prefix: impl Into<String>, ttl: Duration) -> Self {
        Self { prefix: prefix.into(), ttl, jitter: 0.1, timeout: Duration::from_millis(250) }
    }
}

/// Why there is no value. Those who waited for one and the same get the same error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// It could not be computed.
    #[error("compute the value")]
    Load(#[source] Arc<BoxErrorSource>),
    /// The code that computes it panicked.
    #[error("the code that computes the value panicked: {0}")]
    Panicked(Arc<str>),
    /// It has no JSON form, or what is stored is none of this type.
    #[error("the value is not of this type: {0}")]
    Type(Arc<str>),
}

/// The error of whoever computed a value.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BoxErrorSource(#[from] BoxError);

type Flight = Shared<BoxFuture<'static, Result<Bytes, CacheError>>>;

/// Values in Redis, as JSON, that are computed where Redis does not have them. A clone is the same.
///
/// - Of those in this process that ask for one key at once, one asks Redis and computes, and the others get what
///   it got (single flight). Whoever began may go; the others' answer comes all the same.
/// - A Redis that is away, or slow, costs [`CacheOptions::timeout`] and nothing else: the value is computed.
#[derive(Clone)]
pub struct Cache {
    redis: Redis,
    options: Arc<CacheOptions>,
    /// As many as there are keys that somebody waits for.
    flights: Arc<Mutex<HashMap<String, Flight>>>,
}

impl Cache {
    /// A cache in this Redis.
    #[must_use]
    pub fn new(redis: Redis, options: CacheOptions) -> Self {
        Self { redis, options: Arc::new(options), flights: Arc::default() }
    }

    /// The value of a key; where there is none, what `load` gives, which is stored.
    ///
    /// # Errors
    ///
    /// [`CacheError`] if it could not be computed, or is of another type. That Redis is away is none.
    pub async fn get_or_load<T, F, Fut, E>(&self, key: &str, load: F) -> Result<T, CacheError>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let key = self.full(key);
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.entry(key.clone()).or_insert_with(|| self.take_off(key, load)).clone()
        };
        let bytes = flight.await?;
        serde_json::from_slice(&bytes).map_err(|error| CacheError::Type(error.to_string().into()))
    }

    /// Forgets a key, as after a change of what it was computed from. What is being computed at the moment may
    /// be stored after that.
    ///
    /// # Errors
    ///
    /// Those of Redis: then others may still get the old value.
    pub async fn remove(&self, key: &str) -> Result<(), fred::error::Error> {
        self.redis.call("DEL", self.redis.client().del::<(), _>(self.full(key))).await
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    fn take_off<T, F, Fut, E>(&self, key: String, load: F) -> Flight
    where
        T: Serialize,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let cache = self.clone();
        let landed = Landed { flights: self.flights.clone(), key: key.clone() };
        let work = async move {
            if let Some(found) = cache.read(&key).await {
                return Ok(found);
            }
            let loaded = async { load().await.map_err(Into::into) };
            // Turned into bytes before anything else is waited for, so that the value need not be `Send`.
            let bytes = match AssertUnwindSafe(loaded).catch_unwind().await {
                Ok(Ok(value)) => serde_json::to_vec(&value).map(Bytes::from),
                Ok(Err(error)) => return Err(CacheError::Load(Arc::new(BoxErrorSource::from(error)))),
                Err(panic) => return Err(CacheError::Panicked(runtime::panic_message(&*panic).into())),
            };
            let bytes = bytes.map_err(|error| CacheError::Type(error.to_string().into()))?;
            cache.write(&key, bytes.clone()).await;
            Ok(bytes)
        };
        async move {
            let outcome = work.await;
            drop(landed);
            outcome
        }
        .boxed()
        .shared()
    }

    /// Nothing where Redis does not answer: its errors are counted, and the value can be computed.
    async fn read(&self, key: &str) -> Option<Bytes> {
        let client = self.redis.client().with_options(&self.patience());
        self.redis.call("GET", client.get::<Option<Bytes>, _>(key)).await.ok().flatten()
    }

    async fn write(&self, key: &str, value: Bytes) {
        let less = self.options.ttl.mul_f64(self.options.jitter.clamp(0.0, 1.0) * fastrand::f64());
        let ttl = i64::try_from((self.options.ttl - less).as_millis()).unwrap_or(i64::MAX).max(1);
        let client = self.redis.client().with_options(&self.patience());
        let set = client.set::<(), _, _>(key, value, Some(Expiration::PX(ttl)), None, false);
        let _ = self.redis.call("SET", set).await;
    }

    fn patience(&self) -> Options {
        Options { timeout: Some(self.options.timeout), fail_fast: true, ..Options::default() }
    }
}

/// Takes a flight off the list, however it ends.
struct Landed {
    flights: Arc<Mutex<HashMap<String, Flight>>>,
    key: String,
}

impl Drop for Landed {
    fn drop(&mut self) {
        // The flight itself goes with the last who waits for it: not under the lock, which is held here.
        let flight = self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        drop(flight);
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("redis", &self.redis)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
