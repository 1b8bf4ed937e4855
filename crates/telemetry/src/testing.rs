//! A collector in the process, for tests: it takes OTLP by gRPC and HTTP, and remembers what came.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use runtime::TaskOwner;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Request, Status};

/// Attributes by name; numbers and truth values as text.
pub type TextAttributes = BTreeMap<String, String>;

/// How long [`Collector::wait_for`] waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span that came.
#[derive(Debug, Clone, Default)]
pub struct ReceivedSpan {
    /// Its name.
    pub name: String,
    /// What its instrumentation scope is called.
    pub scope: String,
    /// The trace, as hexadecimal digits, like the next two.
    pub trace_id: String,
    /// The span.
    pub span_id: String,
    /// Its parent; empty for the root of its trace.
    pub parent_id: String,
    /// Its kind: `Server`, `Client`, …
    pub kind: String,
    /// How long it took; `None` if it ended before it began.
    pub took: Option<Duration>,
    /// Its attributes.
    pub attributes: TextAttributes,
    /// What sent it.
    pub resource: TextAttributes,
    /// The code and the message of its status.
    pub status: Option<(i32, String)>,
    /// The spans that it links to.
    pub links: Vec<(String, String)>,
}

/// A log record that came.
#[derive(Debug, Clone, Default)]
pub struct ReceivedLog {
    /// Its text.
    pub body: String,
    /// What its instrumentation scope is called.
    pub scope: String,
    /// How severe it is: `INFO`, …
    pub severity: String,
    /// The trace, as hexadecimal digits; empty if there is none.
    pub trace_id: String,
    /// The span.
    pub span_id: String,
    /// Its attributes.
    pub attributes: TextAttributes,
}

/// A data point that came.
#[derive(Debug, Clone, Default)]
pub struct ReceivedPoint {
    /// The metric's name.
    pub name: String,
    /// The metric's unit.
    pub unit: String,
    /// `sum`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its attributes.
    pub attributes: TextAttributes,
    /// The value, or how many observations there were.
    pub value: f64,
    /// The traces of a histogram's exemplars.
    pub exemplars: Vec<String>,
}

/// All that came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// The spans.
    pub spans: Vec<ReceivedSpan>,
    /// The log records.
    pub logs: Vec<ReceivedLog>,
    /// The data points of the latest request.
    pub points: Vec<ReceivedPoint>,
    /// The headers of the latest request of any signal.
    pub headers: BTreeMap<String, String>,
    /// How many requests came, refused ones too.
    pub requests: usize,
}

impl Received {
    /// The only span of that name.
    ///
    /// # Panics
    ///
    /// If there are more, or none.
    #[must_use]
    pub fn span(&self, name: &str) -> &ReceivedSpan {
        let mut found = self.spans.iter().filter(|span| span.name == name);
        match (found.next(), found.next()) {
            (Some(span), None) => span,
            (first, _) => {
                let names: Vec<_> = self.spans.iter().map(|span| &span.name).collect();
                panic!("{} spans `{name}` among {names:?}", if first.is_some() { "several" } else { "no" })
            }
        }
    }
}

/// What a collector does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// Takes them.
    #[default]
    Takes,
    /// Takes them but for this many items.
    Rejects(u8),
    /// Is not available for this many requests.
    Unavailable(usize),
    /// Refuses them for good.
    Refuses,
    /// Never answers.
    Hangs,
}

/// The collector. It ends with this.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    state: Arc<State>,
    _server: TaskOwner,
}

#[derive(Debug, Default)]
struct State {
    received: Mutex<Received>,
    mood: Mutex<Mood>,
    changed: Notify,
}

