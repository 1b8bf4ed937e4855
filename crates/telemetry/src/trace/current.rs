//! The context of the span that runs now: put beside the span when it is made, found again from inside.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber, dispatcher};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::TraceContext;

/// The span field that carries a context.
const FIELD: &str = "traceparent";

impl TraceContext {
    /// The context of the innermost span around the caller that has one.
    ///
    /// `None` outside of such a span, and where [`Telemetry`](crate::Telemetry) is not the program's
    /// subscriber.
    #[must_use]
    pub fn current() -> Option<Self> {
        // Not by `Span::current()`, which takes a reference to the span, and gives it back.
        dispatcher::get_default(|dispatch| {
            let current = dispatch.current_span();
            let registry = dispatch.downcast_ref::<Registry>()?;
            innermost(registry.span(current.id()?)?.scope())
        })
    }
}

/// The context that an event in `scope` belongs to.
pub(crate) fn trace_of_event<S: for<'a> LookupSpan<'a>>(scope: Option<Scope<'_, S>>) -> Option<TraceContext> {
    innermost(scope?)
}

fn innermost<'a, S: LookupSpan<'a>>(mut scope: Scope<'a, S>) -> Option<TraceContext> {
    scope.find_map(|span| span.extensions().get::<TraceContext>().copied())
}

/// Lets through the spans of level `info` and above that have the field [`FIELD`], whatever the level of
/// the logs, and nothing else.
///
/// The answer depends on the callsite alone, so that it is asked once for each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CarriesTrace;

impl CarriesTrace {
    fn allows(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= Level::INFO && metadata.fields().field(FIELD).is_some()
    }
}

impl<S> Filter<S> for CarriesTrace {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::allows(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::allows(metadata) { Interest::always() } else { Interest::never() }
    }

    /// Spans below `info` are for looking closely, not for carrying context: without this hint every
    /// `trace!` in the program would have to ask.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

/// Keeps what [`FIELD`] says in the span's extensions, parsed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TraceLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TraceLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut found = Found(None);
        attributes.record(&mut found);
        keep(found, id, &ctx);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let mut found = Found(None);
        values.record(&mut found);
        keep(found, id, &ctx);
    }
}

fn keep<S: Subscriber + for<'a> LookupSpan<'a>>(found: Found, id: &Id, ctx: &Context<'_, S>) {
    if let (Found(Some(context)), Some(span)) = (found, ctx.span(id)) {
        span.extensions_mut().replace(context);
    }
}

struct Found(Option<TraceContext>);

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == FIELD {
            self.0 = value.parse().ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == FIELD {
            self.0 = format!("{value:?}").parse().ok();
        }
    }
}
