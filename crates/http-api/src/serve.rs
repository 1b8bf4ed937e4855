//! Connections: accepted within bounds, served by `hyper`, drained at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use runtime::{CancellationToken, ShutdownReport, TaskOwner};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::connection::{Draining, drive};
use crate::replies::Replies;
use crate::waits::Waits;
use crate::{Api, HttpConfig};

/// How long accepting pauses when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many headers `hyper` takes where it is told nothing.
const HYPER_HEADERS_MAX: usize = 100;

/// A source of connections.
pub(crate) trait Accept: Send + Sync + 'static {
    fn accept(&self) -> impl Future<Output = std::io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// Serves an [`Api`] to the connections of a listener.
#[derive(Debug)]
pub struct Server {
    api: Api,
    connections: TaskOwner,
    draining: Arc<Draining>,
    permits: Arc<Semaphore>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// How long a client may take to say anything.
    patience: Duration,
}

impl Server {
    /// A server with the limits of the API's configuration.
    #[must_use]
    pub fn new(api: Api) -> Self {
        Self::owning(TaskOwner::new("http"), api)
    }

    /// The same, its connections on a runtime of their own.
    pub(crate) fn on(runtime: &Handle, api: Api) -> Self {
        Self::owning(TaskOwner::on(runtime.clone(), "http"), api)
    }

    fn owning(connections: TaskOwner, api: Api) -> Self {
        let config = api.config();
        Self {
            connections,
            draining: Arc::default(),
            permits: Arc::new(Semaphore::new(config.connections_max)),
            http1: http1(config),
            http2: http2(config),
            patience: config.header_timeout,
            api,
        }
    }

    /// Accepts connections until `stop` is signalled. Those that are open go on: see [`Server::drain`].
    pub async fn run(&self, listener: TcpListener, stop: CancellationToken) {
        self.accept(&listener, stop).await;
    }

    pub(crate) async fn accept(&self, listener: &impl Accept, stop: CancellationToken) {
        loop {
            // Waited for before a connection is taken, so that what is over the bound waits in the kernel.
            let permit = tokio::select! {
                () = stop.cancelled() => return,
                permit = Arc::clone(&self.permits).acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let serving = self.connection(stream, peer);
                    self.connections.spawn("connection", async move {
                        serving.await;
                        drop(permit);
                    });
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes idle connections, lets requests end until the deadline, and cuts off the rest.
    pub async fn drain(&self, deadline: Duration) -> ShutdownReport {
        self.draining.begin();
        self.api.close_streams();
        let (connections, sockets) = (&self.connections, self.api.sockets());
        let work = async {
            while !connections.is_empty() || !sockets.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = runtime::within(deadline, work).await;
        let mut report = connections.shutdown(Duration::from_millis(1)).await;
        let rest = sockets.shutdown(Duration::from_millis(1)).await;
        report.aborted.extend(rest.aborted);
        report.stuck.extend(rest.stuck);
        report
    }

    /// How many connections are open, those that have become WebSockets among them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len() + self.api.sockets().len()
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        // Answers are written whole; waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        // The connection's own, so that its requests do not all count references on one cache line.
        let api = Arc::new(self.api.clone());
        let draining = Arc::clone(&self.draining);
        let (mut http1, http2, patience) = (self.http1.clone(), self.http2.clone(), self.patience);
        async move {
            let version = tokio::select! {
                version = runtime::within(patience, version_of(&stream)) => version,
                () = draining.begun() => return,
            };
            let service = service_fn(move |request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, std::convert::Infallible>(api.handle(request, Some(peer)).await) }
            });
            let (stream, waits) = (TokioIo::new(stream), Waits::new());
            let ended = match version {
                Ok(Ok(Version::Http1)) => {
                    let connection = http1
                        .timer(waits.clone())
                        .serve_connection(Replies::new(stream), service)
                        .with_upgrades();
                    drive(connection, http1::UpgradeableConnection::graceful_shutdown, &waits, &draining)
                        .await
                }
                Ok(Ok(Version::Http2)) => {
                    let connection = http2.serve_connection(stream, service);
                    drive(connection, http2::Connection::graceful_shutdown, &waits, &draining).await
                }
                Ok(Err(_)) | Err(_) => return,
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

enum Version {
    Http1,
    Http2,
}

/// What an HTTP/2 connection begins with, as far as no HTTP/1 request does (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// How long to wait for the rest of a preface that came in parts.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Which protocol a client speaks, by its first bytes, which stay to be read. A choice of our own since
/// `hyper_util`'s waits for them without a limit.
async fn version_of(stream: &TcpStream) -> std::io::Result<Version> {
    let mut begun = [0; PREFACE.len()];
    loop {
        let n = stream.peek(&mut begun).await?;
        if n == 0 || begun[..n] != PREFACE[..n] {
            return Ok(Version::Http1);
        }
        if n == PREFACE.len() {
            return Ok(Version::Http2);
        }
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}

fn http1(config: &HttpConfig) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(config.header_timeout).max_buf_size(config.header_bytes_max);
    // With another bound than its own, `hyper` takes memory for them from the heap at each request.
    if config.headers_max != HYPER_HEADERS_MAX {
        http.max_headers(config.headers_max);
    }
    http
}

fn http2(config: &HttpConfig) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(u32::try_from(config.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(config.header_timeout)
        .keep_alive_timeout(config.header_timeout);
    http
}

/// Whether the listener itself is well.
fn concerns_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionRefused | K::ConnectionReset)
}
