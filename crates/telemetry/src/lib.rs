//! Logs, metrics and trace context: where what the other crates say goes.
//!
//! Layer 1. Every other crate speaks through `tracing` and the `metrics` facade; a program builds a
//! [`Telemetry`] from this one, and nothing else decides where it all goes. Invariants:
//!
//! - What is measured is read through one [`Snapshot`], by the text formats and by every exporter alike.
//! - Everything has a bound: series of a metric, names, labels, exemplars, log directives.
//! - A collector that panics, or an exporter that hangs, costs what it reports and nothing else.
//! - This is the one crate that may use the OpenTelemetry SDK, behind [`Exporter`].
//!
//! ```
//! use std::time::Duration;
//! use telemetry::{Format, LogFormat, Telemetry};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let telemetry = Telemetry::builder()
//!     .log_format(LogFormat::for_environment("production"))
//!     .log_filter("info,http_api=debug".parse()?)
//!     .install()?;
//!
//! // Any crate, through the facades:
//! tracing::info!(port = 8080, "listening");
//! metrics::counter!("event_bus_published_total").increment(1);
//!
//! // Whoever serves `/metrics`:
//! let format = Format::negotiate(Some("application/openmetrics-text"));
//! let page = telemetry.metrics().render(format);
//! assert!(page.contains("event_bus_published_total 1\n"));
//!
//! // Numbers that a hot path counts on its own are fetched when somebody looks:
//! telemetry.metrics().register_collector("queue", || metrics::gauge!("queue_depth").set(3.0)).detach();
//!
//! // An operator wants to see more:
//! telemetry.log_levels().set("debug".parse()?)?;
//!
//! let report = telemetry.shutdown(Duration::from_secs(2)).await;
//! assert!(report.is_clean());
//! # Ok(()) }
//! ```

mod catalog;
mod encode;
mod export;
mod format;
mod histogram;
mod logs;
mod names;
#[cfg(feature = "otlp")]
mod otlp;
mod own;
mod process;
mod registry;
mod snapshot;
mod spans;
mod telemetry;
#[cfg(feature = "test-util")]
#[expect(clippy::panic, reason = "a collector for tests fails them")]
pub mod testing;

pub use catalog::{CATALOG, Described, contradictions};
pub use export::{BoxedLayer, ExportError, Exporter};
pub use format::Format;
pub use histogram::{Buckets, BucketsError};
pub use logs::{
    LogFilter, LogFilterError, LogFormat, LogLevelError, LogLevels, LogLevelsGone, TargetLevel,
    UnknownLogFormat,
};
#[cfg(feature = "otlp")]
pub use otlp::{
    Compression, ExporterKind, Headers, Millis, OTEL_VARIABLES, Otlp, OtlpConfig, OtlpConfigError, OtlpError,
    OtlpIdentity, Pairs, Protocol, SamplerKind, SignalConfig,
};
pub use registry::{CollectorGuard, Metrics, MetricsBuilder, RecorderTaken};
// The context itself is everybody's.
pub use runtime::{Sampler, SpanId, TraceContext, TraceContextError, TraceId};
pub use snapshot::{Exemplar, Family, HistogramValue, Labels, MetricKind, Series, Snapshot, Value};
pub use telemetry::{FlushReport, InstallError, Telemetry, TelemetryBuilder};
