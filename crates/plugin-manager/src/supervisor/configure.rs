//! A new configuration: checked, applied live or by a restart, kept, and taken back if any of that fails.

use plugin_core::{ConfigError, Layer, Manifest, Reconfigured, Settings, State, Withdrawal, unmask};
use serde_json::{Map, Value, json};

use super::{Applied, ConfigChange, Failure, Started, StopOrder, Supervisor};
use crate::ManagerError;

impl Supervisor {
    /// The plugin's section of all layers.
    pub(super) fn effective_config(&self) -> Value {
        self.shared.settings().section(&["plugins", self.name.as_str()])
    }

    /// Whether the plugin, as its manifest says, can take the configuration.
    pub(super) fn check_config(&self, value: &Value) -> Result<(), ConfigError> {
        match &self.manifest.config {
            Some(spec) => spec.check(value).map_err(|error| error.under(&format!("plugins.{}", self.name))),
            None => Ok(()),
        }
    }

    /// What a change would come to, if it can be made.
    pub(super) fn plan(&self, change: ConfigChange) -> Result<Plan, ManagerError> {
        let path = ["plugins", self.name.as_str()];
        let before = self.shared.settings().clone();
        let current = before.section(&path);
        let (layer, section) = match change {
            ConfigChange::Request(requested, if_version) => {
                if if_version.is_some_and(|version| version != self.shared.version_of(&current)) {
                    return Err(ManagerError::ConfigChanged(self.name.clone()));
                }
                let requested = match &self.manifest.config {
                    Some(spec) => unmask(spec.schema(), &requested, &current),
                    None => requested,
                };
                let mut shown = before.clone();
                show_defaults(&mut shown, &self.manifest);
                let over = override_of(&requested, &shown, &path)?;
                (Layer::Api, (!over.is_empty()).then_some(Value::Object(over)))
            }
            ConfigChange::Definition(section) => (Layer::File, Some(Value::Object(section))),
            ConfigChange::Source(layer, section) => (layer, section),
        };
        let new = Section { layer, value: section };
        let old = Section { layer, value: section_of(&before, layer, &path) };
        let mut after = before;
        after.set_section(layer, &path, new.value.clone());
        let effective = after.section(&path);
        match &self.manifest.config {
            Some(spec) => spec.check(&effective)?,
            // Nothing could say whether it is right, and the next start would stumble over what is wrong.
            None if effective != current => {
                return Err(ConfigError::invalid("", "the plugin takes no configuration here").into());
            }
            None => {}
        }
        Ok(Plan { new, old, current, effective })
    }

    pub(super) async fn on_configure(&mut self, change: ConfigChange) -> Result<Applied, ManagerError> {
        let Plan { new, old, current, effective } = self.plan(change)?;
        let layer = new.layer;
        let applied = if effective == current {
            self.set_section(&new);
            Applied::Live
        } else {
            self.apply(&effective, &new, &old).await?
        };
        if layer == Layer::Api
            && let Err(source) = self.keep_overrides().await
        {
            // What is not kept must not be in force either.
            if effective == current {
                self.set_section(&old);
            } else if let Err(error) = self.apply(&current, &old, &old).await {
                self.record_failure(&error.to_string());
            }
            return Err(ManagerError::NotKept { name: self.name.clone(), source });
        }
        self.tell("plugin.config_changed", json!({ "applied": applied_name(applied) }), json!({}));
        if effective != current {
            self.shared.tell_config_changed(&self.name, layer, &current, &effective);
        }
        Ok(applied)
    }

    fn set_section(&self, section: &Section) {
        let path = ["plugins", self.name.as_str()];
        self.shared.settings().set_section(section.layer, &path, section.value.clone());
    }

