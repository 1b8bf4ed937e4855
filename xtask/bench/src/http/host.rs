//! A host with the HTTP transport, the scheduler, and one plugin that has a route.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use event_bus::EventBus;
use http_api::HttpPlugin;
use management::Management;
use plugin_core::{Endpoint, Layer, PluginBuilder, Reply, RouteRequest, Settings};
use plugin_manager::{PluginManager, PluginOptions};
use scheduler::{Scheduler, SchedulerPlugin};
use serde_json::json;
use telemetry::Telemetry;
use tokio::runtime::{Builder, Handle};

/// The plugin's route.
pub(super) const ROUTE: &str = "/greeter/hello";

/// Runs the host until the process is ended, after it said where it listens. It is put together like the server:
/// connections on this runtime and plugins' code on another with as many threads, metrics recorded, logs from
/// `info` on, written to nowhere.
pub(super) async fn serve(threads: usize) -> anyhow::Result<()> {
    let plugins = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let telemetry = Telemetry::builder().log_writer(std::io::sink).install()?;
    let bus = EventBus::builder().build();
    let scheduler = Scheduler::builder().bus(bus.clone()).runs_on(plugins.handle().clone()).build().await?;
    let mut settings = Settings::new();
    let values = json!({ "plugins": { "http": { "host": "127.0.0.1", "port": 0 } } });
    settings.set_layer(Layer::File, "bench", values.as_object().cloned().unwrap_or_default());
    let manager =
        PluginManager::builder(bus.clone()).settings(settings).runtime(plugins.handle().clone()).build();
    let management = Management::builder()
        .bus(bus)
        .scheduler(scheduler.clone())
        .manager(manager.clone())
        .metrics(telemetry.metrics().clone())
        .build();
    let http = Arc::new(HttpPlugin::new(management).plugins(plugins.handle().clone()));
    let mut address = http.address();
    let greeter = PluginBuilder::new("greeter", "1.0.0")?
        .permission("route:/greeter")?
        .on_start(|ctx| async move {
            ctx.route(Endpoint::get(ROUTE), |_: RouteRequest| async {
                Ok(Reply::text("hello from a plugin"))
            })?;
            Ok(())
        })
        .build();
    let own = || PluginOptions { runtime: Some(Handle::current()), ..PluginOptions::default() };
    manager.register(Arc::new(SchedulerPlugin::new(scheduler)?), own())?;
    manager.register(Arc::new(greeter), PluginOptions::default())?;
    manager.register(http, own())?;
    let report = manager.start_all().await?;
    ensure!(
        report.failed.is_empty() && report.waiting.is_empty(),
        "{:?} {:?}",
        report.failed,
        report.waiting
    );

    let listening = tokio::time::timeout(Duration::from_secs(10), address.wait_for(Option::is_some)).await;
    let address = *listening.context("the host listens nowhere")??;
    let mut out = std::io::stdout();
    writeln!(out, "{}", address.context("the host listens nowhere")?).and_then(|()| out.flush())?;
    std::future::pending().await
}
