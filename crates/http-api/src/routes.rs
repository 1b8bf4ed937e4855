//! The routes of the management API and their OpenAPI document.

mod access;
mod dead_letters;
mod docs;
mod events;
mod health;
mod host;
mod plugins;
mod task_sets;
mod tasks;
mod tour;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Method;
use management::Problem;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::direct::Direct;
use crate::dispatch::{dispatch, other_method};
use crate::envelope::Refusal;
use crate::extract::Ctx;
use crate::openapi;
use crate::shared::Shared;

/// Where tasks are taken in.
pub(crate) const IMPORT: &str = "/scheduler/import";

/// Every route, and the document that describes them.
pub(crate) fn all() -> (Router<Arc<Shared>>, Value) {
    let (router, document) = described().split_for_parts();
    let document = openapi::complete(document);
    let router = router
        .route("/docs/docs.js", get(docs::script))
        .route("/docs/style.css", get(docs::style))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method);
    (router, document)
}

/// The handlers of `GET` that can be called without the router, by their documented path.
pub(crate) fn direct() -> HashMap<&'static str, Direct> {
    HashMap::from([
        ("/access/me", Direct::to(access::me)),
        ("/access/tokens", Direct::to(access::tokens)),
        ("/access/tokens/{id}", Direct::to(access::token)),
        ("/audit", Direct::to(host::audit)),
        ("/cluster", Direct::to(host::cluster)),
        ("/config", Direct::to(host::config)),
        ("/events/dead-letters", Direct::to(dead_letters::list)),
        ("/events/dead-letters/{id}", Direct::to(dead_letters::get)),
        ("/events/subscriptions", Direct::to(events::subscriptions)),
        ("/health", Direct::to(health::detail)),
        ("/health/live", Direct::to(health::live)),
        ("/health/ready", Direct::to(health::ready)),
        ("/plugins", Direct::to(plugins::list)),
        ("/plugins/events", Direct::to(events::recent)),
        ("/plugins/graph", Direct::to(plugins::graph)),
        ("/plugins/status", Direct::to(plugins::statuses)),
        ("/plugins/types", Direct::to(plugins::types)),
        ("/plugins/{name}", Direct::to(plugins::get)),
        ("/plugins/{name}/config", Direct::to(plugins::config)),
        ("/scheduler/executors", Direct::to(tasks::executors)),
        ("/scheduler/graph", Direct::to(tasks::graph)),
        ("/scheduler/runs/{run}", Direct::to(tasks::run)),
        ("/scheduler/status", Direct::to(tasks::status)),
        ("/scheduler/tasks", Direct::to(tasks::list)),
        ("/scheduler/tasks/status/{status}", Direct::to(tasks::list_by_status)),
        ("/scheduler/tasks/{id}", Direct::to(tasks::get)),
        ("/scheduler/tasks/{id}/runs", Direct::to(tasks::runs)),
        ("/services", Direct::to(host::services)),
        ("/services/{name}", Direct::to(host::service)),
    ])
}

fn described() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::detail))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::statuses))
        .routes(routes!(plugins::graph))
        .routes(routes!(plugins::types))
        .routes(routes!(plugins::load))
        .routes(routes!(plugins::get, plugins::unload))
        .routes(routes!(plugins::initialize))
        .routes(routes!(plugins::start))
        .routes(routes!(plugins::stop))
        .routes(routes!(plugins::restart))
        .routes(routes!(plugins::config, plugins::set_config))
        .routes(routes!(plugins::swap))
        .routes(routes!(tour::root))
        .routes(routes!(tour::demo))
        .routes(routes!(tour::scheduler))
        .routes(routes!(tour::config))
        .routes(routes!(tour::factory))
        .routes(routes!(tour::events))
        .routes(routes!(access::me))
        .routes(routes!(access::tokens, access::create))
        .routes(routes!(access::token, access::revoke))
        .routes(routes!(host::metrics))
        .routes(routes!(host::audit))
        .routes(routes!(host::config))
        .routes(routes!(host::services))
        .routes(routes!(host::service))
        .routes(routes!(host::test_service))
        .routes(routes!(host::cluster))
        .routes(routes!(docs::page))
        .routes(routes!(openapi::serve))
        .routes(routes!(events::recent))
        .routes(routes!(events::test))
        .routes(routes!(events::publish))
        .routes(routes!(events::subscriptions))
        .routes(routes!(events::follow))
        .routes(routes!(events::socket))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::redrive_many))
        .routes(routes!(dead_letters::discard_many))
        .routes(routes!(dead_letters::get))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(tasks::list, tasks::create))
        .routes(routes!(tasks::list_by_status))
        .routes(routes!(tasks::get, tasks::replace, tasks::remove))
        .routes(routes!(tasks::pause))
        .routes(routes!(tasks::resume))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::trigger))
        .routes(routes!(tasks::runs))
        .routes(routes!(tasks::run))
        .routes(routes!(tasks::status))
        .routes(routes!(tasks::preview))
        .routes(routes!(tasks::executors))
        .routes(routes!(tasks::graph))
        .routes(routes!(tasks::backfill))
        .routes(routes!(tasks::why))
        .routes(routes!(tasks::all_runs))
        .routes(routes!(task_sets::bulk))
        .routes(routes!(task_sets::export))
        .routes(routes!(task_sets::import))
}

/// What is no route of the management API may be one of a plugin's.
async fn unknown(ctx: Ctx, request: Request) -> Response {
    if ctx.caller().dry_run {
        let problem = Problem::invalid("dry_run", "is not offered by the routes of plugins");
        return Refusal::from(problem).into_response();
    }
    let (parts, body) = request.into_parts();
    match dispatch(&ctx.shared, parts, body, &ctx.scope).await {
        Ok(response) => response.map(Body::new),
        Err(refusal) => refusal.into_response(),
    }
}

async fn wrong_method(_: Ctx, method: Method) -> Response {
    other_method(&method).map(Body::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;

    #[test]
    fn every_documented_path_is_found_as_itself() {
        let (_, document) = all();
        let paths = Paths::of(&document, direct());
        for template in document["paths"].as_object().unwrap().keys() {
            let path = template.replace(['{', '}', '*'], "");
            let found = paths.find(&path).unwrap_or_else(|| panic!("{template} cannot be looked up"));
            assert_eq!(found.path.template, *template);
        }
        assert!(paths.find("/scheduler/tasks/a/b").is_none());
        assert_eq!(paths.find("/scheduler/tasks/a%20b/runs").unwrap().param, "a%20b");
    }

    #[test]
    fn what_is_answered_without_the_router_is_a_documented_get() {
        let (_, document) = all();
        for template in direct().keys() {
            assert!(document["paths"][template]["get"].is_object(), "{template}");
        }
    }
}
