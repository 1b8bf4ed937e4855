//! The task of a subscription: takes events from its ring and calls its handler.

mod burial;
mod cut;
mod job;
mod managed;
mod running;
mod spanned;
mod work;

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tracing::{debug, warn};

use crate::ack::FailureKind;
use crate::handler::{EventHandler, HandlerError};
use crate::hub::Hub;
use crate::ring::{CHUNK, Entry, Found, Hands, Member, Ring};
use crate::subscription::Subscriber;
use crate::turn;
pub(crate) use cut::UntilCut;
pub(crate) use spanned::Spanned;

/// How long a reader keeps its thread before it lets others have it. Also what a batch is sized for.
const TURN: Duration = Duration::from_micros(200);

/// So many events are handled without a look at the clock, which costs as much as a small handler, since the last
/// whose time was taken: where events come one at a time, one in so many is timed.
const UNTIMED: u64 = 16;

/// How often a reader that lets more events come looks for them, and what time it lets pass before each look:
/// about what it takes to publish a chunk.
const LOOKS: u32 = 2;
const LOOK_EACH: Duration = Duration::from_micros(2);

/// A subscription's end of its ring, held by its task.
/// In this order in memory: what an event that comes alone needs stands together.
#[repr(C, align(64))]
pub(crate) struct Reader {
    /// As the subscriber has them: what most wake-ups need without the rest of it.
    ring: Arc<Ring>,
    member: Arc<Member>,
    /// The cursor when the present batch began.
    batch_first: u64,
    /// How many events to handle before looking at the time: as many as fit well into a turn.
    batch: u64,
    /// Events since the last whose time was taken.
    untimed: u64,
    /// How often it looks for more events before it takes those that came, since it had many at once and more
    /// may be on their way.
    looks: u32,
    /// Whether it has found nothing since it last had something.
    slept: bool,
    finished: bool,
    hands: Hands,
    /// When it looks next for more events.
    next_look: Option<Instant>,
    /// When the present turn and the present batch began, where their time is taken.
    began: Option<Began>,
    /// Calls that run beside each other and are not counted yet.
    running: u64,
    subscriber: Arc<Subscriber>,
    hub: Weak<Hub>,
}

#[derive(Clone, Copy)]
struct Began {
    turn: Instant,
    batch: Instant,
}

impl Began {
    fn now() -> Self {
        let now = Instant::now();
        Self { turn: now, batch: now }
    }
}

/// Handles events until the subscription ends. A panic of the handler is counted and costs one event.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice in its future")]
pub(crate) fn run<H: EventHandler>(handler: H, mut reader: Reader) -> impl Future<Output = ()> + Send {
    async move {
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
                let work = Box::pin(several(&handler, &mut reader, concurrency));
                AssertUnwindSafe(work).catch_unwind().await
            };
            match outcome {
                Ok(()) => break,
                Err(panic) => reader.in_hand_panicked(&*panic),
            }
        }
        drop(handler);
        reader.finish();
    }
}

async fn one_by_one<H: EventHandler>(handler: &H, reader: &mut Reader) {
    while poll_fn(|cx| reader.poll_fill(cx)).await {
        let Reader { ring, member, subscriber, hands, batch_first, batch, .. } = &*reader;
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
                        ring.freed_by(member);
                        let _oldest = subscriber.counters.waits_in_call(&entry.event);
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
        if reader.batch_done(waited) {
            turn::yield_now().await;
            reader.began = Some(Began::now());
        }
    }
}

