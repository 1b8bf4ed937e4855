//! Routes and middleware, in `http`'s types: what a plugin serves, whatever transport carries it.

mod endpoint;
mod handler;
mod middleware;
mod reply;
mod request;

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};

use crate::BoxError;

pub use endpoint::{Access, Endpoint};
pub use handler::{Route, RouteHandler, service_handler};
pub(crate) use middleware::{GrantedMiddleware, MiddlewareEntry, MiddlewareFn};
pub use middleware::{Middleware, Next};
pub use reply::{IntoReply, Reply, RouteError};
pub use request::{PathParams, RouteRequest};

/// A request's or an answer's body: streamed, of any origin.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there whole.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests;
