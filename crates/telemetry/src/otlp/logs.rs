//! Log records on their way to the collector.

use std::borrow::Cow;
use std::fmt;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use runtime::{SharedClock, TraceContext};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::fields::{Attributes, debug, text, unsigned};
use super::queue::Queue;
use super::{is_own, nanos};

/// A log record, and where in the program it was made.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) target: Cow<'static, str>,
    pub(super) record: LogRecord,
}

/// Turns events into log records.
pub(super) struct LogLayer {
    pub(super) queue: Queue<Line>,
    pub(super) clock: SharedClock,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut visitor = Visitor::default();
        event.record(&mut visitor);
        let target = visitor.target.map_or(Cow::Borrowed(metadata.target()), Cow::Owned);
        if is_own(&target) {
            return;
        }
        let now = nanos(self.clock.now());
        let trace = TraceContext::current();
        let record = LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity(*metadata.level()) as i32,
            severity_text: metadata.level().as_str().to_owned(),
            body: visitor.message.map(|message| AnyValue { value: Some(text(&message)) }),
            attributes: visitor.attributes.list,
            dropped_attributes_count: visitor.attributes.dropped,
            flags: trace.map_or(0, |trace| u32::from(trace.flags())),
            trace_id: trace.map(|trace| trace.trace_id().to_bytes().to_vec()).unwrap_or_default(),
            span_id: trace.map(|trace| trace.span_id().to_bytes().to_vec()).unwrap_or_default(),
            ..LogRecord::default()
        };
        self.queue.push(Line { target, record });
    }
}

const fn severity(level: Level) -> SeverityNumber {
    match level {
        Level::TRACE => SeverityNumber::Trace,
        Level::DEBUG => SeverityNumber::Debug,
        Level::INFO => SeverityNumber::Info,
        Level::WARN => SeverityNumber::Warn,
        Level::ERROR => SeverityNumber::Error,
    }
}

#[derive(Default)]
struct Visitor {
    attributes: Attributes,
    message: Option<String>,
    target: Option<String>,
}

impl Visitor {
    fn text(&mut self, name: &str, value: &str) {
        match name {
            "message" => self.message = Some(value.to_owned()),
            // What came through the `log` crate has its origin among the fields.
            "log.target" => self.target = Some(value.to_owned()),
            "log.module_path" | "log.file" => {}
            name => self.attributes.add(name, text(value)),
        }
    }
}

impl Visit for Visitor {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attributes.add(field.name(), Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.add(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() != "log.line" {
            self.attributes.add(field.name(), unsigned(value));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.attributes.add(field.name(), Value::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), &debug(value));
    }
}
