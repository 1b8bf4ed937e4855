//! Collectors run before each snapshot, alone with their failures.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, counter, gauge};
use telemetry::{CollectorGuard, Format, Metrics, Telemetry};

use crate::Pages;
use crate::checker::Page;

fn page(metrics: &Metrics) -> Page {
    Page::read(&metrics.render(Format::PrometheusText), Format::PrometheusText)
}

#[test]
fn a_collector_reports_to_its_own_metrics_at_each_snapshot() {
    let metrics = Metrics::builder().process(false).build();
    let hot = Arc::new(AtomicU64::new(3));
    let seen = Arc::clone(&hot);
    let guard = metrics.register_collector("hot", move || {
        counter!("hot_total").absolute(seen.load(Ordering::Relaxed));
    });
    assert_eq!(page(&metrics).value("hot_total", &[]), 3.0);
    hot.store(8, Ordering::Relaxed);
    assert_eq!(page(&metrics).value("hot_total", &[]), 8.0);
    drop(guard);
    assert_eq!(page(&metrics).count("hot_total"), 0, "it went with its collector");
    assert_eq!(Arc::strong_count(&hot), 1, "and so did what it held");
}

#[test]
fn a_panic_stays_with_its_collector() {
    let metrics = Metrics::builder().process(false).build();
    let logged = Pages::default();
    let telemetry = Telemetry::builder().metrics(metrics.clone()).log_writer(logged.clone()).build();
    metrics.register_collector("bad", || panic!("no such luck")).detach();
    metrics.register_collector("good", || gauge!("good").set(1.0)).detach();
    let page = tracing::dispatcher::with_default(telemetry.dispatch(), || {
        drop(page(&metrics));
        page(&metrics)
    });
    assert_eq!(page.value("good", &[]), 1.0);
    assert_eq!(page.value("telemetry_collector_panics_total", &[("collector", "bad")]), 2.0);
    assert!(
        logged.text().contains("metrics collector panicked collector=bad panic=no such luck"),
        "{}",
        logged.text()
    );
}

#[test]
fn what_a_collector_no_longer_reports_is_gone() {
    let metrics = Metrics::builder().process(false).series_limit(3).build();
    let state = Arc::new(Mutex::new("starting"));
    let seen = Arc::clone(&state);
    let collect = move || gauge!("plugin_status", "name" => "x", "status" => *seen.lock().unwrap()).set(1.0);
    let _guard = metrics.register_collector("plugins", collect);
    metrics::with_local_recorder(&metrics, || gauge!("plugin_status", "name" => "direct").set(1.0));
    for now in ["starting", "running", "stopping", "stopped", "starting", "running"] {
        *state.lock().unwrap() = now;
        let page = page(&metrics);
        assert_eq!(page.value("plugin_status", &[("name", "x"), ("status", now)]), 1.0);
        assert_eq!(page.value("plugin_status", &[("name", "direct")]), 1.0, "it is nobody's but its own");
        assert_eq!(page.count("plugin_status"), 2, "one state at a time, and none beyond the limit");
    }
}

#[test]
fn a_series_that_code_at_large_uses_too_is_kept() {
    let metrics = Metrics::builder().process(false).build();
    let guard = metrics.register_collector("first", || counter!("shared_total").absolute(1));
    drop(page(&metrics));
    metrics::with_local_recorder(&metrics, || counter!("shared_total").increment(1));
    drop(guard);
    assert_eq!(page(&metrics).value("shared_total", &[]), 2.0);
}

#[test]
fn a_series_somebody_holds_is_kept() {
    let metrics = Metrics::builder().process(false).build();
    let held: Arc<Mutex<Option<Counter>>> = Arc::default();
    let keep = Arc::clone(&held);
    // Takes its handle in the first run and never asks again.
    let collect = move || keep.lock().unwrap().get_or_insert_with(|| counter!("held_total")).increment(1);
    let _guard = metrics.register_collector("holder", collect);
    for run in 1..=3 {
        assert_eq!(page(&metrics).value("held_total", &[]), f64::from(run));
    }
    held.lock().unwrap().take();
}

#[test]
fn a_collector_may_take_a_snapshot_and_register_another() {
    let metrics = Metrics::builder().process(false).build();
    let depth = AtomicU64::new(0);
    let inner = metrics.clone();
    metrics
        .register_collector("curious", move || {
            if depth.fetch_add(1, Ordering::Relaxed) == 0 {
                inner.register_collector("born", || gauge!("born").set(1.0)).detach();
                let _ = inner.snapshot();
            }
        })
        .detach();
    drop(page(&metrics));
    assert_eq!(page(&metrics).value("born", &[]), 1.0);
}

#[test]
fn a_collector_taken_out_in_its_own_run_leaves_nothing_behind() {
    let metrics = Metrics::builder().process(false).build();
    let guard: Arc<Mutex<Option<CollectorGuard>>> = Arc::default();
    let own = Arc::clone(&guard);
    let collect = move || {
        drop(own.lock().unwrap().take());
        gauge!("last_words").set(1.0);
    };
    *guard.lock().unwrap() = Some(metrics.register_collector("leaver", collect));
    assert_eq!(page(&metrics).count("last_words"), 0);
    assert_eq!(page(&metrics).count("last_words"), 0);
}

#[test]
fn a_guard_outlives_its_metrics() {
    let metrics = Metrics::builder().process(false).build();
    let guard = metrics.register_collector("last", || ());
    drop(metrics);
    drop(guard);
}
