//! The host's side of a context: it opens an incarnation, publishes what was staged, withdraws and closes.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use event_bus::{EventBus, Subscription, SubscriptionSpec};
use runtime::{CancellationToken, SharedClock, ShutdownReport, TaskOwner, panic_message};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::listener::Replaced;
use crate::live::{Live, Slot};
use crate::route::{MiddlewareEntry, Route};
use crate::service::{Service, ServiceKey};
use crate::{Listeners, Manifest, Permissions, PluginContext, PluginError, PluginName, RegisterError};

/// What a host gives its plugins' contexts to work with.
#[derive(Clone)]
pub struct Host {
    /// Carries events.
    pub bus: EventBus,
    /// Tells the time.
    pub clock: SharedClock,
    /// Knows who offers what.
    pub directory: Arc<dyn Directory>,
    /// Holds the listening sockets.
    pub listeners: Arc<Listeners>,
    /// Runs plugins' code. The control plane has a runtime of its own. Scopes that are opened with another
    /// one here run their plugin's background work there.
    pub runtime: Handle,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Why an incarnation's registrations are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawal {
    /// The plugin stops: its routes are gone, its tasks suspended.
    Stopped,
    /// The plugin failed for good: its routes are gone, its tasks suspended. What its middleware stood
    /// before is answered 503, since nobody has said that it may be reached without.
    Failed,
    /// The plugin restarts: its routes, and those that its middleware stands before, answer 503 meanwhile;
    /// its tasks wait.
    Restarting,
    /// Another incarnation has taken over; only what that one does not have goes.
    Replaced,
    /// The plugin is removed from the host, and its tasks with it.
    Unloaded,
}

/// Why a staged incarnation cannot be published. Nothing of it was seen then.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Another plugin has it already.
    #[error("`{what}` is registered already by plugin `{by}`")]
    Conflict {
        /// The service or the route.
        what: String,
        /// Who has it.
        by: PluginName,
    },
    /// A swap would take away a service that others hold handles of.
    #[error("service `{service}` is in use by {}", join(.users))]
    InUse {
        /// The service.
        service: String,
        /// Who uses it.
        users: Vec<PluginName>,
    },
    /// A registration of a higher crate, such as a task, was refused.
    #[error("register {what}")]
    Refused {
        /// What was to be registered.
        what: String,
        /// Why not.
        #[source]
        source: crate::BoxError,
    },
    /// The event bus refused a subscription.
    #[error("subscribe")]
    Subscribe(#[source] crate::BoxError),
    /// Published already, or closed.
    #[error("the incarnation is not starting")]
    NotStarting,
}

fn join(names: &[PluginName]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Knows which plugin offers which services and routes. One for a host; the registry implements it.
pub trait Directory: Send + Sync + 'static {
    /// The slot of the plugin that offers a service now, or did until a restart that is under way.
    fn find(&self, key: &ServiceKey) -> Option<Arc<Slot>>;

    /// Points `slot` to `live` and brings every index up to date, in one step for whoever looks. Gives the
    /// incarnation that was there before, still open.
    ///
    /// # Errors
    ///
    /// [`PublishError::Conflict`] if another plugin has one of its services or routes,
    /// [`PublishError::InUse`] if it lacks a service that others hold handles of. Nothing changes then.
    fn publish(&self, slot: &Arc<Slot>, live: Arc<Live>) -> Result<Option<Arc<Live>>, PublishError>;

    /// Takes the incarnation numbered `incarnation` out of the slot and the indexes; does nothing if another
    /// one stands there by now. With [`Withdrawal::Restarting`] its routes stay known, to be answered 503;
    /// so do those behind its middleware, with that and with [`Withdrawal::Failed`].
    fn withdraw(&self, slot: &Arc<Slot>, incarnation: u64, why: Withdrawal);
}

/// A directory that finds nothing and takes everything: for tests of a plugin by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDirectory;

impl Directory for NoDirectory {
    fn find(&self, _: &ServiceKey) -> Option<Arc<Slot>> {
        None
    }

    fn publish(&self, slot: &Arc<Slot>, live: Arc<Live>) -> Result<Option<Arc<Live>>, PublishError> {
        Ok(slot.replace(Some(live)))
    }

    fn withdraw(&self, slot: &Arc<Slot>, incarnation: u64, _: Withdrawal) {
        if slot.live().is_some_and(|live| live.incarnation() == incarnation) {
            slot.replace(None);
        }
    }
}

