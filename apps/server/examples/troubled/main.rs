//! A server whose plugins do wrong in every way: for seeing what the host makes of it, and for its tests.

use std::collections::HashSet;
use std::future::pending;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_bus::{Event, EventId, HandlerError, SubscribeOptions, by_ref};
use plugin_core::{InvalidManifest, PluginBuilder, PluginContext, PluginError};
use plugin_manager::{PluginOptions, RestartConfig, RestartPolicy};

fn plugin(name: &str) -> Result<PluginBuilder, InvalidManifest> {
    Ok(PluginBuilder::new(name, "1.0.0")?.description("does wrong"))
}

#[expect(clippy::panic, reason = "that is what it is for")]
async fn panics(_: PluginContext) -> Result<(), PluginError> {
    panic!("out of luck")
}

async fn fails(_: PluginContext) -> Result<(), PluginError> {
    Err(PluginError::new("no disk"))
}

async fn hangs(_: PluginContext) -> Result<(), PluginError> {
    pending().await
}

async fn blocks(ctx: PluginContext) -> Result<(), PluginError> {
    // Keeps its thread until the process ends, as an endless loop would.
    let (_kept, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let _ = gate.recv_timeout(std::time::Duration::from_secs(3600));
    drop(ctx);
    Ok(())
}

/// Fails on each event the first time that it sees it.
fn needs_two(seen: &Mutex<HashSet<EventId>>, event: &Event) -> Result<(), HandlerError> {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.insert(event.id().clone()) { Err("not at the first attempt".into()) } else { Ok(()) }
}

fn main() -> ExitCode {
    server::run(|host| {
        let restart = |policy| PluginOptions {
            restart: Some(RestartConfig::default().with_policy(policy)),
            ..PluginOptions::default()
        };
        let never = || restart(RestartPolicy::Never);
        host.plugin_with(Arc::new(plugin("panics")?.on_start(panics).build()), never())?;
        host.plugin_with(Arc::new(plugin("fails")?.on_start(fails).build()), never())?;
        host.plugin_with(Arc::new(plugin("hangs")?.on_start(hangs).build()), never())?;
        host.plugin_with(Arc::new(plugin("blocks")?.on_start(blocks).build()), never())?;
        let starts = Arc::new(AtomicU32::new(0));
        let flaky = plugin("flaky")?.on_start(move |_| {
            let start = starts.fetch_add(1, Ordering::SeqCst);
            async move { if start < 2 { Err(PluginError::new("not yet")) } else { Ok(()) } }
        });
        host.plugin_with(Arc::new(flaky.build()), restart(RestartPolicy::OnFailure))?;
        let forgetful =
            plugin("forgetful")?.permission("event:subscribe:custom.order.*")?.on_start(|ctx| async move {
                let seen = Mutex::default();
                let options = SubscribeOptions::new().name("orders").dead_letters();
                ctx.subscribe(
                    "custom.order.*",
                    options,
                    by_ref(move |event: &Event| needs_two(&seen, event)),
                )?;
                Ok(())
            });
        host.plugin(Arc::new(forgetful.build()))
    })
}
