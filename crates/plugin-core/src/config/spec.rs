//! What configuration a plugin takes.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ConfigError, MASK, decode, mask};

type Check = Arc<dyn Fn(&Value) -> Result<(), ConfigError> + Send + Sync>;

/// The schema of a plugin's configuration, and the check of a value against it.
#[derive(Clone)]
pub struct ConfigSpec {
    schema: Arc<Value>,
    defaults: Arc<Map<String, Value>>,
    check: Check,
}

impl ConfigSpec {
    /// The configuration that decodes as `T`. A field without `#[serde(default)]` has to be given.
    #[must_use]
    pub fn of<T: DeserializeOwned + JsonSchema>() -> Self {
        Self::checked(|_: &T| Ok(()))
    }

    /// The configuration that decodes as `T` and then passes `check`, which names the path of what is out
    /// of bounds.
    #[must_use]
    pub fn checked<T: DeserializeOwned + JsonSchema>(
        check: impl Fn(&T) -> Result<(), ConfigError> + Send + Sync + 'static,
    ) -> Self {
        let schema = schemars::schema_for!(T).to_value();
        Self {
            defaults: Arc::new(defaults_of(&schema)),
            schema: Arc::new(schema),
            check: Arc::new(move |value| check(&decode::<T>(value)?)),
        }
    }

    /// The JSON schema (2020-12). Secrets are `writeOnly`.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// What is in force where nothing is said: the `default` of each of the schema's properties, but for
    /// secrets.
    #[must_use]
    pub fn defaults(&self) -> &Map<String, Value> {
        &self.defaults
    }

    /// Whether a plugin could take this configuration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the path of what is wrong, below the plugin's own section.
    pub fn check(&self, value: &Value) -> Result<(), ConfigError> {
        (self.check)(value)
    }
}

fn defaults_of(schema: &Value) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let defaults =
        properties.filter_map(|(key, property)| Some((key.clone(), property.get("default")?.clone())));
    let mut defaults = mask(schema, &Value::Object(defaults.collect()));
    drop_masks(&mut defaults);
    match defaults {
        Value::Object(defaults) => defaults,
        _ => Map::new(),
    }
}

fn drop_masks(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| *value != MASK);
        map.values_mut().for_each(drop_masks);
    }
}

impl fmt::Debug for ConfigSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSpec").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::Secret;

    #[derive(JsonSchema, Deserialize)]
    struct Config {
        #[serde(default)]
        size: u8,
    }

    #[test]
    fn checks_types_keys_and_bounds() {
        let spec = ConfigSpec::checked(|config: &Config| {
            if config.size > 10 { Err(ConfigError::invalid("size", "at most 10")) } else { Ok(()) }
        });
        assert!(spec.check(&json!({})).is_ok());
        assert_eq!(spec.check(&json!({"size": 11})).unwrap_err().to_string(), "`size`: at most 10");
        assert!(spec.check(&json!({"sice": 1})).is_err());
        assert_eq!(spec.schema()["properties"]["size"]["type"], "integer");
    }

    /// Promise 9: a default that is a secret is none that is shown.
    #[test]
    fn promise_9_defaults_are_those_of_the_schema_but_for_secrets() {
        #[derive(JsonSchema, Deserialize, serde::Serialize)]
        #[serde(default)]
        struct Outer {
            size: u8,
            name: Option<String>,
            key: Secret,
            inner: Inner,
        }
        #[derive(JsonSchema, Deserialize, serde::Serialize)]
        struct Inner {
            token: Secret,
            tags: Vec<String>,
        }
        impl Default for Outer {
            fn default() -> Self {
                let inner = Inner { token: Secret::new("hunter2"), tags: vec!["a".to_owned()] };
                Self { size: 3, name: None, key: Secret::new("hunter2"), inner }
            }
        }
        let shown = Value::Object(ConfigSpec::of::<Outer>().defaults().clone());
        assert_eq!(shown, json!({"size": 3, "name": null, "inner": {"tags": ["a"]}}));
        assert_eq!(ConfigSpec::of::<Config>().defaults()["size"], 0);
        #[derive(JsonSchema, Deserialize)]
        #[expect(dead_code, reason = "only its schema is looked at")]
        struct Given {
            size: u8,
        }
        assert!(ConfigSpec::of::<Given>().defaults().is_empty());
    }
}
