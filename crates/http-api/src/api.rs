//! The way of a request: from its headers to its answer.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Limited;
use management::{Claim, Idempotent, Management, Origin, Problem, ProblemKind, StoredAnswer};
use runtime::{CancellationToken, TaskOwner};
use telemetry::TraceContext;
use tokio::sync::Semaphore;
use tower_service::Service;
use tracing::Instrument;

use crate::body::{AnswerBody, BoxError};
use crate::direct::RequestLine;
use crate::dispatch::dispatch;
use crate::envelope::{ErrorEnvelope, JSON, NO_STORE, Refusal, ShownOnce};
use crate::extract::{Ctx, Scope, read_body, too_large};
use crate::lanes::Lanes;
use crate::origin::{HostPolicy, check_same_origin};
use crate::paths::{Guard, Paths};
use crate::plugin::HTTP;
use crate::shared::Shared;
use crate::{HttpConfig, conditional, dry_run, measure, openapi, routes, span};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// How long a request id of a client may be, in bytes.
const REQUEST_ID_LEN_MAX: usize = 128;

/// Answers requests, whatever connection they came by. A clone is the same.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    router: axum::Router,
    shared: Arc<Shared>,
    hosts: HostPolicy,
    fingerprints: RandomState,
}

impl Api {
    /// What answers for a host.
    #[must_use]
    pub fn new(management: Management, config: HttpConfig) -> Self {
        Self::build(management, config, None)
    }

    /// The same, with a bound on how many threads of the control plane are in plugins' code.
    pub(crate) fn with_lanes(management: Management, config: HttpConfig, lanes: Lanes) -> Self {
        Self::build(management, config, Some(lanes))
    }

    fn build(management: Management, config: HttpConfig, lanes: Option<Lanes>) -> Self {
        let (router, document) = routes::all();
        let paths = Paths::of(&document, routes::direct());
        let openapi = Bytes::from(serde_json::to_vec(&document).unwrap_or_default());
        let hosts = HostPolicy::new(config.is_loopback(), &config.allowed_hosts);
        let shared = Arc::new(Shared {
            event_streams: Arc::new(Semaphore::new(config.event_streams_max)),
            closing: CancellationToken::new(),
            keyed: TaskOwner::new("keyed requests"),
            sockets: TaskOwner::new("websockets"),
            management,
            config,
            openapi_tag: openapi::tag(&openapi),
            openapi,
            paths,
            lanes,
        });
        let router = router.with_state(Arc::clone(&shared));
        Self { inner: Arc::new(Inner { router, shared, hosts, fingerprints: RandomState::new() }) }
    }

    /// Ends answers that have no end of their own, so that their connections can close.
    pub(crate) fn close_streams(&self) {
        self.inner.shared.closing.cancel();
    }

    /// The connections that have become WebSockets, which nobody else owns any more.
    pub(crate) fn sockets(&self) -> &TaskOwner {
        &self.inner.shared.sockets
    }

    pub(crate) fn config(&self) -> &HttpConfig {
        &self.inner.shared.config
    }

    /// The largest body that a request may have. An import is read line by line, unless it has a key: then
    /// all of it is held against the key's first request.
    fn body_limit(&self, path: &str, headers: &HeaderMap) -> usize {
        if path == routes::IMPORT && !headers.contains_key(IDEMPOTENCY_KEY) {
            self.config().import_bytes_max
        } else {
            self.config().body_bytes_max
        }
    }

