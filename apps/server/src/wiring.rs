//! Which parts there are, and who knows whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use event_bus::EventBus;
use http_api::{HTTP, HttpPlugin};
use management::{Authenticator, Management};
use plugin_core::{ConfigSpec, Plugin, PluginLoader, Settings, State, decode};
use plugin_manager::{ManagerError, PluginManager, PluginOptions, RestartPolicy, StartReport};
use plugins_etcd::{ETCD, EtcdPlugin};
use plugins_redis::{REDIS, RedisConfig, RedisPlugin};
use registry::ServiceDirectory;
use runtime::{SystemClock, TaskOwner};
use scheduler::{
    FileTaskStore, Retention, SCHEDULER, Scheduler, SchedulerConfig, SchedulerPlugin, StoreKind, TaskStore,
};
use telemetry::Telemetry;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::config::Loaded;
use crate::host::Host;

/// A host, put together. Whatever becomes of its start, it is to be stopped.
pub(crate) struct Assembled {
    manager: PluginManager,
    management: Management,
    bus: EventBus,
    /// Where the management API is, once it is there.
    listening: watch::Receiver<Option<SocketAddr>>,
    /// The start of plugins, which may go on while the host serves.
    starting: TaskOwner,
}

/// How many recent events can be looked at, and streams resumed from.
const HISTORY: usize = 10_000;

/// What each plugin's section may say, by the plugin's name; nothing for one that takes none.
pub(crate) fn sections(host: &Host) -> anyhow::Result<BTreeMap<String, Option<ConfigSpec>>> {
    let mut sections = BTreeMap::new();
    for manifest in host.factory.types().into_iter().map(|of| of.manifest) {
        sections.insert(manifest.name.to_string(), manifest.config.clone());
    }
    for (plugin, _) in &host.plugins {
        let manifest = plugin.manifest();
        manifest.check()?;
        sections.insert(manifest.name.to_string(), manifest.config);
    }
    sections.insert(SCHEDULER.to_owned(), Some(SchedulerPlugin::config()));
    sections.insert(HTTP.to_owned(), Some(HttpPlugin::config()));
    sections.insert(REDIS.to_owned(), Some(RedisPlugin::config()));
    sections.insert(ETCD.to_owned(), Some(EtcdPlugin::config()));
    Ok(sections)
}

/// Whether anything is said of a plugin: those with a server behind them take part only then.
fn is_set(settings: &Settings, plugin: &str) -> bool {
    settings.section(&["plugins", plugin]).as_object().is_none_or(|section| !section.is_empty())
}

/// What the configuration says that tasks are kept in, if not in memory alone.
fn task_store(config: &SchedulerConfig, data_dir: &Path) -> anyhow::Result<Option<Arc<dyn TaskStore>>> {
    if config.store == StoreKind::Memory {
        return Ok(None);
    }
    let retention = Retention { records: config.max_records, ..Retention::default() };
    let store = FileTaskStore::open(&data_dir.join("tasks"), retention).context("open the task store")?;
    Ok(Some(Arc::new(store)))
}

/// The engines that the configuration names a server of; nothing of the others is there.
fn engines(settings: &Settings) -> anyhow::Result<Vec<(Arc<dyn Plugin>, PluginOptions)>> {
    let mut engines: Vec<(Arc<dyn Plugin>, PluginOptions)> = Vec::new();
    let redis = settings.section(&["plugins", REDIS]);
    if !redis.is_null() && decode::<RedisConfig>(&redis)?.is_used() {
        engines.push((Arc::new(RedisPlugin::new()?), PluginOptions::default()));
    }
    Ok(engines)
}

/// Where the API tokens of a host are.
pub(crate) fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("tokens.json")
}

