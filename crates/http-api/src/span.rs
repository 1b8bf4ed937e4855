//! The span of a request, where its trace is kept.

use std::net::SocketAddr;

use http::{HeaderMap, Method, StatusCode, Uri, header};
use runtime::{Sampler, SpanId, TraceContext};
use tracing::field::Empty;
use tracing::{Span, info_span};

/// Makes the span, named and described by OpenTelemetry's conventions; none, where nothing is traced or this
/// trace is not kept. The query is left out: it may hold what is nobody's business.
pub(crate) fn begin(
    sampler: &Sampler,
    (trace, parent): (&TraceContext, Option<SpanId>),
    (method, uri, headers): (&Method, &Uri, &HeaderMap),
    peer: Option<SocketAddr>,
) -> Span {
    if !sampler.is_on() || !trace.is_sampled() {
        return Span::none();
    }
    info_span!(
        parent: None,
        "http.request",
        otel.kind = "server",
        otel.name = %method,
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = Empty,
        http.response.status_code = Empty,
        url.path = uri.path(),
        url.scheme = "http",
        client.address = peer.map(|peer| display(peer.ip())),
        user_agent.original = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()),
        traceparent = %trace,
        parent_span_id = parent.map(display),
    )
}

/// Says what came of the request.
pub(crate) fn end(span: &Span, method: &Method, route: &str, status: StatusCode) {
    if span.is_none() {
        return;
    }
    if !route.is_empty() {
        span.record("otel.name", format_args!("{method} {route}").to_string());
        span.record("http.route", route);
    }
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "error");
    }
}
