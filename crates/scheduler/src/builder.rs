//! How a scheduler is made: its bounds, its parts, and what can be wrong with them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_bus::{EventBus, TopicError};
use runtime::{Sampler, SharedClock, SystemClock, TaskOwner};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::coordinator::{Coordinator, CoordinatorError, MemoryCoordinator};
use crate::core::Core;
use crate::executor::{ExecutorRegistry, RegisterError};
use crate::executors;
use crate::id::RunIds;
use crate::persist::{Keeper, Owned, coordinate, keep};
use crate::publish::Teller;
use crate::schedule::days::Calendars;
use crate::schedule::{NEVER, floor_micros};
use crate::scheduler::{Inner, Scheduler};
use crate::store::{StoreError, TaskStore};

/// Which of the stores that come with the scheduler a host opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "plugin", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A folder of the host's: what is acknowledged has been synced to disk.
    #[default]
    File,
    /// None: tasks end with their process.
    Memory,
}

/// The settings of a scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "plugin", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Whether due tasks are run as soon as the scheduler is there.
    pub auto_start: bool,
    /// What a host keeps tasks in. The builder has no folder, and goes by [`SchedulerBuilder::store`] alone.
    pub store: StoreKind,
    /// How many runs may be under way at once; further ones wait, the higher priority first.
    #[cfg_attr(feature = "plugin", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_concurrent_tasks: usize,
    /// How many tasks there may be.
    #[cfg_attr(feature = "plugin", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_tasks: usize,
    /// How many records of runs are kept.
    #[cfg_attr(feature = "plugin", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_records: usize,
    /// How many of them one task may have.
    #[cfg_attr(feature = "plugin", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_records_per_task: usize,
    /// How long after the end of a run its record is kept.
    #[serde(with = "runtime::duration_text")]
    #[cfg_attr(feature = "plugin", schemars(with = "String"))]
    pub record_retention: Duration,
    /// How many runs of one task may wait for each other under `overlap: queue_all`.
    #[cfg_attr(feature = "plugin", schemars(range(min = 1, max = 1_073_741_824)))]
    pub max_queued_runs: usize,
    /// Days that schedules may leave out by the name of their calendar: weekdays (`SAT`), dates
    /// (`2026-12-25`), days of each year (`12-25`), or two of these with `..` between.
    pub calendars: BTreeMap<String, Vec<String>>,
    /// How long one attempt may take where the task does not say.
    #[serde(with = "runtime::duration_text")]
    #[cfg_attr(feature = "plugin", schemars(with = "String"))]
    pub default_timeout: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            auto_start: true,
            store: StoreKind::File,
            max_concurrent_tasks: 10_000,
            max_tasks: 5_000_000,
            max_records: 100_000,
            max_records_per_task: 1000,
            record_retention: Duration::from_secs(30 * 24 * 3600),
            max_queued_runs: 1000,
            calendars: BTreeMap::new(),
            default_timeout: Duration::from_secs(24 * 3600),
        }
    }
}

impl SchedulerConfig {
    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`BuildError::Invalid`] with the setting that is out of them.
    pub fn check(&self) -> Result<(), BuildError> {
        for (field, value) in [
            ("max_concurrent_tasks", self.max_concurrent_tasks),
            ("max_tasks", self.max_tasks),
            ("max_records", self.max_records),
            ("max_records_per_task", self.max_records_per_task),
            ("max_queued_runs", self.max_queued_runs),
        ] {
            // Places are counted in 32 bits.
            if value == 0 || value > 1 << 30 {
                let detail = "must be from 1 to 1073741824".to_owned();
                return Err(BuildError::Invalid { field: field.to_owned(), detail });
            }
        }
        for (field, span) in
            [("default_timeout", self.default_timeout), ("record_retention", self.record_retention)]
        {
            if span.is_zero() {
                let detail = "must be 1ms or more".to_owned();
                return Err(BuildError::Invalid { field: field.to_owned(), detail });
            }
        }
        self.calendars().map(drop)
    }

    fn calendars(&self) -> Result<Calendars, BuildError> {
        Calendars::new(&self.calendars).map_err(|(field, detail)| BuildError::Invalid { field, detail })
    }
}

