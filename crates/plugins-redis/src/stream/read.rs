//! The way in: one partition of one group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_bus::{Event, TransportSink};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, Resp3Frame};
use fred::types::{ClusterHash, CustomCommand, Value};
use serde::Deserialize;
use serde_json::Map;

use super::{EVENT, Partition, StreamOptions, TRACEPARENT, TRACESTATE, other};
use crate::client::{Dedicated, Redis};
use crate::script::Script;

/// How long a read waits for news, in milliseconds: less than what makes a connection count as dead.
const BLOCK_MS: i64 = 1000;
/// How often a consumer that waits for a partition looks whether it is free.
const LOOK: Duration = Duration::from_millis(500);

/// Takes the lease or keeps it; answers how long somebody else has it.
const LEASE: Script = Script {
    name: "EVAL stream.lease",
    source: r"
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return math.max(redis.call('PTTL', KEYS[1]), 1) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 0
",
};

const GIVE_BACK: Script = Script {
    name: "EVAL stream.give_back",
    source: "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0",
};

/// Reads a partition for as long as it holds the lease.
pub(super) struct Reader {
    pub(super) redis: Redis,
    pub(super) options: Arc<StreamOptions>,
    pub(super) partitions: Arc<[Partition]>,
    pub(super) number: usize,
    pub(super) sink: Arc<dyn TransportSink>,
}

/// Gives the lease back, however the reading ends.
struct Lease {
    redis: Redis,
    key: String,
    owner: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (redis, key, owner) = (self.redis.clone(), self.key.clone(), self.owner.clone());
        self.redis.spawn("give a partition back", async move {
            // Where this fails it ends by itself.
            let _ = redis.run::<()>(&GIVE_BACK, vec![key], vec![owner.into()]).await;
        });
    }
}

impl Reader {
    fn partition(&self) -> &Partition {
        &self.partitions[self.number]
    }

