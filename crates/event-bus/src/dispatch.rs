//! The task of a subscription: takes events from its ring and calls its handler.

mod burial;
mod job;
mod managed;
mod spanned;
mod work;

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
use crate::ring::{CHUNK, Entry, Found, Hands};
use crate::subscription::Subscriber;
use crate::turn;
pub(crate) use spanned::Spanned;

/// How long a reader keeps its thread before it lets others have it. Also what a batch is sized for.
const TURN: Duration = Duration::from_micros(200);

/// How often a reader that lets more events come looks for them, and what time it lets pass before each look:
/// about what it takes to publish a chunk.
const LOOKS: u32 = 2;
const LOOK_EACH: Duration = Duration::from_micros(2);

/// A subscription's end of its ring, held by its task.
pub(crate) struct Reader {
    subscriber: Arc<Subscriber>,
    hub: Weak<Hub>,
    hands: Hands,
    /// How many events to handle before looking at the time: as many as fit well into a turn.
    batch: u64,
    /// The cursor when the present batch began.
    batch_first: u64,
    /// Calls that run beside each other and are not counted yet.
    running: u64,
    /// Whether it had many events at once, so that more may be on their way.
    had_many: bool,
    turn_began: Instant,
    batch_began: Instant,
    finished: bool,
}

/// Handles events until the subscription ends. A panic of the handler is counted and costs one event.
pub(crate) async fn run<H: EventHandler>(handler: H, mut reader: Reader) {
    let clock = reader.hub.upgrade().map(|hub| hub.clock.clone());
    loop {
        let concurrency = reader.subscriber.options.concurrency;
        let outcome = if let Some(clock) = &clock
            && !reader.subscriber.options.is_plain()
        {
            // Boxed, so that the others' tasks do not pay for its size.
            let work = Box::pin(managed::run(&handler, &mut reader, clock));
            AssertUnwindSafe(work).catch_unwind().await
        } else if concurrency == 1 {
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
    while reader.fill().await {
        let Reader { subscriber, hands, batch_first, batch, .. } = &*reader;
        let member = &subscriber.member;
        let limit = batch_first + batch;
        let mut cursor = *batch_first;
        let mut waited = false;
        while cursor < limit && !member.is_stopped() {
            let Some(entry) = hands.current() else { break };
            hands.next();
            cursor += 1;
            member.advance(cursor);
            let outcome = {
                let mut call = pin!(handler.handle(&entry.event));
                // Polled in place: a handler that is ready at once never leaves this loop.
                match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => {
                        waited = true;
                        subscriber.ring.freed_by(&subscriber.member);
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
        }
        reader.batch_done(waited).await;
    }
}

async fn several<H: EventHandler>(handler: &H, reader: &mut Reader, concurrency: usize) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        while open && running.len() < concurrency {
            if running.is_empty() {
                open = reader.fill().await;
            } else {
                match reader.look(None) {
                    Some(more) => open = more,
                    None => break,
                }
            }
            if !open {
                break;
            }
            let Some(entry) = reader.hands.current().cloned() else { break };
            reader.hands.next();
            let member = &reader.subscriber.member;
            member.advance(member.cursor() + 1);
            reader.subscriber.ring.freed_by(member);
            reader.batch_first = member.cursor();
            reader.running += 1;
            let began = Instant::now();
            running.push(async move {
                // The handler may panic before it has made its future.
                let call = async { handler.handle(&entry.event).await };
                let outcome = AssertUnwindSafe(call).catch_unwind().await;
                (entry, outcome, began.elapsed())
            });
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
        if let Some((entry, outcome, busy)) = ended {
            reader.running -= 1;
            reader.count(1, busy);
            match outcome {
                Ok(outcome) => reader.settle(&entry, outcome),
                Err(panic) => reader.panicked(&entry, &*panic),
            }
        }
    }
}

impl Reader {
    pub(crate) fn new(subscriber: Arc<Subscriber>, hub: Weak<Hub>) -> Self {
        let now = Instant::now();
        Self {
            batch_first: subscriber.member.cursor(),
            subscriber,
            hub,
            hands: Hands::default(),
            running: 0,
            batch: 8,
            had_many: false,
            turn_began: now,
            batch_began: now,
            finished: false,
        }
    }

    /// The name for the spans around its calls, where the bus makes any.
    pub(crate) fn spans(&self) -> Option<Arc<str>> {
        self.hub.upgrade().filter(|hub| hub.spans).map(|_| self.subscriber.name.clone())
    }

    /// Waits until there is an entry in its hands; false if there will be none any more.
    async fn fill(&mut self) -> bool {
        if self.hands.is_empty() {
            self.hands.clear();
            self.gather().await;
        }
        let mut waited = false;
        let found = poll_fn(|cx| match self.look(Some(cx.waker())) {
            Some(found) => Poll::Ready(found),
            None => {
                waited = true;
                Poll::Pending
            }
        })
        .await;
        if waited {
            self.begin_turn();
        }
        self.had_many = self.hands.rest().len() >= CHUNK / 4;
        self.batch_first = self.subscriber.member.cursor();
        found
    }

    /// Where events come about as fast as they are handled, lets more of them come: a reader at the heels of
    /// a publisher would fetch one or two at a time, and both would wait for each other's cache lines. So
    /// the ring is not even looked at all the time.
    async fn gather(&mut self) {
        if !std::mem::take(&mut self.had_many) {
            return;
        }
        let Subscriber { ring, member, .. } = &*self.subscriber;
        let mut looked = Instant::now();
        for _ in 0..LOOKS {
            if ring.waiting(member) >= CHUNK as u64 {
                return;
            }
            let next = looked + LOOK_EACH;
            while looked < next {
                turn::yield_now().await;
                looked = Instant::now();
            }
        }
        self.begin_turn();
    }

    fn begin_turn(&mut self) {
        self.batch_began = Instant::now();
        self.turn_began = self.batch_began;
    }

    /// Waits until there may be something to look at.
    async fn readable(&mut self) {
        poll_fn(|cx| {
            let Subscriber { ring, member, .. } = &*self.subscriber;
            if ring.has_entries(member, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether there is an entry in its hands, taken from the ring if need be; nothing: not yet.
    fn look(&mut self, waker: Option<&std::task::Waker>) -> Option<bool> {
        let Self { subscriber, hands, hub, .. } = self;
        let Subscriber { ring, member, .. } = &**subscriber;
        if member.is_stopped() {
            return Some(false);
        }
        if !hands.is_empty() {
            ring.skip_late(member, hands, &mut |entry| subscriber.passed_over(entry));
            if !hands.is_empty() {
                return Some(true);
            }
        }
        hands.clear();
        match ring.read(member, hands, waker, &mut |entry| subscriber.passed_over(entry)) {
            Found::Entries => Some(true),
            Found::Nothing => None,
            Found::End => Some(false),
            Found::TooLate => {
                warn!(
                    subscription = %subscriber.name,
                    capacity = subscriber.options.capacity,
                    "subscription fell behind and is disconnected"
                );
                member.stop();
                if let Some(hub) = hub.upgrade() {
                    hub.leave(subscriber);
                }
                Some(false)
            }
        }
    }

    /// Counts a batch, sizes the next, and lets others have the thread when the turn is over.
    async fn batch_done(&mut self, waited: bool) {
        let calls = self.subscriber.member.cursor() - self.batch_first;
        self.subscriber.ring.freed_by(&self.subscriber.member);
        let now = Instant::now();
        let busy = now.saturating_duration_since(self.batch_began);
        self.count(calls, busy);
        self.batch_first += calls;
        self.batch_began = now;
        if waited {
            // It has just let others run; how long it waited says nothing about how long it works.
            self.turn_began = now;
            self.batch = 1;
            return;
        }
        let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let fitting = ns(TURN) / 4 / (ns(busy) / calls.max(1)).max(1);
        self.batch = fitting.clamp(1, CHUNK as u64).min(self.batch.saturating_mul(2));
        if now.saturating_duration_since(self.turn_began) >= TURN {
            turn::yield_now().await;
            self.begin_turn();
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
        let calls = self.subscriber.member.cursor() - self.batch_first;
        self.count(calls, self.batch_began.elapsed());
        self.batch_first += calls;
        if let Some(entry) = self.hands.last() {
            self.panicked(entry, panic);
        }
        self.subscriber.ring.freed_by(&self.subscriber.member);
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

    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if self.subscriber.options.is_plain() {
            // Calls that were cut off: their handler was called.
            let calls = self.subscriber.member.cursor() - self.batch_first;
            self.count(calls + self.running, Duration::ZERO);
        }
        self.subscriber.finish(&self.hub, &mut self.hands);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Reached without `finish` when the task is cut off.
        self.finish();
    }
}
