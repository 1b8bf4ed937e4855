//! Names of plugins.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Words that stand in paths of the management API where a plugin's name would.
const RESERVED: [&str; 5] = ["status", "graph", "types", "events", "load"];

/// A plugin's name: 1 to 64 of `a-z 0-9 -`, beginning and ending with a letter or a digit, and none of
/// `status graph types events load`, which are paths of the management API. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginName(Arc<str>);

/// Why a text is not a plugin's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// It has a character, a length or an edge that a name cannot have.
    #[error("`{0}` is not a plugin name: 1 to 64 of `a-z 0-9 -`, not beginning or ending with `-`")]
    Form(String),
    /// The management API has a path of that name.
    #[error("`{0}` is a reserved word, not a plugin name")]
    Reserved(String),
}

impl PluginName {
    /// Checks and takes a name.
    ///
    /// # Errors
    ///
    /// If the text is not of the form described at [`PluginName`].
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let bytes = name.as_bytes();
        if name.len() > 64
            || !edge(bytes.first().copied())
            || !edge(bytes.last().copied())
            || !bytes.iter().copied().all(inner)
        {
            return Err(InvalidName::Form(name.chars().take(80).collect()));
        }
        if RESERVED.contains(&name) {
            return Err(InvalidName::Reserved(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PluginName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl Borrow<str> for PluginName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for PluginName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for PluginName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for PluginName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl Serialize for PluginName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PluginName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_and_nothing_else() {
        for name in ["a", "redis-cluster", "p2", "0", &"x".repeat(64)] {
            assert!(PluginName::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a b", "ä", "a/b", &"x".repeat(65)] {
            assert!(matches!(PluginName::new(name), Err(InvalidName::Form(_))), "{name}");
        }
        assert!(matches!(PluginName::new("load"), Err(InvalidName::Reserved(_))));
    }
}
