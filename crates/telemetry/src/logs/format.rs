//! The two looks of a log line: for a person, and for a collector.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::TraceContext;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for a person, coloured on a terminal, with `trace_id` at its end where a trace is known.
    #[default]
    Pretty,
    /// One JSON object a line: `timestamp`, `level`, `target`, `fields` (with `message`), the fields of
    /// each span around it in `spans`, and `trace_id` and `span_id` where a trace is known.
    Json,
}

impl LogFormat {
    /// The look for a value of `APP_ENV`: for a person in development and tests, JSON everywhere else.
    #[must_use]
    pub fn for_environment(environment: &str) -> Self {
        match environment.to_ascii_lowercase().as_str() {
            "" | "dev" | "development" | "local" | "test" => Self::Pretty,
            _ => Self::Json,
        }
    }
}

/// A log format has another name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format `{0}` (known: pretty, json)")]
pub struct UnknownLogFormat(String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat(text.chars().take(64).collect())),
        }
    }
}

/// The layer that writes lines.
pub(crate) fn layer<S>(format: LogFormat, writer: Option<BoxMakeWriter>) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Colours only where a person looks on, and did not say no: https://no-color.org
    let ansi = writer.is_none()
        && std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Standard error, so that what a program prints as its result stays apart from its logs.
    let writer = writer.unwrap_or_else(|| BoxMakeWriter::new(std::io::stderr));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Pretty => {
            layer.with_ansi(ansi).event_format(WithTrace(Format::default().with_ansi(ansi))).boxed()
        }
        LogFormat::Json => {
            let json = Format::default().json().with_current_span(false).with_span_list(true);
            layer.with_ansi(false).fmt_fields(JsonFields::new()).event_format(WithTrace(json)).boxed()
        }
    }
}

/// Puts the ids of the trace into the line that the library writes.
struct WithTrace<F>(Format<F>);

/// Where in a line the ids stand.
trait PutTrace {
    fn put(line: &str, trace: TraceContext, writer: &mut Writer<'_>) -> fmt::Result;
}

impl PutTrace for Json {
    /// First in the object.
    fn put(line: &str, trace: TraceContext, writer: &mut Writer<'_>) -> fmt::Result {
        let rest = line.strip_prefix('{').unwrap_or(line);
        write!(writer, "{{\"trace_id\":\"{}\",\"span_id\":\"{}\",{rest}", trace.trace_id(), trace.span_id())
    }
}

impl PutTrace for Full {
    /// Last in the line.
    fn put(line: &str, trace: TraceContext, writer: &mut Writer<'_>) -> fmt::Result {
        writeln!(writer, "{} trace_id={}", line.trim_end_matches('\n'), trace.trace_id())
    }
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: PutTrace,
    Format<F>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = TraceContext::current() else {
            return self.0.format_event(ctx, writer, event);
        };
        let mut line = String::with_capacity(256);
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        F::put(&line, trace, &mut writer)
    }
}
