//! What can go wrong before there is a client, and words for what goes wrong with one.

use fred::error::{Error, ErrorKind};
use plugin_core::{BoxError, ConfigError};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting of `tls` is wrong.
    #[error("`{setting}`")]
    Tls {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        #[source]
        source: BoxError,
    },
    /// The client refused its settings.
    #[error("make a client")]
    Client(#[from] Error),
}

impl RedisError {
    pub(crate) fn tls(setting: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Tls { setting, source: source.into() }
    }
}

/// The class of an error: bounded, for metrics and spans (`error.type`).
pub(crate) fn class(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Config => "config",
        ErrorKind::Auth => "auth",
        ErrorKind::Routing | ErrorKind::Cluster | ErrorKind::Sentinel => "routing",
        ErrorKind::IO => "io",
        ErrorKind::Tls => "tls",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Canceled => "canceled",
        ErrorKind::Backpressure => "backpressure",
        ErrorKind::Protocol | ErrorKind::Parse => "protocol",
        _ => "server",
    }
}
