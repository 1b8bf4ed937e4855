//! The plugin: what of etcd a host's plugins, operators and other hosts get to see.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use plugin_core::{
    ConfigSource, ConfigSpec, Health, InvalidManifest, Manifest, Plugin, PluginContext, PluginError,
    PluginKind, RoundTrip,
};
use plugin_manager::PluginManager;
use registry::Discovery;

use crate::health::health;
use crate::{Etcd, EtcdConfig, EtcdConfigSource, EtcdDiscovery, routes};

/// The name of the plugin, and of the services that it provides.
pub const ETCD: &str = "etcd";

/// etcd as a plugin of kind `service`.
///
/// Under the name `etcd` it provides the client as [`Etcd`], [`Discovery`], [`ConfigSource`] and
/// [`RoundTrip`]. It starts whether etcd is there or not, and is ready as long as etcd is. A restart mends
/// nothing that it may report, so register it with the restart policy `never`.
pub struct EtcdPlugin {
    manifest: Manifest,
    running: Mutex<Option<Etcd>>,
    /// Whether the next check of its health is that of its start.
    starting: AtomicBool,
    configures: Option<PluginManager>,
}

impl EtcdPlugin {
    /// The plugin under the name `etcd`.
    ///
    /// # Errors
    ///
    /// If this crate's version were no semantic version.
    pub fn new() -> Result<Self, InvalidManifest> {
        let manifest = Manifest::new(ETCD, env!("CARGO_PKG_VERSION"))?
            .description("etcd: keys, watches, leases, locks, discovery and shared configuration")
            .kind(PluginKind::Service)
            .config(Self::config())
            .permission("service:provide:etcd")?
            .permission("route:/etcd")?;
        Ok(Self { manifest, running: Mutex::new(None), starting: AtomicBool::new(true), configures: None })
    }

    /// Has this host's plugins work by the settings that are in etcd: see [`EtcdConfigSource`].
    #[must_use]
    pub fn configures(mut self, manager: PluginManager) -> Self {
        self.configures = Some(manager);
        self
    }

    /// What the section `[plugins.etcd]` may say.
    #[must_use]
    pub fn config() -> ConfigSpec {
        ConfigSpec::checked(EtcdConfig::check)
    }

    fn running(&self) -> MutexGuard<'_, Option<Etcd>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Plugin for EtcdPlugin {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let etcd = Etcd::new(ctx.config()?)?;
        ctx.provide::<Etcd>(ETCD, Arc::new(etcd.clone()))?;
        ctx.provide::<dyn RoundTrip>(ETCD, Arc::new(etcd.clone()))?;
        ctx.provide::<dyn Discovery>(ETCD, Arc::new(EtcdDiscovery::new(etcd.clone())))?;
        ctx.provide::<dyn ConfigSource>(ETCD, Arc::new(EtcdConfigSource::new(etcd.clone())))?;
        routes::register(&ctx, &etcd)?;
        if let Some(manager) = self.configures.clone() {
            let (source, ended) = (EtcdConfigSource::new(etcd.clone()), ctx.cancelled());
            ctx.spawn("settings", async move {
                tokio::select! {
                    () = manager.follow(&source) => {}
                    () = ended.cancelled() => {}
                }
            });
        }
        self.starting.store(true, Ordering::Relaxed);
        *self.running() = Some(etcd);
        Ok(())
    }

    async fn stop(&self, _: PluginContext) -> Result<(), PluginError> {
        *self.running() = None;
        Ok(())
    }

    async fn health(&self) -> Health {
        let Some(etcd) = self.running().clone() else { return Health::not_ready("not started") };
        let outcome = etcd.check().await;
        health(outcome, self.starting.swap(false, Ordering::Relaxed))
    }
}
