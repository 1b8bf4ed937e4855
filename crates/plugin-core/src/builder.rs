//! Plugins out of closures.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use http::Response;

use crate::{
    Body, ConfigSpec, Dependency, Health, InvalidManifest, Manifest, Next, Permission, Plugin, PluginContext,
    PluginError, PluginKind, Reconfigured, RouteError, RouteRequest, SwapMode,
};

type Step<T> =
    Arc<dyn Fn(PluginContext) -> Pin<Box<dyn Future<Output = Result<T, PluginError>> + Send>> + Send + Sync>;
type End = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), PluginError>> + Send>> + Send + Sync>;
type HealthCheck = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Health> + Send>> + Send + Sync>;

fn step<T, F, Fut>(work: F) -> Step<T>
where
    F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, PluginError>> + Send + 'static,
{
    Arc::new(move |ctx| Box::pin(work(ctx)))
}

/// A plugin that a builder made.
pub struct BuiltPlugin {
    manifest: Manifest,
    initialize: Option<Step<()>>,
    starts: Vec<Step<()>>,
    stop: Option<Step<()>>,
    destroy: Option<End>,
    reconfigure: Option<Step<Reconfigured>>,
    health: Option<HealthCheck>,
}

#[async_trait]
impl Plugin for BuiltPlugin {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn initialize(&self, ctx: PluginContext) -> Result<(), PluginError> {
        match &self.initialize {
            Some(work) => work(ctx).await,
            None => Ok(()),
        }
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        for work in &self.starts {
            work(ctx.clone()).await?;
        }
        Ok(())
    }

    async fn stop(&self, ctx: PluginContext) -> Result<(), PluginError> {
        match &self.stop {
            Some(work) => work(ctx).await,
            None => Ok(()),
        }
    }

    async fn destroy(&self) -> Result<(), PluginError> {
        match &self.destroy {
            Some(work) => work().await,
            None => Ok(()),
        }
    }

    async fn health(&self) -> Health {
        match &self.health {
            Some(check) => check().await,
            None => Health::healthy(),
        }
    }

    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        match &self.reconfigure {
            Some(work) => work(ctx).await,
            None => Ok(Reconfigured::NeedsRestart),
        }
    }
}

/// Builds a plugin out of closures. Each of the closures is optional.
pub struct PluginBuilder {
    plugin: BuiltPlugin,
}

impl PluginBuilder {
    /// A plain plugin.
    ///
    /// # Errors
    ///
    /// If the name or the version is none.
    pub fn new(name: &str, version: &str) -> Result<Self, InvalidManifest> {
        Ok(Self::from_manifest(Manifest::new(name, version)?))
    }

    /// A plugin with a manifest that was made elsewhere.
    #[must_use]
    pub fn from_manifest(manifest: Manifest) -> Self {
        let plugin = BuiltPlugin {
            manifest,
            initialize: None,
            starts: Vec::new(),
            stop: None,
            destroy: None,
            reconfigure: None,
            health: None,
        };
        Self { plugin }
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.plugin.manifest.description = text.into();
        self
    }

    /// Says what kind it is.
    #[must_use]
    pub fn kind(mut self, kind: PluginKind) -> Self {
        self.plugin.manifest.kind = kind;
        self
    }

    /// Adds a dependency that has to be ready, such as `("redis-cluster", "^1.2")`.
    ///
    /// # Errors
    ///
    /// If the name or the requirement is none.
    pub fn depends_on(mut self, name: &str, version: &str) -> Result<Self, InvalidManifest> {
        self.plugin.manifest = self.plugin.manifest.depends_on(name, version)?;
        Ok(self)
    }

    /// Adds a dependency in full.
    #[must_use]
    pub fn dependency(mut self, dependency: Dependency) -> Self {
        self.plugin.manifest.dependencies.push(dependency);
        self
    }

    /// Adds a permission, such as `service:use:redis-cluster`.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn permission(mut self, permission: &str) -> Result<Self, InvalidManifest> {
        self.plugin.manifest.permissions.push(permission.parse()?);
        Ok(self)
    }

    /// Declares the configuration that it takes.
    #[must_use]
    pub fn config(mut self, spec: ConfigSpec) -> Self {
        self.plugin.manifest.config = Some(spec);
        self
    }

    /// Says whether two versions can stand side by side.
    #[must_use]
    pub fn swap(mut self, mode: SwapMode) -> Self {
        self.plugin.manifest.swap = mode;
        self
    }

    /// What [`Plugin::initialize`] does.
    #[must_use]
    pub fn on_initialize<F, Fut>(mut self, work: F) -> Self
    where
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.plugin.initialize = Some(step(work));
        self
    }

    /// What [`Plugin::start`] does. Given twice, both run, in order.
    #[must_use]
    pub fn on_start<F, Fut>(mut self, work: F) -> Self
    where
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.plugin.starts.push(step(work));
        self
    }

    /// What [`Plugin::stop`] does.
    #[must_use]
    pub fn on_stop<F, Fut>(mut self, work: F) -> Self
    where
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.plugin.stop = Some(step(work));
        self
    }

    /// What [`Plugin::destroy`] does.
    #[must_use]
    pub fn on_destroy<F, Fut>(mut self, work: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), PluginError>> + Send + 'static,
    {
        self.plugin.destroy = Some(Arc::new(move || Box::pin(work())));
        self
    }

    /// What [`Plugin::reconfigure`] does.
    #[must_use]
    pub fn on_reconfigure<F, Fut>(mut self, work: F) -> Self
    where
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reconfigured, PluginError>> + Send + 'static,
    {
        self.plugin.reconfigure = Some(step(work));
        self
    }

    /// What [`Plugin::health`] does.
    #[must_use]
    pub fn on_health<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Health> + Send + 'static,
    {
        self.plugin.health = Some(Arc::new(move || Box::pin(check())));
        self
    }

    /// The plugin.
    #[must_use]
    pub fn build(self) -> BuiltPlugin {
        self.plugin
    }
}

