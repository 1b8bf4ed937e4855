//! Values that must not be seen.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

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
            // A mask that nothing was put in place of; taken as the secret it would overwrite it.
            Value::String(text) if text == MASK => {
                Err(serde::de::Error::custom("a mask stands for no secret here"))
            }
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
///
/// Where the schema leaves open what applies, such as the variants of an enum or a pattern of keys, all of
/// it does: too much is masked rather than too little.
#[must_use]
pub fn mask(schema: &Value, value: &Value) -> Value {
    let mut value = value.clone();
    mask_by(&Schemas::gather(schema, [schema]), &mut value);
    value
}

/// A value that came back from a client, with each [`MASK`] replaced by what it stood for in `current`.
///
/// An item of a list that has grown, shrunk or changed its order is found again by what is not secret in it.
/// Where that does not tell, or nothing was there, the mask stays, which a [`Secret`] refuses to be.
#[must_use]
pub fn unmask(schema: &Value, value: &Value, current: &Value) -> Value {
    let mut value = value.clone();
    restore(&Schemas::gather(schema, [schema]), &mut value, Some(current));
    value
}

/// Every schema that speaks about one value: references followed, alternatives among them.
struct Schemas<'a> {
    root: &'a Value,
    all: Vec<&'a Value>,
    secret: bool,
}

impl<'a> Schemas<'a> {
    fn gather(root: &'a Value, from: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut all: Vec<_> = from.into_iter().collect();
        let mut known: HashSet<*const Value> = all.iter().map(|schema| std::ptr::from_ref(*schema)).collect();
        let (mut secret, mut at) = (false, 0);
        while let Some(schema) = all.get(at).copied() {
            at += 1;
            secret |= schema.get("writeOnly").and_then(Value::as_bool) == Some(true);
            let refers = ["$ref", "$dynamicRef"].into_iter().filter_map(|key| schema.get(key));
            let targets: Vec<_> = refers.map(|target| resolve(root, target)).collect();
            // What a reference hides from us may be secret.
            secret |= targets.contains(&None);
            let lists = ["allOf", "anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
            let single = ["if", "then", "else"].into_iter().filter_map(|key| schema.get(key));
            let dependent = schema.get("dependentSchemas").and_then(Value::as_object);
            let more = lists.flatten().chain(single).chain(dependent.into_iter().flat_map(Map::values));
            all.extend(targets.into_iter().flatten().chain(more).filter(|s| known.insert(*s)));
        }
        Self { root, all, secret }
    }

    fn of_property(&self, key: &str) -> Self {
        let mut found = Vec::new();
        for schema in &self.all {
            let named = schema.get("properties").and_then(|properties| properties.get(key));
            let patterns = schema.get("patternProperties").and_then(Value::as_object);
            found.extend(patterns.into_iter().flat_map(Map::values));
            match named {
                Some(named) => found.push(named),
                None => found.extend(REST_OF_OBJECT.into_iter().filter_map(|key| schema.get(key))),
            }
        }
        Self::gather(self.root, found)
    }

    fn of_item(&self, index: usize) -> Self {
        let mut found = Vec::new();
        for schema in &self.all {
            let at = |key| schema.get(key).and_then(Value::as_array).and_then(|listed| listed.get(index));
            // A list under `items` is how drafts before 2020-12 wrote `prefixItems`.
            match at("prefixItems").or_else(|| at("items")) {
                Some(listed) => found.push(listed),
                None => found.extend(REST_OF_ARRAY.into_iter().filter_map(|key| schema.get(key))),
            }
        }
        Self::gather(self.root, found)
    }
}

const REST_OF_OBJECT: [&str; 2] = ["additionalProperties", "unevaluatedProperties"];
const REST_OF_ARRAY: [&str; 4] = ["items", "contains", "additionalItems", "unevaluatedItems"];

fn resolve<'a>(root: &'a Value, target: &Value) -> Option<&'a Value> {
    root.pointer(target.as_str()?.strip_prefix('#')?)
}

fn mask_by(schemas: &Schemas<'_>, value: &mut Value) {
    match value {
        Value::Null => {}
        value if schemas.secret => *value = Value::String(MASK.to_owned()),
        Value::Object(map) => {
            map.iter_mut().for_each(|(key, value)| mask_by(&schemas.of_property(key), value))
        }
        Value::Array(items) => {
            items.iter_mut().enumerate().for_each(|(i, item)| mask_by(&schemas.of_item(i), item));
        }
        _ => {}
    }
}

