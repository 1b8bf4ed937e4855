//! The section `[telemetry]`, and the variables of OpenTelemetry that stand for it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use runtime::{DurationText, Sampler};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where telemetry goes by OTLP, and how: nowhere, while no endpoint is given.
///
/// In a configuration it is the section `telemetry`; [`OTEL_VARIABLES`] says which standard variable stands
/// for which key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Nothing is exported, whatever else is said.
    pub disabled: bool,
    /// The collector: an `http` or `https` URL. By HTTP the signals go to `v1/traces`, `v1/metrics` and
    /// `v1/logs` below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How the collector is spoken to.
    pub protocol: Protocol,
    /// Headers of each request, such as those that authenticate it.
    pub headers: Headers,
    /// How long one request may take.
    pub timeout: Millis,
    /// How requests are compressed.
    pub compression: Compression,
    /// A file of certificates (PEM) that the collector's is checked against, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The resource attribute `service.name`.
    pub service_name: String,
    /// Further resource attributes.
    pub resource_attributes: Pairs,
    /// Which traces are kept.
    pub sampler: SamplerKind,
    /// The share of new traces that the samplers by ratio keep, from 0 to 1.
    pub sampler_ratio: f64,
    /// What is said of traces alone.
    pub traces: SignalConfig,
    /// What is said of metrics alone.
    pub metrics: SignalConfig,
    /// What is said of logs alone.
    pub logs: SignalConfig,
}

/// What is said of one signal alone, in place of what is said of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalConfig {
    /// Whether the signal is exported.
    pub exporter: ExporterKind,
    /// Where it goes; by HTTP the whole URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// In place of the protocol for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// In place of the headers for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// In place of the timeout for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// In place of the compression for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// In place of the certificates for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// How long a span or a log record waits for others to be sent with; how often metrics are sent.
    pub interval: Millis,
    /// How many spans or log records may wait; what comes beyond is dropped and counted. Not for metrics.
    pub queue_max: usize,
    /// How many of them go in one request. Not for metrics.
    pub batch_max: usize,
}

impl Default for OtlpConfig {
    fn default() -> Self {
        let every = |interval| SignalConfig { interval: Millis(interval), ..SignalConfig::default() };
        Self {
            disabled: false,
            endpoint: None,
            protocol: Protocol::default(),
            headers: Headers::default(),
            timeout: Millis(Duration::from_secs(10)),
            compression: Compression::default(),
            certificate: None,
            service_name: "gantry-server".to_owned(),
            resource_attributes: Pairs::default(),
            sampler: SamplerKind::default(),
            sampler_ratio: 1.0,
            traces: SignalConfig::default(),
            metrics: every(Duration::from_secs(60)),
            logs: every(Duration::from_secs(1)),
        }
    }
}

impl Default for SignalConfig {
    fn default() -> Self {
        Self {
            exporter: ExporterKind::default(),
            endpoint: None,
            protocol: None,
            headers: None,
            timeout: None,
            compression: None,
            certificate: None,
            interval: Millis(Duration::from_secs(5)),
            queue_max: 2048,
            batch_max: 512,
        }
    }
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// Protocol Buffers in bodies of HTTP requests.
    #[default]
    #[serde(rename = "http/protobuf")]
    Http,
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With gzip.
    Gzip,
}

/// Whether a signal is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExporterKind {
    /// By OTLP, where there is an endpoint.
    #[default]
    Otlp,
    /// Not at all.
    None,
}

/// The samplers that OpenTelemetry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Every trace.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// The ratio of all traces, whatever their callers decided.
    #[serde(rename = "traceidratio")]
    TraceIdRatio,
    /// Those that the caller keeps, and every new one.
    #[serde(rename = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// Those that the caller keeps.
    #[serde(rename = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// Those that the caller keeps, and the ratio of new ones.
    #[default]
    #[serde(rename = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// A duration as text (`5s`), or in milliseconds, as the variables of OpenTelemetry have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(pub Duration);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DurationText(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a duration such as `500ms`, or milliseconds")]
        enum Form {
            Millis(u32),
            Text(DurationText),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::Millis(millis) => Duration::from_millis(u64::from(millis)),
            Form::Text(text) => text.0,
        }))
    }
}

