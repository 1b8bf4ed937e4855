//! Values that must not be seen.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// What stands in an answer where a secret would. Coming back from a client it means *unchanged*.
pub const MASK: &str = "********";

/// A text that shows itself to nobody: not in `Debug`, not in JSON, not in a schema's example. In a
/// configuration's schema it is `writeOnly`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // An environment variable of digits has been read as a number by now.
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            Value::Bool(flag) => Ok(Self(flag.to_string())),
            // The value itself must not get into the message.
            _ => Err(serde::de::Error::custom("expected a text")),
        }
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// The value with each secret, by its schema's `writeOnly`, replaced by [`MASK`].
#[must_use]
pub fn mask(schema: &Value, value: &Value) -> Value {
    let mut value = value.clone();
    walk(schema, schema, &mut value, 0, &mut |secret| {
        if !secret.is_null() {
            *secret = Value::String(MASK.to_owned());
        }
    });
    value
}

/// A value that came back from a client, with each [`MASK`] replaced by what it stood for in `current`.
#[must_use]
pub fn unmask(schema: &Value, value: &Value, current: &Value) -> Value {
    // Both are masked along the same schema, so that the n-th secret of one is found by its path in the other.
    let mut value = value.clone();
    restore(schema, schema, &mut value, current, 0);
    value
}

/// Schemas refer to themselves; no configuration is deeper than this.
const MAX_DEPTH: usize = 32;

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    ["allOf", "anyOf", "oneOf"]
        .into_iter()
        .filter_map(|key| schema.get(key).and_then(Value::as_array))
        .flatten()
}

fn is_secret(schema: &Value) -> bool {
    schema.get("writeOnly").and_then(Value::as_bool) == Some(true)
}

fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema
        .get("properties")
        .and_then(|properties| properties.get(key))
        .or_else(|| schema.get("additionalProperties"))
}

fn walk(
    root: &Value,
    schema: &Value,
    value: &mut Value,
    depth: usize,
    on_secret: &mut dyn FnMut(&mut Value),
) {
    if depth > MAX_DEPTH {
        return;
    }
    let schema = resolve(root, schema);
    if is_secret(schema) {
        on_secret(value);
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(schema) = property(schema, key) {
                    walk(root, schema, value, depth + 1, on_secret);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    walk(root, schema, item, depth + 1, on_secret);
                }
            }
        }
        _ => {}
    }
    for schema in alternatives(schema) {
        walk(root, schema, value, depth + 1, on_secret);
    }
}

fn restore(root: &Value, schema: &Value, value: &mut Value, current: &Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let schema = resolve(root, schema);
    if is_secret(schema) {
        if value.as_str() == Some(MASK) {
            *value = current.clone();
        }
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(schema) = property(schema, key) {
                    restore(root, schema, value, current.get(key).unwrap_or(&Value::Null), depth + 1);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (i, item) in items.iter_mut().enumerate() {
                    restore(root, schema, item, current.get(i).unwrap_or(&Value::Null), depth + 1);
                }
            }
        }
        _ => {}
    }
    for schema in alternatives(schema) {
        restore(root, schema, value, current, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(JsonSchema, Deserialize)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Config {
        user: String,
        password: Option<Secret>,
        nodes: Vec<Node>,
    }

    #[derive(JsonSchema, Deserialize)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Node {
        token: Secret,
        next: Option<Box<Node>>,
    }

    #[test]
    fn promise_9_a_secret_is_in_no_text() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {}", json!(secret)), r#"******** "********""#);
        let error = serde_json::from_value::<Secret>(json!(["hunter2"])).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(serde_json::from_value::<Secret>(json!(12)).unwrap().expose(), "12");
    }

    #[test]
    fn promise_9_masks_by_schema_and_takes_a_mask_back_as_unchanged() {
        let schema = schemars::schema_for!(Config).to_value();
        let value = json!({
            "user": "ada", "password": "s3cret",
            "nodes": [{"token": "t1", "next": {"token": "t2", "next": null}}],
        });
        let masked = mask(&schema, &value);
        let text = masked.to_string();
        assert!(["s3cret", "t1", "t2"].iter().all(|secret| !text.contains(secret)), "{text}");
        assert!(text.contains("ada"));
        assert_eq!(unmask(&schema, &masked, &value), value);
        let mut changed = masked;
        changed["password"] = json!("new");
        assert_eq!(unmask(&schema, &changed, &value)["password"], "new");
    }

    #[test]
    fn an_absent_secret_stays_absent() {
        let schema = schemars::schema_for!(Config).to_value();
        assert_eq!(mask(&schema, &json!({"password": null})), json!({"password": null}));
    }
}
