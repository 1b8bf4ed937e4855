//! What runs a task: the port, what a run is given, and the registry of names.

mod cancel;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use runtime::{Timestamp, TraceContext};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;

use crate::def::Def;
use crate::id::RunId;
use crate::schedule::{Micros, timestamp};
use crate::upstream::{Caused, UpstreamRun};
use crate::view::{ExecutorInfo, RunOrigin};
pub(crate) use cancel::CancelFlag;

/// What runs tasks. Registered under a name with [`ExecutorRegistry::register`].
///
/// A panic is the failure of that run and of nothing else. An executor that blocks its thread keeps it
/// from other runs: blocking work belongs on `tokio::task::spawn_blocking`.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs a task once. When the run is cancelled or out of time the future is dropped at its await;
    /// [`RunContext::cancelled`] tells it to whatever the executor has started elsewhere.
    ///
    /// # Errors
    ///
    /// What the record of the run then says.
    async fn execute(&self, run: RunContext) -> Result<RunOutput, RunError>;

    /// Looks at a payload before a task with it is accepted.
    ///
    /// # Errors
    ///
    /// The field within the payload (`url`, or empty for the whole), and what is wrong with it.
    fn check(&self, payload: &Value) -> Result<(), PayloadError> {
        let _ = payload;
        Ok(())
    }

    /// The JSON schema (2020-12) of its payloads, for people and programs that write tasks; what is accepted
    /// is up to [`Executor::check`].
    fn payload_schema(&self) -> Option<Value> {
        None
    }

    /// One sentence about what it does.
    fn description(&self) -> &str {
        ""
    }
}

/// An executor made of a closure, for [`executor_fn`].
struct ExecutorFn<F>(F);

#[async_trait]
impl<F, Fut> Executor for ExecutorFn<F>
where
    F: Fn(RunContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<RunOutput, RunError>> + Send + 'static,
{
    async fn execute(&self, run: RunContext) -> Result<RunOutput, RunError> {
        (self.0)(run).await
    }
}

/// An executor made of a closure.
///
/// ```
/// let echo = scheduler::executor_fn(|run| async move { Ok(run.payload().into()) });
/// # let _ = echo;
/// ```
pub fn executor_fn<F, Fut>(run: F) -> Arc<dyn Executor>
where
    F: Fn(RunContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<RunOutput, RunError>> + Send + 'static,
{
    Arc::new(ExecutorFn(run))
}

/// Why an executor does not take a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct PayloadError {
    /// The field within the payload; empty for the whole.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What a run gives back for its record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunOutput(pub(crate) Option<Value>);

impl RunOutput {
    /// Nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }
}

impl From<Value> for RunOutput {
    fn from(value: Value) -> Self {
        if value.is_null() { Self(None) } else { Self(Some(value)) }
    }
}

impl From<()> for RunOutput {
    fn from((): ()) -> Self {
        Self(None)
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    message: String,
    is_final: bool,
}

impl RunError {
    /// A failure that the task's retry policy applies to.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_final: false }
    }

    /// A failure that another attempt cannot mend, such as a payload that makes no sense.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_final: true }
    }

    /// Whether another attempt is pointless.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        self.is_final
    }
}

/// What a run knows about itself. A clone is the same run.
#[derive(Clone)]
pub struct RunContext {
    pub(crate) run: Arc<RunCell>,
    pub(crate) trace: TraceContext,
    /// Whether calls of others are to have spans.
    pub(crate) spans: bool,
}

/// The part of a run that its executor, its record and its controls share.
#[derive(Debug)]
pub(crate) struct RunCell {
    pub(crate) id: RunId,
    pub(crate) def: Arc<Def>,
    /// In place of the task's own.
    pub(crate) payload: Option<Arc<str>>,
    pub(crate) scheduled: Micros,
    pub(crate) attempt: u16,
    pub(crate) origin: RunOrigin,
    /// The runs of other tasks that let it go.
    pub(crate) by: Option<Arc<Caused>>,
    /// The work that the run goes on with the trace of.
    pub(crate) trace: Option<Box<TraceContext>>,
    pub(crate) cancel: CancelFlag,
    /// Since when its code runs without having yielded; zero while it waits.
    pub(crate) polled_since: AtomicI64,
}

impl RunCell {
    /// The first run of the chain that this one belongs to.
    pub(crate) fn chain(&self) -> RunId {
        self.by.as_ref().map_or(self.id, |by| by.chain)
    }
}

impl RunContext {
    /// The id of the task.
    #[must_use]
    pub fn task_id(&self) -> &str {
        &self.run.def.id
    }

    /// The name of the task.
    #[must_use]
    pub fn task_name(&self) -> &str {
        self.run.def.name()
    }

    /// The id of this run; the same for each of its attempts.
    #[must_use]
    pub fn run_id(&self) -> RunId {
        self.run.id
    }

