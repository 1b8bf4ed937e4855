//! The section `[manager]` of the host's configuration.

use std::path::PathBuf;
use std::time::Duration;

use plugin_core::ConfigError;
use runtime::{duration_text, format_duration};
use serde::{Deserialize, Serialize};

use crate::RestartConfig;

/// How a host runs its plugins. Each key has a default; durations are texts such as `30s`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerConfig {
    /// Whether the folder of definition files is watched. Default `false`.
    pub auto_load: bool,
    /// The folder of definition files. Default `./plugins`.
    pub auto_load_directory: PathBuf,
    /// Whether a running plugin may be swapped for another version. Default `true`.
    pub hot_swap: bool,
    /// How often each running plugin is asked for its health. Default `30s`.
    #[serde(with = "duration_text")]
    pub health_check_interval: Duration,
    /// How long a plugin may take to answer. Default `5s`.
    #[serde(with = "duration_text")]
    pub health_check_timeout: Duration,
    /// After how many failed checks in a row a plugin counts as failed. Default `3`.
    pub health_failure_threshold: u32,
    /// Whether a missing or unfit dependency or a cycle keeps the whole start from beginning. Without it the
    /// plugins concerned wait, and the others start. Default `true`.
    pub dependency_check: bool,
    /// How long one plugin's start may take, from its initialization to its first health check. Default
    /// `60s`.
    #[serde(with = "duration_text")]
    pub max_startup_time: Duration,
    /// How long a stop or a swap waits for the calls that are inside a plugin. Default `10s`.
    #[serde(with = "duration_text")]
    pub drain_deadline: Duration,
    /// How long a plugin's own stop may take after that. Default `10s`.
    #[serde(with = "duration_text")]
    pub stop_deadline: Duration,
    /// How long the shutdown of all plugins may take. Default `30s`.
    #[serde(with = "duration_text")]
    pub shutdown_deadline: Duration,
    /// How many requests may wait while a plugin that cannot stand beside itself is swapped. Default
    /// `1024`.
    pub swap_queue: usize,
    /// What happens to plugins that fail, where their own definition says nothing else.
    pub restart: RestartConfig,
    /// Whether the plugins' metrics are reported. Default `true`.
    pub metrics: bool,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            auto_load: false,
            auto_load_directory: PathBuf::from("./plugins"),
            hot_swap: true,
            health_check_interval: Duration::from_secs(30),
            health_check_timeout: Duration::from_secs(5),
            health_failure_threshold: 3,
            dependency_check: true,
            max_startup_time: Duration::from_secs(60),
            drain_deadline: Duration::from_secs(10),
            stop_deadline: Duration::from_secs(10),
            shutdown_deadline: Duration::from_secs(30),
            swap_queue: 1024,
            restart: RestartConfig::default(),
            metrics: true,
        }
    }
}

impl ManagerConfig {
    /// Checks that each value is within its bounds.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the path of the first that is not, below the section.
    pub fn check(&self) -> Result<(), ConfigError> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        const MS: Duration = Duration::from_millis(1);
        for (path, span, least) in [
            ("health_check_interval", self.health_check_interval, Duration::from_millis(10)),
            ("health_check_timeout", self.health_check_timeout, MS),
            ("max_startup_time", self.max_startup_time, MS),
            ("drain_deadline", self.drain_deadline, Duration::ZERO),
            ("stop_deadline", self.stop_deadline, MS),
            ("shutdown_deadline", self.shutdown_deadline, MS),
        ] {
            if span < least || span > DAY {
                let detail = format!("has to be between {} and 24h", format_duration(least));
                return Err(ConfigError::invalid(path, detail));
            }
        }
        if !(1..=1000).contains(&self.health_failure_threshold) {
            return Err(ConfigError::invalid("health_failure_threshold", "has to be between 1 and 1000"));
        }
        if self.swap_queue > 1_000_000 {
            return Err(ConfigError::invalid("swap_queue", "has to be at most 1000000"));
        }
        if self.auto_load && self.auto_load_directory.as_os_str().is_empty() {
            return Err(ConfigError::invalid("auto_load_directory", "is empty"));
        }
        self.restart.check().map_err(|error| error.under("restart"))
    }
}

#[cfg(test)]
mod tests {
    use plugin_core::decode;
    use serde_json::json;

    use super::*;

    #[test]
    fn has_a_default_for_each_key_and_refuses_the_rest() {
        let config: ManagerConfig = decode(&json!({})).unwrap();
        assert_eq!(config, ManagerConfig::default());
        config.check().unwrap();
        assert_eq!(decode::<ManagerConfig>(&json!({"hot_swop": true})).unwrap_err().path(), "hot_swop");
        let error = decode::<ManagerConfig>(&json!({"drain_deadline": "5 fortnights"})).unwrap_err();
        assert_eq!(error.path(), "drain_deadline");
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (value, path) in [
            (json!({"health_check_interval": "0s"}), "health_check_interval"),
            (json!({"max_startup_time": "25h"}), "max_startup_time"),
            (json!({"health_failure_threshold": 0}), "health_failure_threshold"),
            (json!({"restart": {"backoff": "0s"}}), "restart.backoff"),
            (json!({"restart": {"backoff": "2m", "backoff_max": "1m"}}), "restart.backoff_max"),
            (json!({"auto_load": true, "auto_load_directory": ""}), "auto_load_directory"),
        ] {
            let config: ManagerConfig = decode(&value).unwrap();
            assert_eq!(config.check().unwrap_err().path(), path);
        }
    }
}
