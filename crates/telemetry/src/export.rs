//! The seam where an exporter such as OTLP attaches.

use std::time::Duration;

use async_trait::async_trait;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Layer;

use crate::Metrics;

/// A layer of the program's subscriber.
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

    /// The layer through which it sees spans and events; asked for once, before anything is logged. It brings
    /// its own filter: the level of the logs does not apply to it.
    ///
    /// It runs after the one that reads the field `traceparent` and puts the
    /// [`TraceContext`](crate::TraceContext) that stands there into the span's extensions. What it puts there
    /// in its place has the last word: log lines, exemplars and
    /// [`TraceContext::current`](crate::TraceContext::current) take it from there.
    fn layer(&self) -> Option<BoxedLayer> {
        None
    }

    /// The layer through which it sees what is logged, and nothing else; asked for once, like the other.
    fn log_layer(&self) -> Option<BoxedLayer> {
        None
    }

    /// Hands over the metrics, of which the exporter takes a [`Snapshot`](crate::Snapshot) at its own
    /// pace; called once.
    fn attach(&self, metrics: Metrics) {
        drop(metrics);
    }

    /// Sends what is still held, and ends, within the deadline. Dropped at its next await if it does not.
    ///
    /// # Errors
    ///
    /// What was lost, and why.
    async fn shutdown(&self, deadline: Duration) -> Result<(), ExportError>;
}

/// Why an exporter could not send all it held.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExportError(pub String);
