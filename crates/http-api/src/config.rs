//! Where the transport listens, and its limits.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use plugin_core::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The section `[plugins.http]`. Every key has a default; an unknown key is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The address to listen on. Other than loopback needs `access.required`, or
    /// `allow_unauthenticated_network_access`.
    #[schemars(with = "String")]
    pub host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// Says that everybody who reaches the address may do everything. Without it, and without
    /// `access.required`, no address but loopback is listened on.
    pub allow_unauthenticated_network_access: bool,
    /// Names beside `localhost` and addresses under which a host that listens on loopback may be called,
    /// such as that of a proxy in front of it. Guards against DNS rebinding.
    pub allowed_hosts: Vec<String>,
    /// The largest body of a request.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub body_bytes_max: usize,
    /// The largest body of an import of tasks, which is read line by line.
    #[schemars(range(min = 1024, max = 1_099_511_627_776_u64))]
    pub import_bytes_max: usize,
    /// The most that a request's line and headers may have in all.
    #[schemars(range(min = 8192, max = 1_048_576))]
    pub header_bytes_max: usize,
    /// How many headers a request may have.
    #[schemars(range(min = 8, max = 1000))]
    pub headers_max: usize,
    /// How many connections are open at once; more wait to be accepted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: usize,
    /// How many requests are under way at once on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams_max: u32,
    /// How many clients follow events at once, by `/events/stream` and `/ws`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub event_streams_max: usize,
    /// How many events such a client may lag behind before it loses some, and is told so.
    #[schemars(range(min = 1, max = 100_000))]
    pub event_lag_max: usize,
    /// How long a client may take over the headers of a request, and keep a connection that it does not use.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// How long a client may take over the body of a request to the management API.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub body_timeout: Duration,
    /// How often a quiet event stream shows that it is alive, and a WebSocket client has to.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
    /// How long requests that are under way may take to end at shutdown.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub drain_deadline: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8080,
            allow_unauthenticated_network_access: false,
            allowed_hosts: Vec::new(),
            body_bytes_max: 1024 * 1024,
            import_bytes_max: 1 << 30,
            header_bytes_max: 64 * 1024,
            headers_max: 100,
            connections_max: 10_000,
            streams_max: 256,
            event_streams_max: 1000,
            event_lag_max: 1024,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// What is wrong with a value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct InvalidHttpConfig {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value.
    pub detail: String,
}

impl From<InvalidHttpConfig> for ConfigError {
    fn from(wrong: InvalidHttpConfig) -> Self {
        Self::invalid(wrong.key, wrong.detail)
    }
}

impl HttpConfig {
    /// The address to listen on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Whether only programs of this machine can connect.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.to_canonical().is_loopback()
    }

    /// Checks that the network does not reach a host that asks nobody for credentials.
    ///
    /// # Errors
    ///
    /// For an address other than loopback, unless credentials are required or the configuration insists.
    pub fn check_exposure(&self, requires_authentication: bool) -> Result<(), InvalidHttpConfig> {
        if self.is_loopback() || requires_authentication || self.allow_unauthenticated_network_access {
            return Ok(());
        }
        let detail = format!(
            "`{}` can be reached over the network and no authentication is required; say `access.required = \
             true`, listen on loopback, or say `allow_unauthenticated_network_access = true`",
            self.host
        );
        Err(InvalidHttpConfig { key: "host", detail })
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    ///
    /// The first key whose value is out of bounds.
    pub fn check(&self) -> Result<(), InvalidHttpConfig> {
        let refused = |key, detail: String| Err(InvalidHttpConfig { key, detail });
        for (key, value, min, max) in [
            ("body_bytes_max", self.body_bytes_max, 1024, 1 << 30),
            ("import_bytes_max", self.import_bytes_max, 1024, 1 << 40),
            ("header_bytes_max", self.header_bytes_max, 8192, 1 << 20),
            ("headers_max", self.headers_max, 8, 1000),
            ("connections_max", self.connections_max, 1, 1_000_000),
            ("streams_max", self.streams_max as usize, 1, 10_000),
            ("event_streams_max", self.event_streams_max, 1, 1_000_000),
            ("event_lag_max", self.event_lag_max, 1, 100_000),
        ] {
            if !(min..=max).contains(&value) {
                return refused(key, format!("must be between {min} and {max}"));
            }
        }
        for (key, value) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("heartbeat", self.heartbeat),
            ("drain_deadline", self.drain_deadline),
        ] {
            if value < Duration::from_millis(100) || value > Duration::from_secs(3600) {
                return refused(key, "must be between 100ms and 1h".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_right() {
        HttpConfig::default().check().unwrap();
        assert_eq!(HttpConfig::default().address().to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn the_network_is_listened_on_only_where_the_configuration_insists() {
        for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
            let open = HttpConfig { host: host.parse().unwrap(), ..HttpConfig::default() };
            assert_eq!(open.check_exposure(false).unwrap_err().key, "host", "{host}");
            open.check_exposure(true).unwrap();
            HttpConfig { allow_unauthenticated_network_access: true, ..open }.check_exposure(false).unwrap();
        }
        for host in ["127.0.0.9", "::1", "::ffff:127.0.0.1"] {
            let local = HttpConfig { host: host.parse().unwrap(), ..HttpConfig::default() };
            local.check_exposure(false).unwrap();
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let config = HttpConfig { body_bytes_max: 1, ..HttpConfig::default() };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "body_bytes_max: must be between 1024 and 1073741824"
        );
        let config = HttpConfig { heartbeat: Duration::ZERO, ..HttpConfig::default() };
        assert_eq!(config.check().unwrap_err().key, "heartbeat");
        assert!(serde_json::from_str::<HttpConfig>(r#"{"prot": 1}"#).is_err());
    }
}
