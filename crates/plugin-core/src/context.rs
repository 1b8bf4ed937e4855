//! What a plugin works through.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use event_bus::{
    Event, EventBus, EventHandler, Pattern, SubscribeOptions, SubscriptionSpec, Topic, TraceContext,
};
use http::{Method, Response};
use runtime::{CancellationToken, SharedClock};
use semver::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::route::{GrantedMiddleware, MiddlewareEntry, MiddlewareFn};
use crate::scope::{Phase, ScopeInner, ScopeState};
use crate::service::Service;
use crate::{
    Body, ConfigError, Endpoint, HostListener, ListenError, Middleware, Next, PluginKind, PluginName,
    RegisterError, Registration, Route, RouteError, RouteHandler, RouteRequest, ServiceError, ServiceHandle,
    ServiceKey, decode,
};

/// Topics that only the host publishes.
const HOST_TOPICS: [&str; 3] = ["plugin", "system", "scheduler"];

/// What a plugin works through: configuration, services, events, routes and background work.
///
/// Made anew for each incarnation and closed when it stops; what was registered through it is withdrawn
/// then. A clone is cheap and is the same context.
#[derive(Clone)]
pub struct PluginContext {
    inner: Arc<ScopeInner>,
    config: Arc<ArcSwap<Value>>,
    deadline: Option<Instant>,
}

impl PluginContext {
    pub(crate) fn new(inner: Arc<ScopeInner>, config: Arc<ArcSwap<Value>>) -> Self {
        Self { inner, config, deadline: None }
    }

