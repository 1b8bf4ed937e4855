//! Which traces are kept.

use super::{SpanId, TraceContext, TraceId};

/// Decides which traces are kept: new ones by a ratio, others as whoever began them decided.
///
/// ```
/// use runtime::Sampler;
///
/// let sampler = Sampler::ratio(0.01);
/// let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let (ours, caller) = sampler.continued(Some(parent));
/// assert!(ours.is_sampled(), "the caller keeps it");
/// assert_eq!(caller.map(|span| span.to_string()).as_deref(), Some("00f067aa0ba902b7"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// `None` where nothing is traced here.
    threshold: Option<u64>,
    ignores_parent: bool,
}

/// A ratio of one: half the range of 64 bits, as in OpenTelemetry's `TraceIdRatioBased`.
const ALL: u64 = 1 << 63;

impl Sampler {
    /// Nothing is traced here; traces of others pass through, with their decision.
    pub const OFF: Self = Self { threshold: None, ignores_parent: false };

    /// Keeps this share of new traces, from 0 to 1; what lies outside counts as the nearer of the two.
    #[must_use]
    pub fn ratio(ratio: f64) -> Self {
        // The cast saturates, and makes nothing of what is no number.
        let threshold = if ratio >= 1.0 { ALL } else { (ratio * ALL as f64) as u64 };
        Self { threshold: Some(threshold), ignores_parent: false }
    }

    /// Decides by the ratio for traces of others, too: by the trace's id, so that every process with the
    /// same ratio decides the same.
    #[must_use]
    pub fn ignoring_parent(mut self) -> Self {
        self.ignores_parent = true;
        self
    }

    /// Whether anything is traced here.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.threshold.is_some()
    }

    /// Begins a trace.
    #[must_use]
    pub fn root(&self) -> TraceContext {
        let context = TraceContext::root(false);
        if self.keeps(context.trace_id()) { context.sampled(true) } else { context }
    }

    /// Begins a trace with an id that was given elsewhere, and need not be random.
    #[must_use]
    pub fn root_of(&self, trace: TraceId) -> TraceContext {
        TraceContext::new(trace, SpanId::random(), self.keeps(TraceId::random()))
    }

    /// The context for a request, and the span of its caller: the child of what came in, or a new trace
    /// where nothing usable did.
    ///
    /// The specification wants a `traceparent` that cannot be read to be dropped, not refused.
    #[must_use]
    pub fn continued(&self, traceparent: Option<&str>) -> (TraceContext, Option<SpanId>) {
        match traceparent.and_then(|text| text.trim().parse::<TraceContext>().ok()) {
            Some(parent) if self.ignores_parent && self.is_on() => {
                (parent.child().sampled(self.keeps(parent.trace_id())), Some(parent.span_id()))
            }
            Some(parent) => (parent.child(), Some(parent.span_id())),
            None => (self.root(), None),
        }
    }

    fn keeps(&self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
        self.threshold.is_some_and(|below| u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(sampler: Sampler) -> usize {
        fastrand::seed(7);
        (0..10_000).filter(|_| sampler.root().is_sampled()).count()
    }

    #[test]
    fn keeps_the_share_that_it_was_told() {
        assert_eq!(kept(Sampler::OFF), 0);
        assert_eq!(kept(Sampler::ratio(0.0)), 0);
        assert_eq!(kept(Sampler::ratio(f64::NAN)), 0);
        assert_eq!(kept(Sampler::ratio(-3.0)), 0);
        assert_eq!(kept(Sampler::ratio(1.0)), 10_000);
        assert_eq!(kept(Sampler::ratio(7.0)), 10_000);
        let few = kept(Sampler::ratio(0.01));
        assert!((50..200).contains(&few), "{few}");
    }

    #[test]
    fn an_id_that_counts_up_is_sampled_like_any_other() {
        fastrand::seed(7);
        let id = |n: u64| TraceId::from_bytes((u128::from(n) + 1).to_be_bytes()).unwrap();
        let kept = (0..10_000).filter(|n| Sampler::ratio(0.5).root_of(id(*n)).is_sampled()).count();
        assert!((4_500..5_500).contains(&kept), "{kept}");
        assert_eq!(Sampler::ratio(1.0).root_of(id(6)).trace_id(), id(6));
    }

    #[test]
    fn a_trace_that_came_in_keeps_its_decision() {
        let text = |flags| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        for sampler in [Sampler::OFF, Sampler::ratio(0.0), Sampler::ratio(1.0)] {
            for (flags, sampled) in [("00", false), ("01", true)] {
                let (context, parent) = sampler.continued(Some(&text(flags)));
                assert_eq!(context.is_sampled(), sampled);
                assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
                assert_eq!(parent.unwrap().to_string(), "00f067aa0ba902b7");
                assert_ne!(Some(context.span_id()), parent);
            }
            let (new, parent) = sampler.continued(Some("nonsense"));
            assert_eq!((new.is_sampled(), parent), (sampler == Sampler::ratio(1.0), None));
        }
    }

    #[test]
    fn a_parent_may_be_ignored_and_then_its_id_decides() {
        let text = |low: &str, flags| format!("00-4bf92f3577b34da6{low}-00f067aa0ba902b7-{flags}");
        let half = Sampler::ratio(0.5).ignoring_parent();
        for flags in ["00", "01"] {
            assert!(half.continued(Some(&text("7fffffffffffffff", flags))).0.is_sampled());
            assert!(!half.continued(Some(&text("8000000000000000", flags))).0.is_sampled());
        }
        let off = Sampler::OFF.ignoring_parent();
        assert!(off.continued(Some(&text("8000000000000000", "01"))).0.is_sampled(), "passes through");
    }
}
