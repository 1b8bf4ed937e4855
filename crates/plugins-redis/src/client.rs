//! The service: a pool of connections, watched and measured.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::clients::{Client, Pool};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, ClusterInterface, EventInterface};
use fred::types::config::{Options, Server};
use fred::types::{ClusterHash, ConnectHandle, CustomCommand};
use futures_util::future::join_all;
use plugin_core::Health;
use runtime::TaskOwner;
use tokio::sync::broadcast::error::RecvError;
use tracing::{Instrument, info, warn};

use crate::config::{Mode, RedisConfig};
use crate::connect::Connector;
use crate::error::RedisError;
use crate::measure::{CONNECTION_ERRORS, Meter, RECONNECTS};

/// How long a server may take to answer a ping.
pub(crate) const PING: Duration = Duration::from_secs(2);

/// How long an end waits for a server that may be away.
const GOODBYE: Duration = Duration::from_secs(1);

/// All slots of a cluster.
const SLOTS: u32 = 16_384;

/// A Redis, a Redis Cluster, or a Redis under sentinels: what the plugin offers under the name
/// `redis-cluster`. A clone is the same.
///
/// [`client`](Redis::client) and [`pool`](Redis::pool) give the whole client of the crate `fred`;
/// [`call`](Redis::call) counts, times and traces what is done with it.
#[derive(Clone)]
pub struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    connector: Connector,
    connect_timeout: Duration,
    meter: Meter,
    mode: Mode,
    /// For people, in messages.
    address: String,
    /// What the connections last said was wrong; nothing while all is well.
    trouble: Arc<Mutex<Option<Trouble>>>,
    tasks: TaskOwner,
    /// What drives the pool's connections.
    drivers: Vec<ConnectHandle>,
}

#[derive(Clone)]
struct Trouble {
    error: Error,
    server: Option<Server>,
}

/// How one master answered.
#[derive(Debug, Clone)]
pub struct NodePing {
    /// Host and port.
    pub address: String,
    /// How long it took, or why there was no answer.
    pub took: Result<Duration, Error>,
}

