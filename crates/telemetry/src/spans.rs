//! Spans that carry a context: it is that of the work inside.

use std::cell::RefCell;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::TraceContext;

/// The span field that carries a context.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Lets through the spans of level `info` and above that have the field [`TRACEPARENT`], whatever the level
/// of the logs, and nothing else.
///
/// The answer depends on the callsite alone, so that it is asked once for each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CarriesTrace;

impl CarriesTrace {
    fn allows(metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && *metadata.level() <= Level::INFO
            && metadata.fields().field(TRACEPARENT).is_some()
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

/// Keeps what [`TRACEPARENT`] says in the span's extensions, parsed, and makes it the current context of
/// whoever is in the span.
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
        let is_inside = ctx.lookup_current().is_some_and(|current| current.id() == *id);
        if keep(found, id, &ctx) && is_inside {
            exit(id);
            enter(id, &ctx);
        }
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        enter(id, &ctx);
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        exit(id);
    }
}

/// Tells whether there was anything to keep.
fn keep<S: Subscriber + for<'a> LookupSpan<'a>>(found: Found, id: &Id, ctx: &Context<'_, S>) -> bool {
    let (Found(Some(context)), Some(span)) = (found, ctx.span(id)) else { return false };
    span.extensions_mut().replace(context);
    true
}

thread_local! {
    /// The spans that this thread is in and that have a context, with the context that was current before.
    static ENTERED: RefCell<Vec<(u64, Option<TraceContext>)>> = const { RefCell::new(Vec::new()) };
}

/// The span's context, if it has one, is current from now on.
pub(crate) fn enter<S: Subscriber + for<'a> LookupSpan<'a>>(id: &Id, ctx: &Context<'_, S>) {
    let context = ctx.span(id).and_then(|span| span.extensions().get::<TraceContext>().copied());
    if let Some(context) = context {
        let _ = ENTERED.try_with(|entered| {
            entered.borrow_mut().push((id.into_u64(), TraceContext::replace_current(Some(context))));
        });
    }
}

/// The context from before the span was entered is current again.
pub(crate) fn exit(id: &Id) {
    let _ = ENTERED.try_with(|entered| {
        let mut entered = entered.borrow_mut();
        let Some(at) = entered.iter().rposition(|(other, _)| *other == id.into_u64()) else { return };
        let (_, before) = entered.remove(at);
        match entered.get_mut(at) {
            // Left out of order: the span that was entered later stays current, and does not bring this
            // one's context back.
            Some((_, later)) => *later = before,
            None => {
                TraceContext::replace_current(before);
            }
        }
    });
}

struct Found(Option<TraceContext>);

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == TRACEPARENT {
            self.0 = value.parse().ok();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == TRACEPARENT {
            self.0 = format!("{value:?}").parse().ok();
        }
    }
}
