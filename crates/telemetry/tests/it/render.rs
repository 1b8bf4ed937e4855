//! Both text formats: to the letter for a known page, by the rules for any other.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use proptest::prelude::*;
use telemetry::{Buckets, CATALOG, Format, Metrics};

use crate::checker::Page;

const BOTH: [Format; 2] = [Format::PrometheusText, Format::OpenMetrics];

fn sample_metrics() -> Metrics {
    let metrics = Metrics::builder()
        .process(false)
        .build_info("demo", "1.2.3")
        .buckets("wait_seconds", Buckets::new(&[0.1, 1.0]).unwrap())
        .build();
    metrics::with_local_recorder(&metrics, || {
        describe_counter!("jobs_total", "Jobs \"done\",\nor \\ not.");
        describe_gauge!("depth", "Waiting.");
        describe_histogram!("wait_seconds", metrics::Unit::Seconds, "Waited.");
        counter!("jobs_total", "queue" => "mail").increment(2);
        counter!("jobs_total", "queue" => "a\"b\\c\nd").absolute(7);
        counter!("plain").increment(1);
        gauge!("depth").set(-1.5);
        for value in [0.1, 0.5, 1.0, 30.0] {
            histogram!("wait_seconds", "queue" => "mail").record(value);
        }
    });
    metrics
}

#[test]
fn prometheus_text_to_the_letter() {
    let golden = r##"# HELP build_info Always 1; its labels say what program this is.
# TYPE build_info gauge
build_info{service="demo",version="1.2.3"} 1
# HELP depth Waiting.
# TYPE depth gauge
depth -1.5
# HELP jobs_total Jobs "done",\nor \\ not.
# TYPE jobs_total counter
jobs_total{queue="a\"b\\c\nd"} 7
jobs_total{queue="mail"} 2
# TYPE plain counter
plain 1
# HELP telemetry_collector_panics_total Panics of metrics collectors, by collector.
# TYPE telemetry_collector_panics_total counter
# HELP telemetry_metrics_refused_total Metrics not kept, because their name is of another kind or there are too many names.
# TYPE telemetry_metrics_refused_total counter
telemetry_metrics_refused_total{reason="kind"} 0
telemetry_metrics_refused_total{reason="names"} 0
# HELP telemetry_series_overflow_total Times that a metric was asked for labels beyond its limit of series, by metric.
# TYPE telemetry_series_overflow_total counter
# HELP wait_seconds Waited.
# TYPE wait_seconds histogram
wait_seconds_bucket{queue="mail",le="0.1"} 1
wait_seconds_bucket{queue="mail",le="1"} 3
wait_seconds_bucket{queue="mail",le="+Inf"} 4
wait_seconds_sum{queue="mail"} 31.6
wait_seconds_count{queue="mail"} 4
"##;
    let text = sample_metrics().render(Format::PrometheusText);
    assert_eq!(text, golden);
    Page::read(&text, Format::PrometheusText);
}

#[test]
fn open_metrics_to_the_letter() {
    let golden = r##"# HELP build_info Always 1; its labels say what program this is.
# TYPE build_info gauge
build_info{service="demo",version="1.2.3"} 1
# HELP depth Waiting.
# TYPE depth gauge
depth -1.5
# HELP jobs Jobs \"done\",\nor \\ not.
# TYPE jobs counter
jobs_total{queue="a\"b\\c\nd"} 7
jobs_total{queue="mail"} 2
# TYPE plain counter
plain_total 1
# HELP telemetry_collector_panics Panics of metrics collectors, by collector.
# TYPE telemetry_collector_panics counter
# HELP telemetry_metrics_refused Metrics not kept, because their name is of another kind or there are too many names.
# TYPE telemetry_metrics_refused counter
telemetry_metrics_refused_total{reason="kind"} 0
telemetry_metrics_refused_total{reason="names"} 0
# HELP telemetry_series_overflow Times that a metric was asked for labels beyond its limit of series, by metric.
# TYPE telemetry_series_overflow counter
# HELP wait_seconds Waited.
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_bucket{queue="mail",le="0.1"} 1
wait_seconds_bucket{queue="mail",le="1.0"} 3
wait_seconds_bucket{queue="mail",le="+Inf"} 4
wait_seconds_sum{queue="mail"} 31.6
wait_seconds_count{queue="mail"} 4
# EOF
"##;
    let text = sample_metrics().render(Format::OpenMetrics);
    assert_eq!(text, golden);
    Page::read(&text, Format::OpenMetrics);
}

