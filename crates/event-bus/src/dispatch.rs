//! The task of a subscription: takes events from its ring and calls its handler.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tracing::{debug, warn};

use crate::ack::FailureKind;
use crate::handler::{EventHandler, HandlerError};
use crate::hub::Hub;
use crate::ring::{Entry, Found, MAX_SLOTS, Segment};
use crate::subscription::Subscriber;
use crate::turn;

/// How long a reader keeps its thread before it lets others have it. Also what a batch is sized for.
const TURN: Duration = Duration::from_micros(200);

/// A subscription's end of its ring, held by its task.
pub(crate) struct Reader {
    subscriber: Arc<Subscriber>,
    hub: Weak<Hub>,
    /// How many events to take at once: as many as are handled within a turn.
    batch: u64,
    turn_began: Instant,
    batch_began: Instant,
    /// The batch whose handlers run: its segment, its first entry, and the entry that is being handled.
    in_hand: Option<(Arc<Segment>, u64, u64)>,
    finished: bool,
}

/// Handles events until the subscription ends. A panic of the handler is counted and costs one event.
pub(crate) async fn run<H: EventHandler>(handler: H, mut reader: Reader) {
    loop {
        let concurrency = reader.subscriber.options.concurrency;
        let outcome = if concurrency == 1 {
            AssertUnwindSafe(one_by_one(&handler, &mut reader)).catch_unwind().await
        } else {
            AssertUnwindSafe(several(&handler, &mut reader, concurrency)).catch_unwind().await
        };
        match outcome {
            Ok(()) => break,
            Err(panic) => reader.in_hand_panicked(&*panic),
        }
    }
    drop(handler);
    reader.finish();
}

async fn one_by_one<H: EventHandler>(handler: &H, reader: &mut Reader) {
    while let Some((segment, mut until)) = reader.next().await {
        let subscriber = reader.subscriber.clone();
        let member = &subscriber.member;
        let first = member.cursor();
        let limit = first + reader.batch;
        let mut number = first;
        reader.in_hand = Some((segment.clone(), first, number));
        let mut waited = false;
        while number < until && !member.is_stopped() {
            let Some(entry) = segment.get(number) else { break };
            if let Some((_, _, in_hand)) = &mut reader.in_hand {
                *in_hand = number;
            }
            number += 1;
            member.advance(number);
            let outcome = {
                let mut call = pin!(handler.handle(&entry.event));
                // Polled in place: a handler that is ready at once never leaves this loop.
                match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        waited = true;
                        subscriber.ring.freed();
                        call.await
                    }
                }
            };
            if outcome.is_err() || entry.ack.is_some() {
                reader.settle(entry, outcome);
            }
            if waited {
                // The policy may have moved us on meanwhile.
                break;
            }
            if number == until
                && let Some(further) = subscriber.ring.further(member, &segment, limit)
            {
                until = further;
            }
        }
        reader.in_hand = None;
        reader.batch_done(number - first, waited).await;
    }
}

