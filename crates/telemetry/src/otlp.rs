//! OTLP: traces, metrics and logs to a collector.

mod config;
mod fields;
mod logs;
mod metrics;
mod queue;
mod send;
mod spans;
mod work;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource;
use runtime::{SharedClock, SystemClock, TaskOwner, Timestamp};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;

pub use config::{
    Compression, ExporterKind, Headers, Millis, OTEL_VARIABLES, OtlpConfig, OtlpConfigError, Pairs, Protocol,
    SamplerKind, SignalConfig,
};

use self::config::Signal;
use self::logs::LogLayer;
use self::queue::{Counts, Queue};
use self::send::Sender;
use self::spans::SpanLayer;
use self::work::Worker;
use crate::Metrics;
use crate::export::{BoxedLayer, ExportError, Exporter};

/// Why there is no exporter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// A value is wrong.
    #[error(transparent)]
    Config(#[from] OtlpConfigError),
    /// The file of certificates could not be read.
    #[error("read the certificates in `{path}`")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection could not be prepared, such as for certificates that are none.
    #[error("prepare the connection to the collector: {0}")]
    Client(String),
}

/// Sends traces, metrics and logs to a collector by [OTLP](https://opentelemetry.io/docs/specs/otlp/).
///
/// Spans and log records wait in bounded queues and go in batches; what finds no room is dropped. A request
/// that fails in a way that may pass is sent again, five times in all. Whatever is lost is counted in
/// `telemetry_export_lost_total`. Nothing in the program waits for any of it.
///
/// Not the OpenTelemetry SDK: see `docs/decisions/0060-otlp.md`.
pub struct Otlp {
    layer: Mutex<Option<BoxedLayer>>,
    log_layer: Mutex<Option<BoxedLayer>>,
    /// What sends the metrics, until it has them.
    metrics: Mutex<Option<Worker>>,
    interval: Duration,
    workers: TaskOwner,
    counts: Vec<Arc<Counts>>,
}

/// Who sends, beside what the configuration says of it.
#[derive(Debug, Clone)]
pub struct OtlpIdentity {
    /// The resource attribute `service.version`.
    pub version: String,
    /// Further resource attributes, which the configuration's prevail over.
    pub attributes: Vec<(&'static str, String)>,
}

impl Otlp {
    /// An exporter for what the configuration sends anywhere; `None` if that is nothing. Its work goes on on
    /// the tokio runtime of the caller.
    ///
    /// # Errors
    ///
    /// [`OtlpError`]; that the collector cannot be reached is none.
    pub fn start(config: &OtlpConfig, identity: OtlpIdentity) -> Result<Option<Arc<Self>>, OtlpError> {
        Self::start_with(config, identity, SystemClock::shared())
    }

    /// The same with a clock.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_with(
        config: &OtlpConfig,
        identity: OtlpIdentity,
        clock: SharedClock,
    ) -> Result<Option<Arc<Self>>, OtlpError> {
        config.check()?;
        let resource = resource(config, identity);
        let workers = TaskOwner::new("otlp");
        let mut counts = Vec::new();
        let mut worker = |signal| {
            let Some(target) = config.target(signal) else { return Ok::<_, OtlpError>(None) };
            let count = Counts::new(signal);
            counts.push(Arc::clone(&count));
            let sender = Sender::new(&target)?;
            Ok(Some(Worker { sender, counts: count, resource: resource.clone(), stop: workers.token() }))
        };
        let (traces, metrics, logs) =
            (worker(Signal::Traces)?, worker(Signal::Metrics)?, worker(Signal::Logs)?);
        if counts.is_empty() {
            return Ok(None);
        }
        let layer = traces.map(|worker| {
            let (queue, batches) = Queue::new(&config.traces, Arc::clone(&worker.counts));
            workers.spawn("traces", worker.send_spans(batches));
            let layer = SpanLayer { queue, sampler: config.sampler(), clock: Arc::clone(&clock) };
            layer.with_filter(filter_fn(spans::exports)).boxed()
        });
        let log_layer = logs.map(|worker| {
            let (queue, batches) = Queue::new(&config.logs, Arc::clone(&worker.counts));
            workers.spawn("logs", worker.send_logs(batches));
            LogLayer { queue, clock }.boxed()
        });
        Ok(Some(Arc::new(Self {
            layer: Mutex::new(layer),
            log_layer: Mutex::new(log_layer),
            metrics: Mutex::new(metrics),
            interval: config.metrics.interval.0,
            workers,
            counts,
        })))
    }
}

/// What is said of the program with everything that it sends.
fn resource(config: &OtlpConfig, identity: OtlpIdentity) -> Resource {
    let mut attributes = fields::Attributes::default();
    let mut add = |key: &str, value: &str| attributes.add(key, fields::text(value));
    add("telemetry.sdk.language", "rust");
    add("telemetry.sdk.name", "gantry");
    add("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    add("service.name", &config.service_name);
    add("service.version", &identity.version);
    identity.attributes.iter().for_each(|(key, value)| add(key, value));
    config.resource_attributes.0.iter().for_each(|(key, value)| add(key, value));
    attributes.add("process.pid", fields::unsigned(u64::from(std::process::id())));
    let attributes: Vec<KeyValue> = attributes.list;
    Resource { attributes, ..Resource::default() }
}

#[async_trait]
impl Exporter for Otlp {
    fn name(&self) -> &str {
        "otlp"
    }

    fn layer(&self) -> Option<BoxedLayer> {
        self.layer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn log_layer(&self) -> Option<BoxedLayer> {
        self.log_layer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn attach(&self, metrics: Metrics) {
        let counts = self.counts.clone();
        metrics.register_collector("otlp", move || counts.iter().for_each(|counts| counts.report())).detach();
        let worker = self.metrics.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            self.workers.spawn("metrics", worker.send_metrics(metrics, self.interval));
        }
    }

    async fn shutdown(&self, deadline: Duration) -> Result<(), ExportError> {
        let before: Vec<u64> = self.counts.iter().map(|counts| counts.all_lost()).collect();
        let rest = GivenUp(&self.counts);
        let _cut_off = self.workers.shutdown(deadline).await;
        drop(rest);
        let lost = self.counts.iter().zip(before).filter_map(|(counts, before)| {
            let lost = counts.all_lost() - before;
            (lost > 0).then(|| format!("{lost} of {}", counts.signal.as_str()))
        });
        let lost: Vec<String> = lost.collect();
        if lost.is_empty() { Ok(()) } else { Err(ExportError(format!("lost {}", lost.join(", ")))) }
    }
}

/// Counts what is still held as lost when it goes: also where the shutdown itself is cut off.
struct GivenUp<'a>(&'a [Arc<Counts>]);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|counts| counts.give_up());
    }
}

impl std::fmt::Debug for Otlp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Otlp").field("counts", &self.counts).finish_non_exhaustive()
    }
}

/// The libraries that carry telemetry out: what they say of that would be carried out in its turn.
fn is_own(target: &str) -> bool {
    let crate_name = target.split("::").next().unwrap_or_default();
    matches!(
        crate_name,
        "h2" | "hyper" | "hyper_util" | "opentelemetry" | "reqwest" | "rustls" | "tonic" | "tower"
    )
}

/// A time as OTLP has it.
fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}
