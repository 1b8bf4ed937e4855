//! Everything has a bound, and many threads at once change nothing about the numbers.

use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{counter, gauge, histogram};
use proptest::prelude::*;
use telemetry::{Format, Metrics, Value};

use crate::checker::Page;

#[test]
fn labels_beyond_the_limit_share_a_series_and_are_counted() {
    let metrics = Metrics::builder().process(false).series_limit(10).build();
    metrics::with_local_recorder(&metrics, || {
        for n in 0..1_000 {
            counter!("hits_total", "path" => n.to_string()).increment(1);
            histogram!("took_seconds", "path" => n.to_string()).record(1.0);
        }
        // What was there before is still reached.
        counter!("hits_total", "path" => "3").increment(5);
    });
    for format in [Format::PrometheusText, Format::OpenMetrics] {
        let page = Page::read(&metrics.render(format), format);
        assert_eq!(page.count("hits_total"), 11);
        assert_eq!(page.value("hits_total", &[("path", "3")]), 6.0);
        let overflow = [("otel_metric_overflow", "true")];
        assert_eq!(page.value("hits_total", &overflow), 990.0);
        assert_eq!(page.value("took_seconds_count", &overflow), 990.0);
        assert_eq!(page.value("telemetry_series_overflow_total", &[("metric", "hits_total")]), 990.0);
    }
}

#[test]
fn names_beyond_the_limit_are_refused_and_counted() {
    let metrics = Metrics::builder().process(false).build();
    metrics::with_local_recorder(&metrics, || {
        for n in 0..2_000 {
            counter!(format!("name_{n}_total")).increment(1);
            metrics::describe_counter!(format!("said_{n}_total"), "x");
        }
    });
    let page = Page::read(&metrics.render(Format::PrometheusText), Format::PrometheusText);
    assert_eq!(page.kinds.keys().filter(|name| name.starts_with("name_")).count(), 1_024);
    assert_eq!(page.kinds.keys().filter(|name| name.starts_with("said_")).count(), 1_024);
    assert_eq!(page.value("telemetry_metrics_refused_total", &[("reason", "names")]), 2.0 * 976.0);
}

#[test]
fn long_values_are_cut_and_many_labels_dropped() {
    let metrics = Metrics::builder().process(false).build();
    let labels: Vec<_> = (0..40).map(|n| (format!("l{n:02}"), "ü".repeat(1_000))).collect();
    metrics::with_local_recorder(&metrics, || gauge!("g", &labels).set(1.0));
    let page = Page::read(&metrics.render(Format::PrometheusText), Format::PrometheusText);
    let sample = page.samples.iter().find(|sample| sample.name == "g").unwrap();
    assert_eq!(sample.labels.len(), 16);
    assert!(sample.labels.values().all(|value| value.len() == 256));
}

proptest! {
    #[test]
    fn no_sequence_of_labels_exceeds_the_limit_and_none_is_lost(
        limit in 1usize..20,
        labels in proptest::collection::vec((0u8..30, 0u8..3), 0..200),
    ) {
        let metrics = Metrics::builder().process(false).series_limit(limit).build();
        metrics::with_local_recorder(&metrics, || {
            for (a, b) in &labels {
                counter!("c_total", "a" => a.to_string(), "b" => b.to_string()).increment(1);
            }
        });
        let snapshot = metrics.snapshot();
        let series = snapshot.families.iter().find(|family| family.name == "c_total").map(|family| &family.series);
        let series = series.cloned().unwrap_or_default();
        prop_assert!(series.len() <= limit + 1);
        let total: u64 = series.iter().map(|one| match one.value { Value::Integer(n) => n, _ => 0 }).sum();
        prop_assert_eq!(total, labels.len() as u64);
    }
}

#[test]
fn nothing_is_lost_while_many_record_and_one_renders() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 5_000;
    let metrics = Metrics::builder().process(false).build();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut pages = 0;
            while !done.load(Ordering::Relaxed) || pages == 0 {
                let format = if pages % 2 == 0 { Format::OpenMetrics } else { Format::PrometheusText };
                Page::read(&metrics.render(format), format);
                pages += 1;
            }
        });
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let metrics = &metrics;
                scope.spawn(move || {
                    metrics::with_local_recorder(metrics, || {
                        let held = counter!("held_total");
                        for round in 0..ROUNDS {
                            held.increment(1);
                            counter!("looked_up_total", "n" => (round % 50).to_string()).increment(1);
                            histogram!("h_seconds", "thread" => thread.to_string()).record(0.25);
                            gauge!("g").increment(1.0);
                        }
                    });
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    let page = Page::read(&metrics.render(Format::PrometheusText), Format::PrometheusText);
    let all = (THREADS * ROUNDS) as f64;
    assert_eq!(page.value("held_total", &[]), all);
    assert_eq!(page.value("g", &[]), all);
    let looked_up = page.samples.iter().filter(|sample| sample.name == "looked_up_total");
    assert_eq!(looked_up.map(|sample| sample.value).sum::<f64>(), all);
    for thread in 0..THREADS {
        let thread = thread.to_string();
        assert_eq!(page.value("h_seconds_sum", &[("thread", &thread)]), ROUNDS as f64 * 0.25);
    }
}
