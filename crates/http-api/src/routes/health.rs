//! Whether the host lives, and whether it can serve.

use http::StatusCode;
use management::{HealthReport, Problem, ProblemKind, Readiness};
use serde::Serialize;
use utoipa::ToSchema;

use crate::envelope::{Answer, Envelope, Outcome};
use crate::extract::Ctx;

/// That the process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Live {
    /// `alive`.
    status: &'static str,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/health/live", tag = "health", security(()),
    responses((status = 200, description = "It does.", body = Envelope<Live>)))]
pub(crate) async fn live(_: Ctx) -> Outcome {
    Answer::ok(&Live { status: "alive" })
}

/// Whether the host can serve. Fails first at shutdown.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses(
        (status = 200, description = "It can.", body = Envelope<Readiness>),
        (status = 503, description = "It cannot; `error.detail` says why.", body = crate::envelope::ErrorEnvelope)))]
pub(crate) async fn ready(ctx: Ctx) -> Outcome {
    let readiness = ctx.management().readiness();
    if readiness.ready {
        return Answer::ok(&readiness);
    }
    let problem = Problem::new(ProblemKind::Unavailable, "the host is not ready");
    Err(problem.detail(readiness.reasons.join("; ")).into())
}

/// How the host and each plugin fare.
#[utoipa::path(get, path = "/health", tag = "health", security(("bearer" = ["health.read"])),
    responses(
        (status = 200, description = "It can serve.", body = Envelope<HealthReport>),
        (status = 503, description = "It cannot; the same report.", body = Envelope<HealthReport>)))]
pub(crate) async fn detail(ctx: Ctx) -> Outcome {
    let report = ctx.management().health(ctx.caller())?;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer::with(status, &report)
}
