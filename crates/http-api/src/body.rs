//! The body of an answer, wherever it came from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use registry::RouteGuard;

pub(crate) use plugin_core::BoxError;

pin_project_lite::pin_project! {
    /// The body of an answer.
    pub struct AnswerBody { #[pin] kind: Kind }
}

pin_project_lite::pin_project! {
    #[project = Projected]
    enum Kind {
        /// There whole.
        Whole { #[pin] body: Full<Bytes> },
        /// Made by a handler of the management API.
        Management { #[pin] body: axum::body::Body },
        /// Made by a plugin, which is inside of the call until the body goes.
        Plugin { #[pin] body: plugin_core::Body, _guard: RouteGuard },
    }
}

impl AnswerBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Whole { body: Full::new(bytes.into()) } }
    }

    pub(crate) fn plugin(body: plugin_core::Body, guard: RouteGuard) -> Self {
        Self { kind: Kind::Plugin { body, _guard: guard } }
    }

    pub(crate) fn management(body: axum::body::Body) -> Self {
        Self { kind: Kind::Management { body } }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = plugin_core::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().kind.project() {
            Projected::Whole { body } => body.poll_frame(cx).map_err(|never| match never {}),
            Projected::Management { body } => body.poll_frame(cx).map_err(Into::into),
            Projected::Plugin { body, .. } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Management { body } => body.is_end_stream(),
            Kind::Plugin { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Management { body } => body.size_hint(),
            Kind::Plugin { body, .. } => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}
