//! The one shape of every answer.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use management::{Page, Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What the API tells is of the moment.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Envelope<T> {
    /// The HTTP status.
    pub(crate) code: u16,
    /// `success`.
    pub(crate) message: String,
    /// What was asked for.
    pub(crate) data: T,
}

/// A refusal or a failure.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorEnvelope {
    /// The HTTP status.
    pub(crate) code: u16,
    /// A sentence.
    pub(crate) message: String,
    /// What went wrong, for programs.
    pub(crate) error: ErrorBody,
    /// The trace of the request; the header `x-trace-id` has it too.
    pub(crate) trace_id: String,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// The kind of refusal.
    pub(crate) kind: ProblemKind,
    /// The path of the field that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl ErrorEnvelope {
    pub(crate) fn new(Refusal { problem, status }: &Refusal, trace_id: String) -> Self {
        Self {
            code: status.as_u16(),
            message: problem.message.to_string(),
            error: ErrorBody {
                kind: problem.kind,
                field: problem.field.clone(),
                detail: problem.detail.clone(),
            },
            trace_id,
        }
    }
}

/// An answer of the management API, written out.
pub(crate) struct Answer {
    status: StatusCode,
    body: Bytes,
    etag: Option<u64>,
    location: Option<String>,
}

/// Marks an answer that nobody gets a second time: there is a secret in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShownOnce;

/// What a handler gives.
pub(crate) type Outcome = Result<Answer, Refusal>;

impl Answer {
    /// 200 with data.
    pub(crate) fn ok<T: Serialize>(data: &T) -> Outcome {
        Self::with(StatusCode::OK, data)
    }

    /// An answer of another status.
    pub(crate) fn with<T: Serialize>(status: StatusCode, data: &T) -> Outcome {
        let mut body = Vec::with_capacity(1024);
        body.extend_from_slice(b"{\"code\":");
        body.extend_from_slice(status.as_str().as_bytes());
        body.extend_from_slice(b",\"message\":\"success\",\"data\":");
        serde_json::to_writer(&mut body, data).map_err(|error| {
            tracing::error!(%error, "answer cannot be written as JSON");
            Refusal::from(Problem::internal())
        })?;
        body.push(b'}');
        Ok(Self { status, body: body.into(), etag: None, location: None })
    }

    /// 201 with data and where it is to be found.
    pub(crate) fn created<T: Serialize>(location: String, data: &T) -> Outcome {
        Ok(Self { location: Some(location), ..Self::with(StatusCode::CREATED, data)? })
    }

    /// 200 with a body that was written before.
    pub(crate) fn written(body: Bytes) -> Self {
        Self { status: StatusCode::OK, body, etag: None, location: None }
    }

    /// The body.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Adds the version of the definition.
    pub(crate) fn etag(mut self, version: u64) -> Self {
        self.etag = Some(version);
        self
    }

    /// The answer with its headers.
    pub(crate) fn into_whole(self) -> http::Response<Bytes> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        if let Some(version) = self.etag
            && let Ok(value) = HeaderValue::try_from(format!("\"{version}\""))
        {
            headers.insert(header::ETAG, value);
        }
        if let Some(location) = self.location
            && let Ok(value) = HeaderValue::try_from(location)
        {
            headers.insert(header::LOCATION, value);
        }
        let mut response = http::Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        self.into_whole().map(Body::from)
    }
}

/// A problem as an answer. It is written out where the answer leaves, since only there the trace is known.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) problem: Problem,
    /// The problem's, unless a plugin's route chose another.
    pub(crate) status: StatusCode,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { problem, status }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

/// A list under its plural, with where it goes on.
macro_rules! list_data {
    ($(#[$meta:meta])* $name:ident, $field:ident, $item:ty) => {
        $(#[$meta])*
        #[derive(Debug, serde::Serialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            /// The entries of this page.
            $field: Vec<$item>,
            /// How many there are on all pages.
            total: u64,
            /// What to ask the next page with; null on the last.
            next_cursor: Option<String>,
        }

        impl From<management::Page<$item>> for $name {
            fn from(page: management::Page<$item>) -> Self {
                Self { $field: page.items, total: page.total, next_cursor: page.next_cursor }
            }
        }
    };
}
pub(crate) use list_data;

/// A list that is there whole, as its only page.
pub(crate) fn whole<T>(items: Vec<T>) -> Page<T> {
    Page { total: items.len() as u64, items, next_cursor: None }
}
