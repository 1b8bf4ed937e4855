//! The answers that `hyper` gives by itself, in the envelope.
//!
//! What cannot be read as HTTP never becomes a request: `hyper` writes a head with a status and nothing else,
//! and closes. There is no hook for it, so its words are known by their form on their way out, which no other
//! answer has, since all others carry a trace id.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use management::{Problem, ProblemKind};
use telemetry::TraceContext;

use crate::envelope::{ErrorEnvelope, Refusal};

/// A head of `hyper`'s own is shorter than this.
const HEAD_LEN_MAX: usize = 192;

/// A connection on which those answers are replaced.
pub(crate) struct Replies<I> {
    io: I,
    /// What is left to be written in place of what was given.
    instead: Option<Bytes>,
}

impl<I> Replies<I> {
    pub(crate) fn new(io: I) -> Self {
        Self { io, instead: None }
    }
}

impl<I: Read + Unpin> Read for Replies<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Write + Unpin> Replies<I> {
    /// Writes what stands in place of `head`, all of it before `head` counts as written.
    fn poll_instead(&mut self, cx: &mut Context<'_>, head: &[u8]) -> Poll<io::Result<usize>> {
        let Some(instead) = &mut self.instead else { return Poll::Ready(Ok(0)) };
        while instead.has_remaining() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, instead))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => instead.advance(n),
            }
        }
        self.instead = None;
        Poll::Ready(Ok(head.len()))
    }
}

impl<I: Write + Unpin> Write for Replies<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = instead_of(buf);
        }
        if self.instead.is_some() {
            self.poll_instead(cx, buf)
        } else {
            Pin::new(&mut self.io).poll_write(cx, buf)
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            [head] if head.len() <= HEAD_LEN_MAX => self.poll_write(cx, head),
            _ => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        }
    }
}

/// What is to be said instead, if this is a head of `hyper`'s own.
fn instead_of(head: &[u8]) -> Option<Bytes> {
    if head.len() > HEAD_LEN_MAX || !head.starts_with(b"HTTP/1.") || head.get(9) != Some(&b'4') {
        return None;
    }
    let head = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?;
    let mut is_empty = false;
    for line in lines {
        match line.split_once(": ")? {
            ("content-length", "0") => is_empty = true,
            ("connection", "close") | ("date", _) => {}
            _ => return None,
        }
    }
    let (kind, message) = match status {
        "400" => (ProblemKind::Malformed, "the request cannot be read as HTTP"),
        "414" => (ProblemKind::TooLarge, "the path and the query are longer than the limit"),
        "431" => (ProblemKind::TooLarge, "the headers are larger, or more, than the limit"),
        _ => return None,
    };
    let refusal = Refusal { problem: Problem::new(kind, message), status: status.parse().ok()? };
    is_empty.then(|| answer(head, &refusal))
}

/// The whole answer: the head as it is, but for the length and what all answers carry. `hyper` closes the
/// connection after it.
fn answer(head: &str, refusal: &Refusal) -> Bytes {
    let trace_id = TraceContext::root(false).trace_id().to_string();
    let body = serde_json::to_string(&ErrorEnvelope::new(refusal, trace_id.clone())).unwrap_or_default();
    let head = head.replacen("content-length: 0", &format!("content-length: {}", body.len()), 1);
    format!(
        "{head}\r\ncontent-type: application/json\r\ncache-control: no-store\r\nx-request-id: {trace_id}\r\n\
         x-trace-id: {trace_id}\r\nx-content-type-options: nosniff\r\n\r\n{body}"
    )
    .into()
}
