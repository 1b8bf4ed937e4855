//! One connection, driven until it ends: told when the server drains, watched while it waits.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use runtime::CancellationToken;
use tokio::time::{Instant, sleep};

use crate::waits::Waits;

/// Signalled when connections should finish what they are at and close.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// What a connection looks at whenever it is polled; the token's state is behind a lock that all share.
    has_begun: AtomicBool,
    token: CancellationToken,
}

impl Draining {
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Returns when it has begun.
    pub(crate) async fn begun(&self) {
        self.token.cancelled().await;
    }
}

/// Serves a connection to its end. `finish` has it close as soon as no request is under way.
pub(crate) async fn drive<C>(
    connection: C,
    finish: fn(Pin<&mut C>),
    waits: &Waits,
    draining: &Draining,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut begun = pin!(draining.begun());
    let mut timer = pin!(sleep(Duration::ZERO));
    let (mut is_told, mut is_armed, mut is_finishing) = (false, false, false);
    poll_fn(|cx| {
        if !is_told {
            // Once: it is one task that polls this, to be woken whenever draining begins.
            is_told = true;
            let _ = begun.as_mut().poll(cx);
        }
        if !is_finishing && draining.has_begun.load(Ordering::Acquire) {
            is_finishing = true;
            finish(connection.as_mut());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            let Some(deadline) = waits.deadline() else { return Poll::Pending };
            if !is_armed || timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
                is_armed = true;
            } else if !timer.is_elapsed() {
                // It fires no later than the deadline; what is too early then is seen and set again.
                return Poll::Pending;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            is_armed = false;
            waits.look_at(Instant::now());
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use runtime::TaskOwner;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

    struct Open {
        client: DuplexStream,
        opened: Instant,
        draining: Arc<Draining>,
        _serving: TaskOwner,
    }

    /// A connection whose heads have to come within [`LIMIT`], and whose answers take `answering`.
    fn open(answering: Duration) -> Open {
        let (client, server) = duplex(4096);
        let draining = Arc::<Draining>::default();
        let (serving, told) = (TaskOwner::new("test"), Arc::clone(&draining));
        serving.spawn("connection", async move {
            let service = service_fn(move |_: Request<Incoming>| async move {
                sleep(answering).await;
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            let waits = Waits::new();
            let connection = http1::Builder::new()
                .timer(waits.clone())
                .header_read_timeout(LIMIT)
                .serve_connection(TokioIo::new(server), service);
            let _ = drive(connection, http1::Connection::graceful_shutdown, &waits, &told).await;
        });
        Open { client, opened: Instant::now(), draining, _serving: serving }
    }

    impl Open {
        async fn answer(&mut self) {
            let mut text = [0; 1024];
            let n = self.client.read(&mut text).await.unwrap();
            assert!(text[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text[..n]));
        }

        /// Waits until the server has closed, and tells how long the connection was open.
        async fn closed(mut self) -> Duration {
            let mut rest = Vec::new();
            let _ = self.client.read_to_end(&mut rest).await;
            assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
            self.opened.elapsed()
        }
    }

    fn is_about(span: Duration, seconds: u64) -> bool {
        span.as_secs_f64().round() as u64 == seconds
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_closed_at_its_limit() {
        assert!(is_about(open(Duration::ZERO).closed().await, 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_in_drops_is_cut_off_at_the_limit_all_the_same() {
        let mut open = open(Duration::ZERO);
        for byte in REQUEST.chunks(1).take(3) {
            open.client.write_all(byte).await.unwrap();
            sleep(Duration::from_secs(4)).await;
        }
        assert!(is_about(open.closed().await, 15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_use_stays_and_its_limit_counts_from_the_last_answer() {
        let mut open = open(Duration::ZERO);
        for _ in 0..10 {
            sleep(Duration::from_secs(10)).await;
            open.client.write_all(REQUEST).await.unwrap();
            open.answer().await;
        }
        assert!(is_about(open.closed().await, 115));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_longer_than_the_limit_is_given() {
        let mut open = open(Duration::from_secs(100));
        for _ in 0..3 {
            open.client.write_all(REQUEST).await.unwrap();
            open.answer().await;
        }
        assert!(is_about(open.closed().await, 315));
    }

    #[tokio::test(start_paused = true)]
    async fn draining_closes_what_is_idle_and_lets_a_request_end() {
        let idle = open(Duration::ZERO);
        let mut busy = open(Duration::from_secs(60));
        busy.client.write_all(REQUEST).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        idle.draining.begin();
        busy.draining.begin();
        assert!(is_about(idle.closed().await, 5));
        busy.answer().await;
        assert!(is_about(busy.closed().await, 60));
    }
}
