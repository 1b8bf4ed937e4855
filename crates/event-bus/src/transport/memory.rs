//! Transports that are joined in memory: what the contract suite is tried on, and a fleet for tests.
//!
//! Built as an engine with partitions is: each end reads the partitions side by side, and acknowledges what
//! was taken from each.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::try_join_all;
use runtime::CancellationToken;
use tokio::sync::watch;

use super::contract::{Ends, Place};
use super::{EventTransport, Outgoing, TransportError, TransportSink};
use crate::event::Event;

/// The partitions of a line.
const PARTITIONS: usize = 4;
/// The most messages that wait for an end in one partition.
const QUEUE: usize = 16_384;
/// The most messages that an end is given at once.
const BATCH: usize = 64;

/// One end of a line to which several are joined. What one sends arrives at all, itself included.
pub struct MemoryTransport {
    line: Arc<Line>,
    own: usize,
}

type Partitions = [VecDeque<String>; PARTITIONS];

struct Line {
    ends: Mutex<Vec<Partitions>>,
    /// Tells that something arrived, or that the line went down or up: whether it is down.
    changed: watch::Sender<bool>,
    /// How many of the next events are taken without an answer that says so.
    answers_lost: AtomicUsize,
    /// How many of the next events are not taken.
    failing: AtomicUsize,
}

impl MemoryTransport {
    /// Ends of one new line.
    #[must_use]
    pub fn line(ends: usize) -> Vec<Arc<Self>> {
        let line = Arc::new(Line {
            ends: Mutex::new((0..ends).map(|_| Partitions::default()).collect()),
            changed: watch::Sender::new(false),
            answers_lost: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
        });
        (0..ends).map(|own| Arc::new(Self { line: line.clone(), own })).collect()
    }

    /// Takes the line down or brings it up again. While it is down nothing is sent or received.
    pub fn set_down(&self, is_down: bool) {
        self.line.changed.send_replace(is_down);
    }

    /// Has the next so many events arrive without an answer that says so.
    pub fn lose_answers(&self, events: usize) {
        self.line.answers_lost.store(events, Ordering::Relaxed);
    }

    /// Has the next so many events fail for the moment.
    pub fn fail_next(&self, events: usize) {
        self.line.failing.store(events, Ordering::Relaxed);
    }

    /// Delivers a message to this end, as an engine does whose acknowledgement got lost.
    pub fn repeat(&self, message: &str) {
        if let Some(partitions) = self.line.ends().get_mut(self.own) {
            partitions[0].push_back(message.to_owned());
        }
        self.line.changed.send_modify(|_| {});
    }

    fn unavailable(&self, why: &str) -> TransportError {
        TransportError::Unavailable { name: self.name().to_owned(), source: why.into() }
    }

    fn send_one(&self, outgoing: &Outgoing) -> Result<(), TransportError> {
        if counted_down(&self.line.failing) {
            return Err(self.unavailable("it is to fail"));
        }
        // As text, so that what crosses is what would cross a wire.
        let text = serde_json::to_string(&outgoing.event)
            .map_err(|e| TransportError::Refused { name: self.name().to_owned(), source: e.into() })?;
        let mut hasher = DefaultHasher::new();
        outgoing.key.hash(&mut hasher);
        let partition = hasher.finish() as usize % PARTITIONS;
        let mut ends = self.line.ends();
        if ends.iter().any(|partitions| partitions[partition].len() >= QUEUE) {
            return Err(self.unavailable("the line is full"));
        }
        ends.iter_mut().for_each(|partitions| partitions[partition].push_back(text.clone()));
        drop(ends);
        if counted_down(&self.line.answers_lost) {
            Err(self.unavailable("the answer was lost"))
        } else {
            Ok(())
        }
    }

    /// Delivers what is in a partition.
    async fn read(&self, partition: usize, sink: &dyn TransportSink) -> Result<(), TransportError> {
        let mut changed = self.line.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let messages: Vec<String> = {
                let ends = self.line.ends();
                let queue = ends.get(self.own).map(|partitions| &partitions[partition]);
                queue.into_iter().flatten().take(BATCH).cloned().collect()
            };
            if messages.is_empty() {
                // The sender is the line's, which is ours.
                let _ = changed.changed().await;
                continue;
            }
            let mut events = Vec::new();
            for message in &messages {
                match serde_json::from_str::<Event>(message) {
                    Ok(event) => events.push(event),
                    Err(error) => sink.unreadable(&error),
                }
            }
            sink.deliver(events).await.map_err(|e| self.unavailable(&e.to_string()))?;
            // Only now: what was not taken is offered again.
            if let Some(partitions) = self.line.ends().get_mut(self.own) {
                partitions[partition].drain(..messages.len());
            }
        }
    }
}

fn counted_down(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

impl Line {
    fn ends(&self) -> MutexGuard<'_, Vec<Partitions>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventTransport for MemoryTransport {
    fn name(&self) -> &str {
        "memory"
    }

    async fn send(&self, events: &[Outgoing]) -> Vec<Result<(), TransportError>> {
        let mut failed = *self.line.changed.borrow();
        let mut outcomes = Vec::with_capacity(events.len());
        for outgoing in events {
            // Nothing after what failed, so that order is kept when it is sent again.
            let outcome =
                if failed { Err(self.unavailable("the line is down")) } else { self.send_one(outgoing) };
            failed |= outcome.as_ref().is_err_and(TransportError::is_transient);
            outcomes.push(outcome);
        }
        self.line.changed.send_modify(|_| {});
        outcomes
    }

    async fn receive(
        &self,
        sink: Arc<dyn TransportSink>,
        cancelled: CancellationToken,
    ) -> Result<(), TransportError> {
        let partitions = (0..PARTITIONS).map(|partition| self.read(partition, &*sink));
        let mut changed = self.line.changed.subscribe();
        tokio::select! {
            biased;
            // In the middle of a delivery, too, as a connection is lost.
            _ = changed.wait_for(|is_down| *is_down) => Err(self.unavailable("the line is down")),
            outcome = try_join_all(partitions) => outcome.map(drop),
            () = cancelled.cancelled() => Ok(()),
        }
    }
}

/// Lines for the contract suite.
#[derive(Default)]
pub struct MemoryPlace {
    line: Vec<Arc<MemoryTransport>>,
}

#[async_trait]
impl Place for MemoryPlace {
    async fn ends(&mut self) -> Ends {
        self.line = MemoryTransport::line(2);
        (self.line[0].clone(), self.line[1].clone())
    }

    async fn set_down(&mut self, is_down: bool) {
        self.line[0].set_down(is_down);
    }
}
