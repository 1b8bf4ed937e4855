//! Where the metrics facade's counters, gauges and histograms live.

mod collect;
mod tables;

use std::fmt;
use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use runtime::{SharedClock, SystemClock, Timestamp};

use crate::catalog::Described;
use crate::encode::encode;
use crate::format::Format;
use crate::histogram::{Buckets, ExemplarSource};
use crate::snapshot::{MetricKind, Snapshot};
use crate::{own, process};
pub use collect::CollectorGuard;
use collect::Collectors;
use tables::{Cell, Tables};

/// A metric has no more sets of labels than this, unless told otherwise; it is the limit that the
/// OpenTelemetry specification recommends.
const SERIES_MAX: usize = 2_000;

/// The metrics of a process, or of a test: the recorder behind the `metrics` facade, and the handle to
/// read it by. Cheap to clone.
///
/// ```
/// use telemetry::{Format, Metrics};
///
/// let metrics = Metrics::builder().process(false).build();
/// metrics::with_local_recorder(&metrics, || {
///     metrics::describe_counter!("jobs_total", "Jobs done.");
///     metrics::counter!("jobs_total", "queue" => "mail").increment(3);
/// });
/// let text = metrics.render(Format::PrometheusText);
/// assert!(text.contains("jobs_total{queue=\"mail\"} 3\n"));
/// ```
///
/// Bounds: a metric has at most [`MetricsBuilder::series_limit`] sets of labels; what exceeds it goes to
/// one series with the label `otel_metric_overflow="true"` and is counted in
/// `telemetry_series_overflow_total{metric}`; increments add up there, of absolute counts it shows the
/// highest. There are at most 1,024 names. Names and labels that the
/// formats do not allow are made to fit, label values are cut at 256 bytes.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    tables: Tables,
    collectors: Collectors,
    exemplars: Arc<ExemplarSource>,
    clock: SharedClock,
    counted_since: Timestamp,
    process: bool,
    build: Option<(String, String)>,
}

impl Metrics {
    /// Begins to build one.
    pub fn builder() -> MetricsBuilder {
        MetricsBuilder::default()
    }

    /// Makes this the recorder of the whole process.
    ///
    /// # Errors
    ///
    /// [`RecorderTaken`] if there is one already.
    pub fn install(&self) -> Result<(), RecorderTaken> {
        metrics::set_global_recorder(self.clone()).map_err(|_| RecorderTaken)
    }

    /// Has `collect` called before each snapshot, to report what hot paths count on their own.
    ///
    /// Metrics that it touches through the facade's macros go here, wherever the process's recorder is.
    /// What it reports is what there is: a series that an earlier call reported and a later one does not
    /// is taken out, unless somebody holds a handle to it. A panic in it is logged and counted in
    /// `telemetry_collector_panics_total{collector}`, and changes nothing else.
    ///
    /// `collect` runs on the thread that asked for the snapshot, and should copy numbers and not wait.
    /// Dropping the guard takes the collector out.
    pub fn register_collector(
        &self,
        name: impl Into<String>,
        collect: impl Fn() + Send + Sync + 'static,
    ) -> CollectorGuard {
        let id = self.inner.collectors.add(name.into(), Box::new(collect));
        CollectorGuard::new(Arc::downgrade(&self.inner), id)
    }