/// Something of a higher crate that a plugin registers, such as a task or an executor.
///
/// Two steps, so that an incarnation is seen whole or not at all: `prepare` may fail and is seen by nobody;
/// `commit` cannot fail.
#[async_trait]
pub trait Registration: Send + 'static {
    /// What this is, for errors: ``executor `greeter.report` ``.
    fn describe(&self) -> String;

    /// Checks, and does all that can fail. Dropped after that without a commit, it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Whatever makes the registration impossible; the plugin's start fails with it.
    async fn prepare(&mut self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Makes it seen. During a swap the old incarnation's registration of the same name is still there, and
    /// is replaced.
    fn commit(self: Box<Self>) -> Box<dyn Withdraw>;
}

/// Something that was registered and can be taken back.
#[async_trait]
pub trait Withdraw: Send + 'static {
    /// Takes it back: when this returns, no new call of it begins. It waits for nothing and runs no code of
    /// the plugin's. What a successor has replaced stays the successor's.
    fn withdraw(&mut self, why: Withdrawal);

    /// Waits until the calls that had begun by then have ended, for `deadline` at the most; tells how many
    /// had not.
    async fn drained(&mut self, deadline: Duration) -> usize {
        let _ = deadline;
        0
    }
}

/// How an incarnation's withdrawal went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Calls that were inside still when the deadline passed.
    pub in_flight: usize,
    /// Plugins that held guards of its services still, and how many.
    pub holders: BTreeMap<PluginName, usize>,
    /// Events that its subscriptions had accepted and did not handle in time.
    pub undelivered: u64,
}

impl DrainReport {
    /// Whether nobody was inside at the end, and no event was left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.in_flight == 0 && self.undelivered == 0
    }
}

/// How to open an incarnation.
pub struct ScopeOptions {
    /// What the plugin declares.
    pub manifest: Arc<Manifest>,
    /// What it was granted.
    pub permissions: Permissions,
    /// Its effective configuration.
    pub config: Value,
    /// Its number: it grows with each start in the host.
    pub incarnation: u64,
}

/// One incarnation of a plugin, in the hands of the host. Its other side is the [`PluginContext`].
pub struct Scope {
    inner: Arc<ScopeInner>,
}

/// How far an incarnation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `initialize`: nothing is registered.
    Opening,
    /// `start`: registrations are staged.
    Starting,
    /// What was staged is being checked, so that nothing more joins it but subscriptions.
    Publishing,
    /// Published.
    Published,
    /// Withdrawn; what still comes is refused.
    Closed,
}

pub(crate) struct ScopeInner {
    pub(crate) host: Host,
    pub(crate) slot: Arc<Slot>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) permissions: Permissions,
    pub(crate) incarnation: u64,
    pub(crate) config: Arc<ArcSwap<Value>>,
    pub(crate) tasks: TaskOwner,
    pub(crate) state: Mutex<ScopeState>,
}

pub(crate) struct ScopeState {
    pub(crate) phase: Phase,
    pub(crate) services: HashMap<ServiceKey, Service>,
    pub(crate) routes: Vec<Arc<Route>>,
    pub(crate) route_keys: HashSet<String>,
    pub(crate) middleware: Vec<MiddlewareEntry>,
    pub(crate) staged_subscriptions: Vec<SubscriptionSpec>,
    pub(crate) registrations: Vec<Box<dyn Registration>>,
    pub(crate) owned: Vec<Box<dyn Any + Send>>,
    /// Sockets that were opened before it was published, in place of others.
    pub(crate) replaced: Vec<Replaced>,
    subscriptions: Vec<Subscription>,
    withdraws: Vec<Box<dyn Withdraw>>,
    live: Option<Arc<Live>>,
}

impl ScopeState {
    fn new() -> Self {
        Self {
            phase: Phase::Opening,
            services: HashMap::new(),
            routes: Vec::new(),
            route_keys: HashSet::new(),
            middleware: Vec::new(),
            staged_subscriptions: Vec::new(),
            registrations: Vec::new(),
            owned: Vec::new(),
            replaced: Vec::new(),
            subscriptions: Vec::new(),
            withdraws: Vec::new(),
            live: None,
        }
    }

    /// Refuses all that still comes, and gives what there was except for what is owned or was opened.
    ///
    /// Dropped by the caller, who holds no lock: it is the plugin's own code that runs then. Nothing stays
    /// behind, since a handler may hold the context, and the context would hold the handler.
    fn shut(&mut self) -> Self {
        let (owned, replaced) = (std::mem::take(&mut self.owned), std::mem::take(&mut self.replaced));
        std::mem::replace(self, Self { phase: Phase::Closed, owned, replaced, ..Self::new() })
    }
}

