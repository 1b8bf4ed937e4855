//! Collectors: code of others that reports its numbers when somebody wants to see them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::{Inner, Metrics};

/// Panics are counted by the names of no more collectors than this.
const PANICS_MAX: usize = 1_024;

type Collect = Box<dyn Fn() + Send + Sync>;

/// For each collector, the run whose reports are the present ones: older ones are to go.
pub(super) type Reported = BTreeMap<u64, u64>;

/// Who asks for a series: code at large, or a collector in one of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reporter {
    /// Zero is code at large.
    pub(super) collector: u64,
    /// Rises from run to run, over all collectors.
    pub(super) run: u64,
}

impl Reporter {
    pub(super) const DIRECT: Self = Self { collector: 0, run: 0 };
}

#[derive(Default)]
pub(super) struct Collectors {
    registered: Mutex<BTreeMap<u64, Arc<Collector>>>,
    /// The last id and the last run given out; an id is never used again.
    last: AtomicU64,
    panics: Mutex<BTreeMap<String, u64>>,
}

struct Collector {
    name: String,
    collect: Collect,
}

impl Collectors {
    pub(super) fn add(&self, name: String, collect: Collect) -> u64 {
        let id = self.next();
        self.lock().insert(id, Arc::new(Collector { name, collect }));
        id
    }

    /// How often each collector panicked.
    pub(super) fn panics(&self) -> BTreeMap<String, u64> {
        self.panics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn has(&self, id: u64) -> bool {
        self.lock().contains_key(&id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Collector>>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_panic(&self, name: &str) {
        let mut panics = self.panics.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = panics.len() < PANICS_MAX || panics.contains_key(name);
        *panics.entry(if has_room { name } else { "others" }.to_owned()).or_default() += 1;
    }
}

/// Runs each collector once, with `metrics` as its recorder, and takes out what they no longer report.
///
/// Two snapshots at a time run them twice: a collector copies totals, which is the same done once or
/// twice, and a lock here would let one that takes a snapshot itself wait for itself.
pub(super) fn run_all(metrics: &Metrics) {
    let collectors = &metrics.inner.collectors;
    // Copied out: a collector may register another, or be taken out meanwhile.
    let registered: Vec<_> = collectors.lock().iter().map(|(id, one)| (*id, Arc::clone(one))).collect();
    let mut reported = Reported::new();
    for (id, collector) in registered {
        if !collectors.has(id) {
            continue;
        }
        collector.run(id, metrics, &mut reported);
        // Taken out while it ran: what it has just reported goes too.
        if !collectors.has(id) {
            reported.insert(id, u64::MAX);
        }
    }
    metrics.inner.tables.retire(&reported);
}

impl Collector {
    /// Runs once, and notes in `reported` which run that was, unless it panicked.
    fn run(&self, id: u64, metrics: &Metrics, reported: &mut Reported) {
        let collectors = &metrics.inner.collectors;
        let by = Reporter { collector: id, run: collectors.next() };
        let recorder = CollectorRecorder { metrics, by };
        let run = || metrics::with_local_recorder(&recorder, || (self.collect)());
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(()) => {
                reported.insert(id, by.run);
            }
            Err(panic) => {
                collectors.note_panic(&self.name);
                tracing::error!(
                    collector = %self.name,
                    panic = %runtime::panic_message(panic.as_ref()),
                    "metrics collector panicked"
                );
            }
        }
    }
}

/// Marks what a collector asks for as reported by it.
struct CollectorRecorder<'a> {
    metrics: &'a Metrics,
    by: Reporter,
}

impl Recorder for CollectorRecorder<'_> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.metrics.describe_counter(key, unit, help);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.metrics.describe_gauge(key, unit, help);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.metrics.describe_histogram(key, unit, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.metrics.counter(key, self.by)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.metrics.gauge(key, self.by)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.metrics.histogram(key, self.by)
    }
}

/// Keeps a collector registered; dropping it takes the collector out, with what it alone reported.
///
/// No run begins after that; one that has begun on another thread goes on to its end.
#[derive(Debug)]
#[must_use = "dropping the guard takes the collector out"]
pub struct CollectorGuard {
    inner: Weak<Inner>,
    id: u64,
}

impl CollectorGuard {
    pub(super) fn new(inner: Weak<Inner>, id: u64) -> Self {
        Self { inner, id }
    }

    /// Leaves the collector registered for as long as its metrics live.
    pub fn detach(mut self) {
        self.inner = Weak::new();
    }
}

impl Drop for CollectorGuard {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            let removed = inner.collectors.lock().remove(&self.id);
            inner.tables.retire(&Reported::from([(self.id, u64::MAX)]));
            // After the lock is gone: dropping a collector drops what it captured.
            drop(removed);
        }
    }
}