    /// Puts the plugin's section in its layer, and has the plugin work by it; puts the old one back if it
    /// does not.
    async fn apply(
        &mut self,
        effective: &Value,
        new: &Section,
        old: &Section,
    ) -> Result<Applied, ManagerError> {
        let Some(scope) = self.running.scope.clone().filter(|_| self.state() == State::Running) else {
            self.set_section(new);
            return Ok(Applied::AtNextStart);
        };
        let (plugin, ctx) = (self.plugin.clone(), scope.context_with(effective.clone()));
        let limit = self.shared.config.max_startup_time;
        let work = async move { plugin.reconfigure(ctx).await.map_err(Failure::from) };
        match self.call(limit, true, work).await {
            Ok(Reconfigured::Applied) => {
                scope.set_config(effective.clone());
                self.set_section(new);
                Ok(Applied::Live)
            }
            Ok(Reconfigured::NeedsRestart) => {
                self.set_section(new);
                match self.restart_in_place().await {
                    Ok(()) => Ok(Applied::Restarted),
                    Err(error) => {
                        self.set_section(old);
                        Err(self.back_to_the_old(&error).await)
                    }
                }
            }
            Err(failure) => {
                Err(ManagerError::ConfigFailed { name: self.name.clone(), reason: failure.reason })
            }
        }
    }

    /// Stop, initialize, start, with dependents left as they are: their handles follow.
    async fn restart_in_place(&mut self) -> Result<(), ManagerError> {
        self.running.coming_back = true;
        let outcome = async {
            self.stop(&self.restart_order()).await?;
            self.initialize(self.shared.config.max_startup_time).await?;
            match self.start_if_possible().await? {
                Started::Running => Ok(()),
                Started::Waiting(waiting_for) => {
                    Err(ManagerError::DependenciesDown { name: self.name.clone(), waiting_for })
                }
            }
        };
        let outcome = Box::pin(outcome).await;
        self.running.coming_back = false;
        outcome
    }

    pub(super) fn restart_order(&self) -> StopOrder {
        let config = &self.shared.config;
        let budget = config.drain_deadline + config.stop_deadline + super::CLOSE;
        StopOrder { why: Withdrawal::Restarting, wanted: true, regardless: true, budget: budget * 3 }
    }

    async fn back_to_the_old(&mut self, error: &ManagerError) -> ManagerError {
        let name = self.name.clone();
        let why = error.to_string();
        self.running.failures.forget();
        self.status.seen().wanted = true;
        let reason = match Box::pin(self.start_if_possible()).await {
            Ok(_) => why,
            Err(again) => format!("{why}; and with the configuration before: {again}"),
        };
        ManagerError::ConfigFailed { name, reason }
    }

    /// Writes what operators have set to the disk, if there is a place for it.
    async fn keep_overrides(&self) -> std::io::Result<()> {
        let Some(file) = self.shared.overrides.clone() else { return Ok(()) };
        // One at a time, each with what is set by then, so that the last to write writes all.
        let _turn = self.shared.keeping.lock().await;
        let values = self.shared.settings().layer(Layer::Api).cloned().unwrap_or_default();
        match tokio::task::spawn_blocking(move || file.store(&values)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(std::io::Error::other(error)),
        }
    }
}

fn applied_name(applied: Applied) -> &'static str {
    match applied {
        Applied::Live => "live",
        Applied::Restarted => "restarted",
        Applied::AtNextStart => "at_next_start",
    }
}

/// A change that can be made.
pub(super) struct Plan {
    new: Section,
    old: Section,
    current: Value,
    pub(super) effective: Value,
}

/// A plugin's section within one layer.
struct Section {
    layer: Layer,
    value: Option<Value>,
}

/// Puts a plugin's defaults where defaults stand. A running plugin gets its configuration without them: it
/// knows them itself, and those of its next version may be others.
pub(crate) fn show_defaults(settings: &mut Settings, manifest: &Manifest) {
    let Some(spec) = manifest.config.as_ref().filter(|spec| !spec.defaults().is_empty()) else { return };
    let path = ["plugins", manifest.name.as_str()];
    let mut defaults = Settings::new();
    let of_plugin = Value::Object(spec.defaults().clone());
    defaults.set_section(Layer::File, &path, Some(of_plugin));
    // What the host says as a default goes above the plugin's own.
    if let Some(of_host) = section_of(settings, Layer::Default, &path) {
        defaults.set_section(Layer::Api, &path, Some(of_host));
    }
    let defaults = defaults.section(&path);
    settings.set_section(Layer::Default, &path, Some(defaults));
}

