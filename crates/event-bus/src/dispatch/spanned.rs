//! A handler whose calls have spans. What a subscription calls where the bus makes none is the handler itself.

use std::sync::Arc;

use tracing::field::{Empty, display};
use tracing::{Instrument, Span, info_span};

use crate::event::{Event, TraceContext, random_id};
use crate::handler::{BatchFailure, EventHandler, HandlerError};

/// The most traces that the span of a batch names.
const MAX_LINKS: usize = 32;

/// See the module's text.
pub(crate) struct Spanned<H> {
    handler: H,
    subscription: Arc<str>,
}

impl<H> Spanned<H> {
    pub(crate) fn new(handler: H, subscription: Arc<str>) -> Self {
        Self { handler, subscription }
    }

    fn of_event(&self, event: &Event) -> Span {
        // `traceparent` is what `telemetry` finds the trace of a span by, and has to be there from the start.
        let Some(trace) = event.trace() else {
            return info_span!(
                "event.handle",
                otel.kind = "consumer",
                topic = %event.topic(),
                subscription = %self.subscription,
                event_id = %event.id(),
            );
        };
        info_span!(
            "event.handle",
            otel.kind = "consumer",
            topic = %event.topic(),
            subscription = %self.subscription,
            event_id = %event.id(),
            traceparent = trace.child(random_id()),
            parent_span_id = trace.span_id(),
        )
    }

    fn of_batch(&self, events: &[Event]) -> Span {
        let span = info_span!(
            "event.handle_batch",
            otel.kind = "consumer",
            subscription = %self.subscription,
            events = events.len(),
            links = Empty,
        );
        if !span.is_disabled() {
            let traces = events.iter().filter_map(Event::trace).take(MAX_LINKS);
            let links: Vec<_> = traces.map(TraceContext::traceparent).collect();
            span.record("links", display(links.join(" ")));
        }
        span
    }
}

impl<H: EventHandler> EventHandler for Spanned<H> {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let span = self.of_event(event);
        // Made inside, too: a handler may do its work before it has a future.
        async { self.handler.handle(event).await }.instrument(span).await
    }

    async fn handle_batch(&self, events: Vec<Event>) -> Result<(), BatchFailure> {
        let span = self.of_batch(&events);
        async { self.handler.handle_batch(events).await }.instrument(span).await
    }
}
