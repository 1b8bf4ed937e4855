//! W3C trace context: the ids that tie together what one request caused.

mod current;
mod sampler;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use current::InTrace;
pub use sampler::Sampler;

/// The flag bit that says that the caller keeps this trace.
const SAMPLED: u8 = 0b01;
/// The flag bit of level 2 that says that the trace id is random.
const RANDOM: u8 = 0b10;
/// Length of a `traceparent` of version 00.
const TEXT_LEN: usize = 55;

/// Identifies a trace: sixteen bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// Identifies a span within its trace: eight bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// A new id from the thread's random generator.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u128(1..).to_be_bytes())
    }

    /// The id from its bytes; `None` if all are zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The text form, as ASCII: 32 lowercase hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> [u8; 32] {
        digits(self.0)
    }
}

impl SpanId {
    /// A new id from the thread's random generator.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u64(1..).to_be_bytes())
    }

    /// The id from its bytes; `None` if all are zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// The bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// The text form, as ASCII: 16 lowercase hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> [u8; 16] {
        digits(self.0)
    }
}

/// Where a piece of work stands in a trace, as [W3C Trace Context](https://www.w3.org/TR/trace-context/)
/// carries it in a `traceparent` header.
///
/// ```
/// use runtime::TraceContext;
///
/// let incoming: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// let ours = incoming.child();
/// assert_eq!(ours.trace_id(), incoming.trace_id());
/// assert_ne!(ours.span_id(), incoming.span_id());
/// assert!(ours.is_sampled());
/// # Ok::<(), runtime::TraceContextError>(())
/// ```
///
/// Work that runs in a [`scope`](TraceContext::scope) of a context, or in a `tracing` span that names it in
/// the field `traceparent`, finds it with [`TraceContext::current`]: log lines carry its ids, histograms take
/// it as exemplar, and what the work causes continues it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: TraceId,
    span_id: SpanId,
    flags: u8,
}

impl TraceContext {
    /// Begins a trace with new ids.
    #[must_use]
    pub fn root(sampled: bool) -> Self {
        let flags = if sampled { RANDOM | SAMPLED } else { RANDOM };
        Self { trace_id: TraceId::random(), span_id: SpanId::random(), flags }
    }

    /// A context out of its parts.
    #[must_use]
    pub fn new(trace_id: TraceId, span_id: SpanId, sampled: bool) -> Self {
        Self { trace_id, span_id, flags: u8::from(sampled) * SAMPLED }
    }

    /// The context for work that this one causes: same trace, same decision to sample, new span.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: SpanId::random(), ..*self }
    }

    /// The same with another decision to sample.
    #[must_use]
    pub fn sampled(mut self, sampled: bool) -> Self {
        self.flags = if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
        self
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The span within the trace.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// The flags: sampled, random.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether the caller keeps this trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Why a text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TraceContextError {
    /// The text has another form than `version-trace-span-flags` in lowercase hexadecimal.
    #[error("not of the form `00-<32 hex>-<16 hex>-<2 hex>`")]
    Form,
    /// The version is `ff`, which the specification forbids.
    #[error("version `ff` is not valid")]
    Version,
    /// The trace id or the span id is all zeros.
    #[error("an id of zeros is not valid")]
    Zero,
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Reads a `traceparent`; of versions above 00 the part that this one knows.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let head = bytes.get(..TEXT_LEN).ok_or(TraceContextError::Form)?;
        if [2, 35, 52].iter().any(|&dash| head[dash] != b'-') {
            return Err(TraceContextError::Form);
        }
        let [version] = hex::<1>(&head[..2])?;
        let trace_id = hex(&head[3..35])?;
        let span_id = hex(&head[36..52])?;
        let [flags] = hex::<1>(&head[53..])?;
        match (version, bytes.get(TEXT_LEN)) {
            (0xff, _) => return Err(TraceContextError::Version),
            (_, None) | (1.., Some(b'-')) => {}
            _ => return Err(TraceContextError::Form),
        }
        Ok(Self {
            trace_id: TraceId::from_bytes(trace_id).ok_or(TraceContextError::Zero)?,
            span_id: SpanId::from_bytes(span_id).ok_or(TraceContextError::Zero)?,
            flags: flags & (SAMPLED | RANDOM),
        })
    }
}

/// `N` bytes from `2 * N` lowercase hexadecimal digits; the specification allows no uppercase.
fn hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], TraceContextError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(TraceContextError::Form),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

/// Twice as many lowercase hexadecimal digits. Every request has its trace id written: the formatting
/// machinery, a digit pair at a time, takes ten times as long.
fn digits<const N: usize, const M: usize>(bytes: [u8; N]) -> [u8; M] {
    const { assert!(M == 2 * N) };
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; M];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0x0f)];
    }
    text
}

fn write_digits(out: &mut fmt::Formatter<'_>, digits: &[u8]) -> fmt::Result {
    out.write_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?)
}

impl FromStr for TraceId {
    type Err = TraceContextError;

    /// Reads 32 lowercase hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            if text.len() == 32 { hex(text.as_bytes())? } else { return Err(TraceContextError::Form) };
        Self::from_bytes(bytes).ok_or(TraceContextError::Zero)
    }
}

impl FromStr for SpanId {
    type Err = TraceContextError;

    /// Reads 16 lowercase hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes =
            if text.len() == 16 { hex(text.as_bytes())? } else { return Err(TraceContextError::Form) };
        Self::from_bytes(bytes).ok_or(TraceContextError::Zero)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(out, &self.to_hex())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(out, &self.to_hex())
    }
}

impl fmt::Display for TraceContext {
    /// Writes the `traceparent` form, version 00.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TraceId({self})")
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SpanId({self})")
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TraceContext({self})")
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
