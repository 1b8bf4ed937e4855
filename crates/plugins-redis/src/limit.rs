//! Rate limits that many processes share.

use std::time::Duration;

use async_trait::async_trait;
use fred::error::Error;
use management::{Rate, RateDecision, RateLimitError, RateLimitStore};

use crate::client::Redis;
use crate::script::Script;

/// A window that slides: this fixed window's count, and the share of the one before that the sliding window still
/// covers. `KEYS[1]` is a hash of window number, its count, and the count before.
const SLIDE: Script = Script {
    name: "EVAL rate_limit.window",
    source: r"
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number = math.floor(now / window)
local into = now - number * window
local kept = redis.call('HMGET', KEYS[1], 'n', 'c', 'p')
local at, count, before = tonumber(kept[1]) or number, tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
if number == at + 1 then
  before, count = count, 0
elseif number > at + 1 then
  before, count = 0, 0
elseif number < at then
  number, into = at, 0
end
local used = count + before * (window - into) / window
if used + 1 > limit then
  local wait = window - into
  if before > 0 and count + 1 <= limit then
    wait = math.ceil(window - into - (limit - 1 - count) * window / before)
  elseif count > 0 then
    wait = window - into + math.max(0, math.ceil(window - (limit - 1) * window / count))
  end
  return {0, 0, math.max(wait, 1)}
end
redis.call('HSET', KEYS[1], 'n', number, 'c', count + 1, 'p', before)
redis.call('PEXPIRE', KEYS[1], 2 * window)
return {1, math.floor(limit - used - 1), 0}
",
};

/// A token bucket by the generic cell rate algorithm, in microseconds: `KEYS[1]` is when it will be full.
const BUCKET: Script = Script {
    name: "EVAL rate_limit.bucket",
    source: r"
local interval, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = tonumber(redis.call('GET', KEYS[1])) or now
full = math.min(math.max(full, now), now + window)
local after = full + interval
local allowed, wait = 1, 0
if after <= now + window then
  full = after
else
  allowed, wait = 0, after - now - window
end
if full > now then
  redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
end
return {allowed, math.floor((now + window - full) / interval), wait, full - now}
",
};

/// What a window says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowDecision {
    /// Whether it may pass. If not, it has taken nothing.
    pub allowed: bool,
    /// How many more could pass right now.
    pub remaining: u32,
    /// How long until one could pass; zero where this one did.
    pub retry_after: Duration,
}

/// Lets so many requests of each key through in any span of time of a length, counted by all processes together,
/// in one round trip each.
///
/// The count of the fixed window before weighs by the share of it that the sliding window still covers: constant
/// memory for each key, and exact as far as requests come evenly. The clock is that of the server.
#[derive(Debug, Clone)]
pub struct SlidingWindow {
    redis: Redis,
    prefix: String,
    limit: u32,
    window: Duration,
}

impl SlidingWindow {
    /// At most `limit` requests in any span as long as `window`, which counts in whole milliseconds, at least one.
    #[must_use]
    pub fn new(redis: Redis, prefix: impl Into<String>, limit: u32, window: Duration) -> Self {
        Self { redis, prefix: prefix.into(), limit, window: window.max(Duration::from_millis(1)) }
    }

    /// Counts a request of this key, if it may pass.
    ///
    /// # Errors
    ///
    /// Those of Redis: whether to let requests pass then is the caller's to say.
    pub async fn take(&self, key: &str) -> Result<WindowDecision, Error> {
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let arguments = vec![i64::from(self.limit).into(), window.to_string().into()];
        let keys = vec![format!("{}{key}", self.prefix)];
        let (allowed, remaining, wait): (u32, u32, u64) = self.redis.run(&SLIDE, keys, arguments).await?;
        Ok(WindowDecision { allowed: allowed == 1, remaining, retry_after: Duration::from_millis(wait) })
    }
}

/// Token buckets in Redis, shared by all who use it: the port of the management API. The clock is that of the
/// server.
#[derive(Debug, Clone)]
pub struct RedisRateLimitStore {
    redis: Redis,
    prefix: String,
}

impl RedisRateLimitStore {
    /// Buckets under keys that begin with `prefix`.
    #[must_use]
    pub fn new(redis: Redis, prefix: impl Into<String>) -> Self {
        Self { redis, prefix: prefix.into() }
    }
}

#[async_trait]
impl RateLimitStore for RedisRateLimitStore {
    async fn take(&self, key: &str, rate: Rate) -> Result<RateDecision, RateLimitError> {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        let arguments = vec![micros(rate.interval()).into(), micros(rate.window()).into()];
        let keys = vec![format!("{}{key}", self.prefix)];
        let answer = self.redis.run::<(u32, u32, u64, u64)>(&BUCKET, keys, arguments).await;
        let (allowed, remaining, wait, reset) =
            answer.map_err(|error| RateLimitError::Unavailable(error.to_string()))?;
        Ok(RateDecision {
            allowed: allowed == 1,
            remaining,
            retry_after: Duration::from_micros(wait),
            reset_after: Duration::from_micros(reset),
        })
    }
}
