//! Trying out a service of a plugin's.

use plugin_core::{Directory, PluginName, RoundTrip, ServiceHandle, ServiceKey};
use runtime::guarded;
use serde_json::{Map, Value};

use crate::PluginManager;

/// Why a service did not come back from its server.
#[derive(Debug, thiserror::Error)]
pub enum RoundTripError {
    /// Its plugin is stopped or restarting.
    #[error("its plugin is away")]
    Away,
    /// The plugin's code failed, or took longer than a health check may.
    #[error("{0}")]
    Failed(String),
}

impl PluginManager {
    /// Has the plugin that provides a service go to the service's server and back, within the time that a
    /// health check may take. Nothing where no such service can be tried out.
    pub async fn round_trip(&self, service: &str) -> Option<Result<Map<String, Value>, RoundTripError>> {
        let key = ServiceKey::of::<dyn RoundTrip>(service);
        let slot = self.shared.directory.find(&key)?;
        let user = PluginName::new("management").ok()?;
        let handle = ServiceHandle::<dyn RoundTrip>::new(slot, key, user);
        // The guard stays with the plugin's code: a stop waits for it and not for whoever asked.
        let Ok(guard) = handle.get() else { return Some(Err(RoundTripError::Away)) };
        let call = async move { guard.round_trip().await };
        let limit = self.shared.config.health_check_timeout;
        Some(match guarded(&self.shared.host.runtime, limit, call).await {
            Ok(answer) => answer.map_err(|error| RoundTripError::Failed(error.chain())),
            Err(error) => Err(RoundTripError::Failed(error.to_string())),
        })
    }
}
