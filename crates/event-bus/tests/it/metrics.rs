//! What the bus tells the metrics facade.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use event_bus::transport::memory::MemoryTransport;
use event_bus::{BridgeOptions, EventBus, Overflow, Pattern, SubscribeOptions};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder as Facade, SharedString,
    Unit,
};

use crate::support::{LONG, Recorder, publish, until};

/// The last value of each series, by its text.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<BTreeMap<String, f64>>>);

struct Series {
    values: Values,
    name: String,
}

impl CounterFn for Series {
    fn increment(&self, _: u64) {}
    fn absolute(&self, value: u64) {
        self.set(f64::from(u32::try_from(value).unwrap()));
    }
}

impl GaugeFn for Series {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.values.0.lock().unwrap().insert(self.name.clone(), value);
    }
}

impl Values {
    fn of(bus: &EventBus) -> Self {
        let values = Self::default();
        metrics::with_local_recorder(&values, || bus.report_metrics());
        values
    }

    fn get(&self, name: &str) -> f64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_else(|| panic!("no `{name}`"))
    }

    fn series(&self, key: &Key) -> Arc<Series> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Series { values: self.clone(), name: format!("{}{{{}}}", key.name(), labels.join(",")) })
    }
}

impl Facade for Values {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_subscriptions_lag_is_what_it_has_not_finished() {
    let bus = EventBus::builder().build();
    let (seen, gate) = Recorder::gated();
    let options = SubscribeOptions::new().overflow(Overflow::Block).owner("billing");
    let subscription = bus.subscribe("a", options, seen.clone()).unwrap();
    publish(&bus, "a", 0..5).await;
    seen.has(1).await;
    let stats = subscription.stats();
    assert_eq!((stats.depth, stats.lag), (4, 5), "one is in a call and waits no more");
    // All five are in the hands of the reader, and the one in the call is the oldest.
    until("its age is known", || bus.subscriptions()[0].stats.oldest_seconds.is_some()).await;
    assert_eq!(Values::of(&bus).get("event_bus_subscription_lag{owner=billing}"), 5.0);
    gate.add_permits(2);
    until("two fewer", || subscription.stats().lag == 3).await;
    gate.add_permits(3);
    until("nothing is left", || subscription.stats().lag == 0).await;
    until("no age", || bus.subscriptions()[0].stats.oldest_seconds.is_none()).await;
    assert_eq!(Values::of(&bus).get("event_bus_subscription_lag{owner=billing}"), 0.0);
}

#[tokio::test]
async fn what_bridges_count_is_told_by_transport_and_outlives_them() {
    let line = MemoryTransport::line(2);
    let (a, b) = (EventBus::builder().build(), EventBus::builder().build());
    let bridge = |bus: &EventBus, end: usize| {
        bus.bridge(Pattern::new("a.**").unwrap(), line[end].clone(), BridgeOptions::new()).unwrap()
    };
    for bridged in [3, 6] {
        let (here, there) = (bridge(&a, 0), bridge(&b, 1));
        publish(&a, "a.x", 0..3).await;
        until("all are there and answered", || there.stats().received == 3 && here.stats().sent == 3).await;
        let sent = Values::of(&a).get("event_bus_bridge_sent_total{transport=memory}");
        assert_eq!(sent, f64::from(bridged), "this bridge and those before it");
        assert_eq!(here.close(LONG).await + there.close(LONG).await, 0);
    }
    for _ in 0..2 {
        let (here, there) = (Values::of(&a), Values::of(&b));
        assert_eq!(here.get("event_bus_bridge_sent_total{transport=memory}"), 6.0);
        assert_eq!(here.get("event_bus_bridge_received_total{transport=memory}"), 0.0);
        assert_eq!(here.get("event_bus_bridge_waiting{transport=memory}"), 0.0);
        assert_eq!(there.get("event_bus_bridge_received_total{transport=memory}"), 6.0);
        assert_eq!(there.get("event_bus_bridge_not_taken_total{reason=foreign,transport=memory}"), 0.0);
    }
}
