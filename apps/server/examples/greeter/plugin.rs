//! A plugin with one of everything: a service, an endpoint, middleware, a subscription and a task.
//!
//! `docs/guide/first-plugin.md` walks through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use event_bus::{Event, SubscribeOptions, by_ref};
use http::HeaderValue;
use plugin_core::{
    ConfigSpec, Endpoint, InvalidManifest, Manifest, Next, Plugin, PluginContext, PluginError, PluginKind,
    Reply, RouteRequest,
};
use scheduler::{PluginTasks, RunContext, Task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What other plugins can ask this one for: `ctx.service::<dyn Greeter>("greeter")`.
pub trait Greeter: Send + Sync {
    /// A greeting for somebody.
    fn greet(&self, name: &str) -> String;
}

/// The section `[plugins.greeter]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a greeting begins.
    greeting: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { greeting: "hello".to_owned() }
    }
}

struct Polite {
    greeting: String,
}

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        format!("{}, {name}", self.greeting)
    }
}

#[derive(Serialize)]
struct Greeting {
    greeting: String,
}

/// The plugin. It is made once and may be started many times.
pub struct GreeterPlugin {
    manifest: Manifest,
}

impl GreeterPlugin {
    /// The plugin under the name `greeter`.
    pub fn new(version: &str) -> Result<Self, InvalidManifest> {
        let manifest = Manifest::new("greeter", version)?
            .description("says hello, and counts how often")
            .kind(PluginKind::Service)
            .config(ConfigSpec::of::<Config>())
            .depends_on("scheduler", "*")?
            .permission("service:provide:greeter")?
            .permission("route:/greeter")?
            .permission("event:publish:greeter.*")?
            .permission("event:subscribe:greeter.*")?
            .permission("task")?;
        Ok(Self { manifest })
    }
}

#[async_trait]
impl Plugin for GreeterPlugin {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let config: Config = ctx.config()?;
        let greeter: Arc<dyn Greeter> = Arc::new(Polite { greeting: config.greeting });
        let count = Arc::new(AtomicU64::new(0));

        // A service, for other plugins.
        ctx.provide::<dyn Greeter>("greeter", greeter.clone())?;

        // An endpoint, for everybody. It publishes an event for each greeting.
        let publisher = ctx.clone();
        ctx.route(
            Endpoint::get("/greeter/{name}").public().summary("Greets somebody"),
            move |request: RouteRequest| {
                let greeting = greeter.greet(request.param("name").unwrap_or("world"));
                let publisher = publisher.clone();
                async move {
                    let greeting = Greeting { greeting };
                    publisher.publish("greeter.greeted", &greeting).await.map_err(PluginError::from)?;
                    Reply::data(&greeting)
                }
            },
        )?;

        // Middleware, around the routes under `/greeter`, which is what it was granted.
        ctx.middleware(100, |request: RouteRequest, next: Next| async move {
            let mut response = next.run(request).await?;
            response.headers_mut().insert("x-greeter", HeaderValue::from_static("was here"));
            Ok(response)
        })?;

        // A subscription: it counts the events that the endpoint publishes.
        let counter = count.clone();
        let counted = by_ref(move |_: &Event| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        ctx.subscribe("greeter.greeted", SubscribeOptions::new().name("count"), counted)?;

        // A task, and what it runs: `greeter.report`, once a minute.
        ctx.executor("report", move |_: RunContext| {
            let count = count.load(Ordering::Relaxed);
            async move { Ok(serde_json::json!({ "greetings": count })) }
        })?;
        ctx.task(Task::cron("greeter-report", "@every 1m").executor("greeter.report"))?;
        Ok(())
    }
}
