//! What the section `[access]` says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Role;

/// Who is let in. Every key has a default; an unknown key is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Whether whoever calls needs credentials, but for what is public. Without it, whoever reaches the host
    /// may do everything, which is why it is on loopback only.
    pub required: bool,
    /// The JSON Web Tokens that are taken, beside the host's own API tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
}

/// Which JSON Web Tokens are taken: those of one issuer, for this audience, signed with one of its keys. The
/// keys are in exactly one of `secret_file`, `jwks_file` and `jwks_url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// What the claim `iss` has to be.
    pub issuer: String,
    /// What the claim `aud` has to have one of.
    pub audience: Vec<String>,
    /// A file with the secret that HS256 signs with, of 32 bytes at the least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// A file with the issuer's JSON Web Key Set. It is looked at again each `jwks_refresh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// Where the issuer has its JSON Web Key Set: `https`, or `http` on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// How often the key set is asked for again. A key that is not in it has it asked for at once.
    #[serde(default = "default_refresh", with = "runtime::duration_text")]
    pub jwks_refresh: Duration,
    /// How far the issuer's clock may be off.
    #[serde(default = "default_leeway", with = "runtime::duration_text")]
    pub leeway: Duration,
    /// The claim that has the role, a text or a list of texts; dots lead into objects.
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
    /// What each of its values is here. Where nothing is said, the roles' own names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, Role>,
}

fn default_refresh() -> Duration {
    Duration::from_secs(300)
}

fn default_leeway() -> Duration {
    Duration::from_secs(30)
}

fn default_role_claim() -> String {
    "role".to_owned()
}

/// What is wrong with a value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {detail}")]
pub struct InvalidAccess {
    /// The key, below the section.
    pub key: &'static str,
    /// What is wrong with its value.
    pub detail: String,
}

impl AccessConfig {
    /// Checks what the types do not say.
    ///
    /// # Errors
    ///
    /// The first key whose value is wrong.
    pub fn check(&self) -> Result<(), InvalidAccess> {
        self.jwt.as_ref().map_or(Ok(()), JwtConfig::check)
    }
}

impl JwtConfig {
    fn check(&self) -> Result<(), InvalidAccess> {
        let refused = |key, detail: &str| Err(InvalidAccess { key, detail: detail.to_owned() });
        if self.issuer.is_empty() {
            return refused("jwt.issuer", "is empty");
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return refused("jwt.audience", "must name at least one, and none that is empty");
        }
        if self.role_claim.split('.').any(str::is_empty) {
            return refused("jwt.role_claim", "is empty or has an empty part");
        }
        let sources = [self.secret_file.is_some(), self.jwks_file.is_some(), self.jwks_url.is_some()];
        if sources.iter().filter(|given| **given).count() != 1 {
            return refused("jwt", "must have exactly one of `secret_file`, `jwks_file` and `jwks_url`");
        }
        if self.jwks_url.as_deref().is_some_and(|url| !is_safe(url)) {
            return refused("jwt.jwks_url", "must be an `https` URL, or `http` on loopback");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.jwks_refresh) {
            return refused("jwt.jwks_refresh", "must be between 1s and 24h");
        }
        if self.leeway > Duration::from_secs(600) {
            return refused("jwt.leeway", "must be 10m or less");
        }
        Ok(())
    }
}

/// Whether nobody on the way can put keys of its own in place of the issuer's.
fn is_safe(url: &str) -> bool {
    let host = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
        // Who stands before an `@` is no host.
        if authority.contains('@') { String::new() } else { authority }
    };
    if let Some(rest) = url.strip_prefix("https://") {
        return !host(rest).is_empty();
    }
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = host(rest);
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut value = json!({"required": true, "jwt": {
            "issuer": "https://issuer.example", "audience": ["gantry"], "jwks_url": "https://issuer.example/keys",
        }});
        change(&mut value);
        let config: AccessConfig = serde_json::from_value(value).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())
    }

    /// Promise 10: bad input gets a clear error that names the field.
    #[test]
    fn promise_10_what_is_wrong_is_named() {
        AccessConfig::default().check().unwrap();
        read(|_| ()).unwrap();
        for (key, value, says) in [
            ("issuer", json!(""), "jwt.issuer: is empty"),
            ("audience", json!([]), "jwt.audience: must name at least one"),
            ("audience", json!([""]), "jwt.audience: must name at least one"),
            ("role_claim", json!("a..b"), "jwt.role_claim: "),
            ("secret_file", json!("x"), "jwt: must have exactly one"),
            ("jwks_url", Value::Null, "jwt: must have exactly one"),
            ("jwks_url", json!("http://issuer.example/keys"), "jwt.jwks_url: must be an `https` URL"),
            ("jwks_url", json!("http://127.0.0.1@issuer.example/keys"), "jwt.jwks_url: "),
            ("jwks_url", json!("http://localhost.example/keys"), "jwt.jwks_url: "),
            ("jwks_url", json!("file:///keys"), "jwt.jwks_url: "),
            ("jwks_refresh", json!("0s"), "jwt.jwks_refresh: "),
            ("leeway", json!("1h"), "jwt.leeway: "),
            ("roles", json!({"x": "king"}), "unknown variant"),
            ("algorithm", json!("none"), "unknown field"),
        ] {
            let error = read(|config| config["jwt"][key] = value.clone()).unwrap_err();
            assert!(error.contains(says), "{key} = {value}: {error}");
        }
        for url in ["http://localhost:1/keys", "http://127.0.0.1/k", "http://[::1]:1/k", "https://a.example"]
        {
            read(|config| config["jwt"]["jwks_url"] = json!(url)).unwrap();
        }
    }
}
