//! Requests to the plugins' own routes.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use management::{Problem, ProblemKind, Role};
use plugin_core::{Access, Route, RouteError, RouteRequest, full_body};
use registry::{Lookup, RouteMatch};

use crate::body::{AnswerBody, BoxError};
use crate::envelope::Refusal;
use crate::extract::Scope;
use crate::origin::check_same_origin;
use crate::shared::Shared;

/// Answers a request from the routes that plugins have mounted.
///
/// The plugins on the request's way count it as inside until the answer's body has been sent, so that a
/// stop waits for it.
pub(crate) async fn dispatch<B>(
    shared: &Shared,
    parts: Parts,
    body: B,
    scope: &Arc<Scope>,
) -> Result<Response<AnswerBody>, Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Some(directory) = shared.management.directory() else { return Err(no_such_route().into()) };
    let path = parts.uri.path();
    let mut lookup = directory.lookup(&parts.method, path);
    if matches!(lookup, Lookup::Unavailable { .. }) {
        // The plugin is being swapped, and its requests wait; or it restarts, and this is its last word.
        lookup = directory.route(&parts.method, path).await;
    }
    match lookup {
        Lookup::Found(found) => call(shared, found, parts, body, scope).await,
        Lookup::NotFound => Err(no_such_route().into()),
        Lookup::MethodNotAllowed { allow } => {
            let allow: Vec<&str> = allow.iter().map(Method::as_str).collect();
            let mut response = other_method(&parts.method).map(AnswerBody::whole);
            if let Ok(allow) = HeaderValue::try_from(allow.join(",")) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
            Ok(response)
        }
        Lookup::Unavailable { plugin, retry_after } => {
            let message = format!("plugin `{plugin}` is restarting");
            Err(Problem::new(ProblemKind::Unavailable, message).retry_after(retry_after).into())
        }
        Lookup::Malformed { param } => {
            Err(Problem::malformed(format!("the path's `{param}` cannot be read as UTF-8")).into())
        }
    }
}

/// The answer where a path takes other methods, to be completed by these in `Allow`. To ask which is what
/// `OPTIONS` is for; it says nothing of other origins, to which the host is closed.
pub(crate) fn other_method(method: &Method) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    if *method == Method::OPTIONS {
        *response.status_mut() = StatusCode::NO_CONTENT;
    } else {
        let problem = Problem::new(ProblemKind::MethodNotAllowed, "this path does not take this method");
        response.extensions_mut().insert(Refusal::from(problem));
    }
    response
}

fn no_such_route() -> Problem {
    Problem::new(ProblemKind::NotFound, "no such route")
}

async fn call<B>(
    shared: &Shared,
    found: RouteMatch,
    parts: Parts,
    body: B,
    scope: &Arc<Scope>,
) -> Result<Response<AnswerBody>, Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    scope.took_route(found.route());
    authorize(shared, found.route(), &parts, scope).await?;
    let body =
        if body.is_end_stream() { full_body(Bytes::new()) } else { body.map_err(Into::into).boxed_unsync() };
    let (params, next, guard) = found.into_parts();
    let request = RouteRequest::new(Request::from_parts(parts, body), params);
    let answered = match &shared.lanes {
        Some(lanes) => lanes.run(Box::pin(next.run(request))).await,
        None => next.run(request).await,
    };
    match answered {
        Ok(response) => Ok(response.map(|body| AnswerBody::plugin(body, guard))),
        Err(error) => Err(refusal(&error)),
    }
}

/// Asks for the role that the endpoint declares. What is public may be called from anywhere, from pages of
/// other sites too.
async fn authorize(shared: &Shared, route: &Route, parts: &Parts, scope: &Scope) -> Result<(), Problem> {
    let role = match route.endpoint.required_access() {
        Access::Public => return Ok(()),
        Access::Viewer => Role::Viewer,
        Access::Operator => Role::Operator,
        Access::Admin => Role::Admin,
    };
    check_same_origin(&parts.method, &parts.uri, &parts.headers)?;
    scope.authenticate(&shared.management, &parts.headers).await?;
    scope.caller().require_role(role)
}

/// A route's error in the envelope, with the status that the route chose.
fn refusal(error: &RouteError) -> Refusal {
    let status = error.status();
    let kind = match status.as_u16() {
        401 => ProblemKind::Unauthenticated,
        403 => ProblemKind::Forbidden,
        404 => ProblemKind::NotFound,
        405 => ProblemKind::MethodNotAllowed,
        409 => ProblemKind::InvalidState,
        412 => ProblemKind::PreconditionFailed,
        413 => ProblemKind::TooLarge,
        415 => ProblemKind::UnsupportedMediaType,
        422 => ProblemKind::InvalidField,
        429 => ProblemKind::TooMany,
        501 => ProblemKind::NotAvailable,
        503 => ProblemKind::Unavailable,
        504 => ProblemKind::Timeout,
        400..=499 => ProblemKind::Malformed,
        _ => ProblemKind::Internal,
    };
    if kind == ProblemKind::Internal {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, "route failed");
    }
    let mut problem = Problem::new(kind, error.message().to_owned());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        problem = problem.retry_after(std::time::Duration::from_secs(1));
    }
    let status = if status.is_client_error() || status.is_server_error() {
        status
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Refusal { problem, status }
}
