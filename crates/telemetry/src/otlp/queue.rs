//! What waits to be sent: bounded, and counted where it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use runtime::CancellationToken;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::config::{Signal, SignalConfig};

/// Why something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The queue was full.
    QueueFull,
    /// The collector would not have it, or could not be reached.
    Failed,
    /// The collector took the request, and not all that was in it.
    Rejected,
    /// The process ended first.
    Shutdown,
}

impl Loss {
    const ALL: [Self; 4] = [Self::QueueFull, Self::Failed, Self::Rejected, Self::Shutdown];

    const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What became of the spans, log records or data points of one signal.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) signal: Signal,
    taken: AtomicU64,
    exported: AtomicU64,
    lost: [AtomicU64; 4],
}

impl Counts {
    pub(super) fn new(signal: Signal) -> Arc<Self> {
        Arc::new(Self {
            signal,
            taken: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            lost: Default::default(),
        })
    }

    pub(super) fn took(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn exported(&self, count: u64) {
        self.exported.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, why: Loss, count: u64) {
        self.lost[why as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn all_lost(&self) -> u64 {
        self.lost.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Counts what is still held as lost: nobody will send it.
    pub(super) fn give_up(&self) {
        let done = self.exported.load(Ordering::Relaxed) + self.all_lost();
        self.lost(Loss::Shutdown, self.taken.load(Ordering::Relaxed).saturating_sub(done));
    }

    /// Tells the metrics.
    pub(super) fn report(&self) {
        let signal = self.signal.as_str();
        metrics::counter!("telemetry_exported_total", "signal" => signal)
            .absolute(self.exported.load(Ordering::Relaxed));
        for why in Loss::ALL {
            let lost = self.lost[why as usize].load(Ordering::Relaxed);
            metrics::counter!("telemetry_export_lost_total", "signal" => signal, "reason" => why.as_str())
                .absolute(lost);
        }
    }
}

/// Takes what is to be sent, at once: whoever is at work in the program does not wait.
#[derive(Debug)]
pub(super) struct Queue<T> {
    sender: Sender<T>,
    counts: Arc<Counts>,
}

impl<T> Queue<T> {
    /// A queue, and what comes out of it.
    pub(super) fn new(config: &SignalConfig, counts: Arc<Counts>) -> (Self, Batches<T>) {
        let (sender, receiver) = mpsc::channel(config.queue_max);
        let batches = Batches { receiver, max: config.batch_max, interval: config.interval.0 };
        (Self { sender, counts }, batches)
    }

    pub(super) fn push(&self, item: T) {
        self.counts.took(1);
        match self.sender.try_send(item) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.counts.lost(Loss::QueueFull, 1),
            Err(TrySendError::Closed(_)) => self.counts.lost(Loss::Shutdown, 1),
        }
    }
}

/// What has been put into a queue, a batch at a time.
#[derive(Debug)]
pub(super) struct Batches<T> {
    receiver: Receiver<T>,
    max: usize,
    interval: Duration,
}

impl<T> Batches<T> {
    /// The next batch: full, or as full as it has become within the interval. Once `stop` is cancelled
    /// nothing waits any more, and after the last there is none.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<T>> {
        let mut batch = Vec::new();
        let mut wait = None;
        while batch.len() < self.max {
            let room = self.max - batch.len();
            let due = async {
                match wait {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                got = self.receiver.recv_many(&mut batch, room) => {
                    if got == 0 {
                        break;
                    }
                    wait.get_or_insert_with(|| tokio::time::Instant::now() + self.interval);
                }
                () = stop.cancelled(), if !self.receiver.is_closed() => self.receiver.close(),
                () = due => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::config::Millis;

    fn queue(queue_max: usize, batch_max: usize) -> (Queue<u32>, Batches<u32>, Arc<Counts>) {
        let counts = Counts::new(Signal::Traces);
        let interval = Millis(Duration::from_secs(5));
        let config = SignalConfig { queue_max, batch_max, interval, ..SignalConfig::default() };
        let (queue, batches) = Queue::new(&config, Arc::clone(&counts));
        (queue, batches, counts)
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_goes_at_once_and_the_rest_after_the_interval() {
        let (queue, mut batches, _) = queue(10, 3);
        let stop = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        (0..5).for_each(|n| queue.push(n));
        assert_eq!(batches.next(&stop).await, Some(vec![0, 1, 2]));
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(batches.next(&stop).await, Some(vec![3, 4]));
        assert!(begun.elapsed() >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_counted() {
        let (queue, mut batches, counts) = queue(4, 4);
        (0..7).for_each(|n| queue.push(n));
        assert_eq!(counts.all_lost(), 3);
        assert_eq!(batches.next(&CancellationToken::new()).await.unwrap().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_all_that_is_there_comes_without_waiting_and_nothing_more_is_taken() {
        let (queue, mut batches, counts) = queue(10, 3);
        let stop = CancellationToken::new();
        let begun = tokio::time::Instant::now();
        (0..4).for_each(|n| queue.push(n));
        stop.cancel();
        assert_eq!(batches.next(&stop).await, Some(vec![0, 1, 2]));
        assert_eq!(batches.next(&stop).await, Some(vec![3]));
        assert_eq!(batches.next(&stop).await, None);
        assert!(begun.elapsed() < Duration::from_secs(1));
        queue.push(9);
        assert_eq!(counts.all_lost(), 1);
        counts.exported(3);
        counts.give_up();
        assert_eq!(counts.all_lost(), 2, "one was handed out, and never sent");
    }
}