fn restore(schemas: &Schemas<'_>, value: &mut Value, current: Option<&Value>) {
    match value {
        value if schemas.secret => {
            if let Some(current) = current
                && value.as_str() == Some(MASK)
            {
                *value = current.clone();
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                restore(&schemas.of_property(key), value, current.and_then(|current| current.get(key)));
            }
        }
        Value::Array(items) => {
            let current = current.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let origins = origins(schemas, items, current);
            for (i, (item, origin)) in items.iter_mut().zip(origins).enumerate() {
                restore(&schemas.of_item(i), item, origin);
            }
        }
        _ => {}
    }
}

/// Which item of `current` each of `items` was, where that is certain.
fn origins<'a>(schemas: &Schemas<'_>, items: &[Value], current: &'a [Value]) -> Vec<Option<&'a Value>> {
    let mut masked = current.to_vec();
    masked.iter_mut().enumerate().for_each(|(i, item)| mask_by(&schemas.of_item(i), item));
    let appended = items.len() > masked.len() && masked.iter().eq(&items[..masked.len()]);
    let in_place = items.len() == masked.len() || appended;
    let origin = |(i, item): (usize, &Value)| {
        if in_place && masked.get(i) == Some(item) {
            return current.get(i);
        }
        let mut alike = masked.iter().zip(current).filter(|(masked, _)| *masked == item).map(|(_, was)| was);
        match (alike.next(), alike.next()) {
            (Some(only), None) => Some(only),
            // An item that was edited; its place is all there is to know it by.
            (None, _) if in_place => current.get(i),
            _ => None,
        }
    };
    items.iter().enumerate().map(origin).collect()
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

    #[test]
    fn promise_9_no_depth_and_no_form_of_schema_shows_a_secret() {
        let deep = (0..60).fold(json!(null), |next, _| json!({"token": "s3cret", "next": next}));
        let schema = schemars::schema_for!(Config).to_value();
        let masked = mask(&schema, &json!({"nodes": [deep]})).to_string();
        assert!(!masked.contains("s3cret"), "{masked}");

        let secret = json!({"type": "string", "writeOnly": true});
        let value = json!({"a": "s3cret", "b": ["open", "s3cret"], "c": {"d": "s3cret"}});
        for schema in [
            json!({"properties": {"a": {"$ref": "#/$defs/text", "writeOnly": true}}}),
            json!({"properties": {"a": {"$ref": "https://example.org/unknown"}}}),
            json!({"patternProperties": {"^a$": secret}}),
            json!({"unevaluatedProperties": secret}),
            json!({"oneOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"a": secret}}]}),
            json!({"if": true, "then": {"properties": {"a": secret}}}),
            json!({"dependentSchemas": {"b": {"properties": {"a": secret}}}}),
        ] {
            let mut schema = schema;
            schema["$defs"] = json!({"text": {"type": "string"}});
            assert_eq!(mask(&schema, &value)["a"], MASK, "{schema}");
            assert_eq!(unmask(&schema, &mask(&schema, &value), &value), value, "{schema}");
        }
        for items in [
            json!({"prefixItems": [{"type": "string"}, secret]}),
            json!({"items": [{"type": "string"}, secret]}),
            json!({"prefixItems": [{"type": "string"}], "items": secret}),
            json!({"prefixItems": [{"type": "string"}], "unevaluatedItems": secret}),
        ] {
            let schema = json!({"properties": {"b": items}});
            assert_eq!(mask(&schema, &value)["b"], json!(["open", MASK]), "{schema}");
        }
    }

    #[test]
    fn promise_9_a_mask_never_takes_the_secret_of_another_item() {
        let schema = json!({"items": {"properties": {"token": {"writeOnly": true}}}});
        let node = |host: &str, token: &str| json!({"host": host, "token": token});
        let was = json!([node("a", "ta"), node("b", "tb"), node("c", "tc")]);
        let back = |items: Value| unmask(&schema, &items, &was);
        assert_eq!(back(json!([node("b", MASK)])), json!([node("b", "tb")]), "a and c were removed");
        assert_eq!(
            back(json!([node("c", MASK), node("a", MASK), node("b", MASK)])),
            json!([node("c", "tc"), node("a", "ta"), node("b", "tb")]),
            "another order"
        );
        let edited = back(json!([node("a", MASK), node("b2", MASK), node("c", MASK)]));
        assert_eq!(edited[1], node("b2", "tb"), "edited in its place");
        let unclear = back(json!([node("b2", MASK)]));
        assert_eq!(unclear[0]["token"], MASK, "which one it was cannot be told");
        let list = json!({"items": {"writeOnly": true}});
        assert_eq!(
            unmask(&list, &json!([MASK, MASK, "t3"]), &json!(["t1", "t2"])),
            json!(["t1", "t2", "t3"])
        );
        assert_eq!(unmask(&list, &json!([MASK]), &json!(["t1", "t2"])), json!([MASK]));
        let error = serde_json::from_value::<Secret>(json!(MASK)).unwrap_err();
        assert_eq!(error.to_string(), "a mask stands for no secret here");
    }
}