/// Names and values: a table, or `name=value` with commas between and values percent-encoded, as the
/// variables of OpenTelemetry have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Pairs(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a table of texts, or `name=value,name=value`")]
        enum Form {
            Text(String),
            Table(BTreeMap<String, String>),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Table(table) => return Ok(Self(table)),
            Form::Text(text) => text,
        };
        let pair = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            Some((name.trim().to_owned(), value.into_owned()))
        };
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let pairs: Option<_> = parts.map(pair).collect();
        // Without the text: it may hold a secret.
        pairs.map(Self).ok_or_else(|| serde::de::Error::custom("expected `name=value,name=value`"))
    }
}

/// Headers, which may hold secrets: what it shows of itself has names alone.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(pub Pairs);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.0.keys()).finish()
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub(super) const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Where a signal goes, all that is said put together.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: Url,
    pub(super) protocol: Protocol,
    pub(super) headers: Headers,
    pub(super) timeout: Duration,
    pub(super) compression: Compression,
    pub(super) certificate: Option<PathBuf>,
}

/// A key of [`OtlpConfig`] is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct OtlpConfigError {
    /// The key, with dots.
    pub key: String,
    /// What is wrong with its value.
    pub detail: String,
}

/// Queues hold no more than this.
const QUEUE_MAX: usize = 1_000_000;

impl OtlpConfig {
    /// Checks every value, of signals that go nowhere too.
    ///
    /// # Errors
    ///
    /// The first key that is wrong.
    pub fn check(&self) -> Result<(), OtlpConfigError> {
        let wrong = |key: String, detail: &str| Err(OtlpConfigError { key, detail: detail.to_owned() });
        if !(0.0..=1.0).contains(&self.sampler_ratio) {
            return wrong("sampler_ratio".to_owned(), "must be from 0 to 1");
        }
        if self.timeout.0.is_zero() {
            return wrong("timeout".to_owned(), "must not be zero");
        }
        check_url("endpoint", self.endpoint.as_deref())?;
        check_headers("headers", &self.headers)?;
        for signal in Signal::ALL {
            let of = self.signal(signal);
            let key = |key: &str| format!("{}.{key}", signal.as_str());
            check_url(&key("endpoint"), of.endpoint.as_deref())?;
            of.headers.as_ref().map_or(Ok(()), |headers| check_headers(&key("headers"), headers))?;
            for (name, span) in [("interval", Some(of.interval)), ("timeout", of.timeout)] {
                if span.is_some_and(|span| span.0.is_zero()) {
                    return wrong(key(name), "must not be zero");
                }
            }
            if !(1..=QUEUE_MAX).contains(&of.queue_max) {
                return wrong(key("queue_max"), "must be from 1 to 1000000");
            }
            if !(1..=of.queue_max).contains(&of.batch_max) {
                return wrong(key("batch_max"), "must be from 1 to `queue_max`");
            }
        }
        Ok(())
    }

    /// Which traces are kept: none, where they go nowhere.
    #[must_use]
    pub fn sampler(&self) -> Sampler {
        if self.target(Signal::Traces).is_none() {
            return Sampler::OFF;
        }
        match self.sampler {
            SamplerKind::AlwaysOn => Sampler::ratio(1.0).ignoring_parent(),
            SamplerKind::AlwaysOff => Sampler::ratio(0.0).ignoring_parent(),
            SamplerKind::TraceIdRatio => Sampler::ratio(self.sampler_ratio).ignoring_parent(),
            SamplerKind::ParentBasedAlwaysOn => Sampler::ratio(1.0),
            SamplerKind::ParentBasedAlwaysOff => Sampler::ratio(0.0),
            SamplerKind::ParentBasedTraceIdRatio => Sampler::ratio(self.sampler_ratio),
        }
    }

