//! The section `[plugins.etcd]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use plugin_core::{ConfigError, Secret};
use runtime::duration_text;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// The port that an endpoint without one has.
const PORT: u16 = 2379;

/// Where etcd is, and how it is spoken to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// The members: `host`, `host:port`, or with `http://` or `https://` before. A text with commas does as
    /// well as a list. Default `127.0.0.1:2379`.
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<String>,
    /// The user, where etcd asks for one.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// TLS, for all members. Without it, members with `https://` are checked by the system's certificates.
    pub tls: Option<TlsConfig>,
    /// What begins every key that Gantry itself writes. Default `/gantry/`.
    pub namespace: String,
    /// How long a connection may take. Default `2s`.
    #[serde(with = "duration_text")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long one member may take to answer, before another one is asked. Default `2s`.
    #[serde(with = "duration_text")]
    #[schemars(with = "String")]
    pub attempt_timeout: Duration,
    /// How long a call may take, with all its attempts. Default `10s`.
    #[serde(with = "duration_text")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

/// Certificates, as PEM files.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Who signed the members' certificates. Without it, the system's certificates say who may.
    pub ca: Option<PathBuf>,
    /// Our own certificate, where etcd asks for one.
    pub certificate: Option<PathBuf>,
    /// The key of our certificate.
    pub key: Option<PathBuf>,
    /// The name that the members' certificates are for, where it is not that of the endpoint.
    pub server_name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![format!("127.0.0.1:{PORT}")],
            username: None,
            password: None,
            tls: None,
            namespace: "/gantry/".to_owned(),
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
        }
    }
}

impl EtcdConfig {
    /// With these members and defaults for the rest.
    #[must_use]
    pub fn at(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { endpoints: endpoints.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Checks what the types alone do not.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the path of the first value that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.addresses()?;
        for (path, time) in [
            ("connect_timeout", self.connect_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("timeout", self.timeout),
        ] {
            if time < Duration::from_millis(10) || time > Duration::from_secs(600) {
                return Err(ConfigError::invalid(path, "is not between `10ms` and `10m`"));
            }
        }
        if self.username.is_some() != self.password.is_some() {
            let missing = if self.username.is_some() { "password" } else { "username" };
            return Err(ConfigError::invalid(missing, "is missing: username and password go together"));
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            let missing = if tls.key.is_some() { "tls.certificate" } else { "tls.key" };
            return Err(ConfigError::invalid(missing, "is missing: a certificate and its key go together"));
        }
        if self.namespace.is_empty() || !self.namespace.ends_with('/') {
            return Err(ConfigError::invalid("namespace", "does not end with `/`"));
        }
        Ok(())
    }

    /// The members as URLs, in their order.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::invalid("endpoints", "names no member"));
        }
        self.endpoints
            .iter()
            .enumerate()
            .map(|(at, text)| {
                let invalid = |why: &str| ConfigError::invalid(format!("endpoints[{at}]"), why);
                Address::parse(text, self.tls.is_some()).map_err(invalid)
            })
            .collect()
    }
}

/// One member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Address {
    fn parse(text: &str, tls: bool) -> Result<Self, &'static str> {
        let (scheme, rest) = match text.trim().split_once("://") {
            None => (None, text.trim()),
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
            Some(_) => return Err("begins with something else than `http://` or `https://`"),
        };
        if scheme == Some("http") && tls {
            return Err("is `http://`, and `tls` is set");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // A bare IPv6 address has more than one colon and no brackets.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(legal) {
            return Err("is no host, or host and port");
        }
        let port = match port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or("has no port after its colon")?,
        };
        Ok(Self { host: host.to_owned(), port, tls: tls || scheme == Some("https") })
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{self}", if self.tls { "https" } else { "http" })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A list, or one text with commas, as an environment variable has it.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of texts, or one text with commas")]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Many(many) => many,
        Either::One(one) => {
            one.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use plugin_core::decode;
    use serde_json::json;

    use super::*;

    fn addresses(config: &EtcdConfig) -> Vec<String> {
        config.addresses().unwrap().iter().map(Address::url).collect()
    }

    #[test]
    fn endpoints_are_written_as_people_write_them() {
        let config: EtcdConfig =
            decode(&json!({ "endpoints": "one, two:4001,https://three/,::1,[::1]:9" })).unwrap();
        let expected = [
            "http://one:2379",
            "http://two:4001",
            "https://three:2379",
            "http://[::1]:2379",
            "http://[::1]:9",
        ];
        assert_eq!(addresses(&config), expected);
        let config: EtcdConfig = decode(&json!({ "endpoints": ["one"], "tls": {} })).unwrap();
        assert_eq!(addresses(&config), ["https://one:2379"]);
        assert_eq!(addresses(&EtcdConfig::default()), ["http://127.0.0.1:2379"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, path) in [
            (json!({ "endpoints": [] }), "endpoints"),
            (json!({ "endpoints": ["a", "ftp://b"] }), "endpoints[1]"),
            (json!({ "endpoints": ["http://a"], "tls": {} }), "endpoints[0]"),
            (json!({ "endpoints": ["a:x"] }), "endpoints[0]"),
            (json!({ "endpoints": ["a b"] }), "endpoints[0]"),
            (json!({ "timeout": "0s" }), "timeout"),
            (json!({ "username": "root" }), "password"),
            (json!({ "password": "hunter2" }), "username"),
            (json!({ "tls": { "key": "k.pem" } }), "tls.certificate"),
            (json!({ "namespace": "gantry" }), "namespace"),
        ] {
            let config: EtcdConfig = decode(&value).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.path(), path, "{error}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(decode::<EtcdConfig>(&json!({ "endpoint": "a" })).is_err());
        assert!(decode::<EtcdConfig>(&json!({ "endpoints": 5 })).is_err());
        EtcdConfig::default().check().unwrap();
    }
}
