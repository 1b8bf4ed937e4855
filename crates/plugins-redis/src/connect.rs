//! From the configuration to a client.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, Pool};
use fred::error::Error;
use fred::rustls::pki_types::pem::PemObject as _;
use fred::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use fred::rustls::{self, ClientConfig, RootCertStore};
use fred::rustls_native_certs;
use fred::types::Builder;
use fred::types::config::{
    ClusterDiscoveryPolicy, Config, ReconnectPolicy, Server, ServerConfig, TlsConfig as FredTls,
    TlsHostMapping, UnresponsiveConfig,
};
use plugin_core::ConfigError;

use crate::config::{Address, Mode, RedisConfig, TlsConfig};
use crate::error::RedisError;

/// How often a command is written again, and follows its slot to another node, while a cluster fails over;
/// its deadline is what ends it.
const ATTEMPTS: u32 = 50;
const REDIRECTIONS: u32 = 20;

/// How long a connection may owe an answer before it is taken for dead, and how often that is looked at.
const UNRESPONSIVE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);

/// What every client of a process has in common.
#[derive(Clone)]
pub(crate) struct Connector {
    builder: Builder,
    pool: usize,
}

impl Connector {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, RedisError> {
        config.check()?;
        if !config.is_used() {
            return Err(ConfigError::invalid("address", "is empty").into());
        }
        let mut builder = Builder::from_config(Config {
            // The first connection is made like a lost one: again and again.
            fail_fast: false,
            username: config.username.clone(),
            password: config.password.as_ref().map(|password| password.expose().to_owned()),
            server: server(config),
            database: (config.database > 0).then_some(config.database),
            tls: tls(config)?,
            ..Config::default()
        });
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let (least, most) = (millis(config.reconnect_delay), millis(config.reconnect_delay_max));
        let mut policy = ReconnectPolicy::new_exponential(0, least, most, 2);
        // So that those who lost one server do not come back in one moment.
        policy.set_jitter(least);
        builder
            .set_policy(policy)
            .with_performance_config(|performance| {
                performance.default_command_timeout = config.command_timeout;
            })
            .with_connection_config(|connection| {
                connection.connection_timeout = config.connect_timeout;
                connection.internal_command_timeout = config.connect_timeout;
                connection.max_command_attempts = ATTEMPTS;
                connection.max_redirections = REDIRECTIONS;
                connection.max_command_buffer_len = config.queue;
                // A password may be put right at the server.
                connection.reconnect_on_auth_error = true;
                connection.tcp.nodelay = Some(true);
                connection.unresponsive =
                    UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: LOOK };
            });
        Ok(Self { builder, pool: config.pool })
    }

    pub(crate) fn pool(&self) -> Result<Pool, RedisError> {
        Ok(self.builder.build_pool(self.pool)?)
    }

    /// A client with connections of its own, on which nothing is written a second time by itself.
    pub(crate) fn once_only(&self) -> Result<Client, Error> {
        let mut builder = self.builder.clone();
        builder.with_connection_config(|connection| connection.max_command_attempts = 1);
        builder.build()
    }
}

fn server(config: &RedisConfig) -> ServerConfig {
    let port = match config.mode() {
        Mode::Sentinel => 26_379,
        Mode::Single | Mode::Cluster => 6379,
    };
    let server = |address: &Address| Server::new(address.host.as_str(), address.port.unwrap_or(port));
    let mut hosts: Vec<_> = config.address.0.iter().map(server).collect();
    match config.mode() {
        Mode::Single => ServerConfig::Centralized { server: hosts.remove(0) },
        Mode::Cluster => {
            // Any node that is known will do to find the others by; those configured may be gone by then.
            ServerConfig::Clustered { hosts, policy: ClusterDiscoveryPolicy::UseCache }
        }
        Mode::Sentinel => ServerConfig::Sentinel {
            hosts,
            service_name: config.sentinel_master.clone().unwrap_or_default(),
            username: config.sentinel_username.clone(),
            password: config.sentinel_password.as_ref().map(|password| password.expose().to_owned()),
        },
    }
}

fn tls(config: &RedisConfig) -> Result<Option<FredTls>, RedisError> {
    if !config.tls.enabled {
        return Ok(None);
    }
    let connector = fred::types::config::TlsConnector::from(client_config(&config.tls)?);
    // A cluster names its nodes by address; certificates name hosts, where hosts are what was configured.
    let by_name = config.address.0.first().is_some_and(|first| first.host.parse::<IpAddr>().is_err());
    let hostnames = if by_name { TlsHostMapping::DefaultHost } else { TlsHostMapping::None };
    Ok(Some(FredTls { connector, hostnames }))
}

fn client_config(tls: &TlsConfig) -> Result<ClientConfig, RedisError> {
    // By name: a process in which two libraries bring a provider each has no default one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|source| RedisError::tls("tls", source))?;
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(file) => {
            for certificate in certificates("tls.ca_file", file)? {
                roots.add(certificate).map_err(|source| RedisError::tls("tls.ca_file", source))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                let why = "the system has no certificates: name a file";
                return Err(RedisError::tls("tls.ca_file", why));
            }
        }
    }
    let builder = builder.with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("tls.cert_file", certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| RedisError::tls("tls.key_file", source))?;
    builder.with_client_auth_cert(chain, key).map_err(|source| RedisError::tls("tls.cert_file", source))
}

fn certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, RedisError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|source| RedisError::tls(setting, source))?;
    if certificates.is_empty() {
        return Err(RedisError::tls(setting, "the file has no certificate"));
    }
    Ok(certificates)
}
