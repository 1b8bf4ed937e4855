//! Histograms point at a trace that was kept.

use metrics::histogram;
use telemetry::{Format, Metrics, Telemetry, TraceContext, Value};
use tracing::{debug_span, info_span};

use crate::Pages;
use crate::checker::Page;

const NAME: &str = "took_seconds";

/// Runs `work` with logs and metrics of its own.
fn inside(metrics: &Metrics, filter: &str, work: impl FnOnce()) {
    let telemetry = Telemetry::builder()
        .metrics(metrics.clone())
        .log_filter(filter.parse().unwrap())
        .log_writer(Pages::default())
        .build();
    tracing::dispatcher::with_default(telemetry.dispatch(), || metrics::with_local_recorder(metrics, work));
}

fn traces_of(metrics: &Metrics) -> Vec<Option<TraceContext>> {
    let snapshot = metrics.snapshot();
    let family = snapshot.families.iter().find(|family| family.name == NAME).unwrap();
    let Value::Histogram(value) = &family.series[0].value else { panic!("no histogram") };
    value.exemplars.iter().map(|exemplar| exemplar.map(|exemplar| exemplar.trace)).collect()
}

#[test]
fn a_sampled_trace_is_the_exemplar_of_its_bucket() {
    let metrics = Metrics::builder().process(false).build();
    let trace = TraceContext::root(true);
    // Logs are off: that is no reason to lose the trace.
    inside(&metrics, "off", || {
        let _entered = info_span!("request", traceparent = %trace).entered();
        let _deeper = info_span!("query").entered();
        assert_eq!(TraceContext::current(), Some(trace));
        histogram!(NAME).record(0.7);
    });
    let text = metrics.render(Format::OpenMetrics);
    let page = Page::read(&text, Format::OpenMetrics);
    let exemplar = page.find("took_seconds_bucket", &[("le", "1.0")]).unwrap().exemplar.as_ref().unwrap();
    assert_eq!(exemplar["trace_id"], trace.trace_id().to_string());
    assert_eq!(exemplar["span_id"], trace.span_id().to_string());
    assert_eq!(page.samples.iter().filter(|sample| sample.exemplar.is_some()).count(), 1);
    assert!(!metrics.render(Format::PrometheusText).contains("trace_id"), "the older format has none");
}

#[test]
fn no_exemplar_without_a_sampled_trace_or_where_they_are_off() {
    let on = Metrics::builder().process(false).build();
    let off = Metrics::builder().process(false).exemplars(false).build();
    for (metrics, trace) in [(&on, TraceContext::root(false)), (&off, TraceContext::root(true))] {
        inside(metrics, "info", || {
            histogram!(NAME).record(0.7);
            info_span!("request", traceparent = %trace).in_scope(|| histogram!(NAME).record(0.7));
        });
        assert!(traces_of(metrics).is_empty());
    }
}

#[test]
fn a_bucket_takes_one_exemplar_between_two_snapshots() {
    let metrics = Metrics::builder().process(false).build();
    let traces: Vec<_> = (0..4).map(|_| TraceContext::root(true)).collect();
    let record = |trace: &TraceContext| {
        info_span!("request", traceparent = %trace).in_scope(|| histogram!(NAME).record(0.7));
    };
    inside(&metrics, "info", || {
        record(&traces[0]);
        record(&traces[1]);
        assert!(traces_of(&metrics).contains(&Some(traces[0])));
        record(&traces[2]);
        record(&traces[3]);
        assert!(traces_of(&metrics).contains(&Some(traces[2])));
    });
}

#[test]
fn spans_below_info_carry_no_context() {
    let metrics = Metrics::builder().process(false).build();
    inside(&metrics, "debug", || {
        let _entered = debug_span!("detail", traceparent = %TraceContext::root(true)).entered();
        assert_eq!(TraceContext::current(), None);
    });
}

#[test]
fn a_context_can_come_late_and_must_be_readable() {
    let metrics = Metrics::builder().process(false).build();
    let trace = TraceContext::root(true);
    inside(&metrics, "info", || {
        let span = info_span!("request", traceparent = tracing::field::Empty);
        let _entered = span.enter();
        assert_eq!(TraceContext::current(), None);
        span.record("traceparent", "nonsense");
        assert_eq!(TraceContext::current(), None);
        span.record("traceparent", tracing::field::display(trace));
        assert_eq!(TraceContext::current(), Some(trace));
    });
    assert_eq!(TraceContext::current(), None, "no subscriber, no trace");
}
