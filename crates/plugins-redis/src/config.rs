//! What the plugin's section may say.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use plugin_core::{ConfigError, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most connections that each process holds to each server.
const MAX_POOL: usize = 64;

/// What kind of Redis there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One server.
    Single,
    /// A Redis Cluster.
    Cluster,
    /// A server that sentinels watch over.
    Sentinel,
}

/// Host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address.
    pub host: String,
    /// Where none is given: 6379, and 26379 for a sentinel.
    pub port: Option<u16>,
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") || text.contains('@') {
            return Err("expected HOST or HOST:PORT; credentials and tls have settings of their own".into());
        }
        let (host, port) = match text.rsplit_once(':') {
            // More than one colon without brackets is an IPv6 address alone.
            Some((host, port)) if !host.contains(':') || host.starts_with('[') && host.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or("expected a port from 1 to 65535")?))
            }
            _ => (text, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c == '/') {
            return Err("expected HOST or HOST:PORT".into());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (_, None) => f.write_str(&self.host),
        }
    }
}

/// Addresses, with commas between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses(pub Vec<Address>);

impl Addresses {
    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        Ok(Self(parts.map(Address::parse).collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// How connections are secured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Whether to speak TLS at all.
    pub enabled: bool,
    /// The authorities that servers' certificates are signed by, as PEM; those of the system where it is not
    /// said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This client's own certificate, as PEM, where servers ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// The section `[plugins.redis-cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `HOST[:PORT]`, several with commas: the server, some nodes of the cluster, or the sentinels. Also
    /// `REDIS_ADDR`. Without it the plugin is not used.
    #[schemars(with = "String")]
    pub address: Addresses,
    /// What kind of Redis it is. Where it is not said: `sentinel` with a `sentinel_master`, `cluster` with
    /// several addresses, else `single`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The name that sentinels know the server by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_master: Option<String>,
    /// The user; Redis's `default` where only a password is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// The user at the sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_username: Option<String>,
    /// The password at the sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel_password: Option<Secret>,
    /// Which database; a cluster has only 0.
    pub database: u8,
    /// How connections are secured.
    pub tls: TlsConfig,
    /// How many connections there are to each server.
    #[schemars(range(min = 1, max = 64))]
    pub pool: usize,
    /// How long a connection may take to be made.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long a command may take, with all its attempts.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub command_timeout: Duration,
    /// The pause before a lost connection is made again, which doubles with each attempt.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub reconnect_delay: Duration,
    /// The longest such pause.
    #[serde(with = "runtime::duration_text")]
    #[schemars(with = "String")]
    pub reconnect_delay_max: Duration,
    /// How many commands of each connection may wait; more are refused.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub queue: usize,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            address: Addresses::default(),
            mode: None,
            sentinel_master: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            database: 0,
            tls: TlsConfig::default(),
            pool: 4,
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(10),
            reconnect_delay: Duration::from_millis(100),
            reconnect_delay_max: Duration::from_secs(5),
            queue: 16 * 1024,
        }
    }
}

impl RedisConfig {
    /// The defaults for a server at `address`, written as in the configuration.
    ///
    /// # Errors
    ///
    /// If an address cannot be read.
    pub fn at(address: &str) -> Result<Self, ConfigError> {
        let address = Addresses::parse(address).map_err(|why| ConfigError::invalid("address", why))?;
        Ok(Self { address, ..Self::default() })
    }

    /// Whether there is a server at all.
    #[must_use]
    pub fn is_used(&self) -> bool {
        !self.address.0.is_empty()
    }

