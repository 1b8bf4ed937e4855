//! What answers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::util::ServiceExt;

use super::{Body, Endpoint, IntoReply, RouteError, RouteRequest};
use crate::BoxError;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

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
