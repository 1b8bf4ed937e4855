//! The series themselves: found by key, grouped by name, bounded.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use metrics::{Key, Unit};

use super::collect::{Reported, Reporter};
use crate::catalog::{Described, default_buckets};
use crate::histogram::{Buckets, ExemplarSource, HistogramCell};
use crate::names::{label_set, metric_name};
use crate::own::Losses;
use crate::snapshot::{Family, Labels, MetricKind, Series, Value};

/// No more metric names than this are kept, nor descriptions.
const NAMES_MAX: usize = 1_024;

/// In place of a collector's id: the series is out of the tables.
const RETIRED: u64 = u64::MAX;

/// The label of the series that takes what exceeds the limit; OpenTelemetry's `otel.metric.overflow`.
const OVERFLOW_LABEL: &str = "otel_metric_overflow";

/// What a handle of the facade writes to.
#[derive(Clone)]
pub(super) enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<HistogramCell>),
}

impl Cell {
    fn read(&self) -> Value {
        match self {
            Self::Counter(cell) => Value::Integer(cell.load(Ordering::Acquire)),
            Self::Gauge(cell) => Value::Float(f64::from_bits(cell.load(Ordering::Acquire))),
            Self::Histogram(cell) => Value::Histogram(cell.read()),
        }
    }

    fn kind(&self) -> MetricKind {
        match self {
            Self::Counter(_) => MetricKind::Counter,
            Self::Gauge(_) => MetricKind::Gauge,
            Self::Histogram(_) => MetricKind::Histogram,
        }
    }

    /// Whether a handle exists somewhere, which may write at any time.
    fn is_held(&self) -> bool {
        match self {
            Self::Counter(cell) | Self::Gauge(cell) => Arc::strong_count(cell) > 1,
            Self::Histogram(cell) => Arc::strong_count(cell) > 1,
        }
    }
}

struct Entry {
    cell: Cell,
    /// The collector that reports this series; zero once code at large has asked for it.
    collector: AtomicU64,
    /// The last run that did.
    run: AtomicU64,
}

impl Entry {
    fn touch(&self, by: Reporter) {
        if by == Reporter::DIRECT {
            // Read first: this is the way of every macro call, and a write would pull the line over.
            if self.collector.load(Ordering::Relaxed) != 0 {
                self.collector.store(0, Ordering::Relaxed);
            }
        } else {
            self.run.fetch_max(by.run, Ordering::Relaxed);
        }
    }

    fn is_stale(&self, reported: &Reported) -> bool {
        reported
            .get(&self.collector.load(Ordering::Relaxed))
            .is_some_and(|present| self.run.load(Ordering::Relaxed) < *present && !self.cell.is_held())
    }
}

/// One name.
struct Group {
    kind: MetricKind,
    series: BTreeMap<Labels, Arc<Entry>>,
    overflow: Option<Arc<Entry>>,
    /// How many lookups went to `overflow`.
    overflowed: u64,
    /// How many keys of the index lead here: several can mean the same labels in other words.
    keys: usize,
}

#[derive(Default)]
struct Description {
    help: String,
    unit: Option<Unit>,
    kind: Option<MetricKind>,
    buckets: Option<Buckets>,
    /// It came with the builder, and stays.
    is_fixed: bool,
}

/// Passes on the hash that a [`Key`] carries with it.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // A `Key` calls `write_u64` only; were that to change, this would be slow and not wrong.
        for byte in bytes {
            self.0 = self.0.rotate_left(5) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Default)]
struct State {
    index: HashMap<Key, Arc<Entry>, BuildHasherDefault<KeyHasher>>,
    groups: BTreeMap<String, Group>,
    descriptions: BTreeMap<String, Description>,
}

pub(super) struct Tables {
    state: RwLock<State>,
    series_max: usize,
    exemplars: Arc<ExemplarSource>,
    refused_kind: AtomicU64,
    refused_names: AtomicU64,
}

impl Tables {
    pub(super) fn new(series_max: usize, exemplars: Arc<ExemplarSource>) -> Self {
        Self {
            state: RwLock::default(),
            series_max,
            exemplars,
            refused_kind: AtomicU64::new(0),
            refused_names: AtomicU64::new(0),
        }
    }

    /// The cell for `key`, made if need be; `None` if the name is of another kind, or one too many.
    pub(super) fn resolve(&self, kind: MetricKind, key: &Key, by: Reporter) -> Option<Cell> {
        if let Some(entry) = self.read_lock().index.get(key)
            && entry.cell.kind() == kind
        {
            entry.touch(by);
            return Some(entry.cell.clone());
        }
        self.insert(kind, key, by)
    }

