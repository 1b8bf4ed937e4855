//! Tasks and records as bytes: messages of Protocol Buffers, so that a field that is new is left out by
//! those who wrote before it, and passed over by those who do not know it. A number is never used again.
//!
//! The conversions take their source apart field by field: a field that is added there and not here is an
//! error of the compiler.

use std::sync::Arc;

use prost::Message;
use runtime::Timestamp;

use super::{OpenRun, StoreError, StoredTask, TaskState};
use crate::id::RunId;
use crate::spec::TaskSpec;
use crate::view::{RunOrigin, RunOutcome, RunView};

/// One change in a log or a snapshot.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub(super) kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    /// What a file begins with.
    #[prost(message, tag = "1")]
    Begin(Begin),
    /// What a snapshot ends with: how many entries stand before it.
    #[prost(uint64, tag = "2")]
    End(u64),
    #[prost(message, tag = "3")]
    Claims(Claims),
    /// A task, in place of what was there of it.
    #[prost(message, tag = "4")]
    Put(Put),
    #[prost(message, tag = "5")]
    State(State),
    #[prost(message, tag = "6")]
    Remove(Remove),
    #[prost(message, tag = "7")]
    Open(Open),
    /// A run ends.
    #[prost(message, tag = "8")]
    Run(Run),
    /// A record that is kept; nothing else changes with it.
    #[prost(bytes = "vec", tag = "9")]
    Record(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Begin {
    /// The file's number.
    #[prost(uint64, tag = "1")]
    pub(super) number: u64,
    /// How long the segment before is, once it is complete.
    #[prost(uint64, tag = "2")]
    pub(super) previous_len: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Claims {
    #[prost(message, repeated, tag = "1")]
    pub(super) claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Claim {
    #[prost(uint32, tag = "1")]
    pub(super) shard: u32,
    #[prost(uint64, tag = "2")]
    pub(super) epoch: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Put {
    /// A [`Definition`].
    #[prost(bytes = "vec", tag = "1")]
    pub(super) definition: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    pub(super) side: Option<Side>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Definition {
    /// The first field, so that [`id_of`] finds it.
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
    #[prost(uint32, tag = "3")]
    pub(super) shard: u32,
    /// The definition as JSON, as a caller would give it: its fields are many, and change.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) spec: Vec<u8>,
    #[prost(string, optional, tag = "5")]
    pub(super) owner: Option<String>,
    #[prost(uint64, tag = "6")]
    pub(super) version: u64,
    #[prost(sfixed64, tag = "7")]
    pub(super) anchor: i64,
    #[prost(sfixed64, tag = "8")]
    pub(super) updated_at: i64,
    /// As JSON.
    #[prost(string, optional, tag = "9")]
    pub(super) payload: Option<String>,
}

/// What the store itself looks at of a [`Definition`], besides the id: the rest is passed over.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DefinitionHead {
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
    #[prost(uint32, tag = "3")]
    pub(super) shard: u32,
}

/// What changes of a task while its definition does not.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Side {
    /// A [`StateRecord`].
    #[prost(bytes = "vec", tag = "1")]
    pub(super) state: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) open: Vec<OpenRecord>,
    #[prost(message, repeated, tag = "3")]
    pub(super) ended: Vec<Ended>,
}

/// Up to where the runs of one origin have ended, but for the open ones.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Ended {
    #[prost(uint32, tag = "1")]
    pub(super) origin: u32,
    #[prost(sfixed64, tag = "2")]
    pub(super) until: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct State {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
    /// A [`StateRecord`].
    #[prost(bytes = "vec", tag = "3")]
    pub(super) state: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Remove {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Open {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
    #[prost(message, required, tag = "3")]
    pub(super) run: OpenRecord,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Run {
    /// A [`RunRecord`].
    #[prost(bytes = "vec", tag = "1")]
    pub(super) run: Vec<u8>,
    /// A [`StateRecord`].
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) state: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OpenRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) id_high: u64,
    #[prost(fixed64, tag = "2")]
    pub(super) id_low: u64,
    #[prost(sfixed64, tag = "3")]
    pub(super) scheduled_for: i64,
    #[prost(uint32, tag = "4")]
    pub(super) origin: u32,
    #[prost(uint32, tag = "5")]
    pub(super) attempt: u32,
    #[prost(sfixed64, optional, tag = "6")]
    pub(super) retry_at: Option<i64>,
    /// As JSON.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(super) payload: Option<Vec<u8>>,
    /// A list, as JSON.
    #[prost(bytes = "vec", optional, tag = "8")]
    upstream: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "9")]
    chain: Option<Vec<u8>>,
    /// A `traceparent`.
    #[prost(string, optional, tag = "10")]
    trace: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StateRecord {
    #[prost(bool, tag = "1")]
    paused: bool,
    #[prost(bool, tag = "2")]
    suspended: bool,
    #[prost(bool, tag = "3")]
    canceled: bool,
    #[prost(sfixed64, optional, tag = "4")]
    planned: Option<i64>,
    #[prost(uint32, tag = "5")]
    fired: u32,
    #[prost(uint64, tag = "6")]
    run_count: u64,
    #[prost(uint64, tag = "7")]
    failure_count: u64,
    #[prost(sfixed64, optional, tag = "8")]
    last_run_at: Option<i64>,
    #[prost(bool, tag = "9")]
    last_failed: bool,
    #[prost(string, optional, tag = "10")]
    last_error: Option<String>,
    #[prost(sfixed64, optional, tag = "11")]
    next: Option<i64>,
    /// What few tasks have, as JSON.
    #[prost(bytes = "vec", optional, tag = "12")]
    rare: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RunRecord {
    #[prost(fixed64, tag = "1")]
    id_high: u64,
    #[prost(fixed64, tag = "2")]
    id_low: u64,
    #[prost(string, tag = "3")]
    pub(super) task: String,
    #[prost(fixed64, tag = "4")]
    pub(super) incarnation: u64,
    #[prost(sfixed64, tag = "5")]
    pub(super) scheduled_for: i64,
    #[prost(sfixed64, optional, tag = "6")]
    started_at: Option<i64>,
    #[prost(sfixed64, optional, tag = "7")]
    ended_at: Option<i64>,
    #[prost(string, tag = "8")]
    node: String,
    #[prost(uint32, tag = "9")]
    attempt: u32,
    #[prost(uint32, tag = "10")]
    pub(super) origin: u32,
    #[prost(uint32, tag = "11")]
    outcome: u32,
    #[prost(string, optional, tag = "12")]
    error: Option<String>,
    #[prost(string, optional, tag = "13")]
    skip_reason: Option<String>,
    #[prost(uint64, tag = "14")]
    times: u64,
    /// As JSON.
    #[prost(bytes = "vec", optional, tag = "15")]
    output: Option<Vec<u8>>,
    /// Where it does not follow from the id.
    #[prost(string, optional, tag = "16")]
    trace_id: Option<String>,
    #[prost(bytes = "vec", optional, tag = "17")]
    chain: Option<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "18")]
    caused_by: Vec<Vec<u8>>,
}

/// What is there and makes no sense.
fn unreadable(what: &str) -> StoreError {
    StoreError::Engine(format!("the store has {what} that cannot be read"))
}

fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

fn time(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|_| unreadable("a time"))
}

