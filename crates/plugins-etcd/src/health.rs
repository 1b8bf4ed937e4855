//! Whether etcd does what it is there for.

use std::time::Duration;

use async_trait::async_trait;
use plugin_core::{Health, PluginError, RoundTrip};
use serde_json::{Map, Value, json};

use crate::EtcdError;
use crate::client::{Again, Etcd};

/// How long a check may take: less than the host gives a plugin for it.
const CHECK: Duration = Duration::from_secs(3);

/// How long the key of a round trip stays if the round is not finished.
const ROUND_TTL: Duration = Duration::from_secs(30);

/// What a member says of itself.
#[derive(Clone, Debug)]
struct Standing {
    version: String,
    alarms: Vec<String>,
}

impl Etcd {
    /// Whether a majority of the members answers, and takes what is written.
    ///
    /// # Errors
    ///
    /// [`EtcdError`], within three seconds.
    pub async fn check(&self) -> Result<(), EtcdError> {
        let etcd = self.within(CHECK);
        match etcd.get(etcd.own_key(&["health"])).await {
            // Asked and answered: it is only not for us.
            Ok(_) | Err(EtcdError::Forbidden { .. }) => {}
            Err(error) => return Err(error),
        }
        match etcd.standing().await?.alarms.into_iter().find(|alarm| alarm.contains("NOSPACE")) {
            Some(reason) => Err(EtcdError::NoSpace { endpoint: etcd.endpoints(), reason }),
            None => Ok(()),
        }
    }

    async fn standing(&self) -> Result<Standing, EtcdError> {
        let status =
            self.call(
                "status",
                Again::Always,
                |client| async move { client.maintenance_client().status().await },
            );
        let status = status.await?;
        Ok(Standing { version: status.version().to_owned(), alarms: status.errors().to_vec() })
    }
}

/// What the host is told.
///
/// Where waiting may help, the plugin works and is not ready. Where somebody has to do something it does not
/// work, except at its start: a start that failed would not be tried again for ever, and the plugin not be
/// there when it is mended.
pub(crate) fn health(outcome: Result<(), EtcdError>, starting: bool) -> Health {
    match outcome {
        Ok(()) => Health::healthy(),
        Err(error) if starting || error.is_away() => Health::not_ready(error.to_string()),
        Err(error) => Health::unhealthy(error.to_string()),
    }
}

#[async_trait]
impl RoundTrip for Etcd {
    async fn round_trip(&self) -> Result<Map<String, Value>, PluginError> {
        let etcd = self.within(CHECK);
        let standing = etcd.standing().await?;
        let lease = etcd.grant(ROUND_TTL).await?.id;
        let key = etcd.own_key(&["round-trips", &format!("{lease:016x}")]);
        let revision = etcd.put_leased(key.as_str(), "there and back", lease).await?;
        let found = etcd.get(key.as_str()).await?;
        etcd.revoke(lease).await?;
        if found.is_none_or(|found| found.value() != b"there and back") {
            return Err(PluginError::new(format!("etcd at {} gave back something else", etcd.endpoints())));
        }
        let detail = [
            ("endpoints", json!(etcd.endpoints())),
            ("version", json!(standing.version)),
            ("revision", json!(revision)),
        ];
        Ok(detail.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }
}
