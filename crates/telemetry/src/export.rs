//! The seam where an exporter such as OTLP attaches.

use async_trait::async_trait;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Layer;

use crate::Metrics;

/// A layer of the program's subscriber: it sees spans and events.
///
/// It brings its own filter: the level of the logs does not apply to it.
pub type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Takes telemetry out of the process: traces and logs through a layer, metrics through snapshots.
///
/// Given to [`TelemetryBuilder::exporter`](crate::TelemetryBuilder::exporter). The three signals are
/// each optional. An exporter must never hold up the program: what it cannot send in time it drops and
/// counts.
#[async_trait]
pub trait Exporter: Send + Sync + 'static {
    /// What it is called in logs and in the report of the shutdown.
    fn name(&self) -> &str;

    /// The layer through which it sees spans and events; asked for once, before anything is logged.
    ///
    /// A layer that gives spans ids of its own puts a [`TraceContext`](crate::TraceContext) into the
    /// span's extensions: log lines, exemplars and [`TraceContext::current`](crate::TraceContext::current)
    /// take it from there. It runs after the one that reads the field `traceparent`, and has the last word.
    fn layer(&self) -> Option<BoxedLayer> {
        None
    }

    /// Hands over the metrics, of which the exporter takes a [`Snapshot`](crate::Snapshot) at its own
    /// pace; called once.
    fn attach(&self, metrics: Metrics) {
        drop(metrics);
    }

    /// Sends what is still held, and ends. Dropped at its next await when the deadline passes.
    ///
    /// # Errors
    ///
    /// What was lost, and why.
    async fn shutdown(&self) -> Result<(), ExportError>;
}

/// Why an exporter could not send all it held.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExportError(pub String);