fn high(id: RunId) -> u64 {
    (id.as_u128() >> 64) as u64
}

fn low(id: RunId) -> u64 {
    id.as_u128() as u64
}

fn run_id(high: u64, low: u64) -> RunId {
    RunId::from_u128((u128::from(high) << 64) | u128::from(low))
}

fn id_bytes(id: RunId) -> Vec<u8> {
    id.as_u128().to_be_bytes().to_vec()
}

fn id_from(bytes: &[u8]) -> Result<RunId, StoreError> {
    let bytes = bytes.try_into().map_err(|_| unreadable("the id of a run"))?;
    Ok(RunId::from_u128(u128::from_be_bytes(bytes)))
}

/// The number of an origin.
pub(super) const fn origin_number(origin: RunOrigin) -> u32 {
    match origin {
        RunOrigin::Schedule => 0,
        RunOrigin::Trigger => 1,
        RunOrigin::Dependency => 2,
        RunOrigin::Backfill => 3,
    }
}

fn origin(number: u32) -> Result<RunOrigin, StoreError> {
    [RunOrigin::Schedule, RunOrigin::Trigger, RunOrigin::Dependency, RunOrigin::Backfill]
        .into_iter()
        .find(|origin| origin_number(*origin) == number)
        .ok_or_else(|| unreadable("a run of an unknown origin"))
}

