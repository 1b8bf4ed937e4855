//! What wraps routes.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use http::Response;

use super::{Body, RouteError, RouteHandler, RouteRequest};
use crate::Permissions;

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
