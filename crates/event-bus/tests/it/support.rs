//! What the tests share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_bus::{Event, EventBus, EventHandler, HandlerError, Topic};
use runtime::SystemClock;
use serde_json::json;
use tokio::sync::Semaphore;

/// Longer than anything here takes; a test that gets there has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub(crate) fn event(name: &str, number: u64) -> Event {
    Event::builder(topic(name)).data(json!(number)).build(&SystemClock).unwrap()
}

pub(crate) fn number(event: &Event) -> u64 {
    event.data().as_u64().unwrap()
}

pub(crate) async fn publish(bus: &EventBus, name: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        bus.publish(event(name, n)).await.unwrap();
    }
}

/// Waits for a condition, with a deadline.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "never came: {what}");
}

/// Counts itself among the living for as long as it is in memory.
pub(crate) struct Counted(pub(crate) Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl serde::Serialize for Counted {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

/// Notes the events that it is called for, each once the gate lets it.
#[derive(Clone)]
pub(crate) struct Recorder {
    seen: Arc<Mutex<Vec<(String, u64)>>>,
    gate: Option<Arc<Semaphore>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { seen: Arc::default(), gate: None }
    }

    /// A recorder whose calls wait for a permit each.
    pub(crate) fn gated() -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        (Self { seen: Arc::default(), gate: Some(gate.clone()) }, gate)
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.seen.lock().unwrap().iter().map(|(_, n)| *n).collect()
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(topic, _)| topic.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) async fn has(&self, count: usize) {
        until("enough events", || self.len() >= count).await;
    }
}

impl EventHandler for Recorder {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        self.seen.lock().unwrap().push((event.topic().to_string(), number(event)));
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}
