//! The plugins' metrics.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use plugin_core::PluginName;

use crate::shared::Shared;

impl Shared {
    /// Copies states and counts to the metrics.
    pub(crate) fn report_metrics(&self) {
        if !self.config.metrics {
            return;
        }
        let records = self.registry.list();
        ::metrics::gauge!("plugin_count_total").set(count(records.len()));
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let gauge = |name: &PluginName, status: &'static str, value: f64| {
            ::metrics::gauge!("plugin_status", "name" => name.to_string(), "status" => status).set(value);
        };
        // What a plugin was before, and what is gone, is said to be no more.
        let now: BTreeMap<_, _> = records.iter().map(|r| (r.name().clone(), r.state.as_str())).collect();
        for (name, status) in reported.iter().filter(|(name, status)| now.get(*name) != Some(status)) {
            gauge(name, status, 0.0);
        }
        for (name, status) in &now {
            gauge(name, status, 1.0);
            if let Ok(entry) = self.entry(name.as_str()) {
                let restarts = entry.status.restarts.load(Ordering::Relaxed);
                ::metrics::counter!("plugin_restarts_total", "name" => name.to_string()).absolute(restarts);
            }
        }
        *reported = now;
    }
}

#[expect(clippy::cast_precision_loss, reason = "no host has 2^52 plugins")]
fn count(n: usize) -> f64 {
    n as f64
}