async fn several<H: EventHandler>(handler: &H, reader: &mut Reader, concurrency: usize) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    loop {
        while open && running.len() < concurrency {
            let taken = if running.is_empty() { reader.next().await } else { reader.next_now() };
            let Some((segment, _)) = taken else {
                open = !running.is_empty() && !reader.is_over();
                break;
            };
            let member = reader.subscriber.member.clone();
            let number = member.cursor();
            member.advance(number + 1);
            reader.subscriber.ring.freed();
            let began = Instant::now();
            running.push(async move {
                let outcome = match segment.get(number) {
                    Some(entry) => AssertUnwindSafe(handler.handle(&entry.event)).catch_unwind().await,
                    None => Ok(Ok(())),
                };
                (segment, number, outcome, began.elapsed())
            });
        }
        if running.is_empty() {
            if open {
                continue;
            }
            return;
        }
        // New events are looked for when a call ends and, where there is room, when one arrives.
        let ended = if open && running.len() < concurrency {
            tokio::select! {
                ended = running.next() => ended,
                () = reader.readable() => None,
            }
        } else {
            running.next().await
        };
        if let Some((segment, number, outcome, busy)) = ended {
            reader.count(1, busy);
            if let Some(entry) = segment.get(number) {
                match outcome {
                    Ok(outcome) => reader.settle(entry, outcome),
                    Err(panic) => reader.panicked(entry, &*panic),
                }
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(subscriber: Arc<Subscriber>, hub: Weak<Hub>) -> Self {
        let now = Instant::now();
        Self { subscriber, hub, batch: 8, turn_began: now, batch_began: now, in_hand: None, finished: false }
    }

    /// Waits for entries: a segment, and the number up to which it has them. They begin at the cursor.
    async fn next(&mut self) -> Option<(Arc<Segment>, u64)> {
        if let Some(found) = self.look(None) {
            return found;
        }
        let found = poll_fn(|cx| match self.look(Some(cx.waker())) {
            Some(found) => Poll::Ready(found),
            None => Poll::Pending,
        })
        .await;
        self.batch_began = Instant::now();
        self.turn_began = self.batch_began;
        found
    }

    /// Entries that are there now.
    fn next_now(&mut self) -> Option<(Arc<Segment>, u64)> {
        self.look(None).flatten()
    }

    /// Waits until there may be something to look at.
    async fn readable(&mut self) {
        poll_fn(|cx| {
            let Subscriber { ring, member, .. } = &*self.subscriber;
            if ring.has_entries(member, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn is_over(&self) -> bool {
        let Subscriber { ring, member, .. } = &*self.subscriber;
        member.is_stopped() || (member.has_left() && ring.depth(member) == 0)
    }

    /// Nothing: not yet. `Some(None)`: never again.
    #[expect(clippy::option_option, reason = "the two absences differ, and a type for it says no more")]
    fn look(&self, waker: Option<&std::task::Waker>) -> Option<Option<(Arc<Segment>, u64)>> {
        let Subscriber { ring, member, .. } = &*self.subscriber;
        if member.is_stopped() {
            return Some(None);
        }
        match ring.read(member, self.batch, waker, &mut |entry| self.passed_over(entry)) {
            Found::Entries(segment, until) => Some(Some((segment, until))),
            Found::Nothing => None,
            Found::End => Some(None),
            Found::TooLate => {
                warn!(
                    subscription = %self.subscriber.name,
                    capacity = self.subscriber.options.capacity,
                    "subscription fell behind and is disconnected"
                );
                member.stop();
                if let Some(hub) = self.hub.upgrade() {
                    hub.leave(&self.subscriber);
                }
                Some(None)
            }
        }
    }

    /// Counts a batch, sizes the next, and lets others have the thread when the turn is over.
    async fn batch_done(&mut self, calls: u64, waited: bool) {
        self.subscriber.ring.freed();
        let now = Instant::now();
        let busy = now.saturating_duration_since(self.batch_began);
        self.count(calls, busy);
        self.batch_began = now;
        if waited {
            // It has just let others run; how long it waited says nothing about how long it works.
            self.turn_began = now;
            self.batch = 1;
            return;
        }
        let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let fitting = ns(TURN) / 4 / (ns(busy) / calls.max(1)).max(1);
        self.batch = fitting.clamp(1, MAX_SLOTS as u64).min(self.batch.saturating_mul(2));
        if now.saturating_duration_since(self.turn_began) >= TURN {
            turn::yield_now().await;
            self.batch_began = Instant::now();
            self.turn_began = self.batch_began;
        }
    }

    fn count(&self, calls: u64, busy: Duration) {
        let counters = &self.subscriber.counters;
        let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        counters.delivered.fetch_add(calls, Ordering::Relaxed);
        counters.busy_ns.fetch_add(busy, Ordering::Relaxed);
    }

    /// Tells whoever waits how a call ended.
    fn settle(&self, entry: &Entry, outcome: Result<(), HandlerError>) {
        let subscriber = &self.subscriber;
        match outcome {
            Ok(()) => {
                if let Some(ack) = &entry.ack {
                    ack.handled();
                }
            }
            Err(error) => {
                subscriber.counters.failed.fetch_add(1, Ordering::Relaxed);
                debug!(subscription = %subscriber.name, topic = %entry.event.topic(), %error, "handler failed");
                if let Some(ack) = &entry.ack {
                    ack.failed(subscriber.id, &subscriber.name, FailureKind::Failed(error.to_string()));
                }
            }
        }
    }

    fn in_hand_panicked(&mut self, panic: &(dyn Any + Send)) {
        if let Some((segment, first, number)) = self.in_hand.take()
            && let Some(entry) = segment.get(number)
        {
            self.count(number + 1 - first, self.batch_began.elapsed());
            self.panicked(entry, panic);
        }
        self.subscriber.ring.freed();
        self.batch_began = Instant::now();
    }

    fn panicked(&self, entry: &Entry, panic: &(dyn Any + Send)) {
        let subscriber = &self.subscriber;
        let message = runtime::panic_message(panic);
        subscriber.counters.panicked.fetch_add(1, Ordering::Relaxed);
        warn!(
            subscription = %subscriber.name,
            topic = %entry.event.topic(),
            panic = message,
            "handler panicked"
        );
        if let Some(ack) = &entry.ack {
            ack.failed(subscriber.id, &subscriber.name, FailureKind::Panicked(message.to_string()));
        }
    }

    fn passed_over(&self, entry: &Entry) {
        if let Some(ack) = &entry.ack {
            ack.failed(self.subscriber.id, &self.subscriber.name, FailureKind::Dropped);
        }
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if let Some(hub) = self.hub.upgrade() {
            hub.leave(&self.subscriber);
        }
        let discarded = self.subscriber.member.discard(&mut |entry| self.passed_over(entry));
        self.subscriber.counters.discarded.fetch_add(discarded, Ordering::Relaxed);
        if let Some(hub) = self.hub.upgrade() {
            hub.forget(&self.subscriber);
        }
        self.subscriber.ended.cancel();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Reached without `finish` when the task is cut off.
        self.finish();
    }
}
