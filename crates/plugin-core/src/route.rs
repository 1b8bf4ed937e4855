//! Routes and middleware, in `http`'s types: what a plugin serves, whatever transport carries it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::util::ServiceExt;

use crate::{BoxError, Permissions};

/// A request's or an answer's body: streamed, of any origin.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A body that is there whole.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Anybody, without credentials.
    Public,
    /// Whoever may look: role `viewer` and above.
    Viewer,
    /// Whoever may operate: role `operator` and above.
    Operator,
    /// Role `admin`.
    Admin,
}

/// A route that a plugin serves: method, path with `{name}` and `{*rest}` parameters, and who may call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    method: Method,
    path: Cow<'static, str>,
    access: Access,
    summary: Cow<'static, str>,
}

impl Endpoint {
    /// An endpoint for any method. `GET` and `HEAD` ask for role `viewer`, others for `operator`, unless
    /// [`Endpoint::access`] says otherwise.
    pub fn new(method: Method, path: impl Into<Cow<'static, str>>) -> Self {
        let access =
            if matches!(method, Method::GET | Method::HEAD) { Access::Viewer } else { Access::Operator };
        Self { method, path: path.into(), access, summary: Cow::Borrowed("") }
    }

    /// `GET path`; answers `HEAD` as well.
    pub fn get(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::GET, path)
    }

    /// `POST path`.
    pub fn post(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::POST, path)
    }

    /// `PUT path`.
    pub fn put(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// `DELETE path`.
    pub fn delete(path: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Says who may call it.
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Lets anybody call it, without credentials.
    #[must_use]
    pub fn public(self) -> Self {
        self.access(Access::Public)
    }

    /// Says in a few words what it does.
    #[must_use]
    pub fn summary(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.summary = text.into();
        self
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, with its parameters in braces.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Who may call it.
    #[must_use]
    pub fn required_access(&self) -> Access {
        self.access
    }

    /// What it does, in a few words.
    #[must_use]
    pub fn summary_text(&self) -> &str {
        &self.summary
    }

    /// Why the path cannot be served, if it cannot.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let path = self.path.as_ref();
        if !path.starts_with('/') {
            return Some("does not begin with `/`");
        }
        if path.len() > 1024 {
            return Some("is longer than 1024 bytes");
        }
        if path.split('/').skip(1).any(|segment| segment == "." || segment == "..") {
            return Some("has a `.` or `..` segment");
        }
        if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'%')) {
            return Some("has a character that a path cannot have");
        }
        None
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The parameters that a request's path had, by name. Few, so that a search is the fastest lookup.
#[derive(Debug, Clone, Default)]
pub struct PathParams(Vec<(String, String)>);

impl PathParams {
    /// These parameters, already percent-decoded.
    #[must_use]
    pub fn new(params: Vec<(String, String)>) -> Self {
        Self(params)
    }

    /// The parameter `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A request to a plugin's route.
#[derive(Debug)]
pub struct RouteRequest {
    /// Method, URI, headers and extensions.
    pub parts: Parts,
    /// The body. The transport has bounded its size.
    pub body: Body,
    params: PathParams,
}

impl RouteRequest {
    /// A request with the parameters of its path.
    #[must_use]
    pub fn new(request: Request<Body>, params: PathParams) -> Self {
        let (parts, body) = request.into_parts();
        Self { parts, body, params }
    }

    /// The path parameter `name`, percent-decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    /// The query string, as `T`.
    ///
    /// # Errors
    ///
    /// A 400 that says what is wrong with it.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, RouteError> {
        serde_urlencoded::from_str(self.parts.uri.query().unwrap_or_default())
            .map_err(|error| RouteError::new(StatusCode::BAD_REQUEST, format!("query: {error}")))
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// A 400 if the client stops sending, a 413 if it sends more than the transport allows.
    pub async fn bytes(self) -> Result<Bytes, RouteError> {
        match self.body.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err(RouteError::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than the limit"))
            }
            Err(error) => Err(RouteError::new(StatusCode::BAD_REQUEST, format!("body: {error}"))),
        }
    }

    /// The body, as JSON.
    ///
    /// # Errors
    ///
    /// A 400 if it is not JSON, a 422 that names the field if it is and does not fit `T`.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, RouteError> {
        let bytes = self.bytes().await?;
        let mut decoder = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut decoder).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => "body".to_owned(),
                path => path,
            };
            let status = match error.inner().classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            RouteError::new(status, format!("{field}: {}", error.inner()))
        })?;
        decoder.end().map_err(|error| RouteError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        Ok(value)
    }

    /// The request as `http` has it.
    #[must_use]
    pub fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, self.body)
    }
}

/// A refusal or a failure of a route.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RouteError {
    status: StatusCode,
    message: String,
    #[source]
    source: Option<BoxError>,
}

