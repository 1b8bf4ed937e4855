//! The host itself: what is measured, who did what.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use management::{AuditEntry, ClusterView, ConfigValue, ServiceInfo, ServiceTest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::envelope::{Answer, Envelope, NO_STORE, Outcome, Refusal, list_data};
use crate::extract::{Ctx, Name, PageQuery, Query};

list_data!(
    /// Writes, the newest first.
    AuditData, entries, AuditEntry);
list_data!(
    /// Services, by name.
    ServicesData, services, ServiceInfo);
list_data!(
    /// Values of the configuration, by path.
    ConfigValuesData, values, ConfigValue);

/// A service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceData {
    service: ServiceInfo,
}

/// What is measured, as Prometheus text or as OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "host", security(("bearer" = ["metrics.read"])),
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
#[utoipa::path(get, path = "/audit", tag = "host", security(("bearer" = ["audit.read"])), params(PageQuery),
    responses((status = 200, description = "A page of writes.", body = Envelope<AuditData>)))]
pub(crate) async fn audit(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&AuditData::from(ctx.management().audit(ctx.caller(), &query.page()?)?))
}

/// The services that plugins offer.
#[utoipa::path(get, path = "/services", tag = "host", security(("bearer" = ["service.read"])), params(PageQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<ServicesData>)))]
pub(crate) async fn services(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&ServicesData::from(ctx.management().services(ctx.caller(), &query.page()?)?))
}

/// One service and its instances.
#[utoipa::path(get, path = "/services/{name}", tag = "host", security(("bearer" = ["service.read"])),
    params(("name" = String, Path, description = "The service's name.")),
    responses((status = 200, description = "The service.", body = Envelope<ServiceData>)))]
pub(crate) async fn service(ctx: Ctx, Name(name): Name) -> Outcome {
    Answer::ok(&ServiceData { service: ctx.management().service(ctx.caller(), &name)? })
}

/// Whether a service can be reached, the server behind it included, and how long that took.
#[utoipa::path(get, path = "/services/{name}/test", tag = "host", security(("bearer" = ["service.read"])),
    params(("name" = String, Path, description = "The service's name.")),
    responses((status = 200, description = "It can.", body = Envelope<ServiceTest>)))]
pub(crate) async fn test_service(ctx: Ctx, Name(name): Name) -> Outcome {
    Answer::ok(&ctx.management().test_service(ctx.caller(), &name).await?)
}

/// The nodes, and who owns what.
#[utoipa::path(get, path = "/cluster", tag = "host", security(("bearer" = ["cluster.read"])),
    responses((status = 200, description = "The cluster.", body = Envelope<ClusterView>)))]
pub(crate) async fn cluster(ctx: Ctx) -> Outcome {
    Answer::ok(&ctx.management().cluster(ctx.caller())?)
}

/// Every value of the configuration in force with its origin, secrets masked.
#[utoipa::path(get, path = "/config", tag = "host", security(("bearer" = ["config.read"])), params(PageQuery),
    responses((status = 200, description = "A page of values.", body = Envelope<ConfigValuesData>)))]
pub(crate) async fn config(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&ConfigValuesData::from(ctx.management().config(ctx.caller(), &query.page()?)?))
}
