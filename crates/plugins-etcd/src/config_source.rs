//! [`ConfigSource`] over etcd: one key for each setting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use plugin_core::{ConfigError, ConfigSource, Layer, assign};
use serde_json::{Map, Value};
use tokio::time::sleep;
use tracing::warn;

use crate::{Etcd, Listing, Seen, Watch};

/// Between two attempts where somebody has to do something first.
const REFUSED_PACE: Duration = Duration::from_secs(5);

/// Settings that all hosts of a fleet have in common: the keys below `config/` of the client's namespace.
///
/// A key is a setting's path with `/` between its parts, and its value is written as in an environment
/// variable: `/gantry/config/plugins/greeter/greeting` is `hi`, or `/gantry/config/plugins/greeter` is
/// `{"greeting": "hi"}`. Of two keys where one names a table that holds the other's, the longer prevails.
pub struct EtcdConfigSource {
    etcd: Etcd,
    prefix: String,
    /// Tells of the next change after the last look.
    watch: Mutex<Option<Watch>>,
}

impl EtcdConfigSource {
    /// Settings by this client.
    #[must_use]
    pub fn new(etcd: Etcd) -> Self {
        Self { prefix: etcd.own_key(&["config", ""]), etcd, watch: Mutex::new(None) }
    }

    fn watch(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ConfigSource for EtcdConfigSource {
    fn name(&self) -> String {
        format!("etcd at {}, {}", self.etcd.endpoints(), self.prefix)
    }

    fn layer(&self) -> Layer {
        Layer::Fleet
    }

    async fn load(&self) -> Result<Map<String, Value>, ConfigError> {
        let unreadable = |error: crate::EtcdError| ConfigError::Unreadable {
            origin: self.name(),
            detail: error.to_string(),
        };
        let mut watch = self.etcd.follow(self.prefix.as_str()).await.map_err(unreadable)?;
        let seen = watch.next().await.map_err(unreadable)?;
        *self.watch() = Some(watch);
        match seen {
            Seen::State(listing) => Ok(values(&self.prefix, &listing)),
            Seen::Changes(_) => Ok(Map::new()),
        }
    }

    async fn changed(&self) {
        // Taken, and not put back: whoever gave up waiting, or was told of a change, has to look again.
        let Some(mut watch) = self.watch().take() else { return };
        if let Err(error) = watch.next().await {
            warn!(%error, "settings in etcd cannot be followed");
            sleep(REFUSED_PACE).await;
        }
    }
}

/// The tree of settings that keys stand for. What is no path is left out.
fn values(prefix: &str, listing: &Listing) -> Map<String, Value> {
    let mut values = Map::new();
    for item in &listing.items {
        let path = item.key_str().ok().and_then(|key| key.strip_prefix(prefix));
        let (Some(path), Ok(text)) = (path, item.value_str()) else {
            warn!(key = %String::from_utf8_lossy(item.key()), "no setting: it is no text");
            continue;
        };
        if path.is_empty() || path.split('/').any(str::is_empty) || path.contains('.') {
            warn!(key = prefix.to_owned() + path, "no setting: its path has an empty part or a `.`");
            continue;
        }
        assign(&mut values, &path.replace('/', "."), text);
    }
    values
}
