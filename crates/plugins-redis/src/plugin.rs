//! Redis as a plugin.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use plugin_core::{
    ConfigSpec, Health, InvalidManifest, Manifest, Plugin, PluginContext, PluginError, PluginKind, RoundTrip,
};

use crate::client::Redis;
use crate::config::RedisConfig;
use crate::routes;

/// The plugin's name, and that of the service that it offers.
pub const REDIS: &str = "redis-cluster";

/// The plugin of kind `service` that offers a [`Redis`] under the name `redis-cluster`.
///
/// A server that is away keeps it from nothing: it runs, is not ready, and becomes ready once the server is
/// there.
pub struct RedisPlugin {
    manifest: Manifest,
    redis: Mutex<Option<Redis>>,
}

impl RedisPlugin {
    /// A plugin that connects where its configuration says.
    ///
    /// # Errors
    ///
    /// If this crate's version were no semantic version.
    pub fn new() -> Result<Self, InvalidManifest> {
        let mut manifest = Manifest::new(REDIS, env!("CARGO_PKG_VERSION"))?
            .description("connects to Redis: a server, a cluster, or a server under sentinels")
            .kind(PluginKind::Service)
            .config(Self::config());
        for permission in ["service:provide:redis-cluster", routes::PREFIX] {
            manifest = manifest.permission(permission)?;
        }
        Ok(Self { manifest, redis: Mutex::default() })
    }

    /// What the section `[plugins.redis-cluster]` may say, for whoever checks it before there is a plugin.
    #[must_use]
    pub fn config() -> ConfigSpec {
        ConfigSpec::checked(RedisConfig::check)
    }

    fn redis(&self) -> Option<Redis> {
        self.redis.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, redis: Option<Redis>) -> Option<Redis> {
        std::mem::replace(&mut *self.redis.lock().unwrap_or_else(PoisonError::into_inner), redis)
    }
}

#[async_trait]
impl Plugin for RedisPlugin {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let config: RedisConfig = ctx.config()?;
        let redis = Redis::connect(&config)?;
        if let Some(left) = self.replace(Some(redis.clone())) {
            left.close().await;
        }
        ctx.provide::<Redis>(REDIS, Arc::new(redis.clone()))?;
        ctx.provide::<dyn RoundTrip>(REDIS, Arc::new(redis.clone()))?;
        routes::register(&ctx, &redis)?;
        // Whoever depends on it need not wait for the next look at its health, if the server is there.
        if let Err(reason) = redis.connected(config.connect_timeout).await {
            tracing::warn!(reason, "redis is away, will try again");
        }
        Ok(())
    }

    async fn stop(&self, _: PluginContext) -> Result<(), PluginError> {
        if let Some(redis) = self.replace(None) {
            redis.close().await;
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        match self.redis() {
            Some(redis) => redis.health().await,
            None => Health::unhealthy("not started"),
        }
    }
}

impl std::fmt::Debug for RedisPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisPlugin").field("redis", &self.redis()).finish_non_exhaustive()
    }
}
