//! The host itself: what is measured, who did what.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use management::AuditEntry;

use crate::envelope::{Answer, Envelope, NO_STORE, Outcome, Refusal, list_data};
use crate::extract::{Ctx, PageQuery, Query};

list_data!(
    /// Writes, the newest first.
    AuditData, entries, AuditEntry);

/// What is measured, as Prometheus text or as OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "host",
    responses((status = 200, description = "The text.", content(
        (String = "text/plain; version=0.0.4; charset=utf-8"),
        (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ))))]
pub(crate) async fn metrics(ctx: Ctx, headers: HeaderMap) -> Result<Response, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = telemetry::Format::negotiate(accept);
    let text = ctx.management().metrics(ctx.caller(), format)?;
    let headers = [
        (header::CONTENT_TYPE, http::HeaderValue::from_static(format.content_type())),
        (header::CACHE_CONTROL, NO_STORE),
        (header::VARY, http::HeaderValue::from_static("accept")),
    ];
    Ok((headers, text).into_response())
}

/// Who did what, the newest first.
#[utoipa::path(get, path = "/audit", tag = "host", params(PageQuery),
    responses((status = 200, description = "A page of writes.", body = Envelope<AuditData>)))]
pub(crate) async fn audit(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&AuditData::from(ctx.management().audit(ctx.caller(), &query.page()?)?))
}
