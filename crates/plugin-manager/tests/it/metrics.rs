use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use plugin_core::PluginError;
use plugin_manager::{Change, ManagerConfig, PluginOptions};

use crate::bench::{Log, Sample, builder};
use crate::lifecycle::never;

/// Keeps the last value of each series, by its text.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<String, f64>>>);

struct Series {
    kept: Kept,
    key: String,
}

impl Series {
    fn put(&self, value: f64) {
        self.kept.0.lock().unwrap().insert(self.key.clone(), value);
    }
}

impl CounterFn for Series {
    fn increment(&self, _: u64) {}
    fn absolute(&self, value: u64) {
        self.put(f64::from(u32::try_from(value).unwrap()));
    }
}

impl GaugeFn for Series {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.put(value);
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.put(value);
    }
}

impl Kept {
    fn series(&self, key: &Key) -> Arc<Series> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Series { kept: self.clone(), key: format!("{}{{{}}}", key.name(), labels.join(",")) })
    }

    fn get(&self, key: &str) -> Option<f64> {
        self.0.lock().unwrap().get(key).copied()
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}

#[tokio::test(start_paused = true)]
async fn states_counts_and_restarts_are_reported_under_their_names() {
    let kept = Kept::default();
    let _local = metrics::set_default_local_recorder(&kept);
    let (log, manager) = (Log::default(), builder().build());
    Sample::new("good", &log)
        .starts(|_| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        })
        .add_to(&manager);
    let bad = Sample::new("bad", &log).starts(|_| async { Err(PluginError::new("no")) });
    bad.add_with(&manager, PluginOptions { restart: Some(never()), ..PluginOptions::default() });
    let flaky = Sample::new("flaky", &log).starts(|_| async { Err(PluginError::new("no")) });
    flaky.add_to(&manager);
    manager.start_all().await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    manager.report_metrics();
    assert_eq!(kept.get("plugin_count_total{}"), Some(3.0));
    assert_eq!(kept.get("plugin_status{name=good,status=running}"), Some(1.0));
    assert_eq!(kept.get("plugin_status{name=bad,status=failed}"), Some(1.0));
    assert_eq!(kept.get("plugin_restarts_total{name=flaky}"), Some(5.0));
    assert_eq!(kept.get("plugin_startup_duration_seconds{}"), Some(2.0));
    manager.stop("good", Change::default()).await.unwrap();
    manager.unload("bad", Change::default()).await.unwrap();
    manager.report_metrics();
    assert_eq!(kept.get("plugin_status{name=good,status=running}"), Some(0.0), "it is so no more");
    assert_eq!(kept.get("plugin_status{name=good,status=stopped}"), Some(1.0));
    assert_eq!(kept.get("plugin_status{name=bad,status=failed}"), Some(0.0), "gone");
    assert_eq!(kept.get("plugin_count_total{}"), Some(2.0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_where_it_is_switched_off() {
    let kept = Kept::default();
    let _local = metrics::set_default_local_recorder(&kept);
    let config = ManagerConfig { metrics: false, ..ManagerConfig::default() };
    let manager = builder().config(config).build();
    Sample::new("good", &Log::default()).add_to(&manager);
    manager.report_metrics();
    assert_eq!(kept.get("plugin_count_total{}"), None);
}