/// What one layer says at `path`.
pub(crate) fn section_of(settings: &Settings, layer: Layer, path: &[&str]) -> Option<Value> {
    let mut at: Option<&Value> = None;
    let mut map = settings.layer(layer);
    for key in path {
        at = map.and_then(|map| map.get(*key));
        map = at.and_then(Value::as_object);
    }
    at.cloned()
}

/// What has to be in the operators' layer for `requested` to be in force: what differs from the layers
/// below. What the layers below have and `requested` leaves out goes back to what they say.
pub(super) fn override_of(
    requested: &Value,
    settings: &Settings,
    path: &[&str],
) -> Result<Map<String, Value>, ConfigError> {
    let Value::Object(requested) = requested else {
        return Err(ConfigError::invalid("", "expected a table"));
    };
    let only = |layers: &[Layer]| {
        let mut some = Settings::new();
        for layer in layers {
            if let Some(values) = settings.layer(*layer) {
                some.set_layer(*layer, layer.to_string(), values.clone());
            }
        }
        some.section(path)
    };
    let below = only(&[Layer::Default, Layer::File, Layer::Fleet]);
    let above = only(&[Layer::Environment, Layer::Flag]);
    let none = Map::new();
    differing(requested, below.as_object().unwrap_or(&none), above.as_object().unwrap_or(&none), "")
}

fn differing(
    requested: &Map<String, Value>,
    below: &Map<String, Value>,
    above: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, ConfigError> {
    let none = Map::new();
    let mut over = Map::new();
    for (key, value) in requested {
        let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (value, below.get(key), above.get(key)) {
            (Value::Object(value), b, a) if [a, b].iter().flatten().any(|other| other.is_object()) => {
                let below = b.and_then(Value::as_object).unwrap_or(&none);
                let above = a.and_then(Value::as_object).unwrap_or(&none);
                let inner = differing(value, below, above, &at)?;
                if !inner.is_empty() {
                    over.insert(key.clone(), Value::Object(inner));
                }
            }
            (value, _, Some(above)) if above == value => {}
            (_, _, Some(_)) => {
                return Err(ConfigError::invalid(at, "is set by the environment or a flag, which prevails"));
            }
            (value, Some(below), None) if below == value => {}
            (value, _, None) => drop(over.insert(key.clone(), value.clone())),
        }
    }
    Ok(over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn settings(file: Value, env: Value) -> Settings {
        let mut settings = Settings::new();
        settings.set_layer(Layer::File, "f", map(json!({ "plugins": { "p": file } })));
        settings.set_layer(Layer::Environment, "e", map(json!({ "plugins": { "p": env } })));
        settings
    }

    #[test]
    fn only_what_differs_is_kept() {
        let settings = settings(json!({"a": 1, "t": {"x": 1, "y": 1}, "l": [1]}), json!({"s": "from env"}));
        let over = |requested: Value| override_of(&requested, &settings, &["plugins", "p"]);
        assert_eq!(over(json!({"a": 1, "s": "from env"})).unwrap(), Map::new());
        assert_eq!(
            over(json!({"a": 2, "t": {"x": 1, "y": 2}, "l": [1, 2], "n": {"z": 1}})).unwrap(),
            map(json!({"a": 2, "t": {"y": 2}, "l": [1, 2], "n": {"z": 1}}))
        );
        assert_eq!(over(json!({"s": "other"})).unwrap_err().path(), "s");
        assert!(over(json!([])).is_err());
    }

    #[test]
    fn an_override_brings_about_what_was_requested() {
        let mut settings = settings(json!({"a": 1, "t": {"x": 1}}), json!({"t": {"e": 3}}));
        let requested = json!({"a": 5, "t": {"x": 2, "e": 3}, "b": null});
        let over = override_of(&requested, &settings, &["plugins", "p"]).unwrap();
        settings.set_section(Layer::Api, &["plugins", "p"], Some(Value::Object(over)));
        assert_eq!(settings.section(&["plugins", "p"]), requested);
    }
}
