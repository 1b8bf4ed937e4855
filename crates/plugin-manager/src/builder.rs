//! What a manager is made of.

use std::fmt;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use event_bus::EventBus;
use plugin_core::{Directory, Host, Listeners, OverrideFile, PluginLoader, Settings};
use registry::{PluginFactory, PluginRegistry, ServiceDirectory};
use runtime::{CancellationToken, SharedClock, SystemClock, TaskOwner};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::shared::{Loading, Shared};
use crate::{ManagerConfig, PluginManager};

/// Makes a [`PluginManager`].
pub struct PluginManagerBuilder {
    bus: EventBus,
    clock: SharedClock,
    runtime: Handle,
    control: Handle,
    directory: Arc<ServiceDirectory>,
    listeners: Arc<Listeners>,
    loaders: Vec<Loading>,
    settings: Settings,
    overrides: Option<OverrideFile>,
    config: ManagerConfig,
}

impl PluginManagerBuilder {
    /// Everything as it is where nothing is said.
    pub(crate) fn new(bus: EventBus) -> Self {
        let here = Handle::current();
        Self {
            bus,
            clock: SystemClock::shared(),
            runtime: here.clone(),
            control: here,
            directory: ServiceDirectory::new(),
            listeners: Arc::default(),
            loaders: Vec::new(),
            settings: Settings::new(),
            overrides: None,
            config: ManagerConfig::default(),
        }
    }

    /// The clock. The machine's where none is given.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Where plugins' code runs. The present runtime where nothing is said.
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = runtime;
        self
    }

    /// Where the supervisors run: a runtime of their own, so that blocking plugins cannot starve them. The
    /// present one where nothing is said.
    #[must_use]
    pub fn control(mut self, control: Handle) -> Self {
        self.control = control;
        self
    }

    /// The sockets that plugins share across swaps.
    #[must_use]
    pub fn listeners(mut self, listeners: Arc<Listeners>) -> Self {
        self.listeners = listeners;
        self
    }

    /// The directory of services and routes. A new one where none is given.
    #[must_use]
    pub fn directory(mut self, directory: Arc<ServiceDirectory>) -> Self {
        self.directory = directory;
        self
    }

    /// The types that are compiled in. What they make may do all that it declares.
    #[must_use]
    pub fn factory(mut self, factory: PluginFactory) -> Self {
        self.loaders.push(Loading { loader: Arc::new(factory), trusted: true });
        self
    }

    /// A source of packages. What it makes may do what it is granted and nothing else.
    #[must_use]
    pub fn loader(mut self, loader: Arc<dyn PluginLoader>) -> Self {
        self.loaders.push(Loading { loader, trusted: false });
        self
    }

    /// The host's configuration; plugins have the sections `plugins.NAME`.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Where what operators set is kept. Without it, it lasts as long as the process.
    #[must_use]
    pub fn overrides(mut self, file: OverrideFile) -> Self {
        self.overrides = Some(file);
        self
    }

    /// How the plugins are run; to be [checked](ManagerConfig::check) by who reads it.
    #[must_use]
    pub fn config(mut self, config: ManagerConfig) -> Self {
        self.config = config;
        self
    }

    /// The manager, with no plugin yet.
    #[must_use]
    pub fn build(self) -> PluginManager {
        let tasks = TaskOwner::on(self.control, "plugin-manager");
        let directory: Arc<dyn Directory> = self.directory.clone();
        let host = Host {
            bus: self.bus,
            clock: self.clock,
            directory,
            listeners: self.listeners,
            runtime: self.runtime,
        };
        let shared = Shared {
            config: self.config,
            host,
            directory: self.directory,
            registry: PluginRegistry::new(),
            loaders: self.loaders,
            settings: Mutex::new(self.settings),
            versions: RandomState::new(),
            overrides: self.overrides,
            keeping: tokio::sync::Mutex::new(()),
            entries: RwLock::default(),
            changes: watch::Sender::new(0),
            incarnations: AtomicU64::new(0),
            started: AtomicBool::new(false),
            shutting_down: AtomicBool::new(false),
            hurry: CancellationToken::new(),
            tasks: tasks.clone(),
            definitions: Mutex::default(),
            reported: Mutex::default(),
        };
        PluginManager::new(shared, tasks)
    }
}

impl fmt::Debug for PluginManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginManagerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}