impl ScopeInner {
    pub(crate) fn state(&self) -> MutexGuard<'_, ScopeState> {
        // A panic while it is held cannot leave it half changed: each section is one insertion.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes now, for a plugin that is published already.
    pub(crate) fn subscribe_now(
        &self,
        state: &mut ScopeState,
        spec: SubscriptionSpec,
    ) -> Result<(), RegisterError> {
        let subscription =
            self.host.bus.subscribe_spec(spec).map_err(|error| RegisterError::Subscribe(Box::new(error)))?;
        state.subscriptions.push(subscription);
        Ok(())
    }
}

impl Scope {
    /// Opens an incarnation. Nothing can be registered until [`begin_start`](Scope::begin_start).
    #[must_use]
    pub fn open(host: Host, slot: Arc<Slot>, options: ScopeOptions) -> Self {
        let tasks = TaskOwner::on(host.runtime.clone(), format!("plugin {}", slot.name()));
        let inner = ScopeInner {
            host,
            slot,
            manifest: options.manifest,
            permissions: options.permissions,
            incarnation: options.incarnation,
            config: Arc::new(ArcSwap::from_pointee(options.config)),
            tasks,
            state: Mutex::new(ScopeState::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The plugin's side.
    #[must_use]
    pub fn context(&self) -> PluginContext {
        PluginContext::new(self.inner.clone(), self.inner.config.clone())
    }

    /// The plugin's side, for a call that is waited for until `deadline`.
    #[must_use]
    pub fn context_until(&self, deadline: Instant) -> PluginContext {
        self.context().until(deadline)
    }

    /// The plugin's side, with a configuration that is not in force yet: for
    /// [`Plugin::reconfigure`](crate::Plugin::reconfigure). What it gives stays the same, whatever is put in
    /// force later.
    #[must_use]
    pub fn context_with(&self, config: Value) -> PluginContext {
        PluginContext::new(self.inner.clone(), Arc::new(ArcSwap::from_pointee(config)))
    }

    /// Puts a configuration in force, for all contexts of this incarnation.
    pub fn set_config(&self, config: Value) {
        self.inner.config.store(Arc::new(config));
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Value> {
        self.inner.config.load_full()
    }

    /// The number of this incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// Cancelled when the incarnation ends.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.tasks.token()
    }

    /// How many of the plugin's background tasks have panicked.
    #[must_use]
    pub fn background_panics(&self) -> u64 {
        self.inner.tasks.panics()
    }

    /// Waits until one of the plugin's background tasks has panicked, at once if one has; gives which, and
    /// the panic's text.
    pub async fn panicked(&self) -> String {
        self.inner.tasks.panicked().await
    }

    /// What is published, once it is.
    #[must_use]
    pub fn live(&self) -> Option<Arc<Live>> {
        self.inner.state().live.clone()
    }

    /// From here on registrations are staged.
    pub fn begin_start(&self) {
        let mut state = self.inner.state();
        if state.phase == Phase::Opening {
            state.phase = Phase::Starting;
        }
    }

    /// Makes what was staged visible in one step, in place of `replacing` where this is a swap: whoever
    /// looks sees the one incarnation or the other, and an event goes to exactly one of them.
    ///
    /// After a swap `replacing` is open still for the calls that are inside: [`withdraw`](Scope::withdraw)
    /// it next.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; nothing of this incarnation was seen then, and `replacing` goes on untouched.
    pub async fn publish(&self, replacing: Option<&Scope>) -> Result<(), PublishError> {
        let inner = &self.inner;
        let mut registrations = {
            let mut state = inner.state();
            if state.phase != Phase::Starting {
                return Err(PublishError::NotStarting);
            }
            state.phase = Phase::Publishing;
            std::mem::take(&mut state.registrations)
        };
        for registration in &mut registrations {
            if let Err(error) = registration.prepare().await {
                return Err(PublishError::Refused {
                    what: registration.describe(),
                    source: error.into_inner(),
                });
            }
        }

        // Declared before the lock, so that it is dropped after it: a drop runs the plugin's own code.
        let live;
        let mut state = inner.state();
        if state.phase != Phase::Publishing {
            return Err(PublishError::NotStarting);
        }
        live = Arc::new(Live::new(
            inner.slot.name().clone(),
            inner.manifest.version.clone(),
            inner.incarnation,
            std::mem::take(&mut state.services),
            std::mem::take(&mut state.routes),
            std::mem::take(&mut state.middleware),
            inner.permissions.clone(),
        ));
        // The directory first: it is what can refuse. Between it and the bus lie microseconds in which
        // requests see the new incarnation and events still go to the old one, which is there.
        let previous = inner.host.directory.publish(&inner.slot, live.clone())?;
        let specs = std::mem::take(&mut state.staged_subscriptions);
        // The old ones' handles stay where they are: dropped, they would discard what waits to be handled.
        let old_ids: Vec<_> = replacing
            .map(|old| old.inner.state().subscriptions.iter().map(Subscription::id).collect())
            .unwrap_or_default();
        match inner.host.bus.replace(&old_ids, specs) {
            Ok(subscriptions) => state.subscriptions = subscriptions,
            Err(error) => {
                live.close();
                match previous {
                    // It was there a moment ago, so that as a rule nothing stands in its way.
                    Some(previous) => {
                        if let Err(error) = inner.host.directory.publish(&inner.slot, previous) {
                            let plugin = inner.slot.name();
                            tracing::error!(%plugin, %error, "the incarnation before did not come back");
                        }
                    }
                    None => {
                        let (slot, incarnation) = (&inner.slot, inner.incarnation);
                        inner.host.directory.withdraw(slot, incarnation, Withdrawal::Stopped);
                    }
                }
                return Err(PublishError::Subscribe(Box::new(error)));
            }
        }
        state.withdraws = registrations.into_iter().map(Registration::commit).collect();
        state.live = Some(live.clone());
        state.replaced.clear();
        state.phase = Phase::Published;
        Ok(())
    }

    /// Takes back what was published: when it returns, no new call reaches anything that the plugin
    /// registered. It waits for nothing and runs no code of the plugin's, so that it can be called where
    /// such code must not run. A second call does nothing.
    pub fn shut_out(&self, why: Withdrawal) {
        let inner = &self.inner;
        let (live, subscriptions, mut withdraws) = {
            let mut state = inner.state();
            if state.phase == Phase::Closed {
                return;
            }
            state.phase = Phase::Closed;
            let subscriptions = std::mem::take(&mut state.subscriptions);
            (state.live.clone(), subscriptions, std::mem::take(&mut state.withdraws))
        };
        if let Some(live) = &live {
            if why != Withdrawal::Replaced {
                inner.host.directory.withdraw(&inner.slot, inner.incarnation, why);
            }
            live.close();
        }
        // All stop taking events at once, and then handle what they have side by side.
        subscriptions.iter().for_each(Subscription::drain);
        withdraws.iter_mut().for_each(|withdraw| withdraw.withdraw(why));
        // What is left of them is dropped where the plugin's code may run.
        let mut state = inner.state();
        state.subscriptions = subscriptions;
        state.withdraws = withdraws;
    }

    /// [Shuts out](Scope::shut_out) new calls, then waits for those inside, for `drain` at the most.
    pub async fn withdraw(&self, why: Withdrawal, drain: Duration) -> DrainReport {
        self.shut_out(why);
        // In a statement of its own, so that the lock is released before anything of it is dropped.
        let shut = self.inner.state().shut();
        let ScopeState { live, subscriptions, withdraws, .. } = shut;
        let deadline = Instant::now() + drain;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut report = DrainReport::default();
        for mut withdrawn in withdraws {
            report.in_flight += withdrawn.drained(left()).await;
        }
        for subscription in subscriptions {
            report.undelivered += subscription.drained(left()).await;
        }
        if let Some(live) = live
            && !live.drained(left()).await
        {
            report.in_flight += live.in_flight();
            report.holders = live.holders();
        }
        report
    }

    fn take_replaced(&self) -> Option<Replaced> {
        self.inner.state().replaced.pop()
    }

    /// Signals the end to the plugin's background tasks. Does not wait.
    pub fn cancel(&self) {
        self.inner.tasks.cancel();
    }

    /// Ends the plugin's background tasks, waiting up to `deadline`, and drops what it gave into the
    /// context's keeping, the last first.
    ///
    /// Such a drop is the plugin's code; this is called where that may run. One that panics is logged and
    /// keeps none of the others from its turn.
    pub async fn close(&self, deadline: Duration) -> ShutdownReport {
        let shut = self.inner.state().shut();
        drop(shut);
        let report = self.inner.tasks.shutdown(deadline).await;
        // The last first, so that what was there before the first is there in the end.
        while let Some(replaced) = self.take_replaced() {
            self.inner.host.listeners.put_back(replaced);
        }
        let mut owned = std::mem::take(&mut self.inner.state().owned);
        while let Some(guard) = owned.pop() {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(guard))) {
                let plugin = self.inner.slot.name();
                tracing::error!(%plugin, panic = panic_message(&*panic), "an owned value panicked when dropped");
            }
        }
        report
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("plugin", self.inner.slot.name())
            .field("incarnation", &self.inner.incarnation)
            .field("phase", &self.inner.state().phase)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