impl RouteError {
    /// A refusal that tells its message to the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), source: None }
    }

    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The message for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<crate::PluginError> for RouteError {
    /// A failure: the client learns that there was one, the log learns which.
    fn from(error: crate::PluginError) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "the plugin failed to answer".to_owned(),
            source: Some(error.into_inner()),
        }
    }
}

impl From<crate::RegisterError> for RouteError {
    /// A failure, as of an event that a handler could not publish.
    fn from(error: crate::RegisterError) -> Self {
        crate::PluginError::from(error).into()
    }
}

impl From<crate::ServiceError> for RouteError {
    /// A service that is away is a 503, not a failure of the route.
    fn from(error: crate::ServiceError) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: error.to_string(),
            source: Some(Box::new(error)),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply(Response<Body>);

impl Reply {
    /// An answer with a body of the given content type.
    #[must_use]
    pub fn with(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let mut response = Response::new(full_body(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self(response)
    }

    /// 200 with a text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::with(StatusCode::OK, "text/plain; charset=utf-8", text.into())
    }

    /// 200 with a value as JSON.
    ///
    /// # Errors
    ///
    /// If the value cannot be JSON, such as a map whose keys are no text.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, RouteError> {
        let bytes = serde_json::to_vec(value).map_err(crate::PluginError::from)?;
        Ok(Self::with(StatusCode::OK, "application/json", bytes))
    }

    /// 200 with a value in the envelope of the management API: `{"code", "message", "data"}`.
    ///
    /// # Errors
    ///
    /// If the value cannot be JSON.
    pub fn data<T: Serialize + ?Sized>(value: &T) -> Result<Self, RouteError> {
        #[derive(Serialize)]
        struct Envelope<'a, T: ?Sized> {
            code: u16,
            message: &'static str,
            data: &'a T,
        }
        Self::json(&Envelope { code: 200, message: "success", data: value })
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    /// The answer as `http` has it.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        self.0
    }
}

/// What a route's handler may give.
pub trait IntoReply {
    /// The answer.
    fn into_response(self) -> Response<Body>;
}

impl IntoReply for Reply {
    fn into_response(self) -> Response<Body> {
        self.0
    }
}

impl IntoReply for Response<Body> {
    fn into_response(self) -> Response<Body> {
        self
    }
}

impl IntoReply for String {
    fn into_response(self) -> Response<Body> {
        Reply::text(self).0
    }
}

impl IntoReply for &'static str {
    fn into_response(self) -> Response<Body> {
        Reply::text(self).0
    }
}

impl IntoReply for StatusCode {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(full_body(Bytes::new()));
        *response.status_mut() = self;
        response
    }
}

/// What answers a route's requests.
///
/// Implemented by every `Fn(RouteRequest) -> impl Future<Output = Result<R: IntoReply, RouteError>>`.
pub trait RouteHandler: Send + Sync + 'static {
    /// Answers one request. An error becomes an answer by the transport, in its own envelope.
    fn call(&self, request: RouteRequest) -> BoxFuture<Result<Response<Body>, RouteError>>;
}

impl<F, Fut, R> RouteHandler for F
where
    F: Fn(RouteRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, RouteError>> + Send + 'static,
    R: IntoReply + 'static,
{
    fn call(&self, request: RouteRequest) -> BoxFuture<Result<Response<Body>, RouteError>> {
        let answer = self(request);
        Box::pin(async move { answer.await.map(IntoReply::into_response) })
    }
}

/// A handler out of any `tower` service over `http` types, such as a router of another framework.
pub fn service_handler<S, B>(service: S) -> impl RouteHandler
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    ServiceHandler(service)
}

struct ServiceHandler<S>(S);

impl<S, B> RouteHandler for ServiceHandler<S>
where
    S: tower::Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call(&self, request: RouteRequest) -> BoxFuture<Result<Response<Body>, RouteError>> {
        let answer = self.0.clone().oneshot(request.into_request());
        // A combinator, because the compiler cannot show an async block around it to be `Send`.
        Box::pin(answer.map(|answer| match answer {
            Ok(response) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
            Err(error) => Err(RouteError::from(crate::PluginError::from(error.into()))),
        }))
    }
}

/// An endpoint and what answers it.
pub struct Route {
    /// What it answers.
    pub endpoint: Endpoint,
    /// What answers.
    pub handler: Arc<dyn RouteHandler>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What wraps plugins' routes: it may answer itself, or pass on and look at the answer.
#[async_trait]
pub trait Middleware: Send + Sync + 'static {
    /// Handles a request; [`Next::run`] passes it on.
    ///
    /// # Errors
    ///
    /// Becomes the answer, as a route's own error does.
    async fn handle(&self, request: RouteRequest, next: Next) -> Result<Response<Body>, RouteError>;
}

/// Middleware from a closure `Fn(RouteRequest, Next) -> impl Future`.
pub(crate) struct MiddlewareFn<F>(pub(crate) F);

