//! One trace over four steps: a request announces an order, whoever hears of it makes a task, and the task calls
//! another program. `docs/guide/telemetry.md` looks at that trace; a test does, too.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use event_bus::{Event, HandlerError, SubscribeOptions};
use plugin_core::{BoxError, Endpoint, Plugin, PluginBuilder, Reply, RouteRequest, ServiceHandle};
use scheduler::{Scheduler, Task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    /// Whom to tell: a URL.
    notify: String,
}

/// Has the scheduler call whoever is to be told, at once and again if need be.
async fn notify(scheduler: &ServiceHandle<Scheduler>, event: &Event) -> Result<(), BoxError> {
    let order = Order::deserialize(event.data())?;
    let call = json!({ "url": order.notify, "body": { "order": order.id } });
    let task = Task::once(format!("notify-{}", order.id), Duration::ZERO).executor("http").payload(call);
    scheduler.get()?.create(task).await?;
    Ok(())
}

fn orders() -> Result<impl Plugin, BoxError> {
    let plugin = PluginBuilder::new("orders", "1.0.0")?
        .description("takes orders, and tells the warehouse of them")
        .depends_on("scheduler", "*")?
        .permission("route:/orders")?
        .permission("event:publish:orders.*")?
        .permission("event:subscribe:orders.*")?
        .permission("service:use:scheduler")?;
    Ok(plugin
        .on_start(|ctx| async move {
            let publisher = ctx.clone();
            ctx.route(Endpoint::post("/orders"), move |request: RouteRequest| {
                let ctx = publisher.clone();
                async move {
                    let order: Order = request.json().await?;
                    info!(order = order.id, "order received");
                    ctx.publish("orders.received", &order).await?;
                    Reply::json(&order)
                }
            })?;
            let scheduler = ctx.service::<Scheduler>("scheduler")?;
            ctx.subscribe(
                "orders.received",
                SubscribeOptions::new().name("warehouse"),
                move |event: Event| {
                    let scheduler = scheduler.clone();
                    async move { notify(&scheduler, &event).await.map_err(HandlerError::new) }
                },
            )?;
            Ok(())
        })
        .build())
}

fn main() -> ExitCode {
    server::run(|host| host.plugin(Arc::new(orders()?)))
}