    /// Returns once the connection is lost, or what was delivered is not taken.
    pub(super) async fn run(self) -> Result<(), Error> {
        let client = self.redis.dedicated().await?;
        self.make_group(&client).await?;
        let owner = format!("{}/{:016x}", self.options.consumer, fastrand::u64(..));
        let key = format!("{}:owner:{}", self.partition().key, self.options.group);
        loop {
            // Of its own only while it is held: a future that is dropped here gives nothing back.
            if self.lease(&key, &owner).await? == 0 {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let lease = Lease { redis: self.redis.clone(), key, owner };
        tokio::select! {
            ended = self.read(&client) => ended,
            ended = self.keep(&lease) => ended,
        }
    }

    async fn lease(&self, key: &str, owner: &str) -> Result<u64, Error> {
        let millis = i64::try_from(self.options.lease.as_millis()).unwrap_or(i64::MAX);
        self.redis.run(&LEASE, vec![key.to_owned()], vec![owner.into(), millis.into()]).await
    }

    /// Renews the lease until that fails.
    async fn keep(&self, lease: &Lease) -> Result<(), Error> {
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            let within = self.options.lease / 2;
            let renewed = tokio::time::timeout(within, self.lease(&lease.key, &lease.owner)).await;
            match renewed {
                Ok(Ok(0)) => {}
                Ok(Ok(_)) => return Err(other("another consumer has the partition by now")),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(Error::new(ErrorKind::Timeout, "the lease could not be renewed")),
            }
        }
    }

    async fn make_group(&self, client: &Dedicated) -> Result<(), Error> {
        let made = self
            .ask(
                client,
                "XGROUP",
                false,
                ["CREATE", &self.partition().key, &self.options.group, "0", "MKSTREAM"],
            )
            .await;
        match made {
            Err(error) if error.details().starts_with("BUSYGROUP") => Ok(()),
            made => made.map(drop),
        }
    }

    async fn read(&self, client: &Dedicated) -> Result<(), Error> {
        let (key, group, consumer) = (&self.partition().key, &self.options.group, &self.options.consumer);
        let count = self.options.batch.to_string();
        // First what is left of those before: they have had it and not acknowledged it, or this one has, and its
        // connection was lost.
        let mut cursor = "0-0".to_owned();
        loop {
            let claim = [key, group, consumer, "0", &cursor, "COUNT", &count];
            let answer = self.ask(client, "XAUTOCLAIM", false, claim).await?;
            let mut parts = list(answer).into_iter();
            cursor = text(parts.next()).ok_or_else(|| other("XAUTOCLAIM gives no cursor"))?;
            let entries = parts.next().map(list).unwrap_or_default();
            self.take(entries).await?;
            if cursor == "0-0" {
                break;
            }
        }
        let block = BLOCK_MS.to_string();
        let news = ["GROUP", group, consumer, "COUNT", &count, "BLOCK", &block, "STREAMS", key, ">"];
        loop {
            let answer = self.ask(client, "XREADGROUP", true, news).await?;
            // Of one stream, its name and its entries.
            let stream = list(answer).into_iter().next().map(list).unwrap_or_default();
            self.take(stream.into_iter().nth(1).map(list).unwrap_or_default()).await?;
        }
    }

    /// Delivers entries and acknowledges those that were taken.
    async fn take(&self, entries: Vec<Resp3Frame>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let (mut events, mut ids, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let mut parts = list(entry).into_iter();
            let Some(id) = parts.next().and_then(bytes) else { continue };
            // An entry that has been trimmed since it was read has none.
            match decode(parts.next().map(list).unwrap_or_default()) {
                Ok(event) => {
                    events.push(event);
                    ids.push(id);
                }
                Err(why) => {
                    self.sink.unreadable(&format_args!(
                        "entry {} of {}: {why}",
                        String::from_utf8_lossy(&id),
                        self.partition().key
                    ));
                    done.push(id);
                }
            }
        }
        let delivered = if events.is_empty() { Ok(()) } else { self.sink.deliver(events).await };
        let taken = delivered.map_or_else(|error| error.taken, |()| ids.len());
        done.extend(ids.into_iter().take(taken));
        if !done.is_empty() {
            let mut arguments: Vec<Value> =
                vec![self.partition().key.as_str().into(), self.options.group.as_str().into()];
            arguments.extend(done.into_iter().map(Value::Bytes));
            let ack = CustomCommand::new_static("XACK", ClusterHash::FirstKey, false);
            self.redis.call("XACK", self.redis.client().custom::<(), _>(ack, arguments)).await?;
        }
        match delivered {
            Ok(()) => Ok(()),
            Err(_) => Err(other("the event bus is shut down")),
        }
    }

    async fn ask<'a>(
        &self,
        client: &Dedicated,
        command: &'static str,
        blocking: bool,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Resp3Frame, Error> {
        let arguments: Vec<Value> = arguments.into_iter().map(Value::from).collect();
        let slot = self.partition().slot.clone();
        let asked = async {
            let frame =
                client.custom_raw(CustomCommand::new_static(command, slot, blocking), arguments).await?;
            match frame {
                Resp3Frame::SimpleError { data, .. } => Err(Error::new(ErrorKind::Unknown, data.to_string())),
                frame => Ok(frame),
            }
        };
        // What waits for news is no slow call.
        if blocking { asked.await } else { self.redis.call(command, asked).await }
    }
}

fn list(frame: Resp3Frame) -> Vec<Resp3Frame> {
    match frame {
        Resp3Frame::Array { data, .. } => data,
        _ => Vec::new(),
    }
}

fn bytes(frame: Resp3Frame) -> Option<Bytes> {
    match frame {
        Resp3Frame::BlobString { data, .. } | Resp3Frame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}

fn text(frame: Option<Resp3Frame>) -> Option<String> {
    String::from_utf8(bytes(frame?)?.to_vec()).ok()
}

/// The event of an entry, whose fields and values take turns.
fn decode(fields: Vec<Resp3Frame>) -> Result<Event, String> {
    let (mut event, mut trace, mut state) = (None, None, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next().and_then(bytes), fields.next().and_then(bytes)) {
        match name.as_ref() {
            name if name == EVENT.as_bytes() => event = Some(value),
            name if name == TRACEPARENT.as_bytes() => trace = Some(value),
            name if name == TRACESTATE.as_bytes() => state = Some(value),
            _ => {}
        }
    }
    let event = event.ok_or_else(|| format!("it has no field `{EVENT}`"))?;
    let read: Event = serde_json::from_slice(&event).map_err(|error| error.to_string())?;
    let Some(trace) = trace.filter(|_| read.trace().is_none()) else { return Ok(read) };
    // Of somebody who says the trace beside the event alone.
    let mut object: Map<String, serde_json::Value> =
        serde_json::from_slice(&event).map_err(|error| error.to_string())?;
    for (name, value) in [(TRACEPARENT, Some(trace)), (TRACESTATE, state)] {
        if let Some(value) = value {
            object.insert(name.to_owned(), String::from_utf8_lossy(&value).into());
        }
    }
    Event::deserialize(serde_json::Value::Object(object)).map_err(|error| error.to_string())
}