/// Builds a plugin of kind `service`: it makes a service at each start and offers it.
pub struct ServicePluginBuilder(PluginBuilder);

impl ServicePluginBuilder {
    /// A plugin that offers nothing yet.
    ///
    /// # Errors
    ///
    /// If the name or the version is none.
    pub fn new(name: &str, version: &str) -> Result<Self, InvalidManifest> {
        Ok(Self(PluginBuilder::new(name, version)?.kind(PluginKind::Service)))
    }

    /// Offers a service under `name`, with the permission for it; `make` is called at each start.
    #[must_use]
    pub fn provide<T, F, Fut>(mut self, name: &str, make: F) -> Self
    where
        T: ?Sized + Send + Sync + 'static,
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Arc<T>, PluginError>> + Send + 'static,
    {
        let name: Arc<str> = name.into();
        self.0.plugin.manifest.permissions.push(Permission::ServiceProvide(name.as_ref().to_owned()));
        let make = Arc::new(make);
        Self(self.0.on_start(move |ctx| {
            let (name, make) = (name.clone(), make.clone());
            async move {
                let service = make(ctx.clone()).await?;
                Ok(ctx.provide(&name, service)?)
            }
        }))
    }

    /// Goes on with what every plugin may have.
    #[must_use]
    pub fn plugin(self) -> PluginBuilder {
        self.0
    }

    /// The plugin.
    #[must_use]
    pub fn build(self) -> BuiltPlugin {
        self.0.build()
    }
}

/// Builds a plugin of kind `middleware`: it wraps plugins' routes.
pub struct MiddlewarePluginBuilder(PluginBuilder);

impl MiddlewarePluginBuilder {
    /// Middleware at a priority; lower is further out.
    ///
    /// # Errors
    ///
    /// If the name or the version is none.
    pub fn new<F, Fut>(
        name: &str,
        version: &str,
        priority: i32,
        middleware: F,
    ) -> Result<Self, InvalidManifest>
    where
        F: Fn(RouteRequest, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Body>, RouteError>> + Send + 'static,
    {
        let mut builder = PluginBuilder::new(name, version)?.kind(PluginKind::Middleware);
        builder.plugin.manifest.permissions.push(Permission::Route(String::new()));
        let middleware = Arc::new(middleware);
        Ok(Self(builder.on_start(move |ctx| {
            let middleware = middleware.clone();
            async move { Ok(ctx.middleware(priority, move |request, next| middleware(request, next))?) }
        })))
    }

    /// Goes on with what every plugin may have.
    #[must_use]
    pub fn plugin(self) -> PluginBuilder {
        self.0
    }

    /// The plugin.
    #[must_use]
    pub fn build(self) -> BuiltPlugin {
        self.0.build()
    }
}

/// Builds a plugin of kind `transport`: it serves in the background until it is stopped.
pub struct TransportPluginBuilder(PluginBuilder);

impl TransportPluginBuilder {
    /// A transport: `open` takes what it needs, such as a socket, and gives the work that serves until
    /// [`PluginContext::cancelled`].
    ///
    /// # Errors
    ///
    /// If the name or the version is none.
    pub fn new<F, Fut, Serve>(name: &str, version: &str, open: F) -> Result<Self, InvalidManifest>
    where
        F: Fn(PluginContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Serve, PluginError>> + Send + 'static,
        Serve: Future<Output = ()> + Send + 'static,
    {
        let builder = PluginBuilder::new(name, version)?.kind(PluginKind::Transport);
        let open = Arc::new(open);
        Ok(Self(builder.on_start(move |ctx| {
            let open = open.clone();
            async move {
                let serve = open(ctx.clone()).await?;
                ctx.spawn("serve", serve);
                Ok(())
            }
        })))
    }

    /// Goes on with what every plugin may have.
    #[must_use]
    pub fn plugin(self) -> PluginBuilder {
        self.0
    }

    /// The plugin.
    #[must_use]
    pub fn build(self) -> BuiltPlugin {
        self.0.build()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn each_closure_is_called_for_its_method() {
        let called = Arc::new(AtomicU32::new(0));
        let counted = called.clone();
        let plugin = PluginBuilder::new("p", "1.0.0")
            .unwrap()
            .on_destroy(move || {
                counted.fetch_add(1, Ordering::SeqCst);
                async { Err(PluginError::new("in use")) }
            })
            .on_health(|| async { Health::not_ready("away") })
            .build();
        assert_eq!(plugin.destroy().await.unwrap_err().to_string(), "in use");
        assert_eq!(called.load(Ordering::SeqCst), 1);
        assert!(!plugin.health().await.ready);
    }
}