#[test]
fn what_is_described_is_listed_before_it_is_used() {
    let metrics = Metrics::builder().describe(CATALOG).build();
    let page = Page::read(&metrics.render(Format::PrometheusText), Format::PrometheusText);
    for described in CATALOG {
        assert_eq!(page.kinds.get(described.name).map(String::as_str), Some(described.kind.as_str()));
        assert_eq!(page.helps.get(described.name).map(String::as_str), Some(described.help));
        assert_eq!(page.count(described.name), 0);
    }
    Page::read(&metrics.render(Format::OpenMetrics), Format::OpenMetrics);
}

#[test]
fn the_words_of_the_builder_win_and_bring_their_buckets() {
    let metrics = Metrics::builder().describe(CATALOG).process(false).build();
    metrics::with_local_recorder(&metrics, || {
        describe_histogram!("scheduler_task_lateness_seconds", "Something else.");
        histogram!("scheduler_task_lateness_seconds").record(0.05);
    });
    let text = metrics.render(Format::PrometheusText);
    let page = Page::read(&text, Format::PrometheusText);
    assert!(!text.contains("Something else."));
    assert_eq!(page.value("scheduler_task_lateness_seconds_bucket", &[("le", "0.06")]), 1.0);
}

#[test]
fn names_that_only_open_metrics_makes_equal_do_not_cost_the_page() {
    let metrics = Metrics::builder().process(false).build();
    metrics::with_local_recorder(&metrics, || {
        counter!("jobs_total").increment(1);
        gauge!("jobs").set(2.0);
        counter!("runs").increment(3);
        gauge!("runs_total").set(4.0);
        counter!("_total").increment(5);
    });
    for format in BOTH {
        let page = Page::read(&metrics.render(format), format);
        let values = ["jobs_total", "jobs", "runs", "runs_total", "_total"].map(|name| page.value(name, &[]));
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}

#[test]
fn a_name_has_one_kind() {
    let metrics = Metrics::builder().process(false).build();
    metrics::with_local_recorder(&metrics, || {
        counter!("things_total").increment(1);
        gauge!("things_total").set(9.0);
        histogram!("things_total").record(9.0);
        counter!("things_total").increment(1);
    });
    for format in BOTH {
        let page = Page::read(&metrics.render(format), format);
        assert_eq!(page.value("things_total", &[]), 2.0);
        assert_eq!(page.value("telemetry_metrics_refused_total", &[("reason", "kind")]), 2.0);
    }
}

#[test]
fn odd_numbers_are_written_as_the_formats_want() {
    let metrics = Metrics::builder().process(false).build();
    let values = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e300, -0.0, 5e-324];
    metrics::with_local_recorder(&metrics, || {
        for (index, value) in values.iter().enumerate() {
            gauge!("odd", "n" => index.to_string()).set(*value);
        }
    });
    for format in BOTH {
        let page = Page::read(&metrics.render(format), format);
        for (index, value) in values.iter().enumerate() {
            let read = page.value("odd", &[("n", &index.to_string())]);
            assert!(read == *value || read.is_nan() && value.is_nan(), "{value} became {read}");
        }
    }
}

proptest! {
    #[test]
    fn any_labels_and_help_come_back(
        values in proptest::collection::vec("(\\PC|[\"\\\\\n\r\t]){0,40}", 1..6),
        help in "(\\PC|[\"\\\\\n]){1,60}",
    ) {
        let metrics = Metrics::builder().process(false).build();
        metrics::with_local_recorder(&metrics, || {
            describe_gauge!("g", help.clone());
            for value in &values {
                gauge!("g", "label" => value.clone()).set(1.0);
            }
        });
        for format in BOTH {
            let page = Page::read(&metrics.render(format), format);
            prop_assert_eq!(page.helps.get("g"), Some(&help));
            for value in &values {
                prop_assert!(page.find("g", &[("label", value)]).is_some(), "{:?}", value);
            }
        }
    }

    #[test]
    fn any_names_make_a_valid_page(
        names in proptest::collection::vec(("\\PC{0,20}", "\\PC{0,10}", "\\PC{0,10}", 0..3u8), 0..12),
    ) {
        let metrics = Metrics::builder().process(false).build();
        metrics::with_local_recorder(&metrics, || {
            for (name, first, second, kind) in &names {
                let labels = [(first.clone(), "x".to_owned()), (second.clone(), "y".to_owned())];
                match kind {
                    0 => counter!(name.clone(), &labels).increment(1),
                    1 => gauge!(name.clone(), &labels).set(1.0),
                    _ => histogram!(name.clone(), &labels).record(1.0),
                }
            }
        });
        for format in BOTH {
            Page::read(&metrics.render(format), format);
        }
    }
}
