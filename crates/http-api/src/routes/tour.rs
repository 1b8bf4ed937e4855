//! For people: what this is, and how to try it.

use axum::response::Response;
use http::{HeaderMap, header};
use management::{EventFilter, PageRequest};
use scheduler::TaskFilter;
use serde::Serialize;
use serde_json::{Value, json};

use crate::envelope::{Envelope, Refusal};
use crate::extract::Ctx;
use crate::page::Tour;

type Page = Result<Response, Refusal>;

/// How many tasks and events a page shows.
const SHOWN: u64 = 5;

/// What this is.
#[utoipa::path(get, path = "/", tag = "tour", security(()),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn root(ctx: Ctx, headers: HeaderMap) -> Page {
    Tour::new(
        "Gantry",
        "A host that runs plugins, carries events between them, schedules tasks, and is managed over this API.",
    )
    .step("Is it well?", curl(&headers, "/health", ""))
    .step("What runs here?", curl(&headers, "/plugins/status", ""))
    .live(json!({ "product": ctx.management().product(), "health": shown(ctx.management().health(ctx.caller())) }))
    .link("/demo", "Tour")
    .link("/docs", "API reference")
    .link("/health", "Health")
    .link("/metrics", "Metrics")
    .answer(&headers)
}

/// The tour's first stop.
#[utoipa::path(get, path = "/demo", tag = "tour", security(("bearer" = ["plugin.read"])),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn demo(ctx: Ctx, headers: HeaderMap) -> Page {
    stops(Tour::new(
        "A tour of Gantry",
        "Everything that runs here is a plugin: the scheduler, this HTTP transport, and yours. A host gives \
         them a lifecycle, events, services, tasks and routes. Each step below is a command to try.",
    ))
    .step("See what runs, and how it fares", curl(&headers, "/plugins/status", ""))
    .step("See one plugin whole", curl(&headers, "/plugins/scheduler", ""))
    .step("See who needs whom", curl(&headers, "/plugins/graph", ""))
    .step("Follow what happens, live", format!("curl -N {}/events/stream", base(&headers)))
    .live(json!({ "plugins": shown(ctx.management().plugin_statuses(ctx.caller())) }))
    .answer(&headers)
}

/// The tour's stop at tasks.
#[utoipa::path(get, path = "/demo/scheduler", tag = "tour", security(("bearer" = ["task.read"])),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn scheduler(ctx: Ctx, headers: HeaderMap) -> Page {
    let (management, caller) = (ctx.management(), ctx.caller());
    let page = PageRequest::new(Some(SHOWN), None)?;
    let tasks = management.tasks(caller, &TaskFilter::default(), &page).await;
    stops(Tour::new(
        "Tasks",
        "A task names its executor and when to run: by a cron expression, at an interval, or once. Every run \
         leaves a record, so that \"why did it not run?\" has an answer.",
    ))
    .step(
        "Run something every ten seconds, three times",
        curl(
            &headers,
            "/scheduler/tasks",
            r#"{"id": "hello", "schedule": {"type": "interval", "interval": "10s", "max_runs": 3}, "payload": {"message": "hello"}}"#,
        ),
    )
    .step("Look at it", curl(&headers, "/scheduler/tasks/hello", ""))
    .step("Run it now", format!("curl -X POST {}/scheduler/tasks/hello/trigger", base(&headers)))
    .step("See its runs", curl(&headers, "/scheduler/tasks/hello/runs", ""))
    .step(
        "See when a schedule would run",
        curl(
            &headers,
            "/scheduler/preview",
            r#"{"schedule": {"type": "cron", "cron": "0 2 * * MON-FRI", "timezone": "Europe/Berlin"}}"#,
        ),
    )
    .step("Take it away", format!("curl -X DELETE {}/scheduler/tasks/hello", base(&headers)))
    .live(json!({
        "status": shown(management.scheduler_status(caller)),
        "executors": shown(management.executors(caller)),
        "tasks": shown(tasks.map(|page| page.items)),
    }))
    .answer(&headers)
}

