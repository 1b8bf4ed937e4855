//! What all metrics are at one moment: the one thing that every exporter reads.

use std::sync::Arc;

use metrics::Unit;
use runtime::Timestamp;

use crate::TraceContext;

/// All metrics at one moment.
///
/// Renderers and exporters read this and nothing else, so that each way out tells the same.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Since when the counters and histograms count.
    pub counted_since: Timestamp,
    /// The metrics in the order of their names; each name once.
    pub families: Vec<Family>,
}

/// One metric: a name and what is measured under it.
#[derive(Debug, Clone)]
pub struct Family {
    /// Name, valid in both text formats.
    pub name: String,
    /// What is counted or measured, one sentence; empty if nobody said.
    pub help: String,
    /// The unit, if somebody said.
    pub unit: Option<Unit>,
    /// What kind of numbers these are.
    pub kind: MetricKind,
    /// One for each set of labels, in their order. May be empty: described and not yet used.
    pub series: Vec<Series>,
}

/// The kinds of metric that the facade knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Goes up, from zero at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl MetricKind {
    /// The word for it in both text formats.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Labels and what was measured for them.
#[derive(Debug, Clone)]
pub struct Series {
    /// Names and values, in the order of the names; each name once.
    pub labels: Labels,
    /// What was measured.
    pub value: Value,
}

/// Names and values of labels, in the order of the names; each name once.
pub type Labels = Arc<[(String, String)]>;

/// What was measured for one set of labels.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A count.
    Integer(u64),
    /// A number.
    Float(f64),
    /// Observations in buckets.
    Histogram(HistogramValue),
}

/// Observations in buckets.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramValue {
    /// The upper bounds of all buckets but the last, which has none.
    pub bounds: Arc<[f64]>,
    /// How many observations fell in each bucket, not cumulative; one more than there are bounds.
    pub counts: Vec<u64>,
    /// The sum of all observations.
    pub sum: f64,
    /// One observation from a sampled trace for each bucket that has seen one; as long as `counts`, or
    /// empty.
    pub exemplars: Vec<Option<Exemplar>>,
}

impl HistogramValue {
    /// How many observations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// An observation that can be looked at closely, since its trace was kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The span that the observation was made in.
    pub trace: TraceContext,
    /// What was observed.
    pub value: f64,
    /// When.
    pub at: Timestamp,
}
