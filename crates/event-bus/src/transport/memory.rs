//! Transports that are joined in memory: what the contract suite is tried on, and a fleet for tests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use runtime::CancellationToken;
use tokio::sync::Notify;

use super::{EventTransport, TransportError, TransportSink};
use crate::event::Event;

/// The most events that wait for an end.
const QUEUE: usize = 65_536;

/// One end of a line to which several are joined. What one sends arrives at all, itself included.
pub struct MemoryTransport {
    line: Arc<Line>,
    own: usize,
}

#[derive(Default)]
struct Line {
    queues: Mutex<Vec<VecDeque<String>>>,
    arrived: Notify,
    is_down: AtomicBool,
}

impl MemoryTransport {
    /// Ends of one new line.
    #[must_use]
    pub fn line(ends: usize) -> Vec<Arc<Self>> {
        let line = Arc::new(Line::default());
        *line.queues() = vec![VecDeque::new(); ends];
        (0..ends).map(|own| Arc::new(Self { line: line.clone(), own })).collect()
    }

    /// Takes the line down or brings it up again. While it is down nothing is sent or received.
    pub fn set_down(&self, is_down: bool) {
        self.line.is_down.store(is_down, Ordering::Release);
        self.line.arrived.notify_waiters();
    }

    /// Delivers again what this end has received last, as an engine does whose acknowledgement got lost.
    pub fn repeat(&self, event: &Event) {
        if let Ok(text) = serde_json::to_string(event)
            && let Some(queue) = self.line.queues().get_mut(self.own)
        {
            queue.push_back(text);
        }
        self.line.arrived.notify_waiters();
    }

    fn unavailable(&self, why: &str) -> TransportError {
        TransportError::Unavailable { name: self.name().to_owned(), source: why.into() }
    }
}

impl Line {
    fn queues(&self) -> MutexGuard<'_, Vec<VecDeque<String>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventTransport for MemoryTransport {
    fn name(&self) -> &str {
        "memory"
    }

    async fn send(&self, event: &Event, _: &str) -> Result<(), TransportError> {
        if self.line.is_down.load(Ordering::Acquire) {
            return Err(self.unavailable("the line is down"));
        }
        // As text, so that what crosses is what would cross a wire.
        let text = serde_json::to_string(event)
            .map_err(|e| TransportError::Refused { name: self.name().to_owned(), source: e.into() })?;
        let mut queues = self.line.queues();
        if queues.iter().any(|queue| queue.len() >= QUEUE) {
            return Err(self.unavailable("the line is full"));
        }
        queues.iter_mut().for_each(|queue| queue.push_back(text.clone()));
        drop(queues);
        self.line.arrived.notify_waiters();
        Ok(())
    }

    async fn receive(
        &self,
        sink: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError> {
        loop {
            let arrived = self.line.arrived.notified();
            if self.line.is_down.load(Ordering::Acquire) {
                return Err(self.unavailable("the line is down"));
            }
            let next = self.line.queues().get(self.own).and_then(|queue| queue.front().cloned());
            let Some(text) = next else {
                tokio::select! {
                    () = arrived => continue,
                    () = cancelled.cancelled() => return Ok(()),
                }
            };
            if let Ok(event) = serde_json::from_str(&text) {
                sink.deliver(event).await.map_err(|e| self.unavailable(&e.to_string()))?;
            }
            // Only now: an event that was not taken is offered again.
            if let Some(queue) = self.line.queues().get_mut(self.own) {
                queue.pop_front();
            }
        }
    }
}
