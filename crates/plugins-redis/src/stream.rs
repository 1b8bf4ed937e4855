//! Events over Redis Streams.
//!
//! An event is an entry of a stream: the field `event` is its CloudEvents JSON; `traceparent` and `tracestate`
//! stand beside it where it has a trace, for those who look at streams and not into them. Its key chooses one of
//! the stream's partitions, each a Redis stream by itself, so that a cluster shares the work.
//!
//! Who receives is a **group** of consumers. Of a partition, one consumer of a group reads at a time, by a lease:
//! order by key holds however many there are, and when it is gone the next takes over what it left, before
//! anything newer.

mod options;
mod read;
mod send;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use event_bus::{EventTransport, Outgoing, TransportError, TransportSink};
use fred::error::Error;
use fred::types::ClusterHash;
use runtime::CancellationToken;

pub use options::{InvalidStream, StreamOptions};

use crate::client::Redis;
use crate::stream::send::Sender;

/// The field of an entry that has the event.
pub(crate) const EVENT: &str = "event";
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// Carries events between processes over Redis Streams, at least once and in order by key.
///
/// What is sent is acknowledged once the partition's master has it, and as many replicas as
/// [`StreamOptions::replicas`] says: with one, a failover loses nothing; a partition of the network may. Streams
/// are trimmed to [`StreamOptions::max_len`] entries, which is how long a group may be away.
///
/// Redis 6.2 or newer.
pub struct RedisStreams {
    redis: Redis,
    options: Arc<StreamOptions>,
    partitions: Arc<[Partition]>,
    sender: Sender,
}

/// One of the streams.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) key: String,
    /// Commands without a key, such as `WAIT`, go to the master of this slot.
    pub(crate) slot: ClusterHash,
}

impl RedisStreams {
    /// A transport. It connects when it is used.
    ///
    /// # Errors
    ///
    /// If an option is wrong.
    pub fn new(redis: Redis, options: StreamOptions) -> Result<Self, InvalidStream> {
        options.check()?;
        let partition = |number| {
            // In braces: the whole of it says which slot, also for the keys beside it.
            let key = format!("{{{}:{number}}}", options.stream);
            Partition { slot: ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes())), key }
        };
        let partitions = (0..options.partitions).map(partition).collect();
        Ok(Self { redis, options: Arc::new(options), partitions, sender: Sender::default() })
    }
}

#[async_trait]
impl EventTransport for RedisStreams {
    fn name(&self) -> &str {
        &self.options.stream
    }

    async fn send(&self, events: &[Outgoing]) -> Vec<Result<(), TransportError>> {
        self.sender.send(&self.redis, &self.options, &self.partitions, events).await
    }

    async fn receive(
        &self,
        sink: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError> {
        let readers = self.partitions.iter().enumerate().map(|(number, _)| read::Reader {
            redis: self.redis.clone(),
            options: self.options.clone(),
            partitions: self.partitions.clone(),
            number,
            sink: sink.clone(),
        });
        // Owned by this call: dropped, all of them end.
        let mut reading = tokio::task::JoinSet::new();
        for reader in readers {
            let cancelled = cancelled.clone();
            reading.spawn(async move {
                tokio::select! {
                    () = cancelled.cancelled() => Ok(()),
                    ended = reader.run() => ended,
                }
            });
        }
        while let Some(ended) = reading.join_next().await {
            let ended = ended.map_err(|error| unavailable(&self.options, error))?;
            ended.map_err(|error| unavailable(&self.options, error))?;
        }
        Ok(())
    }
}

pub(crate) fn unavailable(
    options: &StreamOptions,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> TransportError {
    TransportError::Unavailable { name: options.stream.clone(), source: source.into() }
}

/// An error of the client's kind that is none of Redis's.
pub(crate) fn other(details: &'static str) -> Error {
    Error::new(fred::error::ErrorKind::Unknown, details)
}

impl fmt::Debug for RedisStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreams").field("redis", &self.redis).field("options", &self.options).finish()
    }
}
