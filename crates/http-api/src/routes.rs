//! The routes of the management API and their OpenAPI document.

mod dead_letters;
mod docs;
mod events;
mod health;
mod host;
mod plugins;
mod task_sets;
mod tasks;
mod tour;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use management::{Problem, ProblemKind};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::dispatch::dispatch;
use crate::envelope::Refusal;
use crate::extract::Ctx;
use crate::openapi;
use crate::shared::Shared;

/// Where tasks are taken in.
pub(crate) const IMPORT: &str = "/scheduler/import";

/// Every route, and the document that describes them.
pub(crate) fn all() -> (Router<Arc<Shared>>, Bytes) {
    let (router, document) = described().split_for_parts();
    let document = openapi::complete(document);
    let document = serde_json::to_vec(&document).unwrap_or_default();
    let router = router
        .route("/docs/docs.js", get(docs::script))
        .route("/docs/style.css", get(docs::style))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method);
    (router, document.into())
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

async fn wrong_method(_: Ctx) -> Response {
    let problem = Problem::new(ProblemKind::MethodNotAllowed, "this path does not take this method");
    Refusal::from(problem).into_response()
}
