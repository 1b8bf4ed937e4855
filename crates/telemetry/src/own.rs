//! What telemetry says about itself, and what the program is.

use std::collections::BTreeMap;

use crate::snapshot::{Family, Labels, MetricKind, Series, Value};

/// What was not kept as it came.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    pub(crate) overflowed: BTreeMap<String, u64>,
    pub(crate) refused_kind: u64,
    pub(crate) refused_names: u64,
}

pub(crate) fn families(losses: Losses, panics: BTreeMap<String, u64>) -> Vec<Family> {
    let counted = |label: &'static str| {
        move |(name, count): (String, u64)| Series {
            labels: labels([(label, name)]),
            value: Value::Integer(count),
        }
    };
    let refused = [("kind", losses.refused_kind), ("names", losses.refused_names)];
    vec![
        counter(
            "telemetry_collector_panics_total",
            "Panics of metrics collectors, by collector.",
            panics.into_iter().map(counted("collector")).collect(),
        ),
        counter(
            "telemetry_metrics_refused_total",
            "Metrics not kept, because their name is of another kind or there are too many names.",
            refused.map(|(reason, count)| counted("reason")((reason.to_owned(), count))).into(),
        ),
        counter(
            "telemetry_series_overflow_total",
            "Times that a metric was asked for labels beyond its limit of series, by metric.",
            losses.overflowed.into_iter().map(counted("metric")).collect(),
        ),
    ]
}

pub(crate) fn build_info(service: &str, version: &str) -> Family {
    let labels = labels([("service", service.to_owned()), ("version", version.to_owned())]);
    Family {
        name: "build_info".to_owned(),
        help: "Always 1; its labels say what program this is.".to_owned(),
        unit: None,
        kind: MetricKind::Gauge,
        series: vec![Series { labels, value: Value::Integer(1) }],
    }
}

fn counter(name: &str, help: &str, series: Vec<Series>) -> Family {
    Family { name: name.to_owned(), help: help.to_owned(), unit: None, kind: MetricKind::Counter, series }
}

fn labels<const N: usize>(pairs: [(&str, String); N]) -> Labels {
    pairs.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