/// Why a scheduler was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of bounds.
    #[error("{field}: {detail}")]
    Invalid {
        /// The setting.
        field: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A built-in executor could not be registered.
    #[error("register the built-in executors")]
    Executors(#[from] RegisterError),
    /// The store could not be read.
    #[error("read the store")]
    Store(#[from] StoreError),
    /// The cluster could not be joined.
    #[error("join the cluster")]
    Cluster(#[from] CoordinatorError),
    /// The node's name makes no event.
    #[error("name the topics of events")]
    Topics(#[from] TopicError),
}

/// Makes a [`Scheduler`].
#[must_use]
pub struct SchedulerBuilder {
    clock: SharedClock,
    executors: ExecutorRegistry,
    config: SchedulerConfig,
    node: String,
    bus: Option<EventBus>,
    start_later: bool,
    runs_on: Option<Handle>,
    store: Option<Arc<dyn TaskStore>>,
    coordinator: Option<Arc<dyn Coordinator>>,
    sampler: Sampler,
}

impl SchedulerBuilder {
    pub(crate) fn new() -> Self {
        Self {
            clock: SystemClock::shared(),
            executors: ExecutorRegistry::new(),
            config: SchedulerConfig::default(),
            node: "local".to_owned(),
            bus: None,
            start_later: false,
            runs_on: None,
            store: None,
            coordinator: None,
            sampler: Sampler::OFF,
        }
    }

    /// Which runs are traced that are not caused by anything traced already: those have spans, and so have
    /// their calls of others. None, where it is not said; trace contexts are carried on all the same.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = sampler;
        self
    }

    /// Where tasks are kept beyond this scheduler. Without a store they are kept in its memory.
    pub fn store(mut self, store: Arc<dyn TaskStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Who divides the tasks among nodes that share a store. Without a coordinator this node has them all.
    pub fn coordinator(mut self, coordinator: Arc<dyn Coordinator>) -> Self {
        self.coordinator = Some(coordinator);
        self
    }

    /// Leaves it to [`Scheduler::start`] to begin, whatever the configuration says: for a host in which the
    /// scheduler is a plugin, and begins when that starts.
    pub fn start_later(mut self) -> Self {
        self.start_later = true;
        self
    }

    /// Where runs are polled, where that is not to be the runtime on which [`Scheduler::start`] is called:
    /// executors that block their threads then keep none from what plans the runs.
    pub fn runs_on(mut self, runtime: Handle) -> Self {
        self.runs_on = Some(runtime);
        self
    }

    /// Where `scheduler.task.*` events go, and what the executor `event` publishes to.
    pub fn bus(mut self, bus: EventBus) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Where the time comes from; the machine's clock where it is not said.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// The names under which executors are found; the built-in ones are added to them.
    pub fn executors(mut self, executors: ExecutorRegistry) -> Self {
        self.executors = executors;
        self
    }

    /// The bounds.
    pub fn config(mut self, config: SchedulerConfig) -> Self {
        self.config = config;
        self
    }

    /// The name of this node in records; `local` where it is not said.
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Builds the scheduler, and starts it if the configuration says so, on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// If a setting is out of bounds.
    pub async fn build(self) -> Result<Scheduler, BuildError> {
        let config = self.config;
        config.check()?;
        let calendars = config.calendars()?;
        let built_in = executors::register(&self.executors, self.bus.as_ref())?;
        let teller = self.bus.map(|bus| Teller::new(bus, &self.node)).transpose()?;
        let now = floor_micros(self.clock.now());
        let ids =
            RunIds { begun_ms: now.unsigned_abs() / 1000, salt: RandomState::new().hash_one(now) as u32 };
        let auto_start = config.auto_start && !self.start_later;
        let mut core = Core::new(config, self.executors.clone(), ids, now);
        core.tells = teller.is_some();
        // Epochs must be greater than those of the process before, which the time is as a rule.
        let alone = self.coordinator.is_none().then(|| MemoryCoordinator::new(SHARDS, now.unsigned_abs()));
        let keeper = match (self.store, self.coordinator) {
            (None, None) => None,
            (None, Some(_)) => {
                let detail = "is needed where a coordinator is given".to_owned();
                return Err(BuildError::Invalid { field: "store".to_owned(), detail });
            }
            (Some(store), coordinator) => {
                let alone = alone.clone().map(|alone| Arc::new(alone) as Arc<dyn Coordinator>);
                coordinator.or(alone).map(|coordinator| Keeper::new(store, coordinator))
            }
        };
        core.owned =
            keeper.as_ref().map(|keeper| Owned { shards: keeper.coordinator.shards(), ..Owned::default() });
        let inner = Arc::new(Inner {
            core: Mutex::new(core),
            clock: self.clock,
            executors: self.executors,
            calendars,
            node: self.node,
            teller,
            wake: Notify::new(),
            work: Notify::new(),
            sleeping_until: AtomicI64::new(NEVER),
            notices_max: NOTICES_MAX,
            runs: TaskTracker::new(),
            loops: Mutex::new(None),
            runs_on: self.runs_on,
            sampler: self.sampler,
            keeper,
            keeping: TaskOwner::new("scheduler-store"),
            _built_in: built_in,
        });
        if let Some(keeper) = &inner.keeper {
            let mut member = keeper.coordinator.join(&inner.node).await?;
            let mut tries_left = EPOCH_TRIES;
            while let Err(error) = inner.follow(keeper, member.assignment().await?).await {
                let (Some(alone), StoreError::Fenced { theirs, .. }) = (&alone, &error) else {
                    return Err(error.into());
                };
                // The clock has been set back since the process before took its epochs from it.
                tries_left -= 1;
                if tries_left == 0 {
                    return Err(error.into());
                }
                alone.begin_after(*theirs);
                member.leave().await;
                member = keeper.coordinator.join(&inner.node).await?;
            }
            let token = inner.keeping.token();
            inner.keeping.spawn("store", keep(Arc::clone(&inner), token.clone()));
            inner.keeping.spawn("cluster", coordinate(Arc::clone(&inner), member, token));
        }
        let scheduler = Scheduler::new(inner);
        if auto_start {
            scheduler.start();
        }
        Ok(scheduler)
    }
}

/// Into how many shards the tasks of a store are divided that one node has to itself: enough that nodes can
/// join later without moving them.
const SHARDS: u32 = 64;

/// How often a single node raises its epochs above those that it finds in its store: twice is enough, unless
/// another process works on the same store.
const EPOCH_TRIES: usize = 8;

/// How many notices may wait to be published while runs are started: some 64 MB.
const NOTICES_MAX: usize = 1 << 20;

impl std::fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerBuilder").field("node", &self.node).finish_non_exhaustive()
    }
}
