//! Connections: accepted within bounds, served by `hyper`, drained at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use runtime::{CancellationToken, ShutdownReport, TaskOwner};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{Api, HttpConfig};

/// How long accepting pauses when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    /// Signalled when connections should finish what they are at and close.
    draining: CancellationToken,
    permits: Arc<Semaphore>,
    http: Builder<TokioExecutor>,
}

impl Server {
    /// A server with the limits of the API's configuration.
    #[must_use]
    pub fn new(api: Api) -> Self {
        let config = api.config();
        Self {
            connections: TaskOwner::new("http"),
            draining: CancellationToken::new(),
            permits: Arc::new(Semaphore::new(config.connections_max)),
            http: protocol(config),
            api,
        }
    }

    /// Accepts connections until `stop` is signalled, then lets those that are open finish.
    ///
    /// # Errors
    ///
    /// None of its own: what a connection does ends that connection.
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
        self.draining.cancel();
        let (connections, work) = (&self.connections, async {
            while !self.connections.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        let _ = runtime::within(deadline, work).await;
        connections.shutdown(Duration::from_millis(1)).await
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    fn connection(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        // Answers are written whole; waiting to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let api = self.api.clone();
        let draining = self.draining.clone();
        let http = self.http.clone();
        async move {
            let service = service_fn(|request| {
                let api = api.clone();
                async move { Ok::<_, std::convert::Infallible>(api.handle(request, Some(peer)).await) }
            });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = draining.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

fn protocol(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.header_bytes_max)
        .max_headers(config.headers_max);
    http.http2()
        .timer(TokioTimer::new())
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