impl Collector {
    /// A collector on a free port of loopback.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let server = TaskOwner::new("collector");
        let app = router(&state);
        server.spawn("serve", async move {
            let _ended = axum::serve(listener, app).await;
        });
        Ok(Self { address, state, _server: server })
    }

    /// Where it is, for both protocols.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets it do something else with requests from now on.
    pub fn set_mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// What has come so far.
    #[must_use]
    pub fn received(&self) -> Received {
        self.state.received().clone()
    }

    /// Waits until what has come is enough.
    ///
    /// # Panics
    ///
    /// If it is not within thirty seconds.
    pub async fn wait_for(&self, enough: impl Fn(&Received) -> bool) -> Received {
        let wait = async {
            loop {
                let changed = self.state.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let received = self.received();
                if enough(&received) {
                    return received;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(received) => received,
            Err(_) => panic!("not within {PATIENCE:?}: {:#?}", self.received()),
        }
    }
}

impl State {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and does what the mood says. Tells how much is rejected.
    async fn admit(&self, headers: &HeaderMap) -> Result<i64, StatusCode> {
        {
            let mut received = self.received();
            received.requests += 1;
            let named = headers.iter().map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            });
            received.headers = named.collect();
        }
        self.changed.notify_waiters();
        let mood = {
            let mut mood = self.mood.lock().unwrap_or_else(PoisonError::into_inner);
            let now = *mood;
            if let Mood::Unavailable(left) = now {
                *mood = if left > 1 { Mood::Unavailable(left - 1) } else { Mood::Takes };
            }
            now
        };
        match mood {
            Mood::Takes => Ok(0),
            Mood::Rejects(count) => Ok(i64::from(count)),
            Mood::Unavailable(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
            Mood::Refuses => Err(StatusCode::BAD_REQUEST),
            Mood::Hangs => std::future::pending().await,
        }
    }

    fn note(&self, change: impl FnOnce(&mut Received)) {
        change(&mut self.received());
        self.changed.notify_waiters();
    }

    fn take_spans(&self, request: ExportTraceServiceRequest) {
        self.note(|received| {
            for of in request.resource_spans {
                let resource = resource_attributes(of.resource);
                for of in of.scope_spans {
                    let scope = scope_name(of.scope);
                    received.spans.extend(of.spans.into_iter().map(|span| {
                        ReceivedSpan {
                            scope: scope.clone(),
                            trace_id: hex(&span.trace_id),
                            span_id: hex(&span.span_id),
                            parent_id: hex(&span.parent_span_id),
                            kind: format!("{:?}", SpanKind::try_from(span.kind).unwrap_or_default()),
                            took: span
                                .end_time_unix_nano
                                .checked_sub(span.start_time_unix_nano)
                                .map(Duration::from_nanos),
                            attributes: texts(span.attributes),
                            resource: resource.clone(),
                            status: span.status.map(|status| (status.code, status.message)),
                            links: span
                                .links
                                .iter()
                                .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                                .collect(),
                            name: span.name,
                        }
                    }));
                }
            }
        });
    }

    fn take_logs(&self, request: ExportLogsServiceRequest) {
        self.note(|received| {
            for of in request.resource_logs.into_iter().flat_map(|of| of.scope_logs) {
                let scope = scope_name(of.scope);
                received.logs.extend(of.log_records.into_iter().map(|record| ReceivedLog {
                    body: record.body.and_then(|body| body.value).map(shown).unwrap_or_default(),
                    scope: scope.clone(),
                    severity: record.severity_text,
                    trace_id: hex(&record.trace_id),
                    span_id: hex(&record.span_id),
                    attributes: texts(record.attributes),
                }));
            }
        });
    }

    fn take_metrics(&self, request: ExportMetricsServiceRequest) {
        let scopes = request.resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
        let points = scopes.flat_map(|of| of.metrics).flat_map(points).collect();
        self.note(|received| received.points = points);
    }
}

fn points(metric: Metric) -> Vec<ReceivedPoint> {
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    let (name, unit) = (metric.name, metric.unit);
    let new = |kind, attributes, value| ReceivedPoint {
        name: name.clone(),
        unit: unit.clone(),
        kind,
        attributes: texts(attributes),
        value,
        exemplars: Vec::new(),
    };
    let number = |value| match value {
        Some(Value::AsDouble(number)) => number,
        Some(Value::AsInt(number)) => number as f64,
        None => f64::NAN,
    };
    match metric.data {
        Some(Data::Sum(sum)) => {
            sum.data_points.into_iter().map(|one| new("sum", one.attributes, number(one.value))).collect()
        }
        Some(Data::Gauge(gauge)) => {
            gauge.data_points.into_iter().map(|one| new("gauge", one.attributes, number(one.value))).collect()
        }
        Some(Data::Histogram(histogram)) => {
            let point = |one: opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint| ReceivedPoint {
                exemplars: one.exemplars.iter().map(|exemplar| hex(&exemplar.trace_id)).collect(),
                ..new("histogram", one.attributes, one.count as f64)
            };
            histogram.data_points.into_iter().map(point).collect()
        }
        _ => Vec::new(),
    }
}

fn scope_name(scope: Option<InstrumentationScope>) -> String {
    scope.map(|scope| scope.name).unwrap_or_default()
}

fn resource_attributes(resource: Option<Resource>) -> TextAttributes {
    texts(resource.map(|resource| resource.attributes).unwrap_or_default())
}

fn texts(attributes: Vec<KeyValue>) -> TextAttributes {
    let value = |one: KeyValue| one.value.and_then(|value| value.value).map(shown).unwrap_or_default();
    attributes.into_iter().map(|one| (one.key.clone(), value(one))).collect()
}