    /// Answers one request. Whatever a handler does, there is an answer: a panic in it is a 500.
    pub async fn handle<B>(&self, mut request: Request<B>, peer: Option<SocketAddr>) -> Response<AnswerBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let started = Instant::now();
        let headers = request.headers();
        let incoming = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let sampler = self.inner.shared.management.sampler();
        let (trace, parent) = sampler.continued(incoming);
        let span = span::begin(sampler, (&trace, parent), (request.method(), request.uri(), headers), peer);
        let request_id = headers.get(REQUEST_ID).filter(|id| is_request_id(id)).cloned();
        let method = request.method().clone();
        let known = conditional::known(&method, headers);
        let dry_run = if is_write(&method, request.uri().path()) {
            dry_run::take(request.uri_mut())
        } else {
            Ok(false)
        };
        let origin = Origin { transport: HTTP, address: peer };
        let stranger = self.inner.shared.management.stranger(origin, trace);
        let scope = Arc::new(Scope::new(stranger.dry_run(matches!(dry_run, Ok(true)))));
        let answer = async {
            dry_run?;
            self.answer(request, &scope).await
        };
        let answered = AssertUnwindSafe(trace.scope(answer.instrument(span.clone()))).catch_unwind().await;
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(refusal)) => refused(refusal),
            Err(panic) => {
                let panic = runtime::panic_message(&*panic);
                let route = scope.template(&self.inner.shared.paths);
                tracing::error!(%trace, route, panic, "handler panicked");
                refused(Problem::internal())
            }
        };
        if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
            write_problem(&mut response, &refusal, &trace);
        }
        if let Some(known) = known {
            conditional::leave_out(&mut response, &known);
        }
        let headers = response.headers_mut();
        if let Ok(trace_id) = HeaderValue::from_bytes(&trace.trace_id().to_hex()) {
            headers.insert(REQUEST_ID, request_id.unwrap_or_else(|| trace_id.clone()));
            headers.insert(TRACE_ID, trace_id);
        }
        headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(NOSNIFF);
        let route = scope.template(&self.inner.shared.paths).unwrap_or_default();
        span::end(&span, &method, route, response.status());
        trace.in_scope(|| measure::record(&method, route, response.status(), started.elapsed()));
        response
    }

    async fn answer<B>(
        &self,
        request: Request<B>,
        scope: &Arc<Scope>,
    ) -> Result<Response<AnswerBody>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // `hyper` bounds its buffer, which may hold a good deal more than it has to by the time it looks.
        if head_bytes(&request) > self.config().header_bytes_max {
            let problem = Problem::new(ProblemKind::TooLarge, "the headers are larger than the limit");
            return Err(Refusal { problem, status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE });
        }
        self.inner.hosts.check(request.uri(), request.headers())?;
        let limit = self.body_limit(request.uri().path(), request.headers());
        // A client that says how much it will send is refused before it has sent it.
        if request.body().size_hint().lower() > limit as u64 {
            return Err(too_large().into());
        }
        if !is_of_management(request.uri().path()) {
            let (parts, body) = request.into_parts();
            return dispatch(&self.inner.shared, parts, Limited::new(body, limit), scope).await;
        }
        check_same_origin(request.method(), request.uri(), request.headers())?;
        if let Some(found) = self.inner.shared.paths.find(request.uri().path()) {
            scope.took_path(found.at);
            if let Some(guard) = found.path.guard(request.method()) {
                self.admit(guard, request.method(), request.uri().path(), request.headers(), scope).await?;
            }
            let query = request.uri().query().unwrap_or_default();
            if !query.is_empty() {
                found.path.check_query(request.method(), query)?;
            }
            if let Some(direct) = &found.path.direct
                && *request.method() == Method::GET
                && request.body().is_end_stream()
            {
                let ctx = Ctx { shared: Arc::clone(&self.inner.shared), scope: Arc::clone(scope) };
                let answer = direct.call(ctx, RequestLine { param: found.param, query })?;
                return Ok(answer.await?.into_whole().map(AnswerBody::whole));
            }
        }
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() { Body::empty() } else { Body::new(Limited::new(body, limit)) };
        if parts.headers.contains_key(IDEMPOTENCY_KEY) && is_write(&parts.method, parts.uri.path()) {
            return self.answer_once(parts, body, scope).await;
        }
        Ok(self.route(parts, body, scope).await)
    }

    /// Lets a request in whose caller may do what it asks for, before anything else of it is read.
    async fn admit(
        &self,
        guard: Guard,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        scope: &Scope,
    ) -> Result<(), Problem> {
        let permission = match guard {
            Guard::Public => return Ok(()),
            Guard::Needs(permission) => permission,
            Guard::Closed => return Err(Problem::forbidden("nobody may do this")),
        };
        let management = &self.inner.shared.management;
        scope.authenticate(management, headers).await?;
        management.authorize(scope.caller(), permission, is_write(method, path).then_some(path))
    }

    async fn route(&self, parts: Parts, body: Body, scope: &Arc<Scope>) -> Response<AnswerBody> {
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(Arc::clone(scope));
        let response = match self.inner.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        response.map(AnswerBody::management)
    }

    /// Answers a write that carries a key: what has been done once is not done again.
    async fn answer_once(
        &self,
        parts: Parts,
        body: Body,
        scope: &Arc<Scope>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let body = read_body(body, self.config().body_timeout).await?;
        let fingerprint =
            self.inner.fingerprints.hash_one((&parts.method, &parts.uri, &body, scope.caller().dry_run));
        let key = parts.headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
        let store = self.inner.shared.management.idempotency();
        let claim = match store.begin(&scope.caller().name, key, fingerprint)? {
            Idempotent::First(claim) => claim,
            Idempotent::Done(answer) => return Ok(replay(&answer)),
        };
        // A task of its own: a client that gives up and asks again is what keys are for, and finds the answer.
        let (sender, answer) = tokio::sync::oneshot::channel();
        let (api, scope) = (self.clone(), Arc::clone(scope));
        let trace = scope.caller().trace;
        let work = async move {
            let response = api.route(parts, Body::from(body), &scope).await;
            let _ = sender.send(keep(claim, response, &scope.caller().trace).await);
        };
        self.inner.shared.keyed.spawn("request", trace.scope(work.in_current_span()));
        answer.await.map_err(|_| Problem::internal().into())
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("management", &self.inner.shared.management).finish_non_exhaustive()
    }
}

