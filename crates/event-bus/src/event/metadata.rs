//! Metadata: the CloudEvents extension attributes of an event.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The most attributes that an event carries.
pub const MAX_METADATA_ENTRIES: usize = 32;
/// The longest text value of an attribute, in bytes.
pub const MAX_METADATA_VALUE_BYTES: usize = 4096;
/// The longest name of an attribute. CloudEvents recommends 20 and does not forbid more.
const MAX_KEY_BYTES: usize = 64;

/// Names that mean something else in the JSON form.
const RESERVED: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "data",
    "target",
    "metadata",
    "traceparent",
    "tracestate",
    "trace",
];

/// Why metadata was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The key is not a CloudEvents attribute name.
    #[error("metadata: `{0}` is not an attribute name: 1 to {MAX_KEY_BYTES} characters of `a-z` and `0-9`")]
    Key(String),
    /// The key is one of the event's own attributes.
    #[error("metadata: `{0}` is an attribute of the event itself")]
    Reserved(String),
    /// The value does not fit.
    #[error("metadata.{0}: has more than {MAX_METADATA_VALUE_BYTES} bytes or a control character")]
    Value(String),
    /// Not a content type.
    #[error("metadata.datacontenttype: is not a media type")]
    ContentType,
    /// There are too many.
    #[error("metadata: has more than {MAX_METADATA_ENTRIES} entries")]
    TooMany,
}

impl MetadataError {
    /// The attribute that was refused; `metadata` where there are too many.
    #[must_use]
    pub fn attribute(&self) -> &str {
        match self {
            Self::Key(key) | Self::Reserved(key) | Self::Value(key) => key,
            Self::ContentType => "datacontenttype",
            Self::TooMany => "metadata",
        }
    }
}

/// The value of an attribute; CloudEvents knows these three in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetadataValue {
    /// Any text; binary, URI and timestamp attributes are text in JSON.
    Text(String),
    /// True or false.
    Bool(bool),
    /// A whole number of 32 bits.
    Integer(i32),
}

impl MetadataValue {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bool(_) | Self::Integer(_) => None,
        }
    }
}

impl fmt::Display for MetadataValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Integer(number) => write!(f, "{number}"),
        }
    }
}

impl From<&str> for MetadataValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for MetadataValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for MetadataValue {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<i32> for MetadataValue {
    fn from(number: i32) -> Self {
        Self::Integer(number)
    }
}

/// The extension attributes of an event, by name. At most [`MAX_METADATA_ENTRIES`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, MetadataValue>);

impl Metadata {
    /// Adds or replaces an attribute.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] says which rule the attribute breaks.
    pub fn insert(
        &mut self,
        key: impl Into<String>,
        value: impl Into<MetadataValue>,
    ) -> Result<(), MetadataError> {
        let (key, value) = (key.into(), value.into());
        let shape = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(shape) {
            return Err(MetadataError::Key(key.chars().take(64).collect()));
        }
        if RESERVED.contains(&key.as_str()) {
            return Err(MetadataError::Reserved(key));
        }
        if let MetadataValue::Text(text) = &value
            && (text.len() > MAX_METADATA_VALUE_BYTES || text.chars().any(char::is_control))
        {
            return Err(MetadataError::Value(key));
        }
        // It becomes the header `content-type` in binary mode.
        if key == "datacontenttype"
            && !value.as_str().is_some_and(|text| text.contains('/') && text.is_ascii())
        {
            return Err(MetadataError::ContentType);
        }
        if self.0.len() == MAX_METADATA_ENTRIES && !self.0.contains_key(&key) {
            return Err(MetadataError::TooMany);
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// The value of an attribute.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&MetadataValue> {
        self.0.get(key)
    }

    /// All attributes, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_attribute_names() {
        let mut metadata = Metadata::default();
        for key in ["", "Upper", "with-dash", "a.b", &"a".repeat(65), "ä"] {
            assert!(matches!(metadata.insert(key, "x"), Err(MetadataError::Key(_))), "{key}");
        }
        for key in RESERVED {
            assert_eq!(metadata.insert(key, "x"), Err(MetadataError::Reserved(key.to_owned())));
        }
        for value in [MetadataValue::from("json"), "text/ä".into(), 5.into()] {
            assert_eq!(metadata.insert("datacontenttype", value), Err(MetadataError::ContentType));
        }
        metadata.insert("tenant", "acme").unwrap();
        metadata.insert("retries", 3).unwrap();
        assert_eq!(metadata.get("tenant").unwrap().as_str(), Some("acme"));
        assert_eq!(metadata.len(), 2);
    }

    #[test]
    fn there_is_a_bound_on_everything() {
        let mut metadata = Metadata::default();
        assert!(metadata.insert("a", "x".repeat(MAX_METADATA_VALUE_BYTES + 1)).is_err());
        for n in 0..MAX_METADATA_ENTRIES {
            metadata.insert(format!("k{n}"), true).unwrap();
        }
        assert_eq!(metadata.insert("onemore", true), Err(MetadataError::TooMany));
        metadata.insert("k0", false).unwrap();
    }
}