fn shown(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn router(state: &Arc<State>) -> Router {
    let gzip = CompressionEncoding::Gzip;
    let traces = TraceServiceServer::from_arc(Arc::clone(state)).accept_compressed(gzip);
    let metrics = MetricsServiceServer::from_arc(Arc::clone(state)).accept_compressed(gzip);
    let logs = LogsServiceServer::from_arc(Arc::clone(state)).accept_compressed(gzip);
    let grpc = Routes::new(traces).add_service(metrics).add_service(logs).into_axum_router();
    let http = |take: fn(&State, &[u8], i64) -> Option<Vec<u8>>| {
        let state = Arc::clone(state);
        post(
            move |headers: HeaderMap, body: Bytes| async move { by_http(&state, &headers, &body, take).await },
        )
    };
    grpc.route("/v1/traces", http(http_traces))
        .route("/v1/metrics", http(http_metrics))
        .route("/v1/logs", http(http_logs))
}

async fn by_http(
    state: &State,
    headers: &HeaderMap,
    body: &[u8],
    take: fn(&State, &[u8], i64) -> Option<Vec<u8>>,
) -> Response {
    let rejected = match state.admit(headers).await {
        Ok(rejected) => rejected,
        Err(status) => return status.into_response(),
    };
    let body = if headers.contains_key(header::CONTENT_ENCODING) {
        let mut plain = Vec::new();
        match flate2::read::GzDecoder::new(body).read_to_end(&mut plain) {
            Ok(_) => plain,
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        }
    } else {
        body.to_vec()
    };
    take(state, &body, rejected)
        .map_or_else(|| StatusCode::BAD_REQUEST.into_response(), IntoResponse::into_response)
}

fn partial(rejected: i64) -> Option<(i64, String)> {
    (rejected > 0).then(|| (rejected, "too many".to_owned()))
}

fn traces_answer(rejected: i64) -> ExportTraceServiceResponse {
    let partial = partial(rejected)
        .map(|(rejected_spans, error_message)| ExportTracePartialSuccess { rejected_spans, error_message });
    ExportTraceServiceResponse { partial_success: partial }
}

fn metrics_answer(rejected: i64) -> ExportMetricsServiceResponse {
    let partial = partial(rejected).map(|(rejected_data_points, error_message)| {
        ExportMetricsPartialSuccess { rejected_data_points, error_message }
    });
    ExportMetricsServiceResponse { partial_success: partial }
}

fn logs_answer(rejected: i64) -> ExportLogsServiceResponse {
    let partial = partial(rejected).map(|(rejected_log_records, error_message)| ExportLogsPartialSuccess {
        rejected_log_records,
        error_message,
    });
    ExportLogsServiceResponse { partial_success: partial }
}

fn http_traces(state: &State, body: &[u8], rejected: i64) -> Option<Vec<u8>> {
    state.take_spans(Message::decode(body).ok()?);
    Some(traces_answer(rejected).encode_to_vec())
}

fn http_metrics(state: &State, body: &[u8], rejected: i64) -> Option<Vec<u8>> {
    state.take_metrics(Message::decode(body).ok()?);
    Some(metrics_answer(rejected).encode_to_vec())
}

fn http_logs(state: &State, body: &[u8], rejected: i64) -> Option<Vec<u8>> {
    state.take_logs(Message::decode(body).ok()?);
    Some(logs_answer(rejected).encode_to_vec())
}

/// The mood's answer as gRPC has it.
fn status(code: StatusCode) -> Status {
    if code == StatusCode::SERVICE_UNAVAILABLE {
        Status::unavailable("not now")
    } else {
        Status::invalid_argument("never")
    }
}

type Answer<T> = Result<tonic::Response<T>, Status>;

#[tonic::async_trait]
impl TraceService for State {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Answer<ExportTraceServiceResponse> {
        let rejected = self.admit(&request.metadata().clone().into_headers()).await.map_err(status)?;
        self.take_spans(request.into_inner());
        Ok(tonic::Response::new(traces_answer(rejected)))
    }
}

#[tonic::async_trait]
impl MetricsService for State {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Answer<ExportMetricsServiceResponse> {
        let rejected = self.admit(&request.metadata().clone().into_headers()).await.map_err(status)?;
        self.take_metrics(request.into_inner());
        Ok(tonic::Response::new(metrics_answer(rejected)))
    }
}

#[tonic::async_trait]
impl LogsService for State {
    async fn export(&self, request: Request<ExportLogsServiceRequest>) -> Answer<ExportLogsServiceResponse> {
        let rejected = self.admit(&request.metadata().clone().into_headers()).await.map_err(status)?;
        self.take_logs(request.into_inner());
        Ok(tonic::Response::new(logs_answer(rejected)))
    }
}
