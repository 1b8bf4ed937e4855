//! Spans around handlers, and the trace that they continue.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use event_bus::{Batch, Event, EventBus, SubscribeOptions, TraceContext, by_batch};
use runtime::SystemClock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

use crate::support::{LONG, event, topic};

type Spans = Arc<Mutex<Vec<HashMap<String, String>>>>;

/// Notes the fields of each span.
struct Noted(Spans);

struct Fields<'a>(&'a mut HashMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Noted {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = HashMap::from([("name".to_owned(), attributes.metadata().name().to_owned())]);
        attributes.record(&mut Fields(&mut fields));
        self.0.lock().unwrap().push(fields);
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(last) = self.0.lock().unwrap().last_mut() {
            values.record(&mut Fields(last));
        }
    }
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn traced() -> Event {
    let trace = TraceContext::new(PARENT).unwrap();
    Event::builder(topic("a")).trace(trace).build(&SystemClock).unwrap()
}

async fn handled(bus: &EventBus, event: Event) {
    assert!(bus.publish_and_wait(event, LONG).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_call_has_a_span_that_continues_the_publishers_trace_if_the_bus_is_to_make_any() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(registry().with(Noted(spans.clone())));
    for is_on in [false, true] {
        spans.lock().unwrap().clear();
        let bus = EventBus::builder().spans(is_on).build();
        let options = SubscribeOptions::new().name("billing");
        let inside: Arc<Mutex<Option<&'static str>>> = Arc::default();
        let noted = inside.clone();
        let subscription = bus
            .subscribe("a", options, move |_| {
                *noted.lock().unwrap() = tracing::Span::current().metadata().map(|span| span.name());
                async { Ok(()) }
            })
            .unwrap();
        handled(&bus, traced()).await;
        handled(&bus, event("a", 1)).await;
        let spans: Vec<_> =
            spans.lock().unwrap().iter().filter(|s| s["name"] == "event.handle").cloned().collect();
        // What runs tasks has spans of its own.
        assert_eq!(*inside.lock().unwrap() == Some("event.handle"), is_on);
        if !is_on {
            assert!(spans.is_empty());
            continue;
        }
        let span = &spans[0];
        assert_eq!((span["topic"].as_str(), span["subscription"].as_str()), ("a", "billing"));
        assert_eq!(span["parent_span_id"], "00f067aa0ba902b7");
        let own = TraceContext::new(&span["traceparent"]).unwrap();
        assert_eq!(own.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_ne!(own.span_id(), "00f067aa0ba902b7");
        assert!(own.is_sampled());
        assert!(!spans[1].contains_key("traceparent"), "an event without a trace");
        drop(subscription);
    }
}

#[tokio::test]
async fn the_span_of_a_batch_names_the_traces_of_its_events() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(registry().with(Noted(spans.clone())));
    let bus = EventBus::builder().spans(true).build();
    let options = SubscribeOptions::new().batch(Batch { events: 3, within: LONG });
    let _kept = bus.subscribe("a", options, by_batch(async |_| Ok(()))).unwrap();
    bus.publish(event("a", 1)).await.unwrap();
    bus.publish(traced()).await.unwrap();
    handled(&bus, traced()).await;
    let spans = spans.lock().unwrap();
    let span = spans.iter().find(|span| span["name"] == "event.handle_batch").unwrap();
    assert_eq!((span["events"].as_str(), span["links"].as_str()), ("3", &*format!("{PARENT} {PARENT}")));
}
