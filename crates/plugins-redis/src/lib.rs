//! Redis, Redis Cluster and Redis under sentinels, as a plugin and as a library.
//!
//! Layer 6. [`RedisPlugin`] connects where `[plugins.redis-cluster]` says and offers a [`Redis`] under the name
//! `redis-cluster`: the whole client of the crate [`fred`], and [`Redis::call`], which counts, times and traces.
//! Beside it stand [`Cache`], [`Locks`], [`SlidingWindow`], and what ports of other crates are implemented by:
//! [`RedisRateLimitStore`] (`management`) and [`RedisStreams`] (`event-bus`).
//!
//! Invariants:
//!
//! - A server that is away keeps nobody from starting: connections are made again for ever, with a growing pause,
//!   and the plugin is ready once every master answers.
//! - Every call has a deadline, and every queue a bound; what is beyond it is refused.
//! - What has to happen in one step is one script on one slot, in one round trip; what may be written twice, after
//!   an answer that was lost, is written so that the second time changes nothing.
//! - Passwords are in no log, no error and no metric.
//!
//! ```no_run
//! use std::time::Duration;
//! use plugins_redis::fred::interfaces::KeysInterface;
//! use plugins_redis::{Cache, CacheOptions, Locks, Redis, RedisConfig};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::connect(&RedisConfig::at("127.0.0.1:6379")?)?;
//! redis.connected(Duration::from_secs(5)).await?;
//! let set = redis.client().set::<(), _, _>("greeting", "hello", None, None, false);
//! redis.call("SET", set).await?;
//!
//! let prices = Cache::new(redis.clone(), CacheOptions::new("price:", Duration::from_secs(60)));
//! let price: u32 = prices.get_or_load("tea", || async { Ok::<_, std::io::Error>(3) }).await?;
//! assert_eq!(price, 3);
//!
//! let locks = Locks::new(redis.clone(), "jobs:");
//! if let Some(lock) = locks.try_acquire("nightly", Duration::from_secs(30)).await? {
//!     println!("writes carry the token {}", lock.fencing_token());
//!     lock.release().await?;
//! }
//! redis.close().await;
//! # Ok(()) }
//! ```
//!
//! There are no features.

mod cache;
mod client;
mod config;
mod connect;
mod error;
mod limit;
mod lock;
mod measure;
mod plugin;
mod round_trip;
mod routes;
mod script;
mod stream;

pub use cache::{BoxErrorSource, Cache, CacheError, CacheOptions};
pub use client::{NodePing, Redis};
pub use config::{Address, Addresses, Mode, RedisConfig, TlsConfig};
pub use error::RedisError;
/// The client's own crate: its types are part of this crate's surface.
pub use fred;
pub use limit::{RedisRateLimitStore, SlidingWindow, WindowDecision};
pub use lock::{Lock, Locks};
pub use plugin::{REDIS, RedisPlugin};
pub use stream::{InvalidStream, RedisStreams, StreamOptions};
