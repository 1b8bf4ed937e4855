//! The host's configuration: its sections, where they come from, and whether they are right.

mod problems;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use http_api::{HTTP, HttpConfig};
use management::AccessConfig;
use plugin_core::{
    ConfigError, ConfigSource, ConfigSpec, EnvSource, FileSource, Layer, OverrideFile, Settings, assign,
    decode,
};
use plugin_manager::ManagerConfig;
use scheduler::SCHEDULER;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use telemetry::{LogFilter, LogFormat, OTEL_VARIABLES, OtlpConfig};

use self::problems::{Problems, without_problems};
use crate::flags::{Flags, setting};

/// What the flags call themselves as a source.
const COMMAND_LINE: &str = "command line";
const HTTP_PORT: &str = "plugins.http.port";

/// Environment variables with a name of their own.
const SHORT_NAMES: [(&str, &str); 7] = [
    ("APP_ENV", "env"),
    ("GO_ENV", "env"),
    ("LOG_LEVEL", "log.level"),
    ("HTTP_PORT", HTTP_PORT),
    ("HTTP_HOST", "plugins.http.host"),
    ("REDIS_ADDR", "plugins.redis-cluster.address"),
    ("ETCD_ENDPOINTS", "plugins.etcd.endpoints"),
];

/// Everything that can be set, but for the plugins' own sections, which they check themselves.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HostConfig {
    /// `development` or `production`: how logs look.
    pub(crate) env: Environment,
    /// What has to survive a restart.
    pub(crate) data_dir: PathBuf,
    /// This process's name among others, in run records and events.
    pub(crate) node: String,
    pub(crate) log: LogConfig,
    pub(crate) access: AccessConfig,
    pub(crate) manager: ManagerConfig,
    /// Where traces, metrics and logs go.
    pub(crate) telemetry: OtlpConfig,
    /// One section for each plugin.
    pub(crate) plugins: Map<String, Value>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            env: Environment::Development,
            data_dir: PathBuf::from("data"),
            node: "local".to_owned(),
            log: LogConfig::default(),
            access: AccessConfig::default(),
            manager: ManagerConfig::default(),
            telemetry: OtlpConfig::default(),
            plugins: Map::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Environment {
    Development,
    Production,
}

impl Environment {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// A level, or levels by target: `info,scheduler=debug`.
    level: String,
    /// `pretty` or `json`; by the environment where it is not said.
    format: Option<String>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: None }
    }
}

impl LogConfig {
    pub(crate) fn filter(&self) -> Result<LogFilter, ConfigError> {
        self.level.parse().map_err(|error| ConfigError::invalid("log.level", format!("{error}")))
    }

    pub(crate) fn format(&self, env: Environment) -> Result<LogFormat, ConfigError> {
        match &self.format {
            None => Ok(LogFormat::for_environment(env.as_str())),
            Some(format) => {
                format.parse().map_err(|error| ConfigError::invalid("log.format", format!("{error}")))
            }
        }
    }
}

/// The layers, and the host's part of them decoded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) host: HostConfig,
    /// Where values that operators set are kept.
    pub(crate) overrides: OverrideFile,
}

/// Reads all layers and checks them, the plugins' sections by what each plugin takes.
///
/// # Errors
///
/// [`Problems`] with everything that is wrong.
pub(crate) async fn load(
    flags: &Flags,
    variables: impl IntoIterator<Item = (String, String)>,
    sections: &BTreeMap<String, Option<ConfigSpec>>,
) -> anyhow::Result<Loaded> {
    let environment = EnvSource::new(variables, SHORT_NAMES.iter().chain(OTEL_VARIABLES).copied());
    let mut problems = Problems::new(&environment, flags);
    let mut settings = Settings::new();
    settings.set_layer(Layer::Default, "built in", defaults()?);
    let file = match &flags.config {
        Some(path) => FileSource::required(path),
        None => FileSource::optional("gantry.toml"),
    };
    for source in [&file as &dyn ConfigSource, &environment] {
        let values = source.load().await.and_then(short_sections);
        let values = problems.note(&source.name(), values).unwrap_or_default();
        settings.set_layer(source.layer(), source.name(), values);
    }
    for variable in environment.misnamed() {
        problems.add(variable, "the name has a part that is empty");
    }
    let values = flag_values(flags, &mut problems);
    let values = problems.note(COMMAND_LINE, short_sections(values)).unwrap_or_default();
    settings.set_layer(Layer::Flag, COMMAND_LINE, values);

    // What operators set stands below the environment, but the folder that it is in is a setting itself.
    let data_dir = read_host(&without_problems(&settings, read_host)).map(|host| host.data_dir);
    let overrides = OverrideFile::new(data_dir.unwrap_or_default().join("config.json"));
    if let Some(kept) = problems.note(&overrides.name(), overrides.load().await) {
        settings.set_layer(Layer::Api, overrides.name(), kept);
    }

    let rest = problems.find(settings.clone(), &known_keys(&settings, sections), |rest| {
        let host = read_host(rest)?;
        check_sections(rest, sections)?;
        check_exposure(rest, &host)
    });
    problems.none()?;
    Ok(Loaded { host: read_host(&rest)?, settings, overrides })
}

