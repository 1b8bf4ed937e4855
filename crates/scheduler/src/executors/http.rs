//! The executor `http`: calls a URL.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url, redirect};
use runtime::TraceContext;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use crate::executor::{Executor, PayloadError, RunContext, RunError, RunOutput};

/// Calls a URL at each run.
pub(crate) struct HttpExecutor {
    client: Client,
}

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a call may take, whatever the task's own timeout.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// How much of an answer is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How much of it the record of the run keeps.
const KEPT_CHARS_MAX: usize = 1024;
const HEADERS_MAX: usize = 64;
const REDIRECTS_MAX: usize = 5;

/// What the payload says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    url: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// A text is sent as it is, anything else as JSON.
    #[serde(default)]
    body: Value,
}

struct Call {
    url: Url,
    method: Method,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

fn refuse(field: &str, detail: impl Into<String>) -> PayloadError {
    PayloadError { field: field.to_owned(), detail: detail.into() }
}

impl Body {
    fn call(self) -> Result<Call, PayloadError> {
        let url = Url::parse(&self.url).map_err(|error| refuse("url", error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse("url", "must be an `http` or `https` URL with a host"));
        }
        let method = match self.method.as_deref() {
            None if self.body.is_null() => Method::GET,
            None => Method::POST,
            Some(name) => match name.to_ascii_uppercase().as_str() {
                "GET" => Method::GET,
                "HEAD" => Method::HEAD,
                "POST" => Method::POST,
                "PUT" => Method::PUT,
                "PATCH" => Method::PATCH,
                "DELETE" => Method::DELETE,
                _ => return Err(refuse("method", "must be one of `GET HEAD POST PUT PATCH DELETE`")),
            },
        };
        if self.headers.len() > HEADERS_MAX {
            return Err(refuse("headers", "must be 64 or less"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let field = format!("headers.{}", name.chars().take(64).collect::<String>());
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse(&field, "is no header name"))?;
            let value = HeaderValue::from_str(value).map_err(|_| refuse(&field, "is no header value"))?;
            headers.insert(name, value);
        }
        let body = match self.body {
            Value::Null => None,
            Value::String(text) => Some(text.into_bytes()),
            value => {
                headers
                    .entry(reqwest::header::CONTENT_TYPE)
                    .or_insert(HeaderValue::from_static("application/json"));
                Some(value.to_string().into_bytes())
            }
        };
        Ok(Call { url, method, headers, body })
    }
}

impl Call {
    /// The context that the other side goes on with, and the span of the call where there are any. It says
    /// where the call goes and not with what: a query may hold a secret.
    fn span(&self, run: &RunContext) -> (TraceContext, Span) {
        let trace = run.trace().child();
        if !run.spans || !trace.is_sampled() {
            return (trace, Span::none());
        }
        let span = info_span!(
            "scheduler.http",
            otel.kind = "client",
            otel.name = %self.method,
            otel.status_code = Empty,
            http.request.method = %self.method,
            http.response.status_code = Empty,
            server.address = self.url.host_str(),
            server.port = self.url.port_or_known_default(),
            url.scheme = self.url.scheme(),
            url.path = self.url.path(),
            traceparent = %trace,
            parent_span_id = %run.trace().span_id(),
        );
        (trace, span)
    }
}

impl HttpExecutor {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .redirect(redirect::Policy::limited(REDIRECTS_MAX))
            .user_agent(concat!("gantry-scheduler/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client })
    }
}

#[async_trait]
impl Executor for HttpExecutor {
    async fn execute(&self, run: RunContext) -> Result<RunOutput, RunError> {
        let body: Body = run.payload_as()?;
        let call = body.call().map_err(|error| RunError::permanent(format!("payload.{error}")))?;
        let (trace, span) = call.span(&run);
        let mut request = self
            .client
            .request(call.method, call.url)
            // The same for each attempt, so that the other side can tell a repetition.
            .header("idempotency-key", run.run_id().to_string())
            .header("traceparent", trace.to_string())
            .headers(call.headers);
        if let Some(body) = call.body {
            request = request.body(body);
        }
        send(request).instrument(span).await
    }

    fn check(&self, payload: &Value) -> Result<(), PayloadError> {
        let body = Body::deserialize(payload).map_err(|error| refuse("", error.to_string()))?;
        body.call().map(drop)
    }

    fn payload_schema(&self) -> Option<Value> {
        Some(json!({
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": { "type": "string", "format": "uri", "description": "an `http` or `https` URL" },
                "method": {
                    "type": ["string", "null"],
                    "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", null],
                    "description": "`GET` where it is left out, `POST` where there is a body",
                },
                "headers": {
                    "type": "object",
                    "maxProperties": HEADERS_MAX,
                    "additionalProperties": { "type": "string" },
                    "description": "beside `traceparent` and `idempotency-key`, which each call has",
                },
                "body": { "description": "a text is sent as it is, anything else as JSON" },
            },
            "additionalProperties": false,
            "examples": [
                { "url": "https://example.com/health" },
                {
                    "url": "https://example.com/reports",
                    "method": "PUT",
                    "headers": { "accept": "application/json" },
                    "body": { "day": "today" },
                },
            ],
        }))
    }

    fn description(&self) -> &str {
        "calls a URL: the payload's `url`, `method`, `headers` and `body`"
    }
}

/// Sends the call, and makes of the answer what the run has come to.
async fn send(request: RequestBuilder) -> Result<RunOutput, RunError> {
    let failed = |error: reqwest::Error| RunError::new(chain(&error.without_url()));
    let mut answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    Span::current().record("http.response.status_code", status.as_u16());
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX
        && let Some(chunk) = answer.chunk().await.map_err(failed)?
    {
        bytes.extend_from_slice(chunk.get(..ANSWER_BYTES_MAX - bytes.len()).unwrap_or(&chunk));
    }
    let text: String = String::from_utf8_lossy(&bytes).chars().take(KEPT_CHARS_MAX).collect();
    if status.is_success() {
        return Ok(json!({ "status": status.as_u16(), "body": text }).into());
    }
    let excerpt: String = text.chars().take(200).collect();
    let message = format!("answered {status}: {excerpt}");
    // What the other side says is wrong with the request another attempt does not mend.
    let may_pass =
        matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    let is_permanent = status.is_client_error() && !may_pass;
    Span::current().record("otel.status_code", "error");
    Err(if is_permanent { RunError::permanent(message) } else { RunError::new(message) })
}

/// The error with what caused it, since the client's own text stops at "error sending request".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
