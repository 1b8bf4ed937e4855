//! The way out.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use event_bus::{Outgoing, TraceContext, TransportError};
use fred::clients::Pipeline;
use fred::error::Error;
use fred::interfaces::{ClientLike, ClusterInterface};
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use tokio::sync::Mutex;

use super::{Partition, StreamOptions, unavailable};
use crate::client::{Dedicated, Redis};

/// Adds entries and trims, in one step: all of a batch, or the first of it. `ARGV` is the length to trim to, and
/// three for each entry: event, traceparent, tracestate.
const APPEND: &str = r"
for i = 2, #ARGV, 3 do
  if ARGV[i + 1] == '' then
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[i])
  elseif ARGV[i + 2] == '' then
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[i], 'traceparent', ARGV[i + 1])
  else
    redis.call('XADD', KEYS[1], '*', 'event', ARGV[i], 'traceparent', ARGV[i + 1], 'tracestate', ARGV[i + 2])
  end
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
return 1
";

/// About how much goes in one step.
const STEP_BYTES: usize = 1 << 20;

/// Hands events to Redis. What is sent twice, after an answer that was lost, stands in the stream twice: who
/// receives drops it by its id.
#[derive(Default)]
pub(super) struct Sender {
    /// Connections of its own: `WAIT` is about the writes of one connection, so that neither may be written again
    /// on another by itself.
    client: Mutex<Option<Arc<Dedicated>>>,
}

/// Entries of one partition, and which events they are.
#[derive(Default)]
struct Step {
    events: Vec<usize>,
    arguments: Vec<Value>,
    bytes: usize,
}

impl Sender {
    pub(super) async fn send(
        &self,
        redis: &Redis,
        options: &StreamOptions,
        partitions: &[Partition],
        events: &[Outgoing],
    ) -> Vec<Result<(), TransportError>> {
        let mut outcomes: Vec<Result<(), TransportError>> = Vec::with_capacity(events.len());
        let mut steps: Vec<Vec<Step>> = partitions.iter().map(|_| Vec::new()).collect();
        for (place, outgoing) in events.iter().enumerate() {
            let json = match serde_json::to_vec(&outgoing.event) {
                Ok(json) => json,
                Err(error) => {
                    let name = options.stream.clone();
                    outcomes.push(Err(TransportError::Refused { name, source: Box::new(error) }));
                    continue;
                }
            };
            outcomes.push(Ok(()));
            let Some(steps) = steps.get_mut(partition_of(&outgoing.key, partitions.len())) else { continue };
            if steps.last().is_none_or(|step| step.bytes + json.len() > STEP_BYTES) {
                steps.push(Step { arguments: vec![options.max_len.to_string().into()], ..Step::default() });
            }
            let Some(step) = steps.last_mut() else { continue };
            let trace = outgoing.event.trace();
            step.bytes += json.len();
            step.events.push(place);
            step.arguments.push(Value::Bytes(json.into()));
            for part in [trace.map(TraceContext::traceparent), trace.and_then(TraceContext::tracestate)] {
                step.arguments.push(part.unwrap_or_default().into());
            }
        }
        let client = match self.client(redis).await {
            Ok(client) => client,
            Err(error) => {
                for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
                    *outcome = Err(unavailable(options, error.clone()));
                }
                return outcomes;
            }
        };
        let sending = partitions.iter().zip(steps).filter(|(_, steps)| !steps.is_empty());
        let failures = join_all(sending.map(|(partition, steps)| {
            let client = &client;
            async move {
                let mut failed: Option<Error> = None;
                let mut lost = Vec::new();
                for Step { events, arguments, .. } in steps {
                    if failed.is_none() {
                        let sent = redis.call("XADD", append(client, options, partition, arguments)).await;
                        failed = sent.err();
                    }
                    // None of what comes after may be there before it.
                    if let Some(error) = &failed {
                        lost.extend(events.into_iter().map(|place| (place, error.clone())));
                    }
                }
                lost
            }
        }));
        for (place, error) in failures.await.into_iter().flatten() {
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome = Err(unavailable(options, error));
            }
        }
        outcomes
    }

    async fn client(&self, redis: &Redis) -> Result<Arc<Dedicated>, Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        Ok(client.insert(Arc::new(redis.dedicated().await?)).clone())
    }
}

/// Which partition a key's events go to: the same in every process and every version.
fn partition_of(key: &str, partitions: usize) -> usize {
    // `DefaultHasher::new` has fixed keys.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
    usize::try_from(hash % partitions.max(1) as u64).unwrap_or(0)
}

async fn append(
    client: &Dedicated,
    options: &StreamOptions,
    partition: &Partition,
    arguments: Vec<Value>,
) -> Result<(), Error> {
    let mut evaluated: Vec<Value> = vec![APPEND.into(), 1.into(), partition.key.as_str().into()];
    evaluated.extend(arguments);
    let eval = CustomCommand::new_static("EVAL", partition.slot.clone(), false);
    if options.replicas == 0 {
        return client.custom(eval, evaluated).await;
    }
    let wait = CustomCommand::new_static("WAIT", partition.slot.clone(), false);
    let millis = i64::try_from(options.replica_timeout.as_millis()).unwrap_or(i64::MAX);
    let before = master(client, partition);
    let pipeline: Pipeline<_> = client.pipeline();
    pipeline.custom::<(), _>(eval, evaluated).await?;
    pipeline.custom::<(), _>(wait, vec![Value::from(options.replicas), Value::from(millis)]).await?;
    let mut answers = pipeline.try_all::<Value>().await.into_iter();
    let missing = || super::other("the server gave no answer");
    answers.next().ok_or_else(missing)??;
    let replicas: u32 = answers.next().ok_or_else(missing)??.convert()?;
    if replicas < options.replicas {
        return Err(super::other("too few replicas have it in time"));
    }
    // The slot has moved in between: the one was asked to wait for what the other had written.
    if before != master(client, partition) {
        return Err(super::other("the slot has another master by now"));
    }
    Ok(())
}

fn master(client: &Dedicated, partition: &Partition) -> Option<Server> {
    let ClusterHash::Custom(slot) = partition.slot else { return None };
    client.cached_cluster_state()?.get_server(slot).cloned()
}
