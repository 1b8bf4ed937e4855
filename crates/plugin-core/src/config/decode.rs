//! From a tree of values to a type, strictly: a key that nothing asks for is an error, too.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a configuration is refused. Its text names the path of the key, and never quotes a value: what stands
/// in the wrong place may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is of the wrong type, missing, or out of its bounds.
    #[error("`{path}`: {detail}")]
    Invalid {
        /// The key's path, with dots.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A key that nothing asks for.
    #[error("`{path}`: unknown key")]
    Unknown {
        /// The key's path, with dots.
        path: String,
    },
    /// A source cannot be read at all.
    #[error("`{origin}`: {detail}")]
    Unreadable {
        /// The file or variable.
        origin: String,
        /// What is wrong.
        detail: String,
    },
}

impl ConfigError {
    /// A value at `path` is wrong.
    pub fn invalid(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), detail: detail.into() }
    }

    /// The path of the key, or the name of the source.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Invalid { path, .. } | Self::Unknown { path } => path,
            Self::Unreadable { origin, .. } => origin,
        }
    }

    /// The same error, its path below `prefix`.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        if let Self::Invalid { path, .. } | Self::Unknown { path } = &mut self
            && !prefix.is_empty()
        {
            *path = if path.is_empty() { prefix.to_owned() } else { format!("{prefix}.{path}") };
        }
        self
    }
}

/// Decodes `value` as `T`. Every key has to be one that `T` asks for, with or without
/// `deny_unknown_fields`.
///
/// # Errors
///
/// [`ConfigError`] with the path of the first key that is wrong.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, ConfigError> {
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let outcome = {
        let paths = serde_path_to_error::Deserializer::new(value, &mut track);
        serde_ignored::deserialize(paths, |path| {
            unknown.get_or_insert_with(|| path_text(&path));
        })
    };
    match outcome {
        Ok(value) => match unknown {
            None => Ok(value),
            Some(path) => Err(ConfigError::Unknown { path }),
        },
        Err(error) => {
            let path = track.path().to_string();
            Err(invalid(if path == "." { "" } else { &path }, &error))
        }
    }
}

/// The path as the other errors write it: without a step for an `Option` or a newtype.
fn path_text(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;

    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", path_text(parent)),
        Path::Map { parent, key } => match path_text(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            path_text(parent)
        }
    }
}

/// Tells unknown fields, which serde reports as any other error, from the rest.
fn invalid(path: &str, error: &serde_json::Error) -> ConfigError {
    let detail = error.to_string();
    if detail.starts_with("unknown field `") {
        // With `deny_unknown_fields` the path already ends with the field.
        return ConfigError::Unknown { path: path.to_owned() };
    }
    ConfigError::Invalid { path: path.to_owned(), detail: without_value(&detail) }
}

/// A decoder's message without the value that it quotes: `invalid type: string "x", expected u8` becomes
/// `invalid type: string, expected u8`.
pub(super) fn without_value(detail: &str) -> String {
    let quotes = ["invalid type: ", "invalid value: ", "unknown variant "];
    let Some(kind) = quotes.into_iter().find(|kind| detail.starts_with(kind)) else {
        return detail.to_owned();
    };
    // The last one, since the value may have one in it.
    let Some((found, expected)) = detail.rsplit_once(", expected ") else {
        return kind.trim_end().to_owned();
    };
    let found = &found[..found.find(['"', '`']).unwrap_or(found.len())];
    format!("{}, expected {}", found.trim_end(), plainly(expected))
}

/// A decoder's message in the words of whoever wrote the value, who knows nothing of the types in the code:
/// `expected u8` becomes `expected a whole number from 0 to 255`.
#[must_use]
pub fn in_plain_words(detail: &str) -> String {
    match detail {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "has to be a whole number".to_owned()
        }
        "number too large to fit in target type" => "is too large".to_owned(),
        "provided string was not `true` or `false`" => "has to be `true` or `false`".to_owned(),
        _ => match detail.rsplit_once(", expected ") {
            Some((found, expected)) => format!("{found}, expected {}", plainly(expected)),
            None => detail.to_owned(),
        },
    }
}

fn plainly(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i8" => "a whole number from -128 to 127",
        "i16" => "a whole number from -32768 to 32767",
        "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "`true` or `false`",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Lax {
        #[expect(dead_code, reason = "decoded to be refused")]
        pool: Pool,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pool {
        #[expect(dead_code, reason = "decoded to be refused")]
        size: u8,
    }

    #[test]
    fn names_the_path_of_what_is_wrong() {
        for (value, expected) in [
            (
                json!({"pool": {"size": "x"}}),
                "`pool.size`: invalid type: string, expected a whole number from 0 to 255",
            ),
            (
                json!({"pool": {"size": 300}}),
                "`pool.size`: invalid value: integer, expected a whole number from 0 to 255",
            ),
            (json!({"pool": {"size": 1, "sise": 2}}), "`pool.sise`: unknown key"),
            (json!({"pool": {"size": 1}, "x": 2}), "`x`: unknown key"),
            (json!({"pool": {}}), "`pool`: missing field `size`"),
            (json!({}), "``: missing field `pool`"),
        ] {
            assert_eq!(decode::<Lax>(&value).unwrap_err().to_string(), expected);
        }
        let error = decode::<Lax>(&json!({"pool": {}})).unwrap_err().under("plugins.p");
        assert_eq!(error.path(), "plugins.p.pool");
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "decoded to be refused")]
    struct Guarded {
        #[serde(default)]
        tokens: Vec<crate::Secret>,
        #[serde(default)]
        mode: Option<Mode>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        Plain,
    }

    #[test]
    fn promise_9_an_error_quotes_no_value() {
        for value in [
            json!({"tokens": "hunter2"}),
            json!({"tokens": "a, expected \"hunter2`, expected"}),
            json!({"tokens": {"hunter2": "hunter2"}}),
            json!({"tokens": ["x", ["hunter2"]]}),
            json!({"mode": "hunter2"}),
            json!("hunter2"),
        ] {
            let error = decode::<Guarded>(&value).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = decode::<Guarded>(&json!({"tokens": 7_654_321})).unwrap_err().to_string();
        assert_eq!(error, "`tokens`: invalid type: integer, expected a list");
        let error = decode::<Guarded>(&json!({"mode": "plian"})).unwrap_err().to_string();
        assert_eq!(error, "`mode`: unknown variant, expected `plain`");
    }

    #[test]
    fn the_path_of_an_unknown_key_is_that_of_a_wrong_value() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "decoded to be refused")]
        struct Nested {
            #[serde(default)]
            pool: Option<Inner>,
            #[serde(default)]
            nodes: Vec<Inner>,
        }
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "decoded to be refused")]
        struct Inner {
            size: Option<u8>,
        }
        for (value, path) in [
            (json!({"pool": {"sise": 1}}), "pool.sise"),
            (json!({"pool": {"size": "x"}}), "pool.size"),
            (json!({"nodes": [{}, {"sise": 1}]}), "nodes[1].sise"),
            (json!({"nodes": [{}, {"size": "x"}]}), "nodes[1].size"),
        ] {
            assert_eq!(decode::<Nested>(&value).unwrap_err().path(), path);
        }
    }
}
