//! A host with everything behind it, in memory.

use std::sync::Arc;
use std::time::Duration;

use event_bus::EventBus;
use http_api::{Api, HttpConfig, HttpPlugin};
use management::Management;
use plugin_core::{Endpoint, Layer, PluginBuilder, PluginError, RouteRequest, Settings};
use plugin_manager::{PluginManager, PluginOptions};
use registry::PluginFactory;
use scheduler::{Scheduler, SchedulerPlugin};
use serde_json::json;

/// The parts of a host, to be looked at from behind.
pub(crate) struct Host {
    pub(crate) api: Api,
    pub(crate) bus: EventBus,
    pub(crate) scheduler: Scheduler,
    pub(crate) manager: PluginManager,
    pub(crate) management: Management,
    pub(crate) http: Arc<HttpPlugin>,
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
#[serde(default)]
struct GreeterConfig {
    greeting: String,
    key: plugin_core::Secret,
}

impl Default for GreeterConfig {
    fn default() -> Self {
        Self { greeting: "hello".to_owned(), key: plugin_core::Secret::new("") }
    }
}

fn greeter(version: &'static str) -> plugin_core::BuiltPlugin {
    PluginBuilder::new("greeter", version)
        .unwrap()
        .description("greets")
        .depends_on("scheduler", "*")
        .unwrap()
        .permission("route:/greeter")
        .unwrap()
        .config(plugin_core::ConfigSpec::checked(|config: &GreeterConfig| {
            if config.greeting.len() > 20 {
                return Err(plugin_core::ConfigError::invalid("greeting", "longer than 20 characters"));
            }
            Ok(())
        }))
        .on_start(move |ctx| async move {
            let config: GreeterConfig = ctx.config()?;
            if config.greeting == "crash" {
                return Err(PluginError::new("will not say that"));
            }
            ctx.route(Endpoint::get("/greeter"), move |_: RouteRequest| {
                let text = format!("{} from {version}", config.greeting);
                async move { Ok(text) }
            })?;
            Ok(())
        })
        .build()
}

pub(crate) async fn host() -> Host {
    host_with(HttpConfig::default()).await
}

/// A host with the plugins `scheduler`, `http` (on a free port, not started), `greeter` and `broken`.
pub(crate) async fn host_with(config: HttpConfig) -> Host {
    let bus = EventBus::builder().history(1000).build();
    let scheduler = Scheduler::builder().bus(bus.clone()).node("one").build().await.unwrap();
    let factory = PluginFactory::new();
    factory.add("greeter", || greeter("1.0.0")).unwrap();
    factory.add("greeter", || greeter("2.0.0")).unwrap();
    let mut settings = Settings::new();
    let values = json!({"plugins": {"greeter": {"greeting": "hi", "key": "hunter2"}, "http": {"port": 0}}, "admin": {"password": "hunter3"}});
    let serde_json::Value::Object(values) = values else { unreachable!() };
    settings.set_layer(Layer::File, "gantry.toml", values);
    let manager = PluginManager::builder(bus.clone()).factory(factory).settings(settings).build();
    let metrics = telemetry::Metrics::builder().build();
    let management = Management::builder()
        .node("one")
        .bus(bus.clone())
        .scheduler(scheduler.clone())
        .manager(manager.clone())
        .metrics(metrics)
        .build();
    let http = Arc::new(HttpPlugin::new(management.clone()));
    let broken = PluginBuilder::new("broken", "0.1.0")
        .unwrap()
        .on_start(|_| async { Err(PluginError::new("on purpose")) })
        .build();
    let manual = || PluginOptions { manual: true, ..PluginOptions::default() };
    manager
        .register(Arc::new(SchedulerPlugin::new(scheduler.clone()).unwrap()), PluginOptions::default())
        .unwrap();
    manager.register(http.clone(), manual()).unwrap();
    manager.register(Arc::new(broken), manual()).unwrap();
    manager
        .load(plugin_manager::LoadRequest {
            version: Some("^1".parse().unwrap()),
            ..plugin_manager::LoadRequest::new("greeter")
        })
        .await
        .unwrap();
    manager.start_all().await.unwrap();
    assert!(manager.wait_ready(&["scheduler", "greeter"], Duration::from_secs(10)).await);
    Host { api: Api::new(management.clone(), config), bus, scheduler, manager, management, http }
}