    /// The trace context of this attempt: in the trace of the request or the run that caused it, or in one of
    /// its own, whose id is that of the run.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.trace
    }

    /// The time that the run was due at; it is never in the future.
    #[must_use]
    pub fn scheduled_for(&self) -> Timestamp {
        timestamp(self.run.scheduled)
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        u32::from(self.run.attempt)
    }

    /// What made the run happen.
    #[must_use]
    pub fn origin(&self) -> RunOrigin {
        self.run.origin
    }

    /// The first run of the chain that this one belongs to: this one, if no other run let it go.
    #[must_use]
    pub fn chain(&self) -> RunId {
        self.run.chain()
    }

    /// The runs of other tasks that let this one go, in the order of the task's `after`. Nothing for a run
    /// that was triggered, or is of a backfill.
    #[must_use]
    pub fn upstream(&self) -> &[Arc<UpstreamRun>] {
        self.run.by.as_ref().map_or(&[], |by| &by.by)
    }

    /// The task's payload, null if it has none.
    #[must_use]
    pub fn payload(&self) -> Value {
        // The text was written by serde_json at admission, so that it reads back.
        self.payload_text().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
    }

    /// The task's payload as JSON text.
    #[must_use]
    pub fn payload_text(&self) -> Option<&str> {
        self.run.payload.as_deref().or(self.run.def.payload.as_deref())
    }

    /// The task's payload as a type of one's own.
    ///
    /// # Errors
    ///
    /// A permanent failure, if the payload is not of that type.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, RunError> {
        serde_json::from_str(self.payload_text().unwrap_or("null"))
            .map_err(|error| RunError::permanent(format!("payload: {error}")))
    }

    /// Whether the run has been cancelled or has run out of time.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.run.cancel.is_set()
    }

    /// Waits until the run is cancelled or out of time.
    pub async fn cancelled(&self) {
        self.run.cancel.wait().await;
    }
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext")
            .field("task", &self.run.def.id)
            .field("run", &self.run.id)
            .field("scheduled_for", &self.scheduled_for())
            .field("attempt", &self.run.attempt)
            .finish_non_exhaustive()
    }
}

/// The names under which executors are found. A clone is the same registry.
#[derive(Clone, Default)]
pub struct ExecutorRegistry {
    inner: Arc<RegistryInner>,
}

#[derive(Default)]
struct RegistryInner {
    names: RwLock<Names>,
    changed: Notify,
    /// Counts registrations, so that whoever keeps a copy of the table knows that it is old.
    generation: AtomicU64,
}

#[derive(Default)]
struct Names {
    by_name: std::collections::HashMap<Arc<str>, ExecutorKey>,
    slots: Vec<NameSlot>,
    next_registration: u64,
}

struct NameSlot {
    name: Arc<str>,
    present: Option<Arc<Registration>>,
}

/// A name's place in the table; never reused for another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ExecutorKey(pub(crate) u32);

/// How many different names tasks may use, present or not.
const NAMES_MAX: usize = 65_536;

/// One executor under one name.
pub(crate) struct Registration {
    id: u64,
    owner: Option<String>,
    pub(crate) executor: Arc<dyn Executor>,
    withdrawn: AtomicBool,
    active: AtomicU64,
    idle: Notify,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Registration {
    /// Counts a run in, unless the registration has been withdrawn.
    ///
    /// The count goes up before the mark is read and the withdrawal sets the mark before it reads the
    /// count, so that a run is either refused here or waited for there.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entered> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let entered = Entered(Arc::clone(self));
        if self.withdrawn.load(Ordering::SeqCst) { None } else { Some(entered) }
    }
}

/// A run that is counted as under way in its executor.
pub(crate) struct Entered(Arc<Registration>);

impl Entered {
    pub(crate) fn executor(&self) -> &Arc<dyn Executor> {
        &self.0.executor
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.withdrawn.load(Ordering::SeqCst) {
            self.0.idle.notify_waiters();
        }
    }
}

/// Why an executor was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Not a name.
    #[error("executor `{0}`: a name is 1 to 256 of `A-Za-z0-9._:-`")]
    BadName(String),
    /// Too many names are in use.
    #[error("more than {NAMES_MAX} executor names are in use")]
    Full,
}

impl ExecutorRegistry {
    /// A registry with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an executor under a name, in place of what was there. Tasks that waited for the name are
    /// run.
    ///
    /// Dropping the guard withdraws this registration and no other: after a replacement the old guard does
    /// nothing to the new executor.
    ///
    /// # Errors
    ///
    /// If the name is none, or too many names are in use.
    pub fn register(
        &self,
        name: &str,
        owner: Option<&str>,
        executor: Arc<dyn Executor>,
    ) -> Result<ExecutorGuard, RegisterError> {
        let key = self.key_of(name)?;
        let registration = {
            let mut names = self.inner.names.write().unwrap_or_else(PoisonError::into_inner);
            names.next_registration += 1;
            let registration = Arc::new(Registration {
                id: names.next_registration,
                owner: owner.map(str::to_owned),
                executor,
                withdrawn: AtomicBool::new(false),
                active: AtomicU64::new(0),
                idle: Notify::new(),
            });
            if let Some(slot) = names.slots.get_mut(key.0 as usize) {
                slot.present = Some(Arc::clone(&registration));
            }
            registration
        };
        self.announce();
        Ok(ExecutorGuard { registry: self.clone(), key, registration })
    }

