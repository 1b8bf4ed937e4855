//! Whether the host lives, and whether it can serve.

use std::collections::BTreeMap;

use plugin_core::State;
use runtime::{DurationText, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Caller, Management, Permission, Problem};

/// Whether the host can serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not: plugins that failed or are not ready, or that the host shuts down.
    pub reasons: Vec<String>,
}

/// How one plugin fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginHealth {
    /// Its state in the lifecycle.
    #[schema(value_type = String, example = "running")]
    pub status: State,
    /// Whether it works.
    pub healthy: bool,
    /// Whether it can serve.
    pub ready: bool,
    /// A short reason.
    pub message: String,
    /// When it was asked.
    pub timestamp: Timestamp,
}

/// How the host and each plugin fare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// `healthy`, `degraded` where a plugin is not well, or `stopping`.
    pub status: String,
    /// Whether the host can serve.
    pub ready: bool,
    /// The time by the host's clock.
    pub timestamp: Timestamp,
    /// How long it has been up.
    #[schema(value_type = String, example = "1h2m")]
    pub uptime: DurationText,
    /// The plugins.
    pub plugins: BTreeMap<String, PluginHealth>,
}

impl Management {
    /// Whether the host can serve. It can while it is not shutting down and no plugin stands in the way: one
    /// that failed, that is on its way up, or that runs and is not ready. What an operator stopped or has
    /// not started is meant to be so.
    ///
    /// Asks for no role: a balancer has none.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.is_shutting_down() {
            reasons.push("the host is shutting down".to_owned());
        }
        if let Some(manager) = &self.inner.manager {
            for (name, plugin) in manager.statuses() {
                let in_the_way = match plugin.status {
                    State::Running => !plugin.ready,
                    State::Failed | State::Initializing | State::Starting => true,
                    State::Registered => !plugin.waiting_for.is_empty(),
                    _ => false,
                };
                if in_the_way {
                    reasons.push(format!("plugin `{name}` is {}: {}", plugin.status, plugin.health.message));
                }
            }
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }

    /// How the host and each plugin fare.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn health(&self, caller: &Caller) -> Result<HealthReport, Problem> {
        caller.require(Permission::HealthRead)?;
        let mut plugins = BTreeMap::new();
        if let Some(manager) = &self.inner.manager {
            for (name, plugin) in manager.statuses() {
                let health = PluginHealth {
                    status: plugin.status,
                    healthy: plugin.health.healthy,
                    ready: plugin.ready,
                    message: plugin.health.message,
                    timestamp: plugin.health.timestamp,
                };
                plugins.insert(name.to_string(), health);
            }
        }
        let ready = self.readiness().ready;
        let status = if self.is_shutting_down() {
            "stopping"
        } else if ready {
            "healthy"
        } else {
            "degraded"
        };
        let timestamp = self.inner.clock.now();
        let uptime = timestamp.duration_since(self.inner.started_at);
        // To the second: nobody reads more.
        let uptime = std::time::Duration::from_secs(uptime.as_secs().unsigned_abs());
        Ok(HealthReport { status: status.to_owned(), ready, timestamp, uptime: uptime.into(), plugins })
    }
}
