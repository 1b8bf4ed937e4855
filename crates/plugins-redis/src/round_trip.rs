//! What `GET /services/redis-cluster/test` does.

use async_trait::async_trait;
use fred::error::Error;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::Expiration;
use fred::types::config::Options;
use plugin_core::{PluginError, RoundTrip};
use serde_json::{Map, Value};

use crate::client::{PING, Redis};

/// How long what is written lives, should the test be cut off.
const EXPIRY_S: i64 = 10;

#[async_trait]
impl RoundTrip for Redis {
    /// A value goes to the server and comes back, and every master answers.
    async fn round_trip(&self) -> Result<Map<String, Value>, PluginError> {
        let said = |error: Error| PluginError::new(self.why_not(&error));
        let pings = self.ping().await.map_err(said)?;
        let mut masters = Vec::new();
        for ping in pings {
            ping.took
                .map_err(|error| PluginError::new(format!("`{}` does not answer: {error}", ping.address)))?;
            masters.push(Value::String(ping.address));
        }
        let token = format!("{:016x}", fastrand::u64(..));
        let key = format!("gantry:test:{token}");
        let options = Options { timeout: Some(PING), fail_fast: true, ..Options::default() };
        let client = self.client().with_options(&options);
        let expiry = Some(Expiration::EX(EXPIRY_S));
        self.call("SET", client.set::<(), _, _>(&key, &token, expiry, None, false)).await.map_err(said)?;
        let read: Option<String> = self.call("GET", client.get(&key)).await.map_err(said)?;
        self.call("DEL", client.del::<(), _>(&key)).await.map_err(said)?;
        if read.as_deref() != Some(token.as_str()) {
            return Err(PluginError::new("redis does not give back what was written"));
        }
        let version = client.server_version().map(|version| version.to_string());
        Ok(Map::from_iter([
            ("masters".to_owned(), Value::Array(masters)),
            ("version".to_owned(), version.map_or(Value::Null, Value::String)),
        ]))
    }
}
