//! The host's configuration as it is in force.

use plugin_core::{Layer, MASK, mask};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Caller, Management, Page, PageRequest, Permission, Problem};

/// One value of the configuration and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigValue {
    /// The key's path, with dots.
    pub path: String,
    /// The value; secrets are masked.
    pub value: Value,
    /// Where it came from: `default`, `file`, `fleet`, `api`, `environment` or `flag`.
    #[schema(value_type = String, example = "environment")]
    pub layer: Layer,
    /// The file, or what the source calls itself.
    pub source: String,
}

impl Management {
    /// Every value of the configuration in force, by path, with its origin. Secrets are masked.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn config(&self, caller: &Caller, page: &PageRequest) -> Result<Page<ConfigValue>, Problem> {
        caller.require(Permission::ConfigRead)?;
        Ok(page.of_sorted(self.config_values(""), |value| &value.path))
    }

    /// The values whose path begins so, by path.
    pub(crate) fn config_values(&self, prefix: &str) -> Vec<ConfigValue> {
        let Some(manager) = &self.inner.manager else { return Vec::new() };
        let values = manager.settings().values().into_iter().filter(|value| value.path.starts_with(prefix));
        let shown = values.map(|value| {
            let secret = is_secret(&value.path, |plugin, path| {
                let record = manager.registry().get(plugin)?;
                let schema = record.manifest.config.as_ref()?.schema().clone();
                Some(is_masked_by(&schema, path))
            });
            ConfigValue {
                value: if secret { MASK.into() } else { value.value },
                path: value.path,
                layer: value.origin.layer,
                source: value.origin.source,
            }
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by(|a, b| a.path.cmp(&b.path));
        shown
    }
}

/// Whether the value at a path is a secret: as the plugin's schema says or, where there is no schema, if
/// the key's name says that it may be one.
fn is_secret(path: &str, schema_says: impl Fn(&str, &[&str]) -> Option<bool>) -> bool {
    let keys: Vec<&str> = path.split('.').collect();
    if let ["plugins", plugin, rest @ ..] = keys.as_slice()
        && let Some(secret) = schema_says(plugin, rest)
    {
        return secret;
    }
    let sounds_secret = |key: &&str| {
        let key = key.to_ascii_lowercase();
        ["password", "secret", "token", "credential", "private", "api_key", "apikey"]
            .iter()
            .any(|s| key.contains(s))
            // Of requests to others: those that authenticate have any name.
            || key == "headers"
    };
    keys.iter().any(sounds_secret)
}

/// Whether a schema masks what stands at a path: tried on a value that has nothing else.
fn is_masked_by(schema: &Value, path: &[&str]) -> bool {
    let mut value = Value::String("shown".to_owned());
    for key in path.iter().rev() {
        value = Value::Object([((*key).to_owned(), value)].into_iter().collect());
    }
    let masked = mask(schema, &value);
    masked != value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Promise 9: a secret never appears in an answer.
    #[test]
    fn promise_9_secrets_are_known_by_schema_and_by_name() {
        let schema = json!({"type": "object", "properties": {
            "key": {"type": "string", "writeOnly": true},
            "inner": {"type": "object", "properties": {"deep": {"type": "string", "writeOnly": true}}},
            "token_count": {"type": "integer"},
        }});
        let says = |_: &str, path: &[&str]| Some(is_masked_by(&schema, path));
        for (path, secret) in [
            ("plugins.p.key", true),
            ("plugins.p.inner.deep", true),
            ("plugins.p.inner.other", false),
            ("plugins.p.token_count", false),
        ] {
            assert_eq!(is_secret(path, says), secret, "{path}");
        }
        let unknown = |_: &str, _: &[&str]| None;
        for (path, secret) in [
            ("plugins.gone.Password", true),
            ("telemetry.auth_token", true),
            ("telemetry.logs.headers.x", true),
            ("scheduler.auto_start", false),
        ] {
            assert_eq!(is_secret(path, unknown), secret, "{path}");
        }
    }
}