/// The number of an outcome is its place here.
const OUTCOMES: [RunOutcome; 7] = [
    RunOutcome::Queued,
    RunOutcome::Running,
    RunOutcome::Retrying,
    RunOutcome::Completed,
    RunOutcome::Failed,
    RunOutcome::Canceled,
    RunOutcome::Skipped,
];

fn outcome_number(outcome: RunOutcome) -> u32 {
    OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(0) as u32
}

impl RunRecord {
    /// Whether the run is dead: it has failed for good.
    pub(super) fn is_dead(&self) -> bool {
        self.outcome == outcome_number(RunOutcome::Failed)
    }

    pub(super) fn new(run: &RunView) -> Self {
        let RunView {
            id,
            task,
            incarnation,
            scheduled_for,
            started_at,
            ended_at,
            node,
            attempt,
            origin,
            outcome,
            error,
            skip_reason,
            times,
            output,
            trace_id,
            chain,
            caused_by,
        } = run;
        Self {
            id_high: high(*id),
            id_low: low(*id),
            task: task.clone(),
            incarnation: *incarnation,
            scheduled_for: micros(*scheduled_for),
            started_at: started_at.map(micros),
            ended_at: ended_at.map(micros),
            node: node.clone(),
            attempt: *attempt,
            origin: origin_number(*origin),
            outcome: outcome_number(*outcome),
            error: error.clone(),
            skip_reason: skip_reason.clone(),
            times: *times,
            output: output.as_ref().map(|output| output.to_string().into_bytes()),
            trace_id: (*trace_id != id.trace_id()).then(|| trace_id.clone()),
            chain: chain.map(id_bytes),
            caused_by: caused_by.iter().copied().map(id_bytes).collect(),
        }
    }

    pub(super) fn view(self) -> Result<RunView, StoreError> {
        let id = run_id(self.id_high, self.id_low);
        let outcome = OUTCOMES.get(self.outcome as usize).copied();
        Ok(RunView {
            id,
            task: self.task,
            incarnation: self.incarnation,
            scheduled_for: time(self.scheduled_for)?,
            started_at: self.started_at.map(time).transpose()?,
            ended_at: self.ended_at.map(time).transpose()?,
            node: self.node,
            attempt: self.attempt,
            origin: origin(self.origin)?,
            outcome: outcome.ok_or_else(|| unreadable("a run with an unknown outcome"))?,
            error: self.error,
            skip_reason: self.skip_reason,
            times: self.times,
            output: self.output.map(|output| json(&output)).transpose()?,
            trace_id: self.trace_id.unwrap_or_else(|| id.trace_id()),
            chain: self.chain.as_deref().map(id_from).transpose()?,
            caused_by: self.caused_by.iter().map(|id| id_from(id)).collect::<Result<_, _>>()?,
        })
    }
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| unreadable(&format!("JSON ({error})")))
}

impl OpenRecord {
    pub(super) fn new(run: &OpenRun) -> Self {
        let OpenRun { id, scheduled_for, origin, attempt, retry_at, payload, upstream, chain, trace } = run;
        Self {
            id_high: high(*id),
            id_low: low(*id),
            scheduled_for: micros(*scheduled_for),
            origin: origin_number(*origin),
            attempt: *attempt,
            retry_at: retry_at.map(micros),
            payload: payload.as_ref().map(|payload| payload.to_string().into_bytes()),
            upstream: (!upstream.is_empty()).then(|| serde_json::to_vec(upstream).unwrap_or_default()),
            chain: chain.map(id_bytes),
            trace: trace.map(|trace| trace.to_string()),
        }
    }

    /// What tells it from other runs of its task.
    pub(super) const fn key(&self) -> (u32, i64) {
        (self.origin, self.scheduled_for)
    }

    fn open_run(&self) -> Result<OpenRun, StoreError> {
        Ok(OpenRun {
            id: run_id(self.id_high, self.id_low),
            scheduled_for: time(self.scheduled_for)?,
            origin: origin(self.origin)?,
            attempt: self.attempt,
            retry_at: self.retry_at.map(time).transpose()?,
            payload: self.payload.as_deref().map(json).transpose()?,
            upstream: self.upstream.as_deref().map(json).transpose()?.unwrap_or_default(),
            chain: self.chain.as_deref().map(id_from).transpose()?,
            trace: self
                .trace
                .as_deref()
                .map(|trace| trace.parse().map_err(|_| unreadable("a trace context")))
                .transpose()?,
        })
    }
}

