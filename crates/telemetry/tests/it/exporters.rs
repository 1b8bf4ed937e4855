//! The seam for OTLP: an exporter sees all three signals, and cannot hold up the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use telemetry::{BoxedLayer, ExportError, Exporter, Format, LogFormat, Metrics, Telemetry, TraceContext};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber, info_span, trace};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::Pages;

/// An exporter to memory, in the shape that one to a collector has.
#[derive(Default)]
struct Memory {
    seen: Arc<Mutex<Vec<String>>>,
    metrics: Mutex<Option<Metrics>>,
}

struct MemoryLayer(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for MemoryLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.0.lock().unwrap().push(format!("span {}", attributes.metadata().name()));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.lock().unwrap().push(format!("event {}", event.metadata().level()));
    }
}

#[async_trait::async_trait]
impl Exporter for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn layer(&self) -> Option<BoxedLayer> {
        Some(MemoryLayer(Arc::clone(&self.seen)).with_filter(LevelFilter::TRACE).boxed())
    }

    fn attach(&self, metrics: Metrics) {
        *self.metrics.lock().unwrap() = Some(metrics);
    }

    async fn shutdown(&self, _: Duration) -> Result<(), ExportError> {
        let metrics =
            self.metrics.lock().unwrap().clone().ok_or_else(|| ExportError("never attached".into()))?;
        let names = metrics.snapshot().families.into_iter().map(|family| family.name);
        self.seen.lock().unwrap().extend(names.filter(|name| name == "jobs_total"));
        Ok(())
    }
}

#[tokio::test]
async fn an_exporter_sees_spans_events_and_metrics_at_its_own_level() {
    let exporter = Arc::new(Memory::default());
    let logged = Pages::default();
    let telemetry = Telemetry::builder()
        .log_filter("warn".parse().unwrap())
        .log_writer(logged.clone())
        .exporter(Arc::<Memory>::clone(&exporter))
        .build();
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        info_span!("request").in_scope(|| trace!("fine"));
    });
    metrics::with_local_recorder(telemetry.metrics(), || metrics::counter!("jobs_total").increment(1));
    let report = telemetry.shutdown(Duration::from_secs(5)).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(*exporter.seen.lock().unwrap(), ["span request", "event TRACE", "jobs_total"]);
    assert_eq!(logged.text(), "", "the level of the logs is theirs alone");
    assert!(telemetry.metrics().render(Format::OpenMetrics).contains("jobs_total 1"));
}

/// Gives the spans ids of its own, as a tracing SDK does.
struct Renaming(TraceContext);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Renaming {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        ctx.span(id).unwrap().extensions_mut().replace(self.0);
    }
}

#[async_trait::async_trait]
impl Exporter for Renaming {
    fn name(&self) -> &str {
        "renaming"
    }

    fn layer(&self) -> Option<BoxedLayer> {
        Some(Self(self.0).boxed())
    }

    async fn shutdown(&self, _: Duration) -> Result<(), ExportError> {
        Ok(())
    }
}

#[test]
fn an_exporter_may_give_spans_their_ids() {
    let own = TraceContext::root(true);
    let logged = Pages::default();
    let telemetry = Telemetry::builder()
        .log_format(LogFormat::Json)
        .log_writer(logged.clone())
        .exporter(Arc::new(Renaming(own)))
        .build();
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        let _entered = info_span!("request", traceparent = %TraceContext::root(true)).entered();
        assert_eq!(TraceContext::current(), Some(own));
        tracing::info!("seen");
    });
    let line: serde_json::Value = serde_json::from_str(&logged.text()).unwrap();
    assert_eq!(line["trace_id"], own.trace_id().to_string());
}

struct Broken(&'static str);

#[async_trait::async_trait]
impl Exporter for Broken {
    fn name(&self) -> &str {
        self.0
    }

    async fn shutdown(&self, _: Duration) -> Result<(), ExportError> {
        match self.0 {
            "hangs" => std::future::pending().await,
            "panics" => panic!("out of luck"),
            _ => Err(ExportError("3 spans lost: connection refused".into())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn exporters_that_fail_are_named_and_hold_up_nothing() {
    let exporter = Arc::new(Memory::default());
    let mut builder = Telemetry::builder().log_writer(Pages::default());
    for name in ["hangs", "panics", "fails"] {
        builder = builder.exporter(Arc::new(Broken(name)));
    }
    let telemetry = builder.exporter(Arc::<Memory>::clone(&exporter)).build();
    let started = tokio::time::Instant::now();
    let report = telemetry.shutdown(Duration::from_secs(3)).await;
    assert!(started.elapsed() <= Duration::from_secs(4));
    let failed: Vec<_> = report.failed.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
    assert_eq!(
        failed,
        [
            ("hangs", "deadline of 3s exceeded"),
            ("panics", "panicked: out of luck"),
            ("fails", "3 spans lost: connection refused"),
        ]
    );
}