    /// The same for a call that is waited for until `deadline`.
    pub(crate) fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        self.inner.slot.name()
    }

    /// The plugin's version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.inner.manifest.version
    }

    /// The number of this incarnation; it grows with each start in the host.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }

    /// The host's clock.
    #[must_use]
    pub fn clock(&self) -> SharedClock {
        self.inner.host.clock.clone()
    }

    /// How much is left of the time that the host gives the lifecycle method that this context was passed
    /// to: a `stop` that has something to wait for shares it out. Nothing where the method has no deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The plugin's configuration, decoded. An absent section is an empty table.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the path of a key that is unknown or whose value is wrong.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        decode(&self.config.load()).map_err(|error| error.under(&format!("plugins.{}", self.name())))
    }

    /// Offers a service to other plugins, under a name and its type.
    ///
    /// # Errors
    ///
    /// Without `service:provide:NAME`, outside `start`, or if this plugin offers the same already. Another
    /// plugin's service of the same name and type makes the start fail.
    pub fn provide<T: ?Sized + Send + Sync + 'static>(
        &self,
        name: &str,
        service: Arc<T>,
    ) -> Result<(), RegisterError> {
        if !self.inner.permissions.may_provide(name) {
            return Err(RegisterError::NotPermitted(format!("service:provide:{name}")));
        }
        let what = || format!("service {name}");
        let mut state = self.staging(what)?;
        let key = ServiceKey::of::<T>(name);
        if state.services.contains_key(&key) {
            return Err(RegisterError::Duplicate { what: what(), by: None });
        }
        state.services.insert(key, Service::new(service));
        Ok(())
    }

    /// A handle to a service of another plugin. It follows that plugin's restarts and swaps.
    ///
    /// # Errors
    ///
    /// Without `service:use:NAME`, or if nobody offers the service: a plugin that needs one declares a
    /// dependency on its provider, and is started after it.
    pub fn service<T: ?Sized + Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> Result<ServiceHandle<T>, ServiceError> {
        if !self.inner.permissions.may_use(name) {
            return Err(ServiceError::NotPermitted(format!("service:use:{name}")));
        }
        self.find_service(name)
    }

    /// The same for the extension traits of other crates, which check a permission of their own.
    ///
    /// # Errors
    ///
    /// If nobody offers the service.
    pub fn find_service<T: ?Sized + Send + Sync + 'static>(
        &self,
        name: &str,
    ) -> Result<ServiceHandle<T>, ServiceError> {
        let key = ServiceKey::of::<T>(name);
        let absent = || ServiceError::Absent { name: name.to_owned(), type_name: key.type_name() };
        let slot = self.inner.host.directory.find(&key).ok_or_else(absent)?;
        Ok(ServiceHandle::new(slot, key, self.name().clone()))
    }

    /// Serves requests at an endpoint.
    ///
    /// # Errors
    ///
    /// Without `route:PREFIX`, outside `start`, for a path that cannot be, or if this plugin serves it
    /// already. Another plugin's route of the same method and path makes the start fail.
    pub fn route(&self, endpoint: Endpoint, handler: impl RouteHandler) -> Result<(), RegisterError> {
        if !self.inner.permissions.may_route(endpoint.path()) {
            return Err(RegisterError::NotPermitted(format!("route:{}", endpoint.path())));
        }
        if let Some(fault) = endpoint.fault() {
            let field = endpoint.path().chars().take(120).collect();
            return Err(RegisterError::Invalid { field, detail: fault.to_owned() });
        }
        if endpoint.method() == Method::CONNECT {
            let detail = "CONNECT is not for routes".to_owned();
            return Err(RegisterError::Invalid { field: endpoint.to_string(), detail });
        }
        let mut state = self.staging(|| format!("route {endpoint}"))?;
        if !state.route_keys.insert(endpoint.to_string()) {
            return Err(RegisterError::Duplicate { what: format!("route {endpoint}"), by: None });
        }
        state.routes.push(Arc::new(Route { endpoint, handler: Arc::new(handler) }));
        Ok(())
    }

    /// Wraps routes, after authentication: those of all plugins whose path is under a prefix that this plugin
    /// was granted, so that `route:/` wraps all of them. Lower priority is further out; of equal ones the
    /// plugin whose name sorts first.
    ///
    /// # Errors
    ///
    /// Without any `route:` permission, or outside `start`.
    pub fn middleware<F, Fut>(&self, priority: i32, middleware: F) -> Result<(), RegisterError>
    where
        F: Fn(RouteRequest, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Body>, RouteError>> + Send + 'static,
    {
        self.middleware_object(priority, Arc::new(MiddlewareFn(middleware)))
    }

    /// The same for middleware that is a type.
    ///
    /// # Errors
    ///
    /// As for [`middleware`](PluginContext::middleware).
    pub fn middleware_object(
        &self,
        priority: i32,
        middleware: Arc<dyn Middleware>,
    ) -> Result<(), RegisterError> {
        let permissions = &self.inner.permissions;
        if !permissions.may_route_anything() {
            return Err(RegisterError::NotPermitted("route:PREFIX".to_owned()));
        }
        let middleware = if permissions.may_route("/") {
            middleware
        } else {
            Arc::new(GrantedMiddleware { permissions: permissions.clone(), middleware })
        };
        let mut state = self.staging(|| "middleware".to_owned())?;
        state.middleware.push(MiddlewareEntry { priority, middleware });
        Ok(())
    }

    /// Has `handler` called for each event whose topic `pattern` takes in.
    ///
    /// During `start` it is staged; later it is in force at once.
    ///
    /// # Errors
    ///
    /// Without `event:subscribe:PATTERN` for at least this pattern, before `start` or after the stop, or for
    /// a pattern or options that the bus refuses.
    pub fn subscribe(
        &self,
        pattern: &str,
        options: SubscribeOptions,
        handler: impl EventHandler,
    ) -> Result<(), RegisterError> {
        let parsed = Pattern::new(pattern).map_err(|error| RegisterError::Invalid {
            field: pattern.to_owned(),
            detail: error.to_string(),
        })?;
        if !self.inner.permissions.may_subscribe(&parsed) {
            return Err(RegisterError::NotPermitted(format!("event:subscribe:{pattern}")));
        }
        let options = options.owner(self.name().as_str());
        options.check().map_err(|error| RegisterError::Invalid {
            field: format!("subscription {pattern}"),
            detail: error.to_string(),
        })?;
        let spec = SubscriptionSpec::new(parsed, options, handler);
        let mut state = self.inner.state();
        match state.phase {
            Phase::Opening => Err(not_starting(format!("subscription {pattern}"))),
            Phase::Closed => Err(RegisterError::Closed),
            Phase::Starting | Phase::Publishing => {
                state.staged_subscriptions.push(spec);
                Ok(())
            }
            Phase::Published => self.inner.subscribe_now(&mut state, spec),
        }
    }

    /// Publishes an event of this plugin, with a payload that is JSON, in the trace of the caller's work.
    ///
    /// # Errors
    ///
    /// Without `event:publish:PATTERN`, for a topic of the host's, or if the bus refuses the event.
    pub async fn publish<T: Serialize + ?Sized>(&self, topic: &str, data: &T) -> Result<(), RegisterError> {
        let invalid =
            |detail: String| RegisterError::Invalid { field: topic.chars().take(120).collect(), detail };
        let parsed = Topic::new(topic).map_err(|error| invalid(error.to_string()))?;
        let data = serde_json::to_value(data).map_err(|error| invalid(error.to_string()))?;
        let event = Event::builder(parsed)
            .source(self.name().as_str())
            .data(data)
            .trace(TraceContext::current())
            .build(&*self.inner.host.clock)
            .map_err(|error| invalid(error.to_string()))?;
        self.publish_event(event).await
    }

    /// Publishes an event that the plugin has built itself.
    ///
    /// # Errors
    ///
    /// As for [`publish`](PluginContext::publish).
    pub async fn publish_event(&self, event: Event) -> Result<(), RegisterError> {
        let topic = event.topic();
        let host_only = HOST_TOPICS.contains(&topic.as_str().split('.').next().unwrap_or_default());
        if host_only || !self.inner.permissions.may_publish(topic) {
            return Err(RegisterError::NotPermitted(format!("event:publish:{topic}")));
        }
        match self.inner.host.bus.publish(event).await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(RegisterError::Invalid { field: "event".to_owned(), detail: error.to_string() })
            }
        }
    }

    /// Runs work in the background until it ends or the plugin stops. Work that goes on for long watches
    /// [`cancelled`](PluginContext::cancelled); what does not end within the stop's deadline is cut off at
    /// its next await.
    pub fn spawn<F>(&self, name: &str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.inner.tasks.spawn(name, work);
    }

    /// Signalled when the plugin is to end.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.inner.tasks.token()
    }

    /// Keeps something until the plugin has stopped, and drops it then, the last one given first.
    ///
    /// After the stop it is dropped at once.
    pub fn own(&self, guard: impl Any + Send) {
        let mut state = self.inner.state();
        if state.phase == Phase::Closed {
            drop(state);
            drop(guard);
        } else {
            state.owned.push(Box::new(guard));
        }
    }

    /// Registers what belongs to a higher crate: for the extension traits of such crates, not for plugins.
    ///
    /// # Errors
    ///
    /// Outside `start`.
    pub fn register(&self, registration: impl Registration) -> Result<(), RegisterError> {
        let mut state = self.staging(|| registration.describe())?;
        state.registrations.push(Box::new(registration));
        Ok(())
    }

    /// Whether the plugin may register executors and tasks; for the scheduler's extension trait.
    ///
    /// # Errors
    ///
    /// [`RegisterError::NotPermitted`] without the permission `task`.
    pub fn require_task_permission(&self) -> Result<(), RegisterError> {
        if self.inner.permissions.may_schedule() {
            Ok(())
        } else {
            Err(RegisterError::NotPermitted("task".to_owned()))
        }
    }

    /// A listening socket of the host's for this transport plugin. A swap's new version gets the same one.
    /// What is opened in a start or a swap that fails is closed again.
    ///
    /// # Errors
    ///
    /// If the address is in use or not to be had, or this is no transport plugin.
    pub async fn listen(&self, name: &str, address: SocketAddr) -> Result<HostListener, ListenError> {
        if self.inner.manifest.kind != PluginKind::Transport {
            let reason = "only a plugin of kind `transport` listens";
            let source = std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason);
            return Err(ListenError { address, source });
        }
        let listeners = &self.inner.host.listeners;
        let (listener, replaced) = listeners.open(self.name(), name, address).await?;
        if let Some(replaced) = replaced {
            let mut state = self.inner.state();
            match state.phase {
                // The one before is closed once nobody accepts from it.
                Phase::Published => {}
                // It may not come to serve there.
                Phase::Opening | Phase::Starting | Phase::Publishing => state.replaced.push(replaced),
                Phase::Closed => listeners.put_back(replaced),
            }
        }
        Ok(listener)
    }

    /// The host's event bus: for extension traits and transports of the host itself, past the permissions
    /// that [`publish`](PluginContext::publish) checks.
    ///
    /// # Errors
    ///
    /// [`RegisterError::NotPermitted`] unless the plugin may subscribe to everything and publish everything.
    pub fn bus(&self) -> Result<EventBus, RegisterError> {
        let everything = Pattern::new("**")
            .map_err(|error| RegisterError::Invalid { field: "**".to_owned(), detail: error.to_string() })?;
        let permissions = &self.inner.permissions;
        if !permissions.may_subscribe(&everything) {
            return Err(RegisterError::NotPermitted("event:subscribe:**".to_owned()));
        }
        if !permissions.may_publish_all(&everything) {
            return Err(RegisterError::NotPermitted("event:publish:**".to_owned()));
        }
        Ok(self.inner.host.bus.clone())
    }

    fn staging(
        &self,
        what: impl Fn() -> String,
    ) -> Result<std::sync::MutexGuard<'_, ScopeState>, RegisterError> {
        let state = self.inner.state();
        match state.phase {
            Phase::Starting => Ok(state),
            Phase::Opening | Phase::Publishing | Phase::Published => Err(not_starting(what())),
            Phase::Closed => Err(RegisterError::Closed),
        }
    }
}

fn not_starting(what: String) -> RegisterError {
    RegisterError::NotStarting { what }
}

impl fmt::Debug for PluginContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginContext")
            .field("plugin", self.name())
            .field("incarnation", &self.inner.incarnation)
            .finish_non_exhaustive()
    }
}