impl Redis {
    /// Begins to connect, on the present runtime, and goes on until [`close`](Redis::close). Returns at once:
    /// see [`connected`](Redis::connected).
    ///
    /// # Errors
    ///
    /// If a setting is wrong, or a file that one names cannot be read.
    pub fn connect(config: &RedisConfig) -> Result<Self, RedisError> {
        let connector = Connector::new(config)?;
        let pool = connector.pool()?;
        let tasks = TaskOwner::new("redis");
        let trouble = Arc::default();
        for client in pool.clients() {
            watch(client, &tasks, &trouble);
        }
        let drivers = pool.connect_pool();
        let first = config.address.0.first();
        let host = first.map(|first| first.host.as_str()).unwrap_or_default();
        let meter = Meter::new(host, first.and_then(|first| first.port).unwrap_or(6379));
        let (mode, address) = (config.mode(), config.address.to_string());
        let connect_timeout = config.connect_timeout;
        let inner = Inner { pool, connector, connect_timeout, meter, mode, address, trouble, tasks, drivers };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits until a connection is there.
    ///
    /// # Errors
    ///
    /// The reason that there is none within `limit`, for people.
    pub async fn connected(&self, limit: Duration) -> Result<(), String> {
        let connecting = self.inner.pool.clients().iter().map(|client| Box::pin(client.wait_for_connect()));
        let first = futures_util::future::select_ok(connecting);
        match tokio::time::timeout(limit, first).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.why()),
        }
    }

    /// All connections: a command goes over the next in turn.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// The next connection in turn. What is sent over one client arrives in its order.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.inner.pool.next_connected()
    }

    /// What kind of Redis it is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// Does something with the client, under a span and counted as `operation`, such as `GET`: one of few
    /// names, since each has metrics of its own.
    ///
    /// # Errors
    ///
    /// Those of the command.
    pub async fn call<T>(
        &self,
        operation: &'static str,
        command: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let span = self.inner.meter.span(operation);
        let begun = Instant::now();
        let outcome = command.instrument(span.clone()).await;
        self.inner.meter.done(operation, begun.elapsed(), outcome.as_ref().err(), &span);
        outcome
    }

    /// Asks every master for an answer.
    ///
    /// # Errors
    ///
    /// If it is not known who they are: there has been no connection yet.
    pub async fn ping(&self) -> Result<Vec<NodePing>, Error> {
        let client = self.client();
        let servers = if self.inner.mode == Mode::Cluster {
            client.cached_cluster_state().map(|state| state.unique_primary_nodes()).unwrap_or_default()
        } else {
            client.active_connections()
        };
        if servers.is_empty() {
            return Err(Error::new(ErrorKind::IO, "there is no connection"));
        }
        let clustered = self.inner.mode == Mode::Cluster;
        Ok(join_all(servers.into_iter().map(|server| async move {
            let options = Options {
                timeout: Some(PING),
                fail_fast: true,
                cluster_node: clustered.then(|| server.clone()),
                ..Options::default()
            };
            let begun = Instant::now();
            let pinged = self.call("PING", client.with_options(&options).ping::<()>(None)).await;
            NodePing { address: server.to_string(), took: pinged.map(|()| begun.elapsed()) }
        }))
        .await)
    }

    /// How it fares: every master is asked, and whether a cluster is whole.
    pub async fn health(&self) -> Health {
        let trouble = self.trouble();
        let pings = match self.ping().await {
            Ok(pings) => pings,
            Err(_) => return self.ill(trouble),
        };
        let failed = pings.iter().find_map(|ping| Some((&ping.address, ping.took.as_ref().err()?)));
        if let Some((address, error)) = failed {
            return match trouble {
                Some(trouble) => self.ill(Some(trouble)),
                None => Health::not_ready(format!("`{address}` does not answer: {error}")),
            };
        }
        if let Some(fault) = self.fault().await {
            return Health::not_ready(fault);
        }
        let masters = pings.len();
        Health { message: format!("{masters} of {masters} masters answer"), ..Health::healthy() }
    }

    /// Ends all connections. Commands that are under way fail, at their deadline at the latest.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(GOODBYE, self.inner.pool.quit()).await;
        // A driver that looks for a server which is away does not hear that it is to end.
        self.inner.drivers.iter().for_each(ConnectHandle::abort);
        self.inner.tasks.shutdown(GOODBYE).await;
    }

    /// Runs what is to be done yet when a connection or a lease is given up.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.inner.tasks.spawn(name, work);
        }
    }

    /// A client with connections of its own, connected, on which nothing is written a second time by itself:
    /// what blocks, or has to know what became of each write, goes there.
    pub(crate) async fn dedicated(&self) -> Result<Dedicated, Error> {
        let client = self.inner.connector.once_only()?;
        let dedicated = Dedicated { driver: client.connect(), client, redis: self.clone() };
        match tokio::time::timeout(self.inner.connect_timeout, dedicated.client.wait_for_connect()).await {
            Ok(connected) => connected.map(|()| dedicated),
            Err(_) => Err(Error::new(ErrorKind::Timeout, self.why())),
        }
    }

    /// What is wrong with a server that answers: a setting that does not fit it, or slots without a master.
    async fn fault(&self) -> Option<String> {
        let address = &self.inner.address;
        let client = self.client();
        let options = Options { timeout: Some(PING), fail_fast: true, ..Options::default() };
        let client = client.with_options(&options);
        match self.inner.mode {
            Mode::Cluster => {
                let hash = ClusterHash::Random;
                let info = CustomCommand::new_static("CLUSTER", hash, false);
                let said: String = client.custom(info, vec!["INFO"]).await.ok()?;
                let served =
                    field(&said, "cluster_slots_ok").and_then(|served| served.parse::<u32>().ok())?;
                (served < SLOTS).then(|| {
                    let missing = SLOTS - served;
                    format!("the cluster at `{address}` serves {served} of {SLOTS} slots: {missing} have no master")
                })
            }
            Mode::Single => {
                let info = CustomCommand::new_static("INFO", ClusterHash::FirstKey, false);
                let said: String = client.custom(info, vec!["cluster"]).await.ok()?;
                (field(&said, "cluster_enabled")? == "1").then(|| {
                    format!(
                        "`{address}` is a node of a cluster: set `plugins.redis-cluster.mode` to `cluster`"
                    )
                })
            }
            Mode::Sentinel => None,
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why there is no connection, for people.
    fn why(&self) -> String {
        self.ill(self.trouble()).message
    }

    /// Why a command failed: what the connections say, if they are what is wrong.
    pub(crate) fn why_not(&self, error: &Error) -> String {
        match self.trouble() {
            Some(trouble) => self.ill(Some(trouble)).message,
            None => format!("`{}`: {error}", self.inner.address),
        }
    }

    fn ill(&self, trouble: Option<Trouble>) -> Health {
        let address = &self.inner.address;
        let Some(Trouble { error, server }) = trouble else {
            return Health::not_ready(format!(
                "no answer from `{address}` (plugins.redis-cluster.address) yet"
            ));
        };
        let at = server.map_or_else(|| address.clone(), |server| server.to_string());
        let details = match error.details() {
            // What the client says of a node whose `CLUSTER INFO` does not say `cluster_state:ok`.
            "Invalid or missing cluster state." => {
                "the cluster is not whole: slots have no master, or it is none"
            }
            details => details,
        };
        let setting = match error.kind() {
            ErrorKind::Auth => "password",
            ErrorKind::Tls => "tls",
            // What is wrong with a certificate or a record of TLS comes as this kind of I/O error.
            ErrorKind::IO if error.details().contains("InvalidData") => "tls",
            ErrorKind::Config => "mode",
            _ => "address",
        };
        // Never `unhealthy`: a restart would not help, and what is wrong may be put right at the server.
        Health::not_ready(format!("cannot reach `{at}` (plugins.redis-cluster.{setting}): {details}"))
    }
}

/// A client that ends with whoever has it.
pub(crate) struct Dedicated {
    client: Client,
    driver: ConnectHandle,
    redis: Redis,
}

impl Deref for Dedicated {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        let (client, driver) = (self.client.clone(), self.driver.abort_handle());
        self.redis.spawn("goodbye", async move {
            let _ = tokio::time::timeout(GOODBYE, client.quit()).await;
            driver.abort();
        });
    }
}

