//! Counts and spans, kept under the core's lock so that a run costs no atomic of its own.

use std::time::Duration;

use crate::executor::ExecutorKey;
use crate::history::SkipKind;
use crate::schedule::Micros;
use crate::view::{Lateness, RunTotals};

/// A histogram of microseconds with eight buckets for each power of two: within 9% of the truth.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max: Micros,
}

const SUB: u32 = 3;
const BUCKETS: usize = (64 - SUB as usize) << SUB;

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into(), count: 0, max: 0 }
    }

    pub(crate) fn record(&mut self, span: Micros) {
        let span = span.max(0);
        if let Some(count) = self.counts.get_mut(bucket(span.unsigned_abs())) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(span);
    }

    fn clear(&mut self) {
        self.counts.fill(0);
        self.count = 0;
        self.max = 0;
    }

    /// What has come since the last call: seconds, and how many spans of about that length.
    fn take_new(&mut self) -> Vec<(f64, u64)> {
        let found = self.counts.iter_mut().enumerate().filter(|(_, count)| **count > 0);
        found.map(|(at, count)| (upper(at) as f64 / 1e6, std::mem::take(count))).collect()
    }
}

fn bucket(span: u64) -> usize {
    if span < 1 << SUB {
        return span as usize;
    }
    let magnitude = span.ilog2();
    let sub = (span >> (magnitude - SUB)) as usize & ((1 << SUB) - 1);
    (((magnitude - SUB + 1) as usize) << SUB) + sub
}

/// The greatest value that falls into a bucket.
fn upper(bucket: usize) -> Micros {
    if bucket < 1 << SUB {
        return bucket as Micros;
    }
    let magnitude = (bucket >> SUB) as u32 + SUB - 1;
    let sub = (bucket & ((1 << SUB) - 1)) as u128 + 1;
    let value = (1_u128 << magnitude) + (sub << (magnitude - SUB)) - 1;
    Micros::try_from(value).unwrap_or(Micros::MAX)
}

/// The percentiles of two histograms together.
fn lateness(parts: [&Histogram; 2]) -> Lateness {
    let count: u64 = parts.iter().map(|part| part.count).sum();
    let max = parts.iter().map(|part| part.max).max().unwrap_or(0);
    let at = |share: f64| {
        let rank = (count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for bucket in 0..BUCKETS {
            seen += parts.iter().filter_map(|part| part.counts.get(bucket)).sum::<u64>();
            if seen >= rank.max(1) {
                return span(upper(bucket).min(max));
            }
        }
        span(max)
    };
    if count == 0 {
        return Lateness::default();
    }
    Lateness { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: span(max), count }
}

fn span(micros: Micros) -> runtime::DurationText {
    runtime::DurationText::measured(Duration::from_micros(micros.unsigned_abs()))
}

/// How long a window of recent lateness is; two are kept.
const WINDOW: Micros = 60 * 1_000_000;

/// What has been counted of one executor's runs.
#[derive(Debug)]
struct ExecutorStats {
    ended: u64,
    failed: u64,
    /// Since the last report.
    duration: Histogram,
}

/// What there is to report about one executor.
#[derive(Debug)]
pub(crate) struct ExecutorReport {
    pub(crate) key: ExecutorKey,
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    /// Seconds, and how many runs took about that long, since the last report.
    pub(crate) durations: Vec<(f64, u64)>,
}

/// What has been counted since the scheduler was built.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) started: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) canceled: u64,
    /// By the kind of reason.
    pub(crate) skipped: [u64; SkipKind::ALL.len()],
    pub(crate) retried: u64,
    /// How often tasks were paused since their runs failed.
    pub(crate) paused_for_failures: u64,
    /// Since the last report.
    lateness: Histogram,
    executors: Vec<Option<ExecutorStats>>,
    recent: [Histogram; 2],
    window_began: Micros,
}

impl Stats {
    pub(crate) fn new(now: Micros) -> Self {
        Self {
            started: 0,
            completed: 0,
            failed: 0,
            canceled: 0,
            skipped: [0; SkipKind::ALL.len()],
            retried: 0,
            paused_for_failures: 0,
            lateness: Histogram::new(),
            executors: Vec::new(),
            recent: [Histogram::new(), Histogram::new()],
            window_began: now,
        }
    }