    /// What is known about every name, in the order of names.
    #[must_use]
    pub fn list(&self) -> Vec<ExecutorInfo> {
        let names = self.inner.names.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = names
            .slots
            .iter()
            .map(|slot| {
                let present = slot.present.as_ref();
                ExecutorInfo {
                    name: slot.name.to_string(),
                    owner: present.and_then(|present| present.owner.clone()),
                    available: present.is_some(),
                    description: present
                        .map_or_else(String::new, |present| present.executor.description().to_owned()),
                    payload_schema: present.and_then(|present| present.executor.payload_schema()),
                    active_runs: present.map_or(0, |present| present.active.load(Ordering::Relaxed)),
                }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// The place of a name, made if it has none yet.
    pub(crate) fn key_of(&self, name: &str) -> Result<ExecutorKey, RegisterError> {
        if let Some(key) =
            self.inner.names.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).copied()
        {
            return Ok(key);
        }
        let bytes_fit = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        if name.is_empty() || name.len() > 256 || !bytes_fit {
            return Err(RegisterError::BadName(name.chars().take(64).collect()));
        }
        let mut names = self.inner.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = names.by_name.get(name).copied() {
            return Ok(key);
        }
        if names.slots.len() >= NAMES_MAX {
            return Err(RegisterError::Full);
        }
        let key = ExecutorKey(u32::try_from(names.slots.len()).map_err(|_| RegisterError::Full)?);
        let name: Arc<str> = name.into();
        names.slots.push(NameSlot { name: Arc::clone(&name), present: None });
        names.by_name.insert(name, key);
        Ok(key)
    }

    /// The place of a name, if it has one.
    pub(crate) fn find(&self, name: &str) -> Option<ExecutorKey> {
        self.inner.names.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).copied()
    }

    pub(crate) fn name_of(&self, key: ExecutorKey) -> Arc<str> {
        let names = self.inner.names.read().unwrap_or_else(PoisonError::into_inner);
        names.slots.get(key.0 as usize).map_or_else(|| "".into(), |slot| Arc::clone(&slot.name))
    }

    /// The executors by key as they are now, and the generation of that state.
    pub(crate) fn snapshot(&self) -> (u64, Vec<Option<Arc<Registration>>>) {
        let generation = self.inner.generation.load(Ordering::Acquire);
        let names = self.inner.names.read().unwrap_or_else(PoisonError::into_inner);
        (generation, names.slots.iter().map(|slot| slot.present.clone()).collect())
    }

    pub(crate) fn present(&self, key: ExecutorKey) -> Option<Arc<Registration>> {
        let names = self.inner.names.read().unwrap_or_else(PoisonError::into_inner);
        names.slots.get(key.0 as usize).and_then(|slot| slot.present.clone())
    }

    pub(crate) fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Resolves at the next registration or withdrawal.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.inner.changed.notified()
    }

    fn announce(&self) {
        self.inner.generation.fetch_add(1, Ordering::AcqRel);
        self.inner.changed.notify_waiters();
    }
}

impl fmt::Debug for ExecutorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorRegistry").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

/// Keeps an executor registered; dropped, it withdraws it.
#[must_use = "dropping the guard withdraws the executor"]
pub struct ExecutorGuard {
    registry: ExecutorRegistry,
    key: ExecutorKey,
    registration: Arc<Registration>,
}

impl ExecutorGuard {
    /// Withdraws the executor: when this returns no further call reaches it.
    pub fn close(&self) {
        if self.registration.withdrawn.swap(true, Ordering::SeqCst) {
            return;
        }
        {
            let mut names = self.registry.inner.names.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = names.slots.get_mut(self.key.0 as usize)
                && slot.present.as_ref().is_some_and(|present| present.id == self.registration.id)
            {
                slot.present = None;
            }
        }
        self.registry.announce();
    }

    /// Withdraws the executor and waits until the calls that had begun have ended, up to the deadline.
    /// Tells how many had not.
    pub async fn drain(&self, deadline: Duration) -> u64 {
        self.close();
        let _ = runtime::within(deadline, async {
            loop {
                let idle = self.registration.idle.notified();
                if self.registration.active.load(Ordering::SeqCst) == 0 {
                    return;
                }
                idle.await;
            }
        })
        .await;
        self.registration.active.load(Ordering::SeqCst)
    }
}

impl Drop for ExecutorGuard {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for ExecutorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutorGuard")
            .field("name", &self.registry.name_of(self.key))
            .finish_non_exhaustive()
    }
}