/// The value of a field of `INFO`.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Notes what becomes of a client's connections.
fn watch(client: &Client, tasks: &TaskOwner, trouble: &Arc<Mutex<Option<Trouble>>>) {
    let (mut errors, mut reconnects) = (client.error_rx(), client.reconnect_rx());
    let (trouble, token) = (trouble.clone(), tasks.token());
    tasks.spawn("connections", async move {
        let mut lost = false;
        let mut known = false;
        let note = |now| *trouble.lock().unwrap_or_else(PoisonError::into_inner) = now;
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                error = errors.recv() => match error {
                    Ok((error, server)) => {
                        metrics::counter!(CONNECTION_ERRORS).increment(1);
                        // Once for each loss: the attempts that follow say the same.
                        if !lost {
                            let at = server.as_ref().map(ToString::to_string);
                            warn!(server = at, %error, "connection lost");
                        }
                        lost = true;
                        note(Some(Trouble { error, server }));
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                server = reconnects.recv() => match server {
                    Ok(server) => {
                        if known && lost {
                            metrics::counter!(RECONNECTS).increment(1);
                            info!(%server, "connected again");
                        }
                        (known, lost) = (true, false);
                        note(None);
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    });
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("address", &self.inner.address)
            .field("mode", &self.inner.mode)
            .finish_non_exhaustive()
    }
}
