//! The transport as a plugin.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use management::Management;
use plugin_core::{
    ConfigSpec, Health, HostListener, Manifest, Plugin, PluginContext, PluginError, PluginKind, Reconfigured,
};
use runtime::{CancellationToken, TaskOwner};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::lanes::Lanes;
use crate::serve::{Accept, Server};
use crate::{Api, HttpConfig, InvalidHttpConfig};

/// The name of the plugin, and of the transport in the origin of its requests.
pub const HTTP: &str = "http";

/// The HTTP transport: the management API and the plugins' routes, on one address.
///
/// Its configuration is [`HttpConfig`], in the section `[plugins.http]`.
pub struct HttpPlugin {
    management: Management,
    /// Where plugins' handlers run, if not where connections are served.
    plugins: Option<Handle>,
    address: watch::Sender<Option<SocketAddr>>,
    serving: Mutex<Option<Serving>>,
}

/// What listens now.
struct Serving {
    server: Arc<Server>,
    /// Ends accepting, with the plugin or before it.
    accepting: CancellationToken,
    drain_deadline: Duration,
    _accepts: TaskOwner,
}

impl HttpPlugin {
    /// The transport of a host.
    #[must_use]
    pub fn new(management: Management) -> Self {
        Self { management, plugins: None, address: watch::Sender::new(None), serving: Mutex::new(None) }
    }

    /// Runs plugins' handlers on this runtime as soon as they would take the last thread of the one that
    /// this plugin runs on, where connections are served: code that blocks its thread does not keep the
    /// management API from answering then.
    #[must_use]
    pub fn plugins(mut self, handle: Handle) -> Self {
        self.plugins = Some(handle);
        self
    }

    /// The address that is listened on, while it is: tells the port where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.address.subscribe()
    }

    /// What the section `[plugins.http]` may say, for whoever checks it before there is a host.
    #[must_use]
    pub fn config() -> ConfigSpec {
        ConfigSpec::checked(|config: &HttpConfig| Ok(config.check()?))
    }

    /// The same on this host, which asks for credentials or does not.
    fn own_config(&self) -> ConfigSpec {
        let management = self.management.clone();
        ConfigSpec::checked(move |config: &HttpConfig| Ok(check(config, &management)?))
    }

    /// Listens as the configuration says, and accepts.
    async fn open(&self, ctx: &PluginContext) -> Result<Serving, PluginError> {
        let config: HttpConfig = ctx.config()?;
        check(&config, &self.management)?;
        let listener = ctx.listen(HTTP, config.address()).await?;
        let address = listener.address();
        let drain_deadline = config.drain_deadline;
        let handle = Handle::current();
        let api = match &self.plugins {
            Some(plugins) => {
                let lanes = Lanes::new(handle.metrics().num_workers(), plugins.clone());
                Api::with_lanes(self.management.clone(), config, lanes)
            }
            None => Api::new(self.management.clone(), config),
        };
        let server = Arc::new(Server::on(&handle, api));
        let accepting = ctx.cancelled().child_token();
        let accepts = TaskOwner::on(handle, HTTP);
        let (accepted, stopped) = (Arc::clone(&server), accepting.clone());
        accepts.spawn("accept", async move { accepted.accept(&listener, stopped).await });
        self.address.send_replace(Some(address));
        tracing::info!(%address, "listening");
        Ok(Serving { server, accepting, drain_deadline, _accepts: accepts })
    }

    fn serving(&self) -> MutexGuard<'_, Option<Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(config: &HttpConfig, management: &Management) -> Result<(), InvalidHttpConfig> {
    config.check()?;
    config.check_exposure(management.requires_authentication())
}

impl Serving {
    /// Accepts no more, and lets what is open finish until the deadline.
    async fn close(self) {
        self.accepting.cancel();
        let report = self.server.drain(self.drain_deadline).await;
        if !report.is_clean() {
            tracing::warn!(
                connections = report.aborted.len() + report.stuck.len(),
                "cut off at the deadline"
            );
        }
    }
}

impl Accept for HostListener {
    async fn accept(&self) -> std::io::Result<(TcpStream, SocketAddr)> {
        HostListener::accept(self).await
    }
}

#[async_trait]
impl Plugin for HttpPlugin {
    #[expect(clippy::expect_used, reason = "name and version are constants, and a test makes the manifest")]
    fn manifest(&self) -> Manifest {
        Manifest::new(HTTP, env!("CARGO_PKG_VERSION"))
            .expect("a name and a version")
            .description("serves the management API and the routes of plugins over HTTP/1.1 and HTTP/2")
            .kind(PluginKind::Transport)
            .config(self.own_config())
    }

    async fn initialize(&self, ctx: PluginContext) -> Result<(), PluginError> {
        check(&ctx.config()?, &self.management)?;
        Ok(())
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let serving = self.open(&ctx).await?;
        *self.serving() = Some(serving);
        Ok(())
    }

    async fn stop(&self, _: PluginContext) -> Result<(), PluginError> {
        let Some(serving) = self.serving().take() else { return Ok(()) };
        self.address.send_replace(None);
        serving.close().await;
        Ok(())
    }

    /// Takes any change while running, the address too: connections that are open finish what they are at,
    /// the one among them that carries the change.
    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        let next = self.open(&ctx).await?;
        let previous = self.serving().replace(next);
        if let Some(previous) = previous {
            previous.accepting.cancel();
            ctx.spawn("drain", previous.close());
        }
        Ok(Reconfigured::Applied)
    }

    async fn health(&self) -> Health {
        match *self.address.borrow() {
            Some(address) => Health { message: format!("listening on {address}"), ..Health::healthy() },
            None => Health::unhealthy("does not listen"),
        }
    }
}

impl std::fmt::Debug for HttpPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpPlugin").field("address", &*self.address.borrow()).finish_non_exhaustive()
    }
}
