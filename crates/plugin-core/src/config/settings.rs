//! The layers of configuration, and where each value comes from.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a value comes from. A later layer prevails over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Built in.
    Default,
    /// The configuration file, or a definition file of the auto-load folder.
    File,
    /// A source that a fleet's hosts have in common, such as etcd.
    Fleet,
    /// Set by an operator over the management API, and kept.
    Api,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Fleet => "fleet",
            Self::Api => "api",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

/// Where a value comes from, in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The layer.
    pub layer: Layer,
    /// The file, or whatever the layer's source calls itself.
    pub source: String,
}

/// One value of the effective configuration and its origin. As it is: secrets are masked by whoever knows
/// the schema.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueSource {
    /// The key's path, with dots.
    pub path: String,
    /// The value: no table, but a list is one value.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// The configuration of a host: a tree of values in each layer, merged by key. Lists are replaced whole.
#[derive(Clone, Default)]
pub struct Settings {
    layers: BTreeMap<Layer, (String, Map<String, Value>)>,
}

impl Settings {
    /// No layer has a value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a layer by what `source` gave.
    pub fn set_layer(&mut self, layer: Layer, source: impl Into<String>, values: Map<String, Value>) {
        self.layers.insert(layer, (source.into(), values));
    }

    /// A layer's own values.
    #[must_use]
    pub fn layer(&self, layer: Layer) -> Option<&Map<String, Value>> {
        self.layers.get(&layer).map(|(_, values)| values)
    }

    /// Replaces one section within a layer, or takes it out, and leaves the rest of the layer.
    pub fn set_section(&mut self, layer: Layer, path: &[&str], value: Option<Value>) {
        let (_, values) = self.layers.entry(layer).or_insert_with(|| (layer.to_string(), Map::new()));
        let Some((last, parents)) = path.split_last() else { return };
        let mut at = values;
        for key in parents {
            let next = at.entry((*key).to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            match next {
                Value::Object(map) => at = map,
                _ => return,
            }
        }
        match value {
            Some(value) => drop(at.insert((*last).to_owned(), value)),
            None => drop(at.remove(*last)),
        }
    }

    /// All layers merged.
    #[must_use]
    pub fn effective(&self) -> Value {
        let mut merged = Map::new();
        for (_, values) in self.layers.values() {
            merge(&mut merged, values);
        }
        Value::Object(merged)
    }

    /// One section of the merged layers; an empty table where there is none. A section that was given
    /// something else than a table is given as it is, so that whoever decodes it says so.
    #[must_use]
    pub fn section(&self, path: &[&str]) -> Value {
        let mut at = self.effective();
        for key in path {
            match at.get_mut(*key) {
                Some(next) => at = next.take(),
                None => return Value::Object(Map::new()),
            }
        }
        at
    }

    /// Every value of the merged layers with its origin, by path.
    #[must_use]
    pub fn values(&self) -> Vec<ValueSource> {
        let mut values = Vec::new();
        let Value::Object(effective) = self.effective() else { return values };
        let mut path = Vec::new();
        self.collect(&effective, &mut path, &mut values);
        values
    }

    fn collect<'a>(&self, map: &'a Map<String, Value>, path: &mut Vec<&'a str>, into: &mut Vec<ValueSource>) {
        for (key, value) in map {
            path.push(key);
            match value {
                Value::Object(map) if !map.is_empty() => self.collect(map, path, into),
                _ => {
                    if let Some(origin) = self.origin(path) {
                        into.push(ValueSource { path: path.join("."), value: value.clone(), origin });
                    }
                }
            }
            path.pop();
        }
    }

    /// Where the value at `path` comes from.
    #[must_use]
    pub fn origin(&self, path: &[&str]) -> Option<Origin> {
        let has = |values: &Map<String, Value>| {
            let (first, rest) = path.split_first()?;
            rest.iter().try_fold(values.get(*first)?, |at, key| at.get(*key)).map(|_| ())
        };
        self.layers
            .iter()
            .rev()
            .find(|(_, (_, values))| has(values).is_some())
            .map(|(layer, (source, _))| Origin { layer: *layer, source: source.clone() })
    }
}

impl fmt::Debug for Settings {
    // Without the values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.layers.iter().map(|(layer, (source, _))| (layer, source))).finish()
    }
}

/// Lays `over` onto `base`, table by table.
fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_later_layer_prevails_key_by_key() {
        let mut settings = Settings::new();
        settings.set_layer(Layer::Environment, "environment", map(json!({"plugins": {"p": {"size": 3}}})));
        settings.set_layer(
            Layer::Default,
            "default",
            map(json!({"plugins": {"p": {"size": 1, "tags": ["a"]}}})),
        );
        settings.set_layer(
            Layer::File,
            "gantry.toml",
            map(json!({"plugins": {"p": {"size": 2, "tags": []}}})),
        );
        assert_eq!(settings.section(&["plugins", "p"]), json!({"size": 3, "tags": []}));
        assert_eq!(settings.section(&["plugins", "none"]), json!({}));
        let values = settings.values();
        let origins: Vec<_> = values.iter().map(|v| (v.path.as_str(), v.origin.source.as_str())).collect();
        assert_eq!(origins, [("plugins.p.size", "environment"), ("plugins.p.tags", "gantry.toml")]);
    }

    #[test]
    fn what_an_operator_set_stands_above_the_file_and_below_the_environment() {
        let mut settings = Settings::new();
        settings.set_layer(Layer::File, "f", map(json!({"a": {"x": 1, "y": 1}})));
        settings.set_section(Layer::Api, &["a"], Some(json!({"x": 2, "y": 2})));
        settings.set_layer(Layer::Environment, "e", map(json!({"a": {"y": 3}})));
        assert_eq!(settings.section(&["a"]), json!({"x": 2, "y": 3}));
        settings.set_section(Layer::Api, &["a"], None);
        assert_eq!(settings.section(&["a"]), json!({"x": 1, "y": 3}));
    }

    #[test]
    fn a_section_replaces_a_value_that_stands_in_its_way() {
        let mut settings = Settings::new();
        settings.set_section(Layer::Api, &["a"], Some(json!(1)));
        settings.set_section(Layer::Api, &["a", "b"], Some(json!(2)));
        assert_eq!(settings.effective(), json!({"a": {"b": 2}}));
    }

    #[test]
    fn a_section_that_is_no_table_is_not_passed_over() {
        let mut settings = Settings::new();
        settings.set_layer(Layer::File, "f", map(json!({"plugins": {"p": {"size": 1}}})));
        settings.set_layer(Layer::Environment, "e", map(json!({"plugins": {"p": "hunter2"}})));
        assert_eq!(settings.section(&["plugins", "p"]), "hunter2");
        assert_eq!(settings.section(&["plugins", "q"]), json!({}));
        assert_eq!(settings.section(&["plugins", "p", "size"]), json!({}));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
