//! The thin loop around the core: it sleeps, takes, polls and reports, and decides nothing.
//!
//! One driver sleeps until something is due and wakes the workers. A worker takes a handful of runs under
//! the lock, polls each once, and brings what has ended back under the lock with the next handful: a run
//! that ends at its first poll never becomes a task of the runtime. One that does not is spawned.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use runtime::{CancellationToken, Sampler, SharedClock, TraceContext, panic_message};
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span, info_span, warn};

use crate::core::{Ended, Launch, Output};
use crate::executor::{Entered, Registration, RunCell, RunContext, RunError, RunOutput};
use crate::schedule::{Micros, NEVER, floor_micros, timestamp};
use crate::scheduler::Inner;

type RunFuture = Pin<Box<dyn Future<Output = Result<RunOutput, RunError>> + Send>>;

/// The most runs that a worker takes at once.
const CHUNK_MAX: usize = 128;
/// How long a handful should take to poll: the last of it is late by that.
const CHUNK_TARGET_US: Micros = 200;
/// How far apart the driver's wake-ups are under steady load: what falls due in between goes with the next,
/// late by as much, so that ten thousand runs a second do not take ten thousand wake-ups.
const PACE_US: Micros = 500;
/// How long a worker goes on before it lets other tasks of the runtime have the thread.
const TURN: Duration = Duration::from_millis(1);
/// How much of an output a record keeps.
const OUTPUT_BYTES_MAX: usize = 4096;
/// How much of an error a record keeps.
const ERROR_CHARS_MAX: usize = 1024;

/// What came of a run that a worker polled.
struct Done {
    run: u32,
    ended: Ended,
    started: Micros,
    at: Micros,
}

/// Sleeps until something is due, and wakes a worker.
pub(crate) async fn drive(inner: Arc<Inner>, token: CancellationToken) {
    let mut woken = Micros::MIN;
    loop {
        let executors_changed = inner.executors.changed();
        tokio::pin!(executors_changed);
        executors_changed.as_mut().enable();
        let now = floor_micros(inner.clock.now());
        let (next, gone) = {
            let mut core = inner.core();
            core.refresh_executors(now);
            let next = core.wanted_at(now);
            // Under the lock: whoever puts something earlier in afterwards compares it with this, and not
            // with the time that has just passed, which would let us sleep past it.
            inner.sleeping_until.store(next, Ordering::SeqCst);
            (next, std::mem::take(&mut core.gone))
        };
        drop_executors(gone);
        if next <= now {
            inner.work.notify_one();
        }
        let sleep = async {
            if next == NEVER || next <= now {
                // Whoever empties the line, or puts something into it, wakes this loop.
                std::future::pending::<()>().await;
            } else {
                // The clock may have been set back since the last wake-up.
                let until = next.max(woken.saturating_add(PACE_US).min(now + PACE_US));
                inner.clock.sleep_until(timestamp(until)).await;
            }
        };
        tokio::select! {
            // In this order, so that a simulation takes the same course each time.
            biased;
            () = token.cancelled() => return,
            () = inner.wake.notified() => {}
            () = &mut executors_changed => {}
            () = sleep => woken = floor_micros(inner.clock.now()),
        }
    }
}

/// Takes runs and polls them.
pub(crate) async fn work(inner: Arc<Inner>, token: CancellationToken) {
    let mut launches: Vec<Launch> = Vec::with_capacity(CHUNK_MAX);
    let mut done: Vec<Done> = Vec::with_capacity(CHUNK_MAX);
    let mut chunk = CHUNK_MAX;
    let mut turn_began = tokio::time::Instant::now();
    loop {
        let now = floor_micros(inner.clock.now());
        let (more, overflows, gone) = {
            let mut core = inner.core();
            for Done { run, ended, started, at } in done.drain(..) {
                core.finish(run, ended, started, at);
            }
            let stop = token.is_cancelled();
            let more = if stop { false } else { core.take(now, chunk, &mut launches) };
            (more, core.notices.len() > inner.notices_max, std::mem::take(&mut core.gone))
        };
        drop_executors(gone);
        if overflows {
            inner.tell();
        }
        if launches.is_empty() {
            inner.wake.notify_one();
            inner.tell();
            tokio::select! {
                () = token.cancelled() => return,
                () = inner.work.notified() => {}
            }
            turn_began = tokio::time::Instant::now();
            continue;
        }
        if more {
            inner.work.notify_one();
        }
        let taken = launches.len();
        let mut at = floor_micros(inner.clock.now());
        let began = at;
        for launch in launches.drain(..) {
            at = begin(&inner, launch, at, &mut done);
        }
        let each = (at - began).max(0) / taken as Micros;
        chunk = usize::try_from(CHUNK_TARGET_US / each.max(1)).unwrap_or(1).clamp(1, CHUNK_MAX);
        // What has ended is brought back first if the loops are to end: they may be dropped at an await.
        if turn_began.elapsed() >= TURN && !token.is_cancelled() {
            tokio::task::yield_now().await;
            turn_began = tokio::time::Instant::now();
        }
    }
}

/// Lets go of executors that may have been withdrawn. What their owners do at that is theirs.
fn drop_executors(gone: Vec<Option<Arc<Registration>>>) {
    for registration in gone.into_iter().flatten() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(registration))) {
            warn!(panic = panic_message(&*panic), "an executor panicked when it was dropped");
        }
    }
}

