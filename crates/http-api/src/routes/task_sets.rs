//! Many tasks at once.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use management::{Problem, ProblemKind};
use scheduler::{BulkReport, BulkRequest, Import, ImportReport, OnConflict};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::envelope::{Answer, Envelope, NO_STORE, Outcome, Refusal};
use crate::extract::{Ctx, Json, Query, body_problem};

const JSON_LINES: HeaderValue = HeaderValue::from_static("application/jsonl");

/// Pauses, resumes, cancels or removes all tasks that match.
///
/// Each is done on its own: one that is refused is in the report, and does not keep the others from it.
#[utoipa::path(post, path = "/scheduler/bulk", tag = "scheduler", security(("bearer" = ["task.bulk"])),
    request_body(content = BulkRequest, example = json!(
        {"action": "pause", "filter": {"group": "reports"}, "limit": 100})),
    responses((status = 200, description = "What was done to how many.", body = Envelope<BulkReport>,
        example = json!({"code": 200, "message": "success", "data": {"action": "pause", "dry_run": false,
            "matched": 2, "done": 1, "refused": 1, "tasks": ["daily"], "more": false,
            "refusals": [{"task": "weekly", "reason": "task `weekly` is paused: it is paused already"}]}}))))]
pub(crate) async fn bulk(ctx: Ctx, Json(request): Json<BulkRequest>) -> Outcome {
    Answer::ok(&ctx.management().bulk_tasks(ctx.caller(), &request).await?)
}

/// All tasks as JSON Lines: one object with `task`, `status` and `owner` a line, without the envelope.
///
/// What is there from the beginning to the end is in it once; it can be sent to `/scheduler/import`.
#[utoipa::path(get, path = "/scheduler/export", tag = "scheduler", security(("bearer" = ["task.read"])),
    responses((status = 200, description = "A line for each task.", content_type = "application/jsonl",
        body = String, example = "{\"task\":{\"id\":\"beat\",\"schedule\":{\"type\":\"interval\",\"interval\":\"30s\"}},\"status\":\"pending\"}\n")))]
pub(crate) async fn export(ctx: Ctx) -> Result<Response, Refusal> {
    let export = ctx.management().export_tasks(ctx.caller())?;
    let lines = stream::unfold(export, |mut export| async move {
        loop {
            let lines = export.next_lines()?;
            // The scheduler's lock and this thread are others' too.
            tokio::task::yield_now().await;
            if !lines.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(lines)), export));
            }
        }
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON_LINES);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    Ok(response)
}

/// How to take tasks in.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// What happens to a task whose id is taken: `fail` refuses the whole, `skip` leaves the present one as it
    /// is, `replace` gives it the definition of the import.
    #[param(inline, value_type = Option<OnConflict>)]
    on_conflict: Option<String>,
}

/// Takes tasks in from JSON Lines, as `/scheduler/export` writes them.
///
/// All of them are checked before the first is taken. What was paused is paused; what was done, and what
/// belongs to a plugin, is left out. A line has 256 KiB at the most.
#[utoipa::path(post, path = "/scheduler/import", tag = "scheduler", security(("bearer" = ["task.import"])), params(ImportQuery),
    request_body(content = String, content_type = "application/jsonl", example =
        "{\"task\":{\"id\":\"beat\",\"schedule\":{\"type\":\"interval\",\"interval\":\"30s\"}}}\n"),
    responses((status = 200, description = "What came of it.", body = Envelope<ImportReport>)))]
pub(crate) async fn import(ctx: Ctx, Query(query): Query<ImportQuery>, request: Request) -> Outcome {
    let (parts, body) = request.into_parts();
    let on_conflict = match query.on_conflict.as_deref().map(str::parse) {
        None => OnConflict::default(),
        Some(Ok(on_conflict)) => on_conflict,
        Some(Err(error)) => {
            let error: scheduler::ParseOnConflictError = error;
            return Err(Problem::invalid("on_conflict", error.to_string()).into());
        }
    };
    let read = read(&ctx, on_conflict, &parts.headers, body).await;
    Answer::ok(&ctx.management().commit_import(ctx.caller(), read).await?)
}

/// Reads a body as it comes; each part of it may take as long as a whole body of another route.
async fn read(
    ctx: &Ctx,
    on_conflict: OnConflict,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Import, Problem> {
    let mut import = ctx.management().begin_import(ctx.caller(), on_conflict)?;
    require_lines(headers)?;
    let timeout = ctx.shared.config.body_timeout;
    loop {
        match runtime::within(timeout, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    import.feed(bytes)?;
                }
            }
            Ok(Some(Err(error))) => return Err(body_problem(&error)),
            Ok(None) => return Ok(import),
            Err(_) => return Err(Problem::malformed("the body took too long to arrive")),
        }
    }
}

fn require_lines(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = value.split(';').next().unwrap_or_default().trim();
    let known = ["application/jsonl", "application/x-ndjson", "application/x-jsonlines"];
    if known.iter().any(|known| media.eq_ignore_ascii_case(known)) {
        Ok(())
    } else {
        let message = "the body needs `Content-Type: application/jsonl`";
        Err(Problem::new(ProblemKind::UnsupportedMediaType, message))
    }
}
