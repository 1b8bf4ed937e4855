//! One connection to each member, and which of them is asked.
//!
//! The client of each member is its own, instead of one that balances over all: of a balanced one every nth
//! call goes to a member that is dead, for as long as it is dead. Here all calls go to one member until it
//! fails, and then to the next.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;

use crate::config::{Address, EtcdConfig, TlsConfig};
use crate::error::{EtcdError, Failure, judge};

/// How often a connection on which answers are waited for is tried out: streams of watches have no other way
/// to learn that a member hangs. etcd ends connections that do so more often than each 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// How long the member has to answer that.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(2);

pub(crate) struct Members {
    members: Vec<Member>,
    current: AtomicUsize,
    config: EtcdConfig,
}

struct Member {
    address: Address,
    name: String,
    client: Mutex<Option<Client>>,
}

impl Members {
    pub(crate) fn new(config: EtcdConfig, addresses: Vec<Address>) -> Self {
        let member =
            |address: Address| Member { name: address.to_string(), address, client: Mutex::new(None) };
        // Hosts that know the same members do not all ask the first of them.
        let current = AtomicUsize::new(fastrand::usize(..addresses.len().max(1)));
        let members = addresses.into_iter().map(member).collect();
        Self { members, current, config }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The member that is asked now.
    pub(crate) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Host and port of a member.
    pub(crate) fn name(&self, at: usize) -> &str {
        self.members.get(at).map_or("", |member| &member.name)
    }

    /// Host and port of a member, apart.
    pub(crate) fn address(&self, at: usize) -> Option<&Address> {
        self.members.get(at).map(|member| &member.address)
    }

    /// All of them, for messages.
    pub(crate) fn names(&self) -> String {
        self.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The client of a member. Connecting comes with the first call, but for the credentials, which are shown
    /// here.
    pub(crate) async fn client(&self, at: usize) -> Result<Client, Failure> {
        let Some(member) = self.members.get(at) else {
            return Err(Failure::Final(EtcdError::Unreachable {
                endpoints: self.names(),
                reason: "there is no such member".to_owned(),
            }));
        };
        let mut client = member.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let options = options(&self.config, &member.address).await.map_err(Failure::Final)?;
        let connected = Client::connect([member.address.url()], Some(options)).await;
        let connected = connected.map_err(|error| judge(&member.name, error))?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// Goes on to the next member, unless somebody has done so since `at` was asked. The connection is given
    /// up, so that the next one begins anew.
    pub(crate) fn leave(&self, at: usize) -> bool {
        if let Some(member) = self.members.get(at)
            && let Ok(mut client) = member.client.try_lock()
        {
            *client = None;
        }
        let next = (at + 1) % self.members.len().max(1);
        next != at && self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

async fn options(config: &EtcdConfig, address: &Address) -> Result<ConnectOptions, EtcdError> {
    // A member that has lost the others refuses then, instead of waiting for them with its streams open.
    let mut options = ConnectOptions::new()
        .with_require_leader(true)
        .with_connect_timeout(config.connect_timeout)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_ANSWER)
        .with_auto_token_refresh(config.username.is_some());
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        options = options.with_user(username, password.expose());
    }
    if address.tls {
        // Read for each connection, so that certificates are renewed by putting new ones there.
        options = options.with_tls(tls_options(config.tls.as_ref().unwrap_or(&TlsConfig::default())).await?);
    }
    Ok(options)
}

async fn tls_options(tls: &TlsConfig) -> Result<TlsOptions, EtcdError> {
    let mut options = TlsOptions::new();
    options = match &tls.ca {
        Some(ca) => options.ca_certificate(Certificate::from_pem(read("ca", ca).await?)),
        None => options.with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let identity = Identity::from_pem(read("certificate", certificate).await?, read("key", key).await?);
        options = options.identity(identity);
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name);
    }
    Ok(options)
}

async fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, EtcdError> {
    let failed =
        |error: std::io::Error| EtcdError::File { setting, reason: format!("{}: {error}", path.display()) };
    tokio::fs::read(path).await.map_err(failed)
}