    fn insert(&self, kind: MetricKind, key: &Key, by: Reporter) -> Option<Cell> {
        let name = metric_name(key.name());
        let labels = label_set(key.labels().map(|label| (label.key(), label.value())), kind);
        let mut state = self.write_lock();
        let State { index, groups, descriptions } = &mut *state;
        if !groups.contains_key(&name) && groups.len() >= NAMES_MAX {
            self.refused_names.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let make = || {
            let buckets = || descriptions.get(&name).and_then(|said| said.buckets.clone());
            Arc::new(Entry {
                cell: self.new_cell(kind, buckets),
                collector: AtomicU64::new(by.collector),
                run: AtomicU64::new(by.run),
            })
        };
        let group = groups.entry(name.clone()).or_insert_with(|| Group::new(kind));
        if group.kind != kind {
            self.refused_kind.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if group.series.len() >= self.series_max && !group.series.contains_key(&labels) {
            group.overflowed += 1;
            return Some(group.overflow.get_or_insert_with(make).cell.clone());
        }
        let entry = group.series.entry(labels).or_insert_with(make);
        entry.touch(by);
        // Without this bound, label values that are cut to the same text would each leave a key behind.
        if group.keys < 2 * self.series_max {
            group.keys += 1;
            index.insert(key.to_retained(), Arc::clone(entry));
        }
        Some(entry.cell.clone())
    }

    fn new_cell(&self, kind: MetricKind, buckets: impl Fn() -> Option<Buckets>) -> Cell {
        match kind {
            MetricKind::Counter => Cell::Counter(Arc::default()),
            MetricKind::Gauge => Cell::Gauge(Arc::default()),
            MetricKind::Histogram => {
                let buckets = buckets().unwrap_or_else(default_buckets);
                Cell::Histogram(Arc::new(HistogramCell::new(&buckets, Arc::clone(&self.exemplars))))
            }
        }
    }

    /// Takes out the series that a collector reported before, and not in its present run.
    pub(super) fn retire(&self, reported: &Reported) {
        let stale = |entry: &Arc<Entry>| entry.is_stale(reported);
        // Looked for under the lock that readers share: as a rule there is none.
        if !self.read_lock().groups.values().any(|group| group.series.values().any(stale)) {
            return;
        }
        let mut state = self.write_lock();
        let State { index, groups, .. } = &mut *state;
        for group in groups.values_mut() {
            group.series.retain(|_, entry| {
                let keep = !stale(entry);
                if !keep {
                    // Decided once: a handle dropped between the two tables must not split them.
                    entry.collector.store(RETIRED, Ordering::Relaxed);
                }
                keep
            });
        }
        index.retain(|key, entry| {
            let keep = entry.collector.load(Ordering::Relaxed) != RETIRED;
            if !keep && let Some(group) = groups.get_mut(&metric_name(key.name())) {
                group.keys -= 1;
            }
            keep
        });
        groups.retain(|_, group| !group.series.is_empty() || group.overflow.is_some());
    }

    /// A description from the builder, which later ones do not change.
    pub(super) fn describe_first(&self, described: &Described) {
        let description = Description {
            help: described.help.to_owned(),
            unit: described.unit,
            kind: Some(described.kind),
            buckets: Buckets::new(described.buckets).ok(),
            is_fixed: true,
        };
        self.write_lock().descriptions.insert(metric_name(described.name), description);
    }

    pub(super) fn describe(&self, kind: MetricKind, name: &str, unit: Option<Unit>, help: &str) {
        let name = metric_name(name);
        let mut state = self.write_lock();
        if state.descriptions.len() >= NAMES_MAX && !state.descriptions.contains_key(&name) {
            self.refused_names.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let said = state.descriptions.entry(name).or_default();
        if !said.is_fixed {
            said.help = help.to_owned();
            said.unit = unit;
            said.kind = Some(kind);
        }
    }

    pub(super) fn set_buckets(&self, name: &str, buckets: Buckets) {
        self.write_lock().descriptions.entry(metric_name(name)).or_default().buckets = Some(buckets);
    }

    /// All names that are used or described.
    pub(super) fn read(&self) -> Vec<Family> {
        let state = self.read_lock();
        let used = state
            .groups
            .iter()
            .map(|(name, group)| family(name, group.kind, state.descriptions.get(name), group.read()));
        let unused = state.descriptions.iter().filter(|(name, _)| !state.groups.contains_key(*name));
        let described =
            unused.filter_map(|(name, said)| Some(family(name, said.kind?, Some(said), Vec::new())));
        used.chain(described).collect()
    }

    /// What was not kept as it came.
    pub(super) fn losses(&self) -> Losses {
        let state = self.read_lock();
        let overflowed = state.groups.iter().filter(|(_, group)| group.overflowed > 0);
        Losses {
            overflowed: overflowed.map(|(name, group)| (name.clone(), group.overflowed)).collect(),
            refused_kind: self.refused_kind.load(Ordering::Relaxed),
            refused_names: self.refused_names.load(Ordering::Relaxed),
        }
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn new(kind: MetricKind) -> Self {
        Self { kind, series: BTreeMap::new(), overflow: None, overflowed: 0, keys: 0 }
    }

    fn read(&self) -> Vec<Series> {
        let series = |(labels, entry): (&Labels, &Arc<Entry>)| Series {
            labels: Arc::clone(labels),
            value: entry.cell.read(),
        };
        let overflow = self.overflow.iter().map(|entry| Series {
            labels: [(OVERFLOW_LABEL.to_owned(), "true".to_owned())].into(),
            value: entry.cell.read(),
        });
        self.series.iter().map(series).chain(overflow).collect()
    }
}

fn family(name: &str, kind: MetricKind, said: Option<&Description>, series: Vec<Series>) -> Family {
    Family {
        name: name.to_owned(),
        help: said.map(|said| said.help.clone()).unwrap_or_default(),
        unit: said.and_then(|said| said.unit),
        kind,
        series,
    }
}