/// The host's part of the layers, whose values are within their bounds.
fn read_host(settings: &Settings) -> Result<HostConfig, ConfigError> {
    let host: HostConfig = decode(&settings.effective())?;
    for (key, is_empty) in
        [("data_dir", host.data_dir.as_os_str().is_empty()), ("node", host.node.trim().is_empty())]
    {
        if is_empty {
            return Err(ConfigError::invalid(key, "is empty"));
        }
    }
    host.manager.check().map_err(|error| error.under("manager"))?;
    host.access.check().map_err(|wrong| ConfigError::invalid(wrong.key, wrong.detail).under("access"))?;
    host.log.filter()?;
    host.log.format(host.env)?;
    host.telemetry
        .check()
        .map_err(|error| ConfigError::invalid(format!("telemetry.{}", error.key), error.detail))?;
    Ok(host)
}

/// Each plugin's section, by what the plugin takes.
fn check_sections(
    settings: &Settings,
    sections: &BTreeMap<String, Option<ConfigSpec>>,
) -> Result<(), ConfigError> {
    let Value::Object(plugins) = settings.section(&["plugins"]) else { return Ok(()) };
    for (name, section) in &plugins {
        let path = format!("plugins.{name}");
        match sections.get(name) {
            Some(Some(spec)) => spec.check(section).map_err(|error| error.under(&path))?,
            Some(None) => return Err(ConfigError::invalid(path, "the plugin takes no configuration")),
            // What an operator said of a plugin that was loaded waits for it to be loaded again.
            None if settings.origin(&["plugins", name]).is_none_or(|of| of.layer == Layer::Api) => {}
            None => return Err(ConfigError::invalid(path, "there is no plugin of this name")),
        }
    }
    Ok(())
}

/// Whether the network would reach a host that asks nobody for credentials.
fn check_exposure(settings: &Settings, host: &HostConfig) -> Result<(), ConfigError> {
    let http: HttpConfig = decode(&settings.section(&["plugins", HTTP]))?;
    let exposed = http.check_exposure(host.access.required);
    exposed.map_err(|wrong| ConfigError::from(wrong).under("plugins.http"))
}

/// Every setting of the host itself; plugins know their own. `apps/server/gantry.toml` says both to people.
fn defaults() -> anyhow::Result<Map<String, Value>> {
    let host = HostConfig::default();
    let values = json!({
        "env": host.env.as_str(),
        "data_dir": host.data_dir,
        "node": host.node,
        "log": { "level": host.log.level },
        "access": host.access,
        "manager": host.manager,
        "telemetry": host.telemetry,
    });
    match values {
        Value::Object(values) => Ok(values),
        _ => bail!("the defaults are no table"),
    }
}

/// Every key that there is, for telling what a wrong one may have been meant for.
fn known_keys(settings: &Settings, sections: &BTreeMap<String, Option<ConfigSpec>>) -> Value {
    let mut known = Settings::new();
    known.set_layer(Layer::Default, "", settings.layer(Layer::Default).cloned().unwrap_or_default());
    known.set_section(Layer::Default, &["log", "format"], Some(Value::Null));
    for (_, key) in OTEL_VARIABLES {
        let path: Vec<&str> = key.split('.').collect();
        if known.origin(&path).is_none() {
            known.set_section(Layer::Default, &path, Some(Value::Null));
        }
    }
    for (name, spec) in sections {
        let properties = spec.as_ref().and_then(|spec| spec.schema().get("properties")?.as_object());
        let keys = properties.into_iter().flat_map(Map::keys).map(|key| (key.clone(), Value::Null));
        known.set_section(Layer::Default, &["plugins", name], Some(Value::Object(keys.collect())));
    }
    known.set_section(Layer::Default, &[SCHEDULER], Some(Value::Null));
    known.effective()
}

fn flag_values(flags: &Flags, problems: &mut Problems<'_>) -> Map<String, Value> {
    let mut values = Map::new();
    for text in &flags.set {
        match setting(text) {
            Ok((key, value)) => assign(&mut values, key, value),
            // Without the text: what stands in the wrong place may be a secret.
            Err(wrong) => problems.add("--set", wrong),
        }
    }
    if let Some(folder) = &flags.data_dir {
        values.insert("data_dir".to_owned(), Value::String(folder.display().to_string()));
    }
    if let Some(port) = flags.port {
        assign(&mut values, HTTP_PORT, &port.to_string());
    }
    values
}

/// `[scheduler]` is short for `[plugins.scheduler]`: the scheduler is a plugin like any other.
fn short_sections(mut values: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let Some(section) = values.remove(SCHEDULER) else { return Ok(values) };
    let plugins = values.entry("plugins").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(plugins) = plugins
        && plugins.insert(SCHEDULER.to_owned(), section).is_some()
    {
        return Err(ConfigError::invalid(SCHEDULER, "given a second time as `plugins.scheduler`"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