/// Keeps an answer for whoever repeats the request; a failure of the host's is not one.
async fn keep(claim: Claim, response: Response<AnswerBody>, trace: &TraceContext) -> Response<AnswerBody> {
    let mut response = response;
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        write_problem(&mut response, &refusal, trace);
    }
    let is_shown_once = response.extensions().get::<ShownOnce>().is_some();
    if is_shown_once || response.status().is_server_error() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let body = match http_body_util::BodyExt::collect(body).await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            tracing::warn!(%error, "answer broke off");
            return refused(Problem::internal());
        }
    };
    claim.complete(StoredAnswer {
        status: parts.status.as_u16(),
        headers: parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body: body.to_vec(),
    });
    Response::from_parts(parts, AnswerBody::whole(body))
}

fn replay(answer: &StoredAnswer) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(answer.body.clone()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

fn refused(refusal: impl Into<Refusal>) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::whole(Bytes::new()));
    response.extensions_mut().insert(refusal.into());
    response
}

/// Writes a problem as the answer's body.
fn write_problem(response: &mut Response<AnswerBody>, refusal: &Refusal, trace: &TraceContext) {
    let problem = &refusal.problem;
    let envelope = ErrorEnvelope::new(refusal, trace.trace_id().to_string());
    let body = serde_json::to_vec(&envelope).unwrap_or_default();
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.remove(header::CONTENT_LENGTH);
    if let Some(wait) = problem.retry_after {
        // Whole seconds, and never zero, which would invite a tight loop.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
    }
    if problem.kind == ProblemKind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = AnswerBody::whole(body);
}

/// About how many bytes a request's line and headers came in.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    request.headers().iter().fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4)
}

/// Whether a path is below one that the management API has. Other paths are the plugins'; below these, a
/// plugin gets what the API leaves.
fn is_of_management(path: &str) -> bool {
    let first = path[1.min(path.len())..].split('/').next().unwrap_or_default();
    matches!(
        first,
        "" | "access"
            | "audit"
            | "cluster"
            | "config"
            | "console"
            | "demo"
            | "docs"
            | "events"
            | "health"
            | "metrics"
            | "openapi.json"
            | "plugins"
            | "scheduler"
            | "services"
            | "ws"
    )
}

/// Whether a request asks the management API to change something.
fn is_write(method: &Method, path: &str) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) && is_of_management(path)
}

/// Whether an id that a client gave can be given back: visible ASCII of bounded length.
fn is_request_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    (1..=REQUEST_ID_LEN_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}