async fn several<H: EventHandler>(handler: &H, reader: &mut Reader, concurrency: usize) {
    let mut running = FuturesUnordered::new();
    let mut open = true;
    while open || !running.is_empty() {
        while open && running.len() < concurrency {
            if running.is_empty() {
                open = poll_fn(|cx| reader.poll_fill(cx)).await;
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
            let Reader { ring, member, .. } = &*reader;
            member.advance(member.cursor() + 1);
            ring.freed_by(member);
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
        Self {
            batch_first: subscriber.member.cursor(),
            ring: subscriber.ring.clone(),
            member: subscriber.member.clone(),
            subscriber,
            hub,
            hands: Hands::default(),
            running: 0,
            batch: 8,
            looks: 0,
            next_look: None,
            slept: false,
            began: None,
            untimed: UNTIMED,
            finished: false,
        }
    }

    /// The name for the spans around its calls, where the bus makes any.
    pub(crate) fn spans(&self) -> Option<Arc<str>> {
        self.hub.upgrade().filter(|hub| hub.spans).map(|_| self.subscriber.name.clone())
    }

    /// Waits until there is an entry in its hands; false if there will be none any more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.hands.is_empty() {
            self.hands.clear();
            if self.gathers() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        match self.look(Some(cx.waker())) {
            Some(found) => {
                if std::mem::take(&mut self.slept) {
                    self.began = (self.untimed >= UNTIMED).then(Began::now);
                }
                self.looks = if self.hands.rest().len() >= CHUNK / 4 { LOOKS } else { 0 };
                self.batch_first = self.member.cursor();
                Poll::Ready(found)
            }
            None => {
                self.slept = true;
                Poll::Pending
            }
        }
    }

    /// Where events come about as fast as they are handled, lets more of them come: a reader at the heels of
    /// a publisher would fetch one or two at a time, and both would wait for each other's cache lines. So
    /// the ring is not even looked at all the time.
    fn gathers(&mut self) -> bool {
        if let Some(next_look) = self.next_look {
            if Instant::now() < next_look {
                return true;
            }
            self.next_look = None;
            if self.looks == 0 {
                self.began = Some(Began::now());
            }
        }
        if self.looks == 0 {
            return false;
        }
        if self.ring.waiting(&self.member) >= CHUNK as u64 {
            self.looks = 0;
            return false;
        }
        self.looks -= 1;
        self.next_look = Some(Instant::now() + LOOK_EACH);
        true
    }

    /// Waits until there may be something to look at.
    async fn readable(&mut self) {
        poll_fn(|cx| {
            let Self { ring, member, .. } = &*self;
            if ring.has_entries(member, cx.waker()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether there is an entry in its hands, taken from the ring if need be; nothing: not yet.
    fn look(&mut self, waker: Option<&std::task::Waker>) -> Option<bool> {
        let Self { ring, member, subscriber, hands, hub, .. } = self;
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

    /// Counts a batch and sizes the next. Answers whether the turn is over, so that others have the thread.
    fn batch_done(&mut self, waited: bool) -> bool {
        let calls = self.member.cursor() - self.batch_first;
        self.ring.freed_by(&self.member);
        self.member.calls.count(calls);
        self.batch_first += calls;
        if waited {
            // How long it waited says nothing about how long it works.
            self.batch = 1;
        }
        let Some(began) = &mut self.began else {
            self.untimed += calls;
            if self.untimed >= UNTIMED {
                self.began = Some(Began::now());
            }
            return false;
        };
        self.untimed = 0;
        let now = Instant::now();
        let busy = now.saturating_duration_since(began.batch);
        self.member.calls.took(calls, busy);
        began.batch = now;
        if waited {
            // It has just let others run.
            began.turn = now;
            return false;
        }
        let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let fitting = ns(TURN) / 4 / (ns(busy) / calls.max(1)).max(1);
        self.batch = fitting.clamp(1, CHUNK as u64).min(self.batch.saturating_mul(2));
        now.saturating_duration_since(began.turn) >= TURN
    }

    fn count(&self, calls: u64, busy: Duration) {
        self.member.calls.count(calls);
        self.member.calls.took(calls, busy);
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
        let calls = self.member.cursor() - self.batch_first;
        self.member.calls.count(calls);
        if let Some(began) = self.began.take() {
            self.member.calls.took(calls, began.batch.elapsed());
        }
        self.batch_first += calls;
        if let Some(entry) = self.hands.last() {
            self.panicked(entry, panic);
        }
        self.ring.freed_by(&self.member);
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
            let calls = self.member.cursor() - self.batch_first;
            self.member.calls.count(calls + self.running);
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