    /// Runs the collectors, then copies all that is measured.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        collect::run_all(self);
        let inner = &self.inner;
        let mut families = inner.tables.read();
        families.extend(own::families(inner.tables.losses(), inner.collectors.panics()));
        families.extend(inner.build.iter().map(|(service, version)| own::build_info(service, version)));
        if inner.process {
            families.extend(process::families());
        }
        families.sort_by(|a, b| a.name.cmp(&b.name));
        families.dedup_by(|b, a| a.name == b.name);
        inner.exemplars.next_round();
        Snapshot { taken_at: inner.clock.now(), counted_since: inner.counted_since, families }
    }

    /// A snapshot as text, for a scraper.
    #[must_use]
    pub fn render(&self, format: Format) -> String {
        encode(&self.snapshot(), format)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The process has a metrics recorder already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process has a metrics recorder already")]
pub struct RecorderTaken;

/// Builds [`Metrics`].
#[derive(Debug)]
#[must_use]
pub struct MetricsBuilder {
    series_limit: usize,
    exemplars: bool,
    process: bool,
    clock: SharedClock,
    build: Option<(String, String)>,
    described: Vec<Described>,
    buckets: Vec<(String, Buckets)>,
}

impl Default for MetricsBuilder {
    fn default() -> Self {
        Self {
            series_limit: SERIES_MAX,
            exemplars: true,
            process: true,
            clock: SystemClock::shared(),
            build: None,
            described: Vec::new(),
            buckets: Vec::new(),
        }
    }
}

impl MetricsBuilder {
    /// How many sets of labels a metric may have (default 2,000), at least one.
    pub fn series_limit(mut self, limit: usize) -> Self {
        self.series_limit = limit.max(1);
        self
    }

    /// Whether histograms remember an observation from a sampled trace for each bucket (default yes).
    pub fn exemplars(mut self, keep: bool) -> Self {
        self.exemplars = keep;
        self
    }

    /// Whether there are metrics of the process itself (default yes; Linux only).
    pub fn process(mut self, report: bool) -> Self {
        self.process = report;
        self
    }

    /// What exemplars and snapshots take the time from.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Adds the metric `build_info`, which is 1, with these as its labels.
    pub fn build_info(mut self, service: impl Into<String>, version: impl Into<String>) -> Self {
        self.build = Some((service.into(), version.into()));
        self
    }

    /// Says beforehand what metrics mean, as [`CATALOG`](crate::CATALOG) does for those of this project.
    ///
    /// They are listed from the start, and these words win over those that come through the facade.
    pub fn describe(mut self, metrics: &[Described]) -> Self {
        self.described.extend_from_slice(metrics);
        self
    }

    /// The buckets of one histogram; others have those of their description, or the default.
    pub fn buckets(mut self, name: impl Into<String>, buckets: Buckets) -> Self {
        self.buckets.push((name.into(), buckets));
        self
    }

    /// Builds it, without making it the process's recorder.
    #[must_use]
    pub fn build(self) -> Metrics {
        let exemplars = Arc::new(ExemplarSource::new(self.exemplars, Arc::clone(&self.clock)));
        let tables = Tables::new(self.series_limit, Arc::clone(&exemplars));
        for described in &self.described {
            tables.describe_first(described);
        }
        for (name, buckets) in self.buckets {
            tables.set_buckets(&name, buckets);
        }
        Metrics {
            inner: Arc::new(Inner {
                tables,
                collectors: Collectors::default(),
                exemplars,
                counted_since: self.clock.now(),
                clock: self.clock,
                process: self.process,
                build: self.build,
            }),
        }
    }
}

impl Metrics {
    fn cell(&self, kind: MetricKind, key: &Key, by: collect::Reporter) -> Option<Cell> {
        self.inner.tables.resolve(kind, key, by)
    }

    fn counter(&self, key: &Key, by: collect::Reporter) -> Counter {
        match self.cell(MetricKind::Counter, key, by) {
            Some(Cell::Counter(cell)) => Counter::from_arc(cell),
            _ => Counter::noop(),
        }
    }

    fn gauge(&self, key: &Key, by: collect::Reporter) -> Gauge {
        match self.cell(MetricKind::Gauge, key, by) {
            Some(Cell::Gauge(cell)) => Gauge::from_arc(cell),
            _ => Gauge::noop(),
        }
    }

    fn histogram(&self, key: &Key, by: collect::Reporter) -> Histogram {
        match self.cell(MetricKind::Histogram, key, by) {
            Some(Cell::Histogram(cell)) => Histogram::from_arc(cell),
            _ => Histogram::noop(),
        }
    }
}

impl Recorder for Metrics {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.tables.describe(MetricKind::Counter, key.as_str(), unit, &help);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.tables.describe(MetricKind::Gauge, key.as_str(), unit, &help);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.inner.tables.describe(MetricKind::Histogram, key.as_str(), unit, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.counter(key, collect::Reporter::DIRECT)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.gauge(key, collect::Reporter::DIRECT)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.histogram(key, collect::Reporter::DIRECT)
    }
}
