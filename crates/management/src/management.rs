//! The facade that every transport calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_bus::EventBus;
use plugin_manager::PluginManager;
use registry::ServiceDirectory;
use runtime::{Sampler, SharedClock, SystemClock, TaskOwner, Timestamp};
use scheduler::Scheduler;
use telemetry::Metrics;

use crate::audit::AuditLog;
use crate::{
    AuditEntry, Authenticator, Caller, IdempotencyStore, Page, PageRequest, Permission, Problem, ProblemKind,
};

/// How many writes the audit log keeps where the program says nothing.
const AUDIT_ENTRIES: usize = 10_000;

/// Every operation that an operator has, once. A clone is the same host's.
///
/// Each method checks what the caller may do, then what was sent, and changes nothing if either is wrong.
/// Every write is in the audit log, refused ones too.
#[derive(Clone)]
pub struct Management {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) clock: SharedClock,
    pub(crate) node: String,
    pub(crate) product: Product,
    pub(crate) started_at: Timestamp,
    pub(crate) bus: Option<EventBus>,
    pub(crate) manager: Option<PluginManager>,
    directory: Option<Arc<ServiceDirectory>>,
    pub(crate) scheduler: Option<Scheduler>,
    metrics: Option<Metrics>,
    pub(crate) access: Authenticator,
    sampler: Sampler,
    pub(crate) audit: AuditLog,
    idempotency: IdempotencyStore,
    pub(crate) draining: AtomicBool,
    /// What goes on after its request has been answered.
    pub(crate) background: TaskOwner,
}

/// What runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Management {
    /// Begins to put a facade together. What is left out answers `not_available`.
    pub fn builder() -> ManagementBuilder {
        ManagementBuilder::default()
    }

    /// The text for a scraper.
    ///
    /// # Errors
    ///
    /// For callers without a role, and where the host has no metrics.
    pub fn metrics(&self, caller: &Caller, format: telemetry::Format) -> Result<String, Problem> {
        caller.require(Permission::MetricsRead)?;
        Ok(self.inner.metrics.as_ref().ok_or_else(|| not_available("metrics"))?.render(format))
    }

    /// The writes of late, the newest first.
    ///
    /// # Errors
    ///
    /// For callers below `admin`, and for a cursor that is none.
    pub fn audit(&self, caller: &Caller, page: &PageRequest) -> Result<Page<AuditEntry>, Problem> {
        caller.require(Permission::AuditRead)?;
        self.inner.audit.page(page)
    }

    /// The answers to writes that carried a key.
    #[must_use]
    pub fn idempotency(&self) -> &IdempotencyStore {
        &self.inner.idempotency
    }

    /// Who offers which services and routes, for a transport to call the routes.
    #[must_use]
    pub fn directory(&self) -> Option<&ServiceDirectory> {
        self.inner.directory.as_deref()
    }

    /// The host's clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.inner.clock
    }

    /// Which requests are traced, for a transport to ask.
    #[must_use]
    pub fn sampler(&self) -> &Sampler {
        &self.inner.sampler
    }

    /// Lets readiness fail, first thing at shutdown, so that no balancer sends new requests here.
    pub fn begin_shutdown(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Whether the host is on its way down.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
            || self.inner.manager.as_ref().is_some_and(PluginManager::is_shutting_down)
    }

    /// Checks the permission, does a write, and records it either way. In a dry run, `work` is told to change
    /// nothing and to answer as if it had, and there is nothing to record.
    pub(crate) async fn write<T>(
        &self,
        caller: &Caller,
        permission: Permission,
        target: &str,
        work: impl AsyncFnOnce(bool) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        if caller.dry_run {
            caller.require(permission)?;
            return work(true).await;
        }
        let mut entry =
            Pending { management: self, caller, action: permission.name(), target, recorded: false };
        let outcome = match caller.require(permission) {
            Ok(()) => work(false).await,
            Err(refused) => Err(refused),
        };
        entry.record(&outcome);
        outcome
    }
}

/// A write that is to be recorded, also if its caller leaves before it has ended.
struct Pending<'a> {
    management: &'a Management,
    caller: &'a Caller,
    action: &'static str,
    target: &'a str,
    recorded: bool,
}

impl Pending<'_> {
    fn record<T>(&mut self, outcome: &Result<T, Problem>) {
        self.recorded = true;
        self.management.inner.audit.record(self.caller, self.action, self.target, outcome);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.recorded {
            let left = "the caller left, or the host failed, before the end was known";
            self.record::<()>(&Err(Problem::new(ProblemKind::Internal, left)));
        }
    }
}

pub(crate) fn not_available(what: &str) -> Problem {
    Problem::new(ProblemKind::NotAvailable, format!("this host has no {what}"))
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

/// Puts a [`Management`] together.
#[must_use]
pub struct ManagementBuilder {
    clock: SharedClock,
    node: String,
    product: Product,
    bus: Option<EventBus>,
    manager: Option<PluginManager>,
    directory: Option<Arc<ServiceDirectory>>,
    scheduler: Option<Scheduler>,
    metrics: Option<Metrics>,
    access: Option<Authenticator>,
    sampler: Sampler,
    audit_entries: usize,
}

impl fmt::Debug for ManagementBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagementBuilder").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Default for ManagementBuilder {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            node: "local".to_owned(),
            product: Product { name: "gantry".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
            bus: None,
            manager: None,
            directory: None,
            scheduler: None,
            metrics: None,
            access: None,
            sampler: Sampler::OFF,
            audit_entries: AUDIT_ENTRIES,
        }
    }
}

impl ManagementBuilder {
    /// The host's clock.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The name of this node.
    pub fn node(mut self, name: impl Into<String>) -> Self {
        self.node = name.into();
        self
    }

    /// The name and version of the program.
    pub fn product(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.product = Product { name: name.into(), version: version.into() };
        self
    }

    /// What carries events.
    pub fn bus(mut self, bus: EventBus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// What runs plugins. Its directory is taken, too.
    pub fn manager(mut self, manager: PluginManager) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Who offers which services and routes, where there is no manager.
    pub fn directory(mut self, directory: Arc<ServiceDirectory>) -> Self {
        self.directory = Some(directory);
        self
    }

    /// What runs tasks.
    pub fn scheduler(mut self, scheduler: Scheduler) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// What is measured.
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Who is let in. Where it is left out nobody is asked for credentials.
    pub fn access(mut self, access: Authenticator) -> Self {
        self.access = Some(access);
        self
    }

    /// Which requests are traced; none, where it is not said.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = sampler;
        self
    }

    /// How many writes the audit log keeps.
    pub fn audit_entries(mut self, entries: usize) -> Self {
        self.audit_entries = entries;
        self
    }

    /// The facade.
    #[must_use]
    pub fn build(self) -> Management {
        Management {
            inner: Arc::new(Inner {
                started_at: self.clock.now(),
                access: self.access.unwrap_or_else(|| Authenticator::open_to_all(self.clock.clone())),
                audit: AuditLog::new(self.clock.clone(), self.audit_entries),
                idempotency: IdempotencyStore::new(self.clock.clone()),
                clock: self.clock,
                node: self.node,
                product: self.product,
                bus: self.bus,
                directory: self.directory.or_else(|| self.manager.as_ref().map(PluginManager::directory)),
                manager: self.manager,
                background: TaskOwner::new("management"),
                scheduler: self.scheduler,
                metrics: self.metrics,
                sampler: self.sampler,
                draining: AtomicBool::new(false),
            }),
        }
    }
}
