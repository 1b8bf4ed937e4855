//! Where layers come from: the port, and the sources that every process has.

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Map, Number, Value};

use super::decode::without_value;
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

/// A TOML file. A date or a time in it is a text, as in JSON.
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
        let table: toml::Table = toml::from_str(&text).map_err(|error| refused(position(&text, &error)))?;
        table_to_json(table, &mut Vec::new())
    }
}

/// Where and why the text is no TOML. Not the error's own text, which quotes the line: it may hold a secret.
fn position(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message.to_owned();
    };
    let (line, column) =
        (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
    format!("line {line}, column {column}: {message}")
}

fn table_to_json(table: toml::Table, path: &mut Vec<String>) -> Result<Map<String, Value>, ConfigError> {
    let mut map = Map::new();
    for (key, value) in table {
        path.push(key.clone());
        map.insert(key, to_json(value, path)?);
        path.pop();
    }
    Ok(map)
}

fn to_json(value: toml::Value, path: &mut Vec<String>) -> Result<Value, ConfigError> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| ConfigError::invalid(path.join("."), "is no finite number"))?,
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(|item| to_json(item, path)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => Value::Object(table_to_json(table, path)?),
    })
}

/// Environment variables: `GANTRY__SECTION__KEY`, and the short names that the host knows.
///
/// A value is read as a number, `true` or `false`, or JSON where it looks like it (`[1, 2]`, `"12"`), and
/// as text otherwise; so is a number that would not be written the same way again (`1e5`, `1.10`), since it
/// may be a password. Of two variables where one names a table that holds the other's key, the longer
/// prevails. Under `plugins`, a plugin's name has `_` for `-`:
/// `GANTRY__PLUGINS__REDIS_CLUSTER__ADDRESS`.
#[derive(Clone)]
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
        let mut variables: Vec<_> = variables.into_iter().collect();
        // `A` before `A__B`, whatever order the process was given them in.
        variables.sort();
        Self { variables, short: short.into_iter().collect() }
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
            if let Some(Ok(keys)) = keys_of(name) {
                insert(&mut values, keys.into_iter(), scalar(value));
            }
        }
        values
    }

    /// The variable that the value at a path, or a part of it, comes from.
    #[must_use]
    pub fn variable(&self, path: &[&str]) -> Option<&str> {
        let covers = |keys: &[String]| keys.iter().zip(path).all(|(key, at)| key == at);
        let mut long =
            self.variables.iter().filter(|(name, _)| matches!(keys_of(name), Some(Ok(k)) if covers(&k)));
        let set = |name: &str| self.variables.iter().any(|(key, value)| key == name && !value.is_empty());
        let short = self.short.iter().find(|(name, at)| *at == path.join(".") && set(name));
        // The longer of two prevails, and all of them over a short name.
        long.next_back().map(|(name, _)| name.as_str()).or(short.map(|(name, _)| *name))
    }

    /// The variables that begin as settings do and name none.
    pub fn misnamed(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| matches!(keys_of(name), Some(Err(_))))
    }
}

/// The name has a part that is empty.
struct EmptyPart;

/// The path that a variable names, if it is named as one for a setting.
fn keys_of(variable: &str) -> Option<Result<Vec<String>, EmptyPart>> {
    let path = variable.strip_prefix("GANTRY__")?;
    let mut keys: Vec<_> = path.split("__").map(str::to_ascii_lowercase).collect();
    if keys.iter().any(String::is_empty) {
        return Some(Err(EmptyPart));
    }
    if let [section, plugin, ..] = keys.as_mut_slice()
        && section == "plugins"
    {
        *plugin = plugin.replace('_', "-");
    }
    Some(Ok(keys))
}

impl fmt::Debug for EnvSource {
    // Without the values: there are secrets among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSource").field("short", &self.short).finish_non_exhaustive()
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
        Ok(Value::Number(number)) if number.to_string() != text => Value::String(text.to_owned()),
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

        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
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
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| refused(without_value(&error.to_string())))
            }
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
            ("HOME", "/var/empty"),
        ];
        let variables = set.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let short = [("HTTP_PORT", "plugins.http.port"), ("APP_ENV", "env"), ("GO_ENV", "env")];
        let source = EnvSource::new(variables, short);
        for (path, variable) in [
            (&["plugins", "http", "port"][..], Some("HTTP_PORT")),
            (&["env"], Some("GO_ENV")),
            (&["manager", "auto_load"], Some("GANTRY__MANAGER__AUTO_LOAD")),
            (&["plugins", "redis-cluster", "nodes"], Some("GANTRY__PLUGINS__REDIS_CLUSTER__NODES")),
            (&["node"], None),
        ] {
            assert_eq!(source.variable(path), variable, "{path:?}");
        }
        assert_eq!(source.misnamed().collect::<Vec<_>>(), ["GANTRY____X"]);
        assert_eq!(
            Value::Object(source.values()),
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

    #[tokio::test]
    async fn a_file_says_what_json_can() {
        let path = std::env::temp_dir().join(format!("gantry-values-{}.toml", std::process::id()));
        std::fs::write(&path, "[a]\nat = 2026-03-01T12:00:00Z\nlist = [{ x = 1.5 }]\n").unwrap();
        let values = FileSource::required(&path).load().await.unwrap();
        assert_eq!(Value::Object(values), json!({"a": {"at": "2026-03-01T12:00:00Z", "list": [{"x": 1.5}]}}));
        std::fs::write(&path, "[a]\nratio = nan\n").unwrap();
        let error = FileSource::required(&path).load().await.unwrap_err().to_string();
        assert_eq!(error, "`a.ratio`: is no finite number");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn promise_9_a_file_that_cannot_be_read_is_not_quoted() {
        let path = std::env::temp_dir().join(format!("gantry-secrets-{}.toml", std::process::id()));
        for (text, place) in [
            ("a = 1\npassword = \"hunter2\n", "line 2, column "),
            ("a = 1\npassword = hunter2\n", "line 2, column "),
            ("password = \"hunter2\" x\n", "line 1, column "),
            ("password = 'ä' hunter2", "line 1, column "),
            ("password = \"\\hunter2\"\n", "line 1, column "),
            ("password = \"hunter2\"\npassword = \"hunter2\"\n", "line 2, column "),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = FileSource::required(&path).load().await.unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains(place), "{error}");
            let error = OverrideFile::new(&path).load().await.unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        std::fs::write(&path, "\"hunter2\"").unwrap();
        let error = OverrideFile::new(&path).load().await.unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let environment = EnvSource::new([("GANTRY__A".to_owned(), "hunter2".to_owned())], []);
        assert!(!format!("{environment:?}").contains("hunter2"));
    }

    #[test]
    fn a_password_that_looks_like_a_number_stays_what_it_is() {
        for password in ["1e5", "1.10", "0123", "12345678901234567890123", "-0", " 7 ", "NaN"] {
            assert_eq!(scalar(password), json!(password));
        }
        assert_eq!((scalar("12"), scalar("1.5"), scalar("-3")), (json!(12), json!(1.5), json!(-3)));
    }

    #[test]
    fn the_order_of_variables_makes_no_difference() {
        let set = [("GANTRY__A__B", "2"), ("GANTRY__A", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(Value::Object(EnvSource::new(set, []).values()), json!({"a": {"b": 2}}));
    }

    #[test]
    fn a_file_without_a_folder_is_in_this_one() {
        let name = format!("gantry-overrides-{}.json", std::process::id());
        let stored = OverrideFile::new(&name).store(&Map::new());
        std::fs::remove_file(&name).unwrap();
        stored.unwrap();
    }
}
