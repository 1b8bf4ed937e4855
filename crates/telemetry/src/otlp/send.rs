//! Requests to the collector.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::OtlpError;
use super::config::{Compression, Protocol, Target};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Brings requests to one place.
#[derive(Clone)]
pub(super) struct Sender {
    way: Way,
    timeout: Duration,
    compresses: bool,
}

#[derive(Clone)]
enum Way {
    Http { client: reqwest::Client, url: Url },
    Grpc { channel: Channel, metadata: MetadataMap },
}

/// Why a request did not get there.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) detail: String,
    /// Whether the same request may get there later.
    pub(super) may_pass: bool,
    /// When the collector wants to be asked again.
    pub(super) after: Option<Duration>,
}

impl Failure {
    fn may_pass(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), may_pass: true, after: None }
    }
}

/// A request of one signal.
pub(super) trait Export: Message + Clone + 'static {
    type Answer: Message + Default;

    /// How much of the request the collector has not taken, and why.
    fn rejected(answer: Self::Answer) -> (i64, String);

    fn grpc(
        channel: Channel,
        compresses: bool,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

macro_rules! export {
    ($request:ty, $answer:ty, $client:ident, $rejected:ident) => {
        impl Export for $request {
            type Answer = $answer;

            fn rejected(answer: Self::Answer) -> (i64, String) {
                answer
                    .partial_success
                    .map(|partial| (partial.$rejected, partial.error_message))
                    .unwrap_or_default()
            }

            async fn grpc(
                channel: Channel,
                compresses: bool,
                request: Request<Self>,
            ) -> Result<Self::Answer, Status> {
                let mut client = $client::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
                if compresses {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                Ok(client.export(request).await?.into_inner())
            }
        }
    };
}

export!(ExportTraceServiceRequest, ExportTraceServiceResponse, TraceServiceClient, rejected_spans);
export!(
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
    MetricsServiceClient,
    rejected_data_points
);
export!(ExportLogsServiceRequest, ExportLogsServiceResponse, LogsServiceClient, rejected_log_records);

impl Sender {
    /// Prepares the way; nothing is connected yet. In a tokio runtime.
    pub(super) fn new(target: &Target) -> Result<Self, OtlpError> {
        let certificate = target.certificate.as_deref().map(read_certificate).transpose()?;
        let headers = target.headers.0.0.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let headers: HeaderMap = headers.collect();
        let way = match target.protocol {
            Protocol::Http => {
                Way::Http { client: http_client(headers, certificate)?, url: target.url.clone() }
            }
            Protocol::Grpc => Way::Grpc {
                channel: channel(&target.url, certificate)?,
                metadata: MetadataMap::from_headers(headers),
            },
        };
        Ok(Self { way, timeout: target.timeout, compresses: target.compression == Compression::Gzip })
    }

    /// Sends a request once. Tells how much of it the collector rejected.
    pub(super) async fn send<E: Export>(&self, request: &E) -> Result<(u64, String), Failure> {
        let sent = async {
            match &self.way {
                Way::Http { client, url } => self.post(client, url, request).await,
                Way::Grpc { channel, metadata } => {
                    let mut request = Request::new(request.clone());
                    *request.metadata_mut() = metadata.clone();
                    E::grpc(channel.clone(), self.compresses, request)
                        .await
                        .map_err(|status| refused(&status))
                }
            }
        };
        // Around all of it: the libraries' own timeouts end as errors of many kinds.
        let answer = tokio::time::timeout(self.timeout, sent)
            .await
            .map_err(|_| Failure::may_pass(format!("no answer within {:?}", self.timeout)))??;
        let (rejected, why) = E::rejected(answer);
        Ok((u64::try_from(rejected).unwrap_or(0), why))
    }

    async fn post<E: Export>(
        &self,
        client: &reqwest::Client,
        url: &Url,
        request: &E,
    ) -> Result<E::Answer, Failure> {
        let mut body = request.encode_to_vec();
        let mut post = client.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf");
        if self.compresses {
            body = gzip(&body).map_err(|error| Failure::may_pass(error.to_string()))?;
            post = post.header(CONTENT_ENCODING, "gzip");
        }
        let unreached = |error: reqwest::Error| Failure::may_pass(chain(&error.without_url()));
        let mut answer = post.body(body).send().await.map_err(unreached)?;
        let status = answer.status();
        if !status.is_success() {
            let seconds =
                answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            return Err(Failure {
                detail: format!("answered {status}"),
                // Those that the specification of OTLP names.
                may_pass: matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
                after: seconds.map(Duration::from_secs),
            });
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreached)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Ok(E::Answer::default());
            }
            bytes.extend_from_slice(&chunk);
        }
        // It has taken the request, whatever else it says.
        Ok(E::Answer::decode(bytes.as_slice()).unwrap_or_default())
    }
}

fn refused(status: &Status) -> Failure {
    let may_pass = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // What the channel says where the connection broke.
            | Code::Unknown
    );
    let source = std::error::Error::source(status).map(chain);
    let detail = source.unwrap_or_else(|| status.message().to_owned());
    Failure { detail: format!("{:?}: {detail}", status.code()), may_pass, after: None }
}

fn read_certificate(path: &Path) -> Result<Vec<u8>, OtlpError> {
    std::fs::read(path).map_err(|source| OtlpError::Certificate { path: path.to_owned(), source })
}

fn http_client(headers: HeaderMap, certificate: Option<Vec<u8>>) -> Result<reqwest::Client, OtlpError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .default_headers(headers)
        // What is sent may not go elsewhere, with the headers that authenticate it.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("gantry-telemetry/", env!("CARGO_PKG_VERSION")));
    if let Some(pem) = certificate {
        let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| tls(&error))?;
        builder = builder.tls_certs_only(roots);
    }
    builder.build().map_err(|error| tls(&error))
}

fn channel(url: &Url, certificate: Option<Vec<u8>>) -> Result<Channel, OtlpError> {
    let failed = |error: tonic::transport::Error| tls(&error);
    let mut endpoint =
        Endpoint::from_shared(url.to_string()).map_err(failed)?.connect_timeout(CONNECT_WITHIN);
    if url.scheme() == "https" {
        let config = ClientTlsConfig::new();
        let config = match certificate {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        endpoint = endpoint.tls_config(config).map_err(failed)?;
    }
    Ok(endpoint.connect_lazy())
}

fn tls(error: &(dyn std::error::Error + 'static)) -> OtlpError {
    OtlpError::Client(chain(error))
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The error with what caused it: the libraries' own texts stop at "transport error".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