/// Polls a run for the first time, at `started`. Tells the time after it.
fn begin(inner: &Arc<Inner>, launch: Launch, started: Micros, done: &mut Vec<Done>) -> Micros {
    let Launch { run, cell, registration, timeout } = launch;
    if cell.cancel.is_set() {
        // Another run of the handful has taken its time, and the caller has been told that this one ends.
        done.push(Done { run, ended: Ended::Canceled("canceled".into()), started, at: started });
        return started;
    }
    let Some(entered) = registration.enter() else {
        inner.core().give_back(run, started);
        return started;
    };
    let trace = trace_of(&cell, &inner.sampler);
    let context = RunContext { run: Arc::clone(&cell), trace, spans: inner.sampler.is_on() };
    cell.polled_since.store(started, Ordering::Relaxed);
    let span = span_of(&context);
    let poll = || {
        catch_unwind(AssertUnwindSafe(|| {
            let mut future: RunFuture = Box::pin(execute(entered, context));
            match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => Ok(result),
                Poll::Pending => Err(future),
            }
        }))
    };
    let polled = trace.in_scope(|| span.in_scope(poll));
    cell.polled_since.store(0, Ordering::Relaxed);
    let at = floor_micros(inner.clock.now()).max(started);
    match polled {
        Ok(Ok(result)) => {
            let ended = ended(result);
            note_outcome(&span, &ended);
            done.push(Done { run, ended, started, at });
        }
        Err(panic) => {
            let ended = panicked(&*panic);
            note_outcome(&span, &ended);
            done.push(Done { run, ended, started, at });
        }
        Ok(Err(future)) => {
            inner.core().started(run, started);
            let inner = Arc::clone(inner);
            let tracker = inner.runs.clone();
            let future = watched(future, Arc::clone(&cell), Arc::clone(&inner.clock));
            // A waker that does nothing was registered above; the spawned task polls again at once.
            let rest = async move {
                let cancel = &cell.cancel;
                let whole = AssertUnwindSafe(async {
                    tokio::select! {
                        biased;
                        () = cancel.wait() => Ended::Canceled("canceled".into()),
                        result = runtime::within(timeout, future) => match result {
                            Ok(result) => ended(result),
                            Err(late) => {
                                cancel.time_out();
                                Ended::Failed { error: late.to_string().into(), is_permanent: false }
                            }
                        }
                    }
                });
                let ended = whole.catch_unwind().await.unwrap_or_else(|panic| panicked(&*panic));
                let at = floor_micros(inner.clock.now()).max(started);
                note_outcome(&Span::current(), &ended);
                inner.finish(run, ended, started, at);
            };
            tracker.spawn(trace.scope(rest.instrument(span)));
        }
    }
    at
}

/// The context of an attempt: in the trace of what caused it, or in the run's own.
fn trace_of(cell: &RunCell, sampler: &Sampler) -> TraceContext {
    match (&cell.trace, cell.id.trace()) {
        (Some(cause), _) => cause.child(),
        (None, Some(own)) => sampler.root_of(own),
        (None, None) => sampler.root(),
    }
}

/// The span of an attempt, for an exporter where the trace is kept, and for those who look closely.
fn span_of(context: &RunContext) -> Span {
    let (run, trace) = (&context.run, &context.trace);
    if !context.spans || !trace.is_sampled() {
        return debug_span!("run", task = context.task_id(), run = %run.id, attempt = run.attempt);
    }
    let cause = run.trace.as_deref();
    info_span!(
        "scheduler.run",
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        task = context.task_id(),
        run = %run.id,
        attempt = run.attempt,
        origin = ?run.origin,
        traceparent = %trace,
        parent_span_id = cause.map(|cause| display(cause.span_id())),
        // What recurs has traces of its own, which name the work that asked for it.
        links = run.def.trace.as_deref().filter(|_| cause.is_none()).map(display),
    )
}

fn note_outcome(span: &Span, ended: &Ended) {
    if let Ended::Failed { error, .. } = ended {
        span.record("otel.status_code", "error");
        span.record("otel.status_description", &**error);
    }
}

/// Notes while the run's code has the thread.
async fn watched(
    mut future: RunFuture,
    cell: Arc<RunCell>,
    clock: SharedClock,
) -> Result<RunOutput, RunError> {
    std::future::poll_fn(move |context| {
        cell.polled_since.store(floor_micros(clock.now()), Ordering::Relaxed);
        let polled = future.as_mut().poll(context);
        cell.polled_since.store(0, Ordering::Relaxed);
        polled
    })
    .await
}

async fn execute(entered: Entered, context: RunContext) -> Result<RunOutput, RunError> {
    entered.executor().execute(context).await
}

fn ended(result: Result<RunOutput, RunError>) -> Ended {
    match result {
        Ok(RunOutput(None)) => Ended::Completed(Output::None),
        Ok(RunOutput(Some(output))) => {
            let text = output.to_string();
            let is_kept = text.len() <= OUTPUT_BYTES_MAX;
            Ended::Completed(if is_kept { Output::Json(text.into()) } else { Output::TooLarge })
        }
        Err(error) => {
            let is_permanent = error.is_permanent();
            let text: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
            Ended::Failed { error: text.into(), is_permanent }
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Ended {
    let text: String = panic_message(panic).chars().take(ERROR_CHARS_MAX).collect();
    debug!(panic = text, "run panicked");
    Ended::Failed { error: format!("panicked: {text}").into(), is_permanent: false }
}
