//! Plugins' settings that come from a source which may change at any time.

use std::collections::BTreeSet;
use std::time::Duration;

use plugin_core::ConfigSource;
use serde_json::{Map, Value};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::PluginManager;
use crate::supervisor::{Command, ConfigChange, section_of};

/// Between two looks at a source that cannot be read, at first and at the longest.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The part of a source that is taken.
const PLUGINS: &str = "plugins";

impl PluginManager {
    /// Has plugins work by the settings of a source, now and after each change there, in the source's layer.
    /// Runs for ever: whoever calls this ends it by dropping it.
    ///
    /// Each plugin's section is taken by itself, as one that an operator sets: checked first, applied live or
    /// by a restart, and taken back if the plugin refuses it; the others' are taken all the same. While the
    /// source cannot be read, what was read last stays in force.
    pub async fn follow(&self, source: &dyn ConfigSource) {
        let mut pace = PACE.0;
        loop {
            match source.load().await {
                Ok(values) => {
                    pace = PACE.0;
                    self.take(source, &values).await;
                    source.changed().await;
                }
                Err(error) => {
                    warn!(%error, "settings cannot be read: those before stay in force");
                    sleep(pace).await;
                    pace = (pace * 2).min(PACE.1);
                }
            }
        }
    }

    async fn take(&self, source: &dyn ConfigSource, values: &Map<String, Value>) {
        for key in values.keys().filter(|key| *key != PLUGINS) {
            warn!(key, source = source.name(), "only `plugins` is taken from here");
        }
        let none = Map::new();
        let wanted = values.get(PLUGINS).and_then(Value::as_object).unwrap_or(&none);
        let layer = source.layer();
        let known: BTreeSet<String> = {
            let mut settings = self.shared.settings();
            let present = settings.layer(layer).cloned().unwrap_or_default();
            let known = present.get(PLUGINS).and_then(Value::as_object).unwrap_or(&none);
            let known = known.keys().chain(wanted.keys()).cloned().collect();
            settings.set_layer(layer, source.name(), present);
            known
        };
        for name in known {
            let section = wanted.get(&name).cloned();
            let path = [PLUGINS, name.as_str()];
            if section_of(&self.shared.settings(), layer, &path) == section {
                continue;
            }
            if self.shared.registry.get(&name).is_none() {
                // Checked when the plugin comes.
                self.shared.settings().set_section(layer, &path, section);
                continue;
            }
            let change = ConfigChange::Source(layer, section);
            match self.shared.ask(&name, |reply| Command::Configure(change, reply)).await {
                Ok(applied) => info!(plugin = name, ?applied, "works by new settings"),
                Err(error) => {
                    warn!(plugin = name, %error, "new settings refused: those before stay in force");
                }
            }
        }
    }
}
