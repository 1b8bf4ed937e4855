//! Redis by itself; clusters and sentinels are beside it.

pub(crate) mod cluster;
pub(crate) mod resp;
mod sentinel;

use std::time::Duration;

pub use cluster::{RedisCluster, RedisClusterBuilder};
pub use resp::Value;
use resp::{Credentials, Resp};
pub use sentinel::RedisSentinel;

use crate::environment;
use crate::link::{Board, Wires};
use crate::port::Port;
use crate::probe::Probe;
use crate::provision::{self, Launch, Program};
use crate::server::{Plan, folder_for};
use crate::{ControlError, Server, StartError, background};

/// How long a Redis may take to be ready, on a machine with other things to do.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    credentials: Credentials,
    ports: Vec<(String, u16)>,
}

impl Redis {
    /// Starts one with defaults: data in an append-only file, no password, no links.
    ///
    /// # Errors
    ///
    /// [`StartError::Unavailable`] where there is no Redis, or why it did not start.
    pub async fn start() -> Result<Self, StartError> {
        Self::builder().start().await
    }

    /// Uses the server that `GANTRY_TEST_REDIS_ADDR` names, or starts one. For tests that hurt nothing and
    /// choose their own keys.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); and where the server that is named does not answer.
    pub async fn provide() -> Result<Self, StartError> {
        let Some(address) = environment::first("GANTRY_TEST_REDIS_ADDR") else { return Self::start().await };
        let probe = Probe::Redis { address: address.clone(), credentials: Credentials::default() };
        environment::answers("GANTRY_TEST_REDIS_ADDR", &address, probe).await?;
        let server = Server::foreign("redis", &address);
        Ok(Self { server, credentials: Credentials::default(), ports: Vec::new() })
    }

    /// Starts one with settings.
    #[must_use]
    pub fn builder() -> RedisBuilder {
        RedisBuilder::default()
    }

    /// Host and port for clients.
    #[must_use]
    pub fn address(&self) -> &str {
        self.server.address()
    }

    /// The server, to be hurt.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The port that was claimed under this name with [`RedisBuilder::port`].
    #[must_use]
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port)
    }

    /// Asks it over a connection of this call's own, as a client would: through the link, if there is one.
    ///
    /// # Errors
    ///
    /// [`ControlError::Ask`], with what Redis or the connection said.
    pub async fn ask(&self, words: &[&str]) -> Result<Value, ControlError> {
        ask(&self.server, &self.credentials, words).await
    }
}

/// Settings of a Redis that is to be started.
#[derive(Clone, Debug, Default)]
pub struct RedisBuilder {
    arguments: Vec<String>,
    password: Option<String>,
    linked: bool,
    ports: Vec<String>,
}

impl RedisBuilder {
    /// Asks clients for this password.
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Adds arguments of `redis-server`, such as `["--maxmemory", "10mb"]`. `{NAME}` in one is the port that
    /// [`port`](Self::port) claims under that name.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Claims a further port, for `--tls-port {NAME}` and the like.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.ports.push(name.into());
        self
    }

    /// Puts a [`Link`](crate::Link) between it and its clients.
    #[must_use]
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`Redis::start`].
    pub async fn start(self) -> Result<Redis, StartError> {
        let found = provision::find(Program::RedisServer).await?;
        background::run(self.start_here(found.launch.clone())).await
    }

    async fn start_here(self, launch: Launch) -> Result<Redis, StartError> {
        let folder = folder_for("redis")?;
        let claim = || Port::claim().map_err(StartError::prepare("redis"));
        let main = claim()?;
        let credentials = Credentials { password: self.password };
        let mut ports = Vec::new();
        let mut claimed = Vec::new();
        for name in self.ports {
            let port = claim()?;
            ports.push((name, port.number()));
            claimed.push(port);
        }
        let wires = match self.linked {
            true => Some(Wires::to(&std::sync::Arc::new(Board::default()), main.number(), &[]).await?),
            false => None,
        };
        let address =
            wires.as_ref().map_or_else(|| main.address(), |wires| wires.clients().address().to_string());
        let mut arguments = arguments(main.number());
        if let Some(password) = &credentials.password {
            arguments.extend([
                "--requirepass".to_owned(),
                password.clone(),
                "--masterauth".to_owned(),
                password.clone(),
            ]);
        }
        arguments.extend(self.arguments.into_iter().map(|argument| {
            ports
                .iter()
                .fold(argument, |text, (name, port)| text.replace(&format!("{{{name}}}"), &port.to_string()))
        }));
        let probe = Probe::Redis { address: main.address(), credentials: credentials.clone() };
        claimed.push(main);
        let at = folder.path().to_owned();
        let plan = Plan { launch, arguments, folder: at, probe, within: READY, ports: claimed };
        let server = Server::own("redis", address, plan, folder, wires);
        server.begin()?;
        server.wait_ready().await?;
        Ok(Redis { server, credentials, ports })
    }
}

/// What every Redis here is started with; it works in the folder that it is started in.
pub(crate) fn arguments(port: u16) -> Vec<String> {
    let port = port.to_string();
    let words = [
        ["--port", &port],
        ["--bind", "127.0.0.1"],
        ["--daemonize", "no"],
        // Each write is in the file before its answer: a kill loses nothing, only a power cut may.
        ["--appendonly", "yes"],
        ["--save", ""],
        // Else a replica waits five seconds for company.
        ["--repl-diskless-sync-delay", "0"],
    ];
    words.iter().flatten().map(|word| (*word).to_owned()).collect()
}

pub(crate) async fn ask(
    server: &Server,
    credentials: &Credentials,
    words: &[&str],
) -> Result<Value, ControlError> {
    let said = |what: String| ControlError::Ask { server: server.name().to_owned(), what };
    let mut connection = Resp::connect(server.address(), credentials).await.map_err(said)?;
    connection.call(words).await.map_err(said)
}
