//! The browsable reference: static files that render `/openapi.json` and load nothing from elsewhere.

use axum::response::{IntoResponse, Response};
use http::header;

use crate::extract::Ctx;
use crate::page::html;

const PAGE: &str = include_str!("../../assets/docs.html");
const SCRIPT: &str = include_str!("../../assets/docs.js");
const STYLE: &str = include_str!("../../assets/style.css");

/// The browsable reference of this API.
#[utoipa::path(get, path = "/docs", tag = "tour", security(()),
    responses((status = 200, description = "A page.", content_type = "text/html", body = String)))]
pub(crate) async fn page(_: Ctx) -> Response {
    html(PAGE)
}

pub(crate) async fn script(_: Ctx) -> Response {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT).into_response()
}

pub(crate) async fn style(_: Ctx) -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE).into_response()
}