/// A state as bytes. One in which nothing has happened is none.
pub(super) fn encode_state(state: &TaskState) -> Vec<u8> {
    let TaskState {
        paused,
        suspended,
        canceled,
        planned,
        fired,
        run_count,
        failure_count,
        last_run_at,
        last_failed,
        last_error,
        next,
        rare,
    } = state;
    let record = StateRecord {
        paused: *paused,
        suspended: *suspended,
        canceled: *canceled,
        planned: planned.map(micros),
        fired: *fired,
        run_count: *run_count,
        failure_count: *failure_count,
        last_run_at: last_run_at.map(micros),
        last_failed: *last_failed,
        last_error: last_error.clone(),
        next: next.map(micros),
        // It has no key that is not text and no number that is not one.
        rare: rare.as_deref().and_then(|rare| serde_json::to_vec(rare).ok()),
    };
    record.encode_to_vec()
}

fn decode_state(bytes: &[u8]) -> Result<TaskState, StoreError> {
    let record = StateRecord::decode(bytes).map_err(|_| unreadable("a state"))?;
    Ok(TaskState {
        paused: record.paused,
        suspended: record.suspended,
        canceled: record.canceled,
        planned: record.planned.map(time).transpose()?,
        fired: record.fired,
        run_count: record.run_count,
        failure_count: record.failure_count,
        last_run_at: record.last_run_at.map(time).transpose()?,
        last_failed: record.last_failed,
        last_error: record.last_error,
        next: record.next.map(time).transpose()?,
        rare: record.rare.as_deref().map(json).transpose()?,
    })
}

/// The part of a task that only a replacement changes.
pub(super) fn encode_definition(shard: u32, task: &StoredTask) -> Vec<u8> {
    let StoredTask { spec, payload, owner, incarnation, version, anchor, updated_at, state: _, open: _ } =
        task;
    let definition = Definition {
        id: spec.id.clone(),
        incarnation: *incarnation,
        shard,
        // A definition of ours has no key that is not text and no number that is not one.
        spec: serde_json::to_vec(spec).unwrap_or_default(),
        owner: owner.clone(),
        version: *version,
        anchor: micros(*anchor),
        updated_at: micros(*updated_at),
        payload: payload.as_deref().map(str::to_owned),
    };
    definition.encode_to_vec()
}

/// A task out of its parts.
pub(super) fn decode_task(
    definition: &[u8],
    state: &[u8],
    open: &[OpenRecord],
) -> Result<StoredTask, StoreError> {
    let definition = Definition::decode(definition).map_err(|_| unreadable("a task"))?;
    let mut spec: TaskSpec = json(&definition.spec)?;
    // It stood within the definition once.
    let within = Some(std::mem::take(&mut spec.payload)).filter(|payload| !payload.is_null());
    let payload = definition.payload.or_else(|| within.map(|payload| payload.to_string()));
    Ok(StoredTask {
        spec,
        payload: payload.map(Into::into),
        owner: definition.owner,
        incarnation: definition.incarnation,
        version: definition.version,
        anchor: time(definition.anchor)?,
        updated_at: time(definition.updated_at)?,
        state: decode_state(state)?,
        open: open.iter().map(OpenRecord::open_run).collect::<Result<_, _>>()?,
    })
}

/// The id in an encoded [`Definition`], of which it is the first field.
pub(super) fn id_of(definition: &[u8]) -> &[u8] {
    // The field's key, then its length, which an id of 128 bytes makes two bytes of.
    match definition {
        [0x0a, len @ 0..=0x7f, rest @ ..] => rest.get(..usize::from(*len)).unwrap_or_default(),
        [0x0a, low, high, rest @ ..] => {
            rest.get(..usize::from(low & 0x7f) | usize::from(*high) << 7).unwrap_or_default()
        }
        _ => &[],
    }
}

/// A record as bytes.
pub(super) fn encode_run(run: &RunRecord) -> Arc<[u8]> {
    run.encode_to_vec().into()
}

pub(super) fn decode_run(bytes: &[u8]) -> Result<RunView, StoreError> {
    RunRecord::decode(bytes).map_err(|_| unreadable("a record"))?.view()
}
