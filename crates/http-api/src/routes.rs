//! The routes of the management API and their OpenAPI document.

mod health;
mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use management::{Problem, ProblemKind};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::envelope::Refusal;
use crate::extract::Ctx;
use crate::openapi;
use crate::shared::Shared;

/// Every route, and the document that describes them.
pub(crate) fn all() -> (Router<Arc<Shared>>, Bytes) {
    let (router, document) = described().split_for_parts();
    let document = openapi::complete(document);
    let document = serde_json::to_vec(&document).unwrap_or_default();
    let router = router
        .route("/openapi.json", axum::routing::get(openapi::serve))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method);
    (router, document.into())
}

fn described() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(health::live))
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
}

async fn unknown(_: Ctx) -> Response {
    Refusal(Problem::new(ProblemKind::NotFound, "no such route")).into_response()
}

async fn wrong_method(_: Ctx) -> Response {
    Refusal(Problem::new(ProblemKind::MethodNotAllowed, "this path does not take this method"))
        .into_response()
}