/// Puts the host together.
pub(crate) async fn assemble(
    loaded: Loaded,
    host: Host,
    telemetry: &Telemetry,
    plugins: &Handle,
) -> anyhow::Result<Assembled> {
    let uses_etcd = is_set(&loaded.settings, ETCD);
    let clock = SystemClock::shared();
    let control = Handle::current();
    // Handlers and runs are plugins' code, and belong on their runtime.
    let sampler = loaded.host.telemetry.sampler();
    let bus = EventBus::builder()
        .clock(clock.clone())
        .history(HISTORY)
        .handle(plugins.clone())
        .spans(sampler.is_on())
        .build();
    let directory = ServiceDirectory::new();
    let scheduler = {
        let config: SchedulerConfig = decode(&loaded.settings.section(&["plugins", SCHEDULER]))?;
        let store = task_store(&config, &loaded.host.data_dir)?;
        let mut builder = Scheduler::builder()
            .clock(clock.clone())
            .bus(bus.clone())
            .node(&loaded.host.node)
            .config(config)
            .runs_on(plugins.clone())
            .sampler(sampler)
            .start_later();
        if let Some(store) = store {
            builder = builder.store(store);
        }
        builder.build().await.context("build the scheduler")?
    };
    let engines = engines(&loaded.settings)?;
    let manager = PluginManager::builder(bus.clone())
        .clock(clock.clone())
        .runtime(plugins.clone())
        .control(control.clone())
        .directory(directory.clone())
        .factory(host.factory)
        .config(loaded.host.manager.clone())
        .settings(loaded.settings)
        .overrides(loaded.overrides)
        .build();
    let access = Authenticator::open(&loaded.host.access, &token_file(&loaded.host.data_dir), clock.clone())?;
    let management = Management::builder()
        .access(access)
        .clock(clock)
        .node(&loaded.host.node)
        .product("gantry", env!("CARGO_PKG_VERSION"))
        .bus(bus.clone())
        .directory(directory)
        .scheduler(scheduler.clone())
        .manager(manager.clone())
        .metrics(telemetry.metrics().clone())
        .sampler(sampler)
        .build();
    measure(telemetry, &bus, &scheduler, &manager);

    if uses_etcd {
        // Whatever it reports, a restart would not mend it.
        let restart = Some(manager.config().restart.clone().with_policy(RestartPolicy::Never));
        let etcd = EtcdPlugin::new()?.configures(manager.clone());
        manager.register(Arc::new(etcd), PluginOptions { restart, ..PluginOptions::default() })?;
    }
    let http = HttpPlugin::new(management.clone()).plugins(plugins.clone());
    let listening = http.address();
    // The host's own parts: other plugins' code cannot keep them from starting, answering and stopping.
    let own = || PluginOptions { runtime: Some(control.clone()), ..PluginOptions::default() };
    for (plugin, options) in
        [(Arc::new(SchedulerPlugin::new(scheduler)?) as Arc<dyn Plugin>, own()), (Arc::new(http), own())]
            .into_iter()
            .chain(engines)
            .chain(host.plugins)
    {
        manager.register(plugin, options).context("register")?;
    }
    Ok(Assembled { manager, management, bus, listening, starting: TaskOwner::new("start") })
}

/// Says what of the host did not start, and gives back what kept everything from starting.
fn log_start(outcome: Result<StartReport, ManagerError>) -> Result<(), ManagerError> {
    let report = outcome?;
    for waiting in &report.waiting {
        warn!(plugin = %waiting.name, reason = waiting.reason, "plugin waits");
    }
    // Each failure has been told when it happened.
    info!(running = report.running.len(), failed = report.failed.len(), took = %report.took, "started");
    Ok(())
}

/// Has hot paths' own counts fetched when somebody looks.
fn measure(telemetry: &Telemetry, bus: &EventBus, scheduler: &Scheduler, manager: &PluginManager) {
    let metrics = telemetry.metrics();
    let (bus, scheduler, manager) = (bus.clone(), scheduler.clone(), manager.clone());
    metrics.register_collector("event-bus", move || bus.report_metrics()).detach();
    metrics.register_collector("scheduler", move || scheduler.report_metrics()).detach();
    metrics.register_collector("plugin-manager", move || manager.report_metrics()).detach();
}

impl Assembled {
    /// Starts the plugins, and says where the management API is as soon as it is there.
    pub(crate) async fn start(&self) -> anyhow::Result<SocketAddr> {
        // A plugin may take its time; the host can be looked at meanwhile.
        let starter = self.manager.clone();
        let (begun, outcome) = oneshot::channel();
        self.starting.spawn("plugins", async move {
            let outcome = log_start(starter.start_all().await);
            let started = outcome.is_ok();
            let _ = begun.send(outcome);
            // After the host's own: a definition that needs what is not there keeps nobody else from starting.
            if started
                && starter.config().auto_load
                && let Err(error) = starter.watch_folder().await
            {
                warn!(%error, "definition files are not followed");
            }
        });
        let http = || self.manager.get(HTTP).ok();
        let transport = async {
            let settled = || {
                self.listening.borrow().is_some() || http().is_some_and(|http| http.status == State::Failed)
            };
            self.manager.wait_until(self.manager.config().max_startup_time, settled).await;
        };
        tokio::select! {
            () = transport => {}
            refused = outcome => refused.context("start the plugins")??,
        }
        // Without its transport nobody can reach the host, so that it does not stay up alone.
        let address = *self.listening.borrow();
        address.ok_or_else(|| {
            let why = http().and_then(|http| http.last_error).map(|error| error.message);
            anyhow!(why.unwrap_or_else(|| "it did not start in time".to_owned()))
        })
    }

    /// Stops the plugins, the last started first, and then the bus.
    pub(crate) async fn stop(self, deadline: Duration) {
        let begun = tokio::time::Instant::now();
        // Whoever balances load looks at this first.
        self.management.begin_shutdown();
        self.starting.shutdown(Duration::ZERO).await;
        let report = self.manager.stop_all(deadline).await;
        if !report.is_clean() {
            warn!(failed = ?report.failed, unfinished = ?report.unfinished, "plugins did not stop in order");
        }
        let left = deadline.saturating_sub(begun.elapsed());
        let drained = self.bus.shutdown(left).await;
        if drained.undelivered > 0 {
            warn!(undelivered = drained.undelivered, "events were not handled");
        }
    }
}
