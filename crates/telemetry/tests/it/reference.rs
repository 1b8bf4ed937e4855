//! `docs/reference/metrics.md` says what the catalog says.

use std::fmt::Write;
use std::path::Path;

use telemetry::{CATALOG, MetricKind, Metrics, contradictions};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");

/// The table as it has to stand in the page.
fn table() -> String {
    let mut table = String::from("| name | type | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in CATALOG {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(" ") };
        let kind = match metric.kind {
            MetricKind::Histogram => "histogram, seconds",
            other => other.as_str(),
        };
        let _ = writeln!(table, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.help);
    }
    table
}

fn buckets() -> String {
    let mut list = String::new();
    for metric in CATALOG.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
        let bounds: Vec<_> = metric.buckets.iter().map(ToString::to_string).collect();
        let _ = writeln!(list, "- `{}`: {}", metric.name, bounds.join(", "));
    }
    list
}

#[test]
fn the_reference_page_is_that_of_the_catalog() {
    let page = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    for part in [table(), buckets()] {
        assert!(page.contains(&part), "docs/reference/metrics.md has to contain:\n{part}");
    }
}

#[test]
fn the_reference_page_names_what_telemetry_reports_itself() {
    let page = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    let metrics = Metrics::builder().build_info("demo", "1").build();
    for family in metrics.snapshot().families {
        let row = format!("| `{}` | {} |", family.name, family.kind.as_str());
        assert!(page.contains(&row), "docs/reference/metrics.md has to contain: {row}");
    }
}

#[test]
fn what_is_reported_otherwise_than_described_is_found() {
    let metrics = Metrics::builder().describe(CATALOG).build_info("demo", "1").build();
    assert_eq!(contradictions(&metrics.snapshot(), CATALOG), Vec::<String>::new());
    metrics::with_local_recorder(&metrics, || {
        metrics::counter!("event_bus_published_total").increment(1);
        metrics::counter!("plugin_count_total").increment(1);
        metrics::counter!("plugin_restarts_total", "name" => "a", "reason" => "b").increment(1);
        metrics::gauge!("mystery").set(1.0);
    });
    assert_eq!(
        contradictions(&metrics.snapshot(), CATALOG),
        [
            "`mystery` is described nowhere",
            "`plugin_count_total` is a counter, described as a gauge",
            "`plugin_restarts_total` has the label `reason`, which is not described",
        ]
    );
}