    /// What kind of Redis it is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(match self.address.0.len() {
            _ if self.sentinel_master.is_some() => Mode::Sentinel,
            0 | 1 => Mode::Single,
            _ => Mode::Cluster,
        })
    }

    /// Checks what the types alone do not.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the setting that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |path: &str, why: &str| Err(ConfigError::invalid(path, why));
        match self.mode() {
            Mode::Single if self.address.0.len() > 1 => {
                return wrong("address", "must be one server where `mode` is `single`");
            }
            Mode::Sentinel if self.sentinel_master.as_deref().is_none_or(str::is_empty) => {
                return wrong("sentinel_master", "is needed where `mode` is `sentinel`");
            }
            Mode::Cluster if self.database != 0 => return wrong("database", "must be 0 in a cluster"),
            Mode::Single | Mode::Cluster if self.sentinel_master.is_some() => {
                return wrong("sentinel_master", "is only for `mode` `sentinel`");
            }
            _ => {}
        }
        if self.username.is_some() && self.password.is_none() {
            return wrong("password", "is needed where `username` is given");
        }
        if !(1..=MAX_POOL).contains(&self.pool) {
            return wrong("pool", "must be from 1 to 64");
        }
        if !(1..=1 << 20).contains(&self.queue) {
            return wrong("queue", "must be from 1 to 1048576");
        }
        let millisecond = Duration::from_millis(1);
        for (path, span) in [
            ("connect_timeout", self.connect_timeout),
            ("command_timeout", self.command_timeout),
            ("reconnect_delay", self.reconnect_delay),
        ] {
            if span < millisecond || span > Duration::from_secs(3600) {
                return wrong(path, "must be from 1ms to 1h");
            }
        }
        if self.reconnect_delay_max < self.reconnect_delay {
            return wrong("reconnect_delay_max", "must not be less than `reconnect_delay`");
        }
        let tls = &self.tls;
        if !tls.enabled && [&tls.ca_file, &tls.cert_file, &tls.key_file].iter().any(|file| file.is_some()) {
            return wrong("tls.enabled", "must be true for the other settings of `tls` to mean anything");
        }
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            return wrong("tls.key_file", "is needed with `tls.cert_file`, and the other way round");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: serde_json::Value) -> Result<RedisConfig, ConfigError> {
        let config: RedisConfig = plugin_core::decode(&value)?;
        config.check().map(|()| config)
    }

    #[test]
    fn reads_addresses() {
        let parsed = |text| Addresses::parse(text).map(|all| all.to_string());
        assert_eq!(parsed("redis").unwrap(), "redis");
        assert_eq!(parsed(" a:1, b:2,").unwrap(), "a:1,b:2");
        assert_eq!(parsed("[::1]:7000,::1").unwrap(), "[::1]:7000,::1");
        for wrong in ["redis://h", "u:p@h:1", "h:port", "h:0", ":6379", "a b:1", "h:70000"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn knows_the_kind_of_redis_by_what_is_said() {
        let mode = |value| config(value).unwrap().mode();
        assert_eq!(mode(json!({"address": "a"})), Mode::Single);
        assert_eq!(mode(json!({"address": "a,b"})), Mode::Cluster);
        assert_eq!(mode(json!({"address": "a", "mode": "cluster"})), Mode::Cluster);
        assert_eq!(mode(json!({"address": "a,b", "sentinel_master": "m"})), Mode::Sentinel);
        assert!(!config(json!({})).unwrap().is_used());
    }

    #[test]
    fn promise_10_what_is_wrong_is_named() {
        for (value, path) in [
            (json!({"address": "a,b", "mode": "single"}), "address"),
            (json!({"address": "redis://a"}), "address"),
            (json!({"address": "a", "mode": "sentinel"}), "sentinel_master"),
            (json!({"address": "a", "mode": "single", "sentinel_master": "m"}), "sentinel_master"),
            (json!({"address": "a,b", "database": 1}), "database"),
            (json!({"address": "a", "username": "u"}), "password"),
            (json!({"pool": 0}), "pool"),
            (json!({"pool": 65}), "pool"),
            (json!({"queue": 0}), "queue"),
            (json!({"connect_timeout": "0s"}), "connect_timeout"),
            (json!({"command_timeout": "2h"}), "command_timeout"),
            (json!({"reconnect_delay": "10s"}), "reconnect_delay_max"),
            (json!({"tls": {"ca_file": "ca.pem"}}), "tls.enabled"),
            (json!({"tls": {"enabled": true, "cert_file": "c.pem"}}), "tls.key_file"),
            (json!({"adress": "a"}), "adress"),
        ] {
            assert_eq!(config(value.clone()).unwrap_err().path(), path, "{value}");
        }
    }

    #[test]
    fn promise_9_passwords_are_not_shown() {
        let config = config(json!({"address": "a", "password": "open sesame"})).unwrap();
        assert!(!format!("{config:?}{}", serde_json::to_string(&config).unwrap()).contains("sesame"));
        let schema = plugin_core::ConfigSpec::of::<RedisConfig>().schema().to_string();
        assert_eq!(schema.matches("writeOnly").count(), 2, "{schema}");
    }
}
