//! Whether the host lives, and whether it can serve.

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
#[utoipa::path(get, path = "/health/live", tag = "health",
    responses((status = 200, description = "It does.", body = Envelope<Live>)))]
pub(crate) async fn live(_: Ctx) -> Outcome {
    Answer::ok(&Live { status: "alive" })
}
