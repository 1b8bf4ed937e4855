//! What configuration a plugin takes.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ConfigError, decode};

type Check = Arc<dyn Fn(&Value) -> Result<(), ConfigError> + Send + Sync>;

/// The schema of a plugin's configuration, and the check of a value against it.
#[derive(Clone)]
pub struct ConfigSpec {
    schema: Arc<Value>,
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
        let schema = Arc::new(schemars::schema_for!(T).to_value());
        Self { schema, check: Arc::new(move |value| check(&decode::<T>(value)?)) }
    }

    /// The JSON schema (2020-12). Secrets are `writeOnly`.
    #[must_use]
    pub fn schema(&self) -> &Value {
        &self.schema
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
}
