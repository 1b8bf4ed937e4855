//! The OpenAPI document: made from the handlers, completed with what they have in common.

use axum::response::{IntoResponse, Response};
use http::header;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use crate::envelope::{JSON, NO_STORE};
use crate::extract::Ctx;

/// The document before the routes are in it.
pub(crate) fn base() -> OpenApi {
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Gantry management API").version(env!("CARGO_PKG_VERSION")).build())
        .build()
}

/// Adds what every operation has.
pub(crate) fn complete(document: OpenApi) -> OpenApi {
    document
}

/// The document.
pub(crate) async fn serve(ctx: Ctx) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NO_STORE)];
    (headers, ctx.shared.openapi.clone()).into_response()
}