    pub(super) const fn signal(&self, signal: Signal) -> &SignalConfig {
        match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// Where a signal goes, if it goes anywhere.
    pub(super) fn target(&self, signal: Signal) -> Option<Target> {
        let of = self.signal(signal);
        if self.disabled || of.exporter == ExporterKind::None {
            return None;
        }
        let protocol = of.protocol.unwrap_or(self.protocol);
        let url = match (&of.endpoint, &self.endpoint) {
            (Some(own), _) => Url::parse(own).ok()?,
            (None, Some(common)) => {
                let mut url = Url::parse(common).ok()?;
                if protocol == Protocol::Http {
                    let base = url.path().trim_end_matches('/');
                    let path = format!("{base}/v1/{}", signal.as_str());
                    url.set_path(&path);
                }
                url
            }
            (None, None) => return None,
        };
        Some(Target {
            url,
            protocol,
            headers: of.headers.clone().unwrap_or_else(|| self.headers.clone()),
            timeout: of.timeout.unwrap_or(self.timeout).0,
            compression: of.compression.unwrap_or(self.compression),
            certificate: of.certificate.clone().or_else(|| self.certificate.clone()),
        })
    }
}

fn check_url(key: &str, url: Option<&str>) -> Result<(), OtlpConfigError> {
    let fits = |url: &str| {
        Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    if url.is_none_or(fits) {
        return Ok(());
    }
    let detail = "must be an `http` or `https` URL such as `http://127.0.0.1:4318`".to_owned();
    Err(OtlpConfigError { key: key.to_owned(), detail })
}

fn check_headers(key: &str, headers: &Headers) -> Result<(), OtlpConfigError> {
    for (name, value) in &headers.0.0 {
        if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
            let shown: String = name.chars().take(64).collect();
            let detail = "is no header, or its value cannot be one's".to_owned();
            return Err(OtlpConfigError { key: format!("{key}.{shown}"), detail });
        }
    }
    Ok(())
}

/// The variables of OpenTelemetry, and the key that each stands for where [`OtlpConfig`] is the section
/// `telemetry`.
pub const OTEL_VARIABLES: &[(&str, &str)] = &[
    ("OTEL_SDK_DISABLED", "telemetry.disabled"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", "telemetry.resource_attributes"),
    ("OTEL_TRACES_SAMPLER", "telemetry.sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "telemetry.sampler_ratio"),
    ("OTEL_TRACES_EXPORTER", "telemetry.traces.exporter"),
    ("OTEL_METRICS_EXPORTER", "telemetry.metrics.exporter"),
    ("OTEL_LOGS_EXPORTER", "telemetry.logs.exporter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.endpoint"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "telemetry.protocol"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.headers"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "telemetry.timeout"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "telemetry.compression"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "telemetry.certificate"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "telemetry.traces.endpoint"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "telemetry.traces.protocol"),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "telemetry.traces.headers"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "telemetry.traces.timeout"),
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "telemetry.traces.compression"),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "telemetry.traces.certificate"),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "telemetry.metrics.endpoint"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "telemetry.metrics.protocol"),
    ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "telemetry.metrics.headers"),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "telemetry.metrics.timeout"),
    ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "telemetry.metrics.compression"),
    ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "telemetry.metrics.certificate"),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "telemetry.logs.endpoint"),
    ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "telemetry.logs.protocol"),
    ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "telemetry.logs.headers"),
    ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "telemetry.logs.timeout"),
    ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "telemetry.logs.compression"),
    ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "telemetry.logs.certificate"),
    ("OTEL_BSP_SCHEDULE_DELAY", "telemetry.traces.interval"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "telemetry.traces.queue_max"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "telemetry.traces.batch_max"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "telemetry.traces.timeout"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "telemetry.logs.interval"),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "telemetry.logs.queue_max"),
    ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "telemetry.logs.batch_max"),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "telemetry.logs.timeout"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "telemetry.metrics.interval"),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "telemetry.metrics.timeout"),
];

#[cfg(test)]
mod tests;