#[async_trait]
impl<F, Fut> Middleware for MiddlewareFn<F>
where
    F: Fn(RouteRequest, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, RouteError>> + Send + 'static,
{
    async fn handle(&self, request: RouteRequest, next: Next) -> Result<Response<Body>, RouteError> {
        (self.0)(request, next).await
    }
}

/// Middleware of a plugin that may wrap some paths and not others.
pub(crate) struct GrantedMiddleware {
    pub(crate) permissions: Permissions,
    pub(crate) middleware: Arc<dyn Middleware>,
}

#[async_trait]
impl Middleware for GrantedMiddleware {
    async fn handle(&self, request: RouteRequest, next: Next) -> Result<Response<Body>, RouteError> {
        if self.permissions.may_route(request.parts.uri.path()) {
            self.middleware.handle(request, next).await
        } else {
            next.run(request).await
        }
    }
}

/// Middleware and where it stands; lower is further out.
pub(crate) struct MiddlewareEntry {
    pub(crate) priority: i32,
    pub(crate) middleware: Arc<dyn Middleware>,
}

/// The rest of the way to a route.
pub struct Next {
    chain: Arc<[Arc<dyn Middleware>]>,
    at: usize,
    route: Arc<dyn RouteHandler>,
}

impl Next {
    /// The whole way: the middleware, outermost first, and the route.
    #[must_use]
    pub fn new(chain: Arc<[Arc<dyn Middleware>]>, route: Arc<dyn RouteHandler>) -> Self {
        Self { chain, at: 0, route }
    }

    /// Passes the request on.
    ///
    /// # Errors
    ///
    /// Those of the middleware further in, and of the route.
    pub async fn run(mut self, request: RouteRequest) -> Result<Response<Body>, RouteError> {
        if let Some(middleware) = self.chain.get(self.at).cloned() {
            self.at += 1;
            middleware.handle(request, self).await
        } else {
            self.route.call(request).await
        }
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("left", &(self.chain.len() - self.at)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, body: &'static str) -> RouteRequest {
        let request = Request::builder().method(method).uri("/x?n=3").body(full_body(body)).unwrap();
        RouteRequest::new(request, PathParams::new(vec![("name".into(), "ada".into())]))
    }

    #[derive(serde::Deserialize, Debug)]
    struct Body3 {
        n: u8,
    }

    #[tokio::test]
    async fn reads_parameters_query_and_json() {
        assert_eq!(request(Method::GET, "").param("name"), Some("ada"));
        assert_eq!(request(Method::GET, "").query::<Body3>().unwrap().n, 3);
        assert_eq!(request(Method::POST, r#"{"n":7}"#).json::<Body3>().await.unwrap().n, 7);
        for (body, status) in [("{", 400), (r#"{"n":"x"}"#, 422), (r#"{"n":1} x"#, 400), ("", 400)] {
            let error = request(Method::POST, body).json::<Body3>().await.unwrap_err();
            assert_eq!(error.status().as_u16(), status, "{body}: {error}");
        }
        let error = request(Method::POST, r#"{"n":"x"}"#).json::<Body3>().await.unwrap_err();
        assert!(error.message().starts_with("n: "), "{error}");
        let error = request(Method::POST, "7").json::<Body3>().await.unwrap_err();
        assert!(error.message().starts_with("body: invalid type"), "{error}");
    }

    #[tokio::test]
    async fn middleware_runs_from_the_outside_in_and_may_answer_itself() {
        let tag = |tag: &'static str| -> Arc<dyn Middleware> {
            Arc::new(MiddlewareFn(move |request: RouteRequest, next: Next| async move {
                if request.parts.headers.contains_key("stop") {
                    return Ok(StatusCode::FORBIDDEN.into_response());
                }
                let mut response = next.run(request).await?;
                response.headers_mut().append("seen", HeaderValue::from_static(tag));
                Ok(response)
            }))
        };
        let chain: Arc<[_]> = Arc::from([tag("outer"), tag("inner")]);
        let route: Arc<dyn RouteHandler> = Arc::new(|_: RouteRequest| async { Ok("here") });
        let response = Next::new(chain.clone(), route.clone()).run(request(Method::GET, "")).await.unwrap();
        let seen: Vec<_> = response.headers().get_all("seen").iter().collect();
        assert_eq!(seen, ["inner", "outer"]);
        let mut stopped = request(Method::GET, "");
        stopped.parts.headers.insert("stop", HeaderValue::from_static("1"));
        let response = Next::new(chain, route).run(stopped).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn paths_that_cannot_be_served_are_known() {
        for path in ["x", "/a/../b", "/a b", "/a?b", "/%41", "/ä"] {
            assert!(Endpoint::get(path).fault().is_some(), "{path}");
        }
        assert!(Endpoint::get("/greeter/{name}/{*rest}").fault().is_none());
    }
}
