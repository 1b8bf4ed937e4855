//! A histogram that any thread records into and any thread reads, without a lock on the way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics::HistogramFn;
use runtime::SharedClock;

use crate::TraceContext;
use crate::snapshot::{Exemplar, HistogramValue};

/// A histogram has no more bounds than this.
const BOUNDS_MAX: usize = 64;

/// The upper bounds of a histogram's buckets: finite, rising, at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets(Arc<[f64]>);

/// Why bounds make no [`Buckets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BucketsError {
    /// No bound, or too many.
    #[error("{0} bucket bounds: allowed are 1 to {BOUNDS_MAX}")]
    Count(usize),
    /// A bound is infinite, not a number, or not above the one before it.
    #[error("bucket bound at index {0} is not a finite number above the one before it")]
    Order(usize),
}

impl Buckets {
    /// Buckets with these upper bounds, and one more above the last.
    ///
    /// # Errors
    ///
    /// If there is none or more than 64, or one that is not finite or not above its predecessor.
    pub fn new(bounds: &[f64]) -> Result<Self, BucketsError> {
        if bounds.is_empty() || bounds.len() > BOUNDS_MAX {
            return Err(BucketsError::Count(bounds.len()));
        }
        let wrong = |at: &usize| !bounds[*at].is_finite() || *at > 0 && bounds[*at] <= bounds[at - 1];
        match (0..bounds.len()).find(wrong) {
            Some(at) => Err(BucketsError::Order(at)),
            None => Ok(Self::constant(bounds)),
        }
    }

    /// Bounds that stand in this crate's own code, where a test has checked them.
    pub(crate) fn constant(bounds: &[f64]) -> Self {
        Self(bounds.into())
    }
}

/// Where histograms learn whether, and from which span, to keep an exemplar.
#[derive(Debug)]
pub(crate) struct ExemplarSource {
    enabled: AtomicBool,
    /// Goes up with each snapshot. A bucket takes one exemplar for each, so that a busy histogram looks
    /// for the span around it once a scrape and not once a record.
    round: AtomicU64,
    clock: SharedClock,
}

impl ExemplarSource {
    pub(crate) fn new(enabled: bool, clock: SharedClock) -> Self {
        Self { enabled: AtomicBool::new(enabled), round: AtomicU64::new(1), clock }
    }

    pub(crate) fn next_round(&self) {
        self.round.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) struct HistogramCell {
    bounds: Arc<[f64]>,
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
    source: Arc<ExemplarSource>,
    /// Made with the first exemplar: most histograms of most programs never see one.
    exemplars: OnceLock<Box<[Slot]>>,
}

#[derive(Default)]
struct Slot {
    filled_in_round: AtomicU64,
    exemplar: Mutex<Option<Exemplar>>,
}

impl HistogramCell {
    pub(crate) fn new(buckets: &Buckets, source: Arc<ExemplarSource>) -> Self {
        let counts = (0..=buckets.0.len()).map(|_| AtomicU64::new(0)).collect();
        let sum = AtomicU64::new(0f64.to_bits());
        Self { bounds: Arc::clone(&buckets.0), counts, sum, source, exemplars: OnceLock::new() }
    }

    pub(crate) fn read(&self) -> HistogramValue {
        let kept = |slot: &Slot| *slot.exemplar.lock().unwrap_or_else(PoisonError::into_inner);
        HistogramValue {
            bounds: Arc::clone(&self.bounds),
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: f64::from_bits(self.sum.load(Ordering::Relaxed)),
            exemplars: self.exemplars.get().map(|slots| slots.iter().map(kept).collect()).unwrap_or_default(),
        }
    }

    fn add(&self, value: f64, times: u64) {
        // One such number would spoil the sum for good.
        if !value.is_finite() || times == 0 {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(times, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a sum of floats is not exact anyway")]
        let more = value * times as f64;
        let plus = |bits| Some((f64::from_bits(bits) + more).to_bits());
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, plus);
        self.offer_exemplar(bucket, value);
    }

    fn offer_exemplar(&self, bucket: usize, value: f64) {
        if !self.source.enabled.load(Ordering::Relaxed) {
            return;
        }
        let round = self.source.round.load(Ordering::Relaxed);
        if let Some(slots) = self.exemplars.get()
            && slots[bucket].filled_in_round.load(Ordering::Relaxed) == round
        {
            return;
        }
        let Some(trace) = TraceContext::current().filter(TraceContext::is_sampled) else { return };
        let slots = self.exemplars.get_or_init(|| self.counts.iter().map(|_| Slot::default()).collect());
        // Whoever holds the lock writes one as good as this, or reads: no reason to wait.
        if let Ok(mut exemplar) = slots[bucket].exemplar.try_lock() {
            *exemplar = Some(Exemplar { trace, value, at: self.source.clock.now() });
            slots[bucket].filled_in_round.store(round, Ordering::Relaxed);
        }
    }
}

impl HistogramFn for HistogramCell {
    fn record(&self, value: f64) {
        self.add(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        self.add(value, count as u64);
    }
}

#[cfg(test)]
mod tests {
    use runtime::SystemClock;

    use super::*;

    #[test]
    fn buckets_are_checked() {
        assert_eq!(Buckets::new(&[]), Err(BucketsError::Count(0)));
        assert_eq!(Buckets::new(&[1.0; 65]), Err(BucketsError::Count(65)));
        assert_eq!(Buckets::new(&[1.0, 1.0]), Err(BucketsError::Order(1)));
        assert_eq!(Buckets::new(&[f64::NAN]), Err(BucketsError::Order(0)));
        assert_eq!(Buckets::new(&[1.0, f64::INFINITY]), Err(BucketsError::Order(1)));
        assert!(Buckets::new(&[-1.0, 0.0, 1.0]).is_ok());
    }

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let source = Arc::new(ExemplarSource::new(true, SystemClock::shared()));
        let cell = HistogramCell::new(&Buckets::new(&[1.0, 2.0]).unwrap(), source);
        for value in [0.5, 1.0, 1.5, 2.0, 2.5, f64::NAN, f64::INFINITY] {
            cell.record(value);
        }
        cell.record_many(3.0, 4);
        let read = cell.read();
        assert_eq!(read.counts, [2, 2, 5]);
        assert_eq!((read.count(), read.sum), (9, 19.5));
    }
}
