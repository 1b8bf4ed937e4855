//! Answers and refusals.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::{Body, full_body};
use crate::BoxError;

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
