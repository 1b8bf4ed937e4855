//! Plugins to order, and a record of what was called when.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use event_bus::{Event, EventBus, HistoryFilter};
use plugin_core::{Health, Manifest, Plugin, PluginContext, PluginError};
use plugin_manager::{ManagerConfig, PluginManager, PluginManagerBuilder, PluginOptions, RestartConfig};

/// What plugins did, in order: `start a`, `stop b`.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|entry| *entry == what).count()
    }
}

type Hook = Arc<
    dyn Fn(PluginContext) -> futures_util::future::BoxFuture<'static, Result<(), PluginError>> + Send + Sync,
>;
type HealthHook = Arc<dyn Fn() -> Health + Send + Sync>;

/// A plugin that does what a test says.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) manifest: Manifest,
    pub(crate) log: Log,
    pub(crate) on_initialize: Option<Hook>,
    pub(crate) on_start: Option<Hook>,
    pub(crate) on_stop: Option<Hook>,
    pub(crate) health: Option<HealthHook>,
}

impl Sample {
    pub(crate) fn new(name: &str, log: &Log) -> Self {
        let manifest = Manifest::new(name, "1.0.0").unwrap();
        let log = log.clone();
        Self { manifest, log, on_initialize: None, on_start: None, on_stop: None, health: None }
    }

    pub(crate) fn needs(mut self, name: &str) -> Self {
        self.manifest = self.manifest.depends_on(name, "*").unwrap();
        self
    }

    pub(crate) fn may(mut self, permission: &str) -> Self {
        self.manifest = self.manifest.permission(permission).unwrap();
        self
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.manifest.version = version.parse().unwrap();
        self
    }

    pub(crate) fn starts<Fut>(mut self, work: impl Fn(PluginContext) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.on_start = Some(Arc::new(move |ctx| Box::pin(work(ctx))));
        self
    }

    pub(crate) fn stops<Fut>(mut self, work: impl Fn(PluginContext) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.on_stop = Some(Arc::new(move |ctx| Box::pin(work(ctx))));
        self
    }

    pub(crate) fn health(mut self, health: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        self.health = Some(Arc::new(health));
        self
    }

    pub(crate) fn add_to(self, manager: &PluginManager) {
        self.add_with(manager, PluginOptions::default());
    }

    pub(crate) fn add_with(self, manager: &PluginManager, options: PluginOptions) {
        manager.register(Arc::new(self), options).unwrap();
    }

    async fn step(&self, what: &str, hook: Option<&Hook>, ctx: PluginContext) -> Result<(), PluginError> {
        self.log.note(format!("{what} {}", self.manifest.name));
        match hook {
            Some(hook) => hook(ctx).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Plugin for Sample {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn initialize(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.step("initialize", self.on_initialize.as_ref(), ctx).await
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.step("start", self.on_start.as_ref(), ctx).await
    }

    async fn stop(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.step("stop", self.on_stop.as_ref(), ctx).await
    }

    async fn destroy(&self) -> Result<(), PluginError> {
        self.log.note(format!("destroy {}", self.manifest.name));
        Ok(())
    }

    async fn health(&self) -> Health {
        self.health.as_ref().map_or_else(Health::healthy, |health| health())
    }
}

pub(crate) fn bus() -> EventBus {
    EventBus::builder().history(10_000).build()
}

pub(crate) fn builder() -> PluginManagerBuilder {
    PluginManager::builder(bus())
}

pub(crate) fn manager() -> PluginManager {
    builder().build()
}

/// Short waits, for tests in real time.
pub(crate) fn brisk() -> ManagerConfig {
    let ms = Duration::from_millis;
    ManagerConfig {
        max_startup_time: ms(200),
        stop_deadline: ms(200),
        drain_deadline: ms(200),
        health_check_timeout: ms(100),
        restart: RestartConfig { backoff: ms(10), ..RestartConfig::default() },
        ..ManagerConfig::default()
    }
}

/// The topics of the events about a plugin so far.
pub(crate) fn topics(manager: &PluginManager, plugin: &str) -> Vec<String> {
    events(manager, plugin).iter().map(|event| event.topic().to_string()).collect()
}

pub(crate) fn events(manager: &PluginManager, plugin: &str) -> Vec<Event> {
    let events = manager.host().bus.history(&HistoryFilter::new().limit(10_000));
    events.into_iter().filter(|event| event.target() == Some(plugin)).collect()
}
