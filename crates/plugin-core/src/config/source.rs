//! Where layers come from: the port, and the sources that every process has.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{ConfigError, Layer};

/// A source of one layer of configuration.
#[async_trait]
pub trait ConfigSource: Send + Sync + 'static {
    /// What the source calls itself, such as the file's path.
    fn name(&self) -> String;

    /// The layer that it fills.
    fn layer(&self) -> Layer;

    /// All its values now.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it cannot be read; what was in force before stays in force.
    async fn load(&self) -> Result<Map<String, Value>, ConfigError>;

    /// Waits until the values may have changed since the last [`load`](ConfigSource::load). A source that
    /// does not change waits for ever.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// A TOML file.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
    required: bool,
}

impl FileSource {
    /// A file that has to be there.
    pub fn required(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), required: true }
    }

    /// A file that may be absent, and then has no values.
    pub fn optional(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), required: false }
    }
}

#[async_trait]
impl ConfigSource for FileSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn layer(&self) -> Layer {
        Layer::File
    }

    async fn load(&self) -> Result<Map<String, Value>, ConfigError> {
        let refused = |detail: String| ConfigError::Unreadable { origin: self.name(), detail };
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.required => {
                return Ok(Map::new());
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| refused(error.to_string().trim_end().to_owned()))
    }
}

/// Environment variables: `GANTRY__SECTION__KEY`, and the short names that the host knows.
///
/// A value is read as a number, `true` or `false`, or JSON where it looks like it (`[1, 2]`, `"12"`), and
/// as text otherwise. Under `plugins`, a plugin's name has `_` for `-`:
/// `GANTRY__PLUGINS__REDIS_CLUSTER__ADDRESS`.
#[derive(Debug, Clone)]
pub struct EnvSource {
    variables: Vec<(String, String)>,
    short: Vec<(&'static str, &'static str)>,
}

impl EnvSource {
    /// The variables given, as a rule `std::env::vars()`, with short names for paths: `("HTTP_PORT",
    /// "plugins.http.port")`. Where both are set the long name prevails; of two short names for a path, the
    /// first.
    pub fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        short: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Self {
        Self { variables: variables.into_iter().collect(), short: short.into_iter().collect() }
    }

    /// The values, without waiting.
    #[must_use]
    pub fn values(&self) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, path) in self.short.iter().rev() {
            let set = self.variables.iter().find(|(key, value)| key == name && !value.is_empty());
            if let Some((_, value)) = set {
                assign(&mut values, path, value);
            }
        }
        for (name, value) in &self.variables {
            let Some(path) = name.strip_prefix("GANTRY__") else { continue };
            let mut keys: Vec<_> = path.split("__").map(str::to_ascii_lowercase).collect();
            if keys.iter().any(String::is_empty) {
                continue;
            }
            if let [section, plugin, ..] = keys.as_mut_slice()
                && section == "plugins"
            {
                *plugin = plugin.replace('_', "-");
            }
            insert(&mut values, keys.into_iter(), scalar(value));
        }
        values
    }
}

#[async_trait]
impl ConfigSource for EnvSource {
    fn name(&self) -> String {
        "environment".to_owned()
    }

    fn layer(&self) -> Layer {
        Layer::Environment
    }

    async fn load(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values())
    }
}

/// Puts a value given as text at a path with dots, read as [`EnvSource`] reads variables.
pub fn assign(values: &mut Map<String, Value>, path: &str, text: &str) {
    insert(values, path.split('.').map(str::to_owned), scalar(text));
}

fn scalar(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Null) | Err(_) => Value::String(text.to_owned()),
        Ok(value) => value,
    }
}

fn insert(values: &mut Map<String, Value>, mut path: impl Iterator<Item = String>, value: Value) {
    let Some(mut key) = path.next() else { return };
    let mut at = values;
    for next in path {
        let table = at.entry(key).or_insert_with(|| Value::Object(Map::new()));
        if !table.is_object() {
            *table = Value::Object(Map::new());
        }
        let Value::Object(map) = table else { return };
        at = map;
        key = next;
    }
    at.insert(key, value);
}

/// What operators set over the management API, kept in one JSON file.
#[derive(Debug, Clone)]
pub struct OverrideFile {
    path: PathBuf,
}

impl OverrideFile {
    /// The file, which need not be there yet; its folder is made when first needed.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes all values: to a new file that is synced and then takes the old one's place, so that a crash
    /// leaves the one or the other.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    ///
    /// Those of the file system; the old file then stands.
    pub fn store(&self, values: &Map<String, Value>) -> std::io::Result<()> {
        use std::io::Write;

        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let fresh = self.path.with_extension("json.new");
        let mut file = open_private(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(values)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

/// Secrets may be among the values, so that the file is its owner's alone.
fn open_private(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[async_trait]
impl ConfigSource for OverrideFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn layer(&self) -> Layer {
        Layer::Api
    }

    async fn load(&self) -> Result<Map<String, Value>, ConfigError> {
        let refused = |detail: String| ConfigError::Unreadable { origin: self.name(), detail };
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_variables_long_and_short() {
        let set = [
            ("HTTP_PORT", "9000"),
            ("APP_ENV", ""),
            ("GO_ENV", "production"),
            ("GANTRY__MANAGER__AUTO_LOAD", "true"),
            ("GANTRY__PLUGINS__REDIS_CLUSTER__PASSWORD", "\"0123\""),
            ("GANTRY__PLUGINS__REDIS_CLUSTER__NODES", "[\"a\", \"b\"]"),
            ("GANTRY__DATA_DIR", "/var/lib/gantry"),
            ("GANTRY____X", "skipped"),
            ("HOME", "/home/ada"),
        ];
        let variables = set.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let short = [("HTTP_PORT", "plugins.http.port"), ("APP_ENV", "env"), ("GO_ENV", "env")];
        assert_eq!(
            Value::Object(EnvSource::new(variables, short).values()),
            json!({
                "env": "production",
                "data_dir": "/var/lib/gantry",
                "manager": {"auto_load": true},
                "plugins": {
                    "http": {"port": 9000},
                    "redis-cluster": {"password": "0123", "nodes": ["a", "b"]},
                },
            })
        );
    }

    #[tokio::test]
    async fn a_file_is_toml_and_says_where_it_is_not() {
        let folder = std::env::temp_dir().join(format!("gantry-source-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("gantry.toml");
        assert!(FileSource::required(&path).load().await.is_err());
        assert!(FileSource::optional(&path).load().await.unwrap().is_empty());
        std::fs::write(&path, "[manager]\nauto_load = true\n").unwrap();
        let values = FileSource::required(&path).load().await.unwrap();
        assert_eq!(Value::Object(values), json!({"manager": {"auto_load": true}}));
        std::fs::write(&path, "[manager\n").unwrap();
        let error = FileSource::required(&path).load().await.unwrap_err().to_string();
        assert!(error.contains("gantry.toml") && error.contains("line 1"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn what_operators_set_is_kept_and_private() {
        let folder = std::env::temp_dir().join(format!("gantry-overrides-{}", std::process::id()));
        let file = OverrideFile::new(folder.join("data/overrides.json"));
        assert!(file.load().await.unwrap().is_empty());
        let values: Map<_, _> = [("a".to_owned(), json!({"b": 1}))].into_iter().collect();
        file.store(&values).unwrap();
        assert_eq!(file.load().await.unwrap(), values);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(&file.path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