    /// Counts a start, `late` after it was due.
    pub(crate) fn start(&mut self, late: Micros, now: Micros) {
        self.started += 1;
        self.turn(now);
        let [present, _] = &mut self.recent;
        present.record(late);
        self.lateness.record(late);
    }

    /// Counts times that nobody runs.
    pub(crate) fn skip(&mut self, kind: SkipKind, times: u64) {
        if let Some(count) = self.skipped.get_mut(kind as usize) {
            *count += times;
        }
    }

    pub(crate) fn skipped_for(&self, kind: SkipKind) -> u64 {
        self.skipped.get(kind as usize).copied().unwrap_or(0)
    }

    fn turn(&mut self, now: Micros) {
        let passed = now.saturating_sub(self.window_began);
        if (0..WINDOW).contains(&passed) {
            return;
        }
        self.window_began = now;
        let [present, past] = &mut self.recent;
        std::mem::swap(present, past);
        present.clear();
        if passed >= 2 * WINDOW {
            past.clear();
        }
    }

    /// The lateness of the last one to two minutes, and the runs per second within them.
    pub(crate) fn recent(&mut self, now: Micros) -> (Lateness, f64) {
        self.turn(now);
        let [present, past] = &self.recent;
        let passed = now.saturating_sub(self.window_began).max(0);
        let span = passed + if past.count > 0 { WINDOW } else { 0 };
        let runs = present.count + past.count;
        let rate = if runs == 0 { 0.0 } else { runs as f64 / (span.max(1_000_000) as f64 / 1e6) };
        (lateness([present, past]), rate)
    }

    /// Counts the end of a run that took `span`.
    pub(crate) fn end(&mut self, executor: ExecutorKey, span: Micros, has_failed: bool) {
        let at = executor.0 as usize;
        if at >= self.executors.len() {
            self.executors.resize_with(at + 1, || None);
        }
        if let Some(stats) = self.executors.get_mut(at) {
            let new = || ExecutorStats { ended: 0, failed: 0, duration: Histogram::new() };
            let stats = stats.get_or_insert_with(new);
            stats.ended += 1;
            stats.failed += u64::from(has_failed);
            stats.duration.record(span);
        }
    }

    /// What there is to report: how late runs were since the last report, and each executor's runs.
    pub(crate) fn take_report(&mut self) -> (Vec<(f64, u64)>, Vec<ExecutorReport>) {
        let executors = (0_u32..).zip(&mut self.executors).filter_map(|(key, stats)| {
            let stats = stats.as_mut()?;
            Some(ExecutorReport {
                key: ExecutorKey(key),
                ended: stats.ended,
                failed: stats.failed,
                durations: stats.duration.take_new(),
            })
        });
        let executors = executors.collect();
        (self.lateness.take_new(), executors)
    }

    pub(crate) const fn totals(&self) -> RunTotals {
        RunTotals {
            started: self.started,
            completed: self.completed,
            failed: self.failed,
            canceled: self.canceled,
            skipped: {
                let [overlap, misfire, dependency, backoff] = self.skipped;
                overlap + misfire + dependency + backoff
            },
            retried: self.retried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_a_bucket_that_ends_at_or_little_past_it() {
        for value in (0..2000).chain([1 << 20, (1 << 40) + 12345, i64::MAX - 1]) {
            let up = upper(bucket(value as u64));
            assert!(up >= value && up as f64 <= value as f64 * 1.13 + 1.0, "{value} {up}");
        }
    }

    #[test]
    fn percentiles_are_of_the_last_minutes() {
        let mut stats = Stats::new(0);
        for late in 1..=100 {
            stats.start(late * 1000, 1_000_000);
        }
        let (recent, rate) = stats.recent(2_000_000);
        assert_eq!(recent.count, 100);
        assert!((recent.p50.0.as_micros() as i64 - 50_000).abs() < 7000, "{recent:?}");
        assert_eq!(recent.max.0, Duration::from_millis(100));
        assert!((rate - 50.0).abs() < 1.0);
        assert_eq!(stats.recent(10 * WINDOW).0.count, 0);
    }
}
