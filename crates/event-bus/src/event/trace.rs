//! W3C trace context, carried as text.

use std::fmt;
use std::sync::Arc;

/// The longest `tracestate` that is carried on, in bytes: what the specification asks to support.
const MAX_TRACESTATE_BYTES: usize = 512;

/// Why a text is not a trace context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceContextError {
    /// The `traceparent` is malformed.
    #[error(
        "traceparent: `{0}` is not of the form `00-<32 hex>-<16 hex>-<2 hex>` with ids that are not zero"
    )]
    Parent(String),
    /// The `tracestate` is malformed.
    #[error("tracestate: must be at most {MAX_TRACESTATE_BYTES} bytes of printable ascii")]
    State,
}

/// The trace context of an event's publisher: `traceparent` and `tracestate` of the W3C Trace Context
/// recommendation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TraceContext {
    parent: Arc<str>,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Checks a `traceparent` of version 00 (or of a later one, whose extra fields are kept).
    ///
    /// # Errors
    ///
    /// [`TraceContextError::Parent`].
    pub fn new(traceparent: &str) -> Result<Self, TraceContextError> {
        if !is_traceparent(traceparent) {
            return Err(TraceContextError::Parent(traceparent.chars().take(64).collect()));
        }
        Ok(Self { parent: traceparent.into(), state: None })
    }

    /// The context of the work that publishes now: of the request, the handler or the run around the caller.
    #[must_use]
    pub fn current() -> Option<Self> {
        runtime::TraceContext::current().map(Self::from)
    }

    /// Adds a `tracestate`; an empty one is none.
    ///
    /// # Errors
    ///
    /// [`TraceContextError::State`].
    pub fn with_state(mut self, tracestate: &str) -> Result<Self, TraceContextError> {
        if tracestate.len() > MAX_TRACESTATE_BYTES || !tracestate.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(TraceContextError::State);
        }
        self.state = (!tracestate.is_empty()).then(|| tracestate.into());
        Ok(self)
    }

    /// The `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.parent
    }

    /// The `tracestate`, where there is one.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.parent.get(3..35).unwrap_or_default()
    }

    /// The id of the span that published, 16 hexadecimal digits.
    #[must_use]
    pub fn span_id(&self) -> &str {
        self.parent.get(36..52).unwrap_or_default()
    }

    /// The context of a new span below the publisher's, for a log or an exporter.
    pub(crate) fn child(&self, span: u64) -> String {
        // Those that are known: sampled, and random.
        format!("00-{}-{span:016x}-{:02x}", self.trace_id(), self.flags() & 0b11)
    }

    /// Whether the publisher's trace is sampled.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags() & 1 == 1
    }

    fn flags(&self) -> u8 {
        self.parent.get(53..55).and_then(|flags| u8::from_str_radix(flags, 16).ok()).unwrap_or_default()
    }
}

impl From<runtime::TraceContext> for TraceContext {
    fn from(context: runtime::TraceContext) -> Self {
        Self { parent: context.to_string().into(), state: None }
    }
}

fn is_traceparent(text: &str) -> bool {
    let lower_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    let bytes = text.as_bytes();
    if bytes.len() < 55 || bytes.len() > 128 || !text.is_ascii() {
        return false;
    }
    let (version, trace, span, flags) = (&bytes[..2], &bytes[3..35], &bytes[36..52], &bytes[53..55]);
    let dashes = bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
    let hex = [version, trace, span, flags].iter().all(|part| part.iter().all(lower_hex));
    let set = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let length = match version {
        b"00" => bytes.len() == 55,
        b"ff" => false,
        _ => bytes.len() == 55 || bytes[55] == b'-',
    };
    dashes && hex && set(trace) && set(span) && length && !bytes.iter().any(u8::is_ascii_control)
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({})", self.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_the_parts() {
        let trace = TraceContext::new(PARENT).unwrap().with_state("vendor=1,other=2").unwrap();
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(trace.span_id(), "00f067aa0ba902b7");
        assert!(trace.is_sampled());
        assert_eq!(trace.tracestate(), Some("vendor=1,other=2"));
        assert_eq!(trace.child(7), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
        let context: runtime::TraceContext = PARENT.parse().unwrap();
        assert_eq!(TraceContext::from(context).traceparent(), PARENT);
        assert_eq!(context.in_scope(TraceContext::current), TraceContext::new(PARENT).ok());
        assert_eq!(TraceContext::current(), None);
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{e9}",
        ] {
            assert!(TraceContext::new(text).is_err(), "{text}");
        }
        let trace = TraceContext::new(PARENT).unwrap();
        assert!(trace.clone().with_state("a=\n").is_err());
        assert!(trace.clone().with_state(&"a".repeat(513)).is_err());
        assert_eq!(trace.with_state("").unwrap().tracestate(), None);
    }
}
