//! Everything put together: one subscriber, one recorder, the exporters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tracing::Dispatch;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::catalog::CATALOG;
use crate::export::{BoxedLayer, Exporter};
use crate::logs::{self, LogFilter, LogFormat, LogLevels};
use crate::registry::{Metrics, RecorderTaken};
use crate::spans::{CarriesTrace, TraceLayer};

/// The telemetry of a program: its logs, its metrics, and what takes them elsewhere.
///
/// Exporters hold what they have not sent yet: call [`Telemetry::shutdown`] last thing.
pub struct Telemetry {
    metrics: Metrics,
    levels: LogLevels,
    exporters: Vec<Arc<dyn Exporter>>,
    dispatch: Dispatch,
}

impl Telemetry {
    /// Begins to build one: logs for a person at level `info` on standard error, metrics as in
    /// [`CATALOG`].
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::default()
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The handle that changes what is logged.
    #[must_use]
    pub fn log_levels(&self) -> &LogLevels {
        &self.levels
    }

    /// The subscriber, for use in a part of the program (`tracing::dispatcher::with_default`).
    #[must_use]
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// Has all exporters send what they hold, side by side, within `deadline`; in a tokio runtime.
    pub async fn shutdown(&self, deadline: Duration) -> FlushReport {
        let flush = |exporter: &Arc<dyn Exporter>| {
            let exporter = Arc::clone(exporter);
            let runtime = Handle::current();
            async move {
                let name = exporter.name().to_owned();
                // Some time is left for it to say what it lost.
                let own = deadline.mul_f32(0.8);
                let flush = async move { exporter.shutdown(own).await };
                let result = match runtime::guarded(&runtime, deadline, flush).await {
                    Ok(Ok(())) => return None,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                Some((name, result))
            }
        };
        let failed = join_all(self.exporters.iter().map(flush)).await;
        FlushReport { failed: failed.into_iter().flatten().collect() }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exporters: Vec<_> = self.exporters.iter().map(|exporter| exporter.name()).collect();
        out.debug_struct("Telemetry").field("exporters", &exporters).finish_non_exhaustive()
    }
}

/// What a shutdown could not send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct FlushReport {
    /// The exporters that failed, and why.
    pub failed: Vec<(String, String)>,
}

impl FlushReport {
    /// Whether everything was sent.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
    }
}

/// What of the process is taken already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The process has a `tracing` subscriber or a `log` logger.
    #[error("the process has a log subscriber already")]
    Subscriber,
    /// The process has a `metrics` recorder.
    #[error(transparent)]
    Recorder(#[from] RecorderTaken),
}

/// Builds [`Telemetry`].
#[derive(Default)]
#[must_use]
pub struct TelemetryBuilder {
    format: LogFormat,
    filter: LogFilter,
    writer: Option<BoxMakeWriter>,
    metrics: Option<Metrics>,
    exporters: Vec<Arc<dyn Exporter>>,
}

impl TelemetryBuilder {
    /// What a log line looks like (default: for a person).
    pub fn log_format(mut self, format: LogFormat) -> Self {
        self.format = format;
        self
    }

    /// What is logged (default: `info`).
    pub fn log_filter(mut self, filter: LogFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Where log lines go (default: standard error). There are no colours then.
    pub fn log_writer<W>(mut self, writer: W) -> Self
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        self.writer = Some(BoxMakeWriter::new(writer));
        self
    }

    /// The metrics (default: those of [`CATALOG`], with the process's).
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Adds a way out of the process.
    pub fn exporter(mut self, exporter: Arc<dyn Exporter>) -> Self {
        self.exporters.push(exporter);
        self
    }

    /// Builds it, and leaves the process's subscriber and recorder as they are.
    #[must_use]
    pub fn build(self) -> Telemetry {
        let metrics = self.metrics.unwrap_or_else(|| Metrics::builder().describe(CATALOG).build());
        let levels = LogLevels::new(self.filter);
        let lines = logs::layer(self.format, self.writer);
        let mut layers: Vec<BoxedLayer> = vec![
            TraceLayer.with_filter(CarriesTrace).boxed(),
            // Spans that carry a trace are let through at any log level, so that the lines that are
            // written know their trace.
            lines.with_filter(levels.follower().or(CarriesTrace)).boxed(),
        ];
        for exporter in &self.exporters {
            layers.extend(exporter.layer());
            layers.extend(exporter.log_layer().map(|layer| layer.with_filter(levels.follower()).boxed()));
        }
        for exporter in &self.exporters {
            exporter.attach(metrics.clone());
        }
        let dispatch = Dispatch::new(registry().with(layers));
        Telemetry { metrics, levels, exporters: self.exporters, dispatch }
    }

    /// Builds it, and makes it the telemetry of the process: what is said through `tracing`, `log` and
    /// `metrics` goes here from now on.
    ///
    /// Do it first thing: a counter, gauge or histogram that somebody took from the facade before counts
    /// nothing, ever.
    ///
    /// # Errors
    ///
    /// If the process has a subscriber, a logger or a recorder already. Found out one after the other:
    /// after an error the process may have this one's subscriber.
    pub fn install(self) -> Result<Telemetry, InstallError> {
        let telemetry = self.build();
        telemetry.dispatch.clone().try_init().map_err(|_| InstallError::Subscriber)?;
        telemetry.metrics.install()?;
        Ok(telemetry)
    }
}

impl fmt::Debug for TelemetryBuilder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TelemetryBuilder")
            .field("format", &self.format)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}
