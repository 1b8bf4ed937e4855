//! What a plugin says about itself.

use serde::{Deserialize, Serialize};

/// A plugin's own judgement, asked for at each health check.
///
/// *Healthy* is whether it works; *ready* is whether it can serve now. A plugin whose server is away is
/// healthy and not ready: restarting it would not help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the plugin works. Consecutive failures may have it restarted.
    pub healthy: bool,
    /// Whether the plugin can serve now. While it is not, its dependents wait.
    pub ready: bool,
    /// A short reason, for people.
    pub message: String,
}

impl Health {
    /// Works and serves.
    #[must_use]
    pub fn healthy() -> Self {
        Self { healthy: true, ready: true, message: "ok".to_owned() }
    }

    /// Works, but cannot serve now: what it needs is away.
    pub fn not_ready(why: impl Into<String>) -> Self {
        Self { healthy: true, ready: false, message: why.into() }
    }

    /// Does not work.
    pub fn unhealthy(why: impl Into<String>) -> Self {
        Self { healthy: false, ready: false, message: why.into() }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::healthy()
    }
}