/// The tour's stop at configuration.
#[utoipa::path(get, path = "/demo/config", tag = "tour", security(("bearer" = ["config.read"])),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn config(ctx: Ctx, headers: HeaderMap) -> Page {
    let values = ctx.management().config(ctx.caller(), &PageRequest::default());
    stops(Tour::new(
        "Configuration",
        "Values come from defaults, then gantry.toml, then what an operator set over this API, then the \
         environment, then flags; the later prevails. Each value knows where it came from, and secrets are masked.",
    ))
    .step("See every value and its origin", curl(&headers, "/config", ""))
    .step("See one plugin's", curl(&headers, "/plugins/http/config", ""))
    .step("Set a value from outside", "HTTP_PORT=9090 GANTRY__SCHEDULER__MAX_CONCURRENT_TASKS=32 gantry-server")
    .live(json!({ "values": shown(values.map(|page| page.items)) }))
    .answer(&headers)
}

/// The tour's stop at plugin types.
#[utoipa::path(get, path = "/demo/factory", tag = "tour", security(("bearer" = ["plugin.read"])),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn factory(ctx: Ctx, headers: HeaderMap) -> Page {
    stops(Tour::new(
        "Plugin types",
        "A host makes plugins of the types it knows, while it runs. A type may stand there in several \
         versions, and a running plugin is swapped to another without a request failing.",
    ))
    .step("See the types, with the schema of each configuration", curl(&headers, "/plugins/types", ""))
    .step(
        "Make a plugin of a type",
        curl(&headers, "/plugins/load", r#"{"type": "greeter", "version": "1.0.0"}"#),
    )
    .step("Swap it to another version", curl(&headers, "/plugins/greeter/swap", r#"{"version": "^1.1"}"#))
    .step("Unload it", format!("curl -X DELETE {}/plugins/greeter", base(&headers)))
    .live(json!({ "types": shown(ctx.management().plugin_types(ctx.caller())) }))
    .answer(&headers)
}

/// The tour's stop at events.
#[utoipa::path(get, path = "/demo/events", tag = "tour", security(("bearer" = ["event.read"])),
    responses((status = 200, description = "A page, in HTML for a browser.", content(
        (Envelope<Tour> = "application/json"), (String = "text/html")))))]
pub(crate) async fn events(ctx: Ctx, headers: HeaderMap) -> Page {
    let (management, caller) = (ctx.management(), ctx.caller());
    let page = PageRequest::new(Some(SHOWN), None)?;
    let events = management.recent_events(caller, &EventFilter::default(), &page);
    stops(Tour::new(
        "Events",
        "An event is a fact with a topic. Who subscribes to a pattern gets it: * is one segment, ** is any \
         number. A slow or failing subscriber harms nobody else.",
    ))
    .step("Follow all events", format!("curl -N {}/events/stream", base(&headers)))
    .step("Follow the scheduler's", format!("curl -N '{}/events/stream?type=scheduler.**'", base(&headers)))
    .step("Publish a test event", format!("curl -X POST {}/plugins/events/test", base(&headers)))
    .step(
        "Publish one of your own",
        curl(&headers, "/events", r#"{"type": "custom.greeting", "data": {"hello": "world"}}"#),
    )
    .step("See the events of late", curl(&headers, "/plugins/events?type=custom.*", ""))
    .live(json!({
        "events": shown(events.map(|page| page.items)),
        "subscriptions": shown(management.subscriptions(caller, &page).map(|page| page.items)),
    }))
    .answer(&headers)
}

fn stops(tour: Tour) -> Tour {
    tour.link("/", "Home")
        .link("/demo", "Plugins")
        .link("/demo/scheduler", "Tasks")
        .link("/demo/events", "Events")
        .link("/demo/config", "Configuration")
        .link("/demo/factory", "Types")
        .link("/docs", "API reference")
}

/// What the page shows of an operation: its answer, or why there is none.
fn shown<T: Serialize>(outcome: Result<T, management::Problem>) -> Value {
    match outcome {
        Ok(value) => serde_json::to_value(value).unwrap_or_default(),
        Err(problem) => json!({ "unavailable": problem.message }),
    }
}

/// Where the reader reached this host.
fn base(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost:8080");
    format!("http://{host}")
}

/// A request to type in: `GET`, or `POST` where there is a body.
fn curl(headers: &HeaderMap, path: &str, body: &str) -> String {
    let base = base(headers);
    if body.is_empty() {
        return if path.contains('?') {
            format!("curl '{base}{path}'")
        } else {
            format!("curl {base}{path}")
        };
    }
    format!("curl -X POST {base}{path} \\\n  -H 'content-type: application/json' \\\n  -d '{body}'")
}
