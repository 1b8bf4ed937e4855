//! Spans on their way to the collector.

use std::fmt;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use runtime::{Sampler, SharedClock, SpanId, TraceContext};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes as Fields, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::fields::{Attributes, debug, text, unsigned};
use super::queue::Queue;
use super::{is_own, nanos};
use crate::spans::{TRACEPARENT, enter, exit};

/// A span has no more links than this.
const LINKS_MAX: usize = 128;

/// A span that has ended, and where in the program it was made.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) target: &'static str,
    pub(super) span: Span,
}

/// Turns spans of sampled traces into those of OTLP, and gives ids to those that bring none.
///
/// A span that names its context in the field `traceparent` is exported under just these ids; its parent is
/// the span around it, or the one in the field `parent_span_id`. Of the other fields `otel.name`,
/// `otel.kind`, `otel.status_code` and `otel.status_description` stand for parts of the span, `links` holds
/// the contexts of linked spans, and the rest are attributes.
pub(super) struct SpanLayer {
    pub(super) queue: Queue<Ended>,
    pub(super) sampler: Sampler,
    pub(super) clock: SharedClock,
}

/// What is exported as spans: those of level `info` and above.
pub(super) fn exports(metadata: &Metadata<'_>) -> bool {
    let level = if metadata.is_span() { Level::INFO } else { Level::ERROR };
    *metadata.level() <= level && !is_own(metadata.target())
}

/// The span so far, kept with it in the registry.
struct Open(Box<Ended>);

/// Says that the span's context was made here: nobody else makes it the current one.
struct Named;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, fields: &Fields<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let around = if fields.is_contextual() {
            TraceContext::current()
        } else {
            let mut parents = span.scope().skip(1);
            parents.find_map(|parent| parent.extensions().get::<TraceContext>().copied())
        };
        let mut extensions = span.extensions_mut();
        let context = match (extensions.get_mut::<TraceContext>(), around) {
            (Some(own), _) => *own,
            // What is not exported needs no ids of its own.
            (None, Some(around)) if !around.is_sampled() => return,
            (None, around) => {
                let context = around.map_or_else(|| self.sampler.root(), |around| around.child());
                extensions.insert(context);
                extensions.insert(Named);
                context
            }
        };
        if !context.is_sampled() {
            return;
        }
        // The one around may be this very one, as the scope that the span is made in.
        let is_parent = |around: &TraceContext| {
            around.trace_id() == context.trace_id() && around.span_id() != context.span_id()
        };
        let parent = around.filter(is_parent);
        let metadata = fields.metadata();
        let mut visitor = Visitor::default();
        fields.record(&mut visitor);
        let mut exported = Span {
            trace_id: context.trace_id().to_bytes().to_vec(),
            span_id: context.span_id().to_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.span_id().to_bytes().to_vec()).unwrap_or_default(),
            name: metadata.name().to_owned(),
            kind: SpanKind::Internal as i32,
            flags: u32::from(context.flags()),
            start_time_unix_nano: nanos(self.clock.now()),
            ..Span::default()
        };
        visitor.put(&mut exported);
        extensions.insert(Open(Box::new(Ended { target: metadata.target(), span: exported })));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(Open(open)) = span.extensions_mut().get_mut() {
            let mut visitor = Visitor::default();
            values.record(&mut visitor);
            visitor.put(&mut open.span);
        }
    }

    /// A span inside of which an error is logged has failed, unless it says otherwise itself.
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.event_span(event) else { return };
        if let Some(Open(open)) = span.extensions_mut().get_mut()
            && open.span.status.is_none()
        {
            let mut message = Message(String::new());
            event.record(&mut message);
            open.span.status = Some(Status { code: StatusCode::Error as i32, message: message.0 });
        }
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        if ctx.span(id).is_some_and(|span| span.extensions().get::<Named>().is_some()) {
            enter(id, &ctx);
        }
    }

    fn on_exit(&self, id: &Id, ctx: Context<'_, S>) {
        if ctx.span(id).is_some_and(|span| span.extensions().get::<Named>().is_some()) {
            exit(id);
        }
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(&id) else { return };
        let open = span.extensions_mut().remove::<Open>();
        if let Some(Open(mut open)) = open {
            // The clock may have been set back.
            open.span.end_time_unix_nano = nanos(self.clock.now()).max(open.span.start_time_unix_nano);
            self.queue.push(*open);
        }
    }
}

/// What the fields of a span say.
#[derive(Default)]
struct Visitor {
    attributes: Attributes,
    name: Option<String>,
    kind: Option<SpanKind>,
    status: Option<StatusCode>,
    status_message: Option<String>,
    parent: Option<SpanId>,
    links: Vec<Link>,
}

impl Visitor {
    fn put(self, span: &mut Span) {
        if let Some(name) = self.name {
            span.name = name;
        }
        if let Some(kind) = self.kind {
            span.kind = kind as i32;
        }
        if let Some(parent) = self.parent {
            span.parent_span_id = parent.to_bytes().to_vec();
        }
        if self.status.is_some() || self.status_message.is_some() {
            let status = span.status.get_or_insert_default();
            status.code = self.status.map_or(status.code, |code| code as i32);
            status.message = self.status_message.unwrap_or_default();
        }
        span.links.extend(self.links);
        let mut attributes =
            Attributes { list: std::mem::take(&mut span.attributes), dropped: span.dropped_attributes_count };
        for attribute in self.attributes.list {
            if let Some(value) = attribute.value.and_then(|value| value.value) {
                attributes.add(&attribute.key, value);
            }
        }
        span.attributes = attributes.list;
        span.dropped_attributes_count = attributes.dropped + self.attributes.dropped;
    }

    fn text(&mut self, name: &str, value: &str) {
        match name {
            TRACEPARENT => {}
            "parent_span_id" => self.parent = value.parse().ok(),
            "otel.name" => self.name = Some(value.to_owned()),
            "otel.kind" => self.kind = kind(value),
            "otel.status_code" => self.status = status(value),
            "otel.status_description" => self.status_message = Some(value.to_owned()),
            "links" => self.links = value.split_whitespace().take(LINKS_MAX).filter_map(link).collect(),
            name => self.attributes.add(name, text(value)),
        }
    }
}

fn kind(text: &str) -> Option<SpanKind> {
    Some(match text.to_ascii_lowercase().as_str() {
        "internal" => SpanKind::Internal,
        "server" => SpanKind::Server,
        "client" => SpanKind::Client,
        "producer" => SpanKind::Producer,
        "consumer" => SpanKind::Consumer,
        _ => return None,
    })
}

fn status(text: &str) -> Option<StatusCode> {
    Some(match text.to_ascii_lowercase().as_str() {
        "ok" => StatusCode::Ok,
        "error" => StatusCode::Error,
        _ => return None,
    })
}

fn link(traceparent: &str) -> Option<Link> {
    let linked: TraceContext = traceparent.parse().ok()?;
    Some(Link {
        trace_id: linked.trace_id().to_bytes().to_vec(),
        span_id: linked.span_id().to_bytes().to_vec(),
        flags: u32::from(linked.flags()),
        ..Link::default()
    })
}

impl Visit for Visitor {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attributes.add(field.name(), Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.add(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.attributes.add(field.name(), unsigned(value));
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

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = debug(value);
        }
    }
}
