//! The body of an answer, wherever it came from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

/// A failure on the way of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    }
}

impl AnswerBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Whole { body: Full::new(bytes.into()) } }
    }

    pub(crate) fn management(body: axum::body::Body) -> Self {
        Self { kind: Kind::Management { body } }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().kind.project() {
            Projected::Whole { body } => body.poll_frame(cx).map_err(|never| match never {}),
            Projected::Management { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Management { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { body } => body.size_hint(),
            Kind::Management { body } => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}
