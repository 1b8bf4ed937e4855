//! The host's configuration: its sections, where they come from, and whether they are right.

use std::path::PathBuf;

use anyhow::{Context, bail};
use http_api::HttpConfig;
use plugin_core::{
    ConfigError, ConfigSource, EnvSource, FileSource, Layer, OverrideFile, Settings, assign, decode,
};
use plugin_manager::ManagerConfig;
use scheduler::SchedulerConfig;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use telemetry::{LogFilter, LogFormat};

use crate::flags::Flags;
use crate::wiring::HTTP;

/// Environment variables with a name of their own.
const SHORT_NAMES: [(&str, &str); 5] = [
    ("APP_ENV", "env"),
    ("GO_ENV", "env"),
    ("LOG_LEVEL", "log.level"),
    ("HTTP_PORT", "plugins.http.port"),
    ("HTTP_HOST", "plugins.http.host"),
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
    pub(crate) manager: ManagerConfig,
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
            manager: ManagerConfig::default(),
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

/// Reads all layers and checks the host's part.
pub(crate) async fn load(
    flags: &Flags,
    variables: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Loaded> {
    let mut settings = Settings::new();
    settings.set_layer(Layer::Default, "built in", defaults()?);
    let file = match &flags.config {
        Some(path) => FileSource::required(path),
        None => FileSource::optional("gantry.toml"),
    };
    for source in [&file as &dyn ConfigSource, &EnvSource::new(variables, SHORT_NAMES)] {
        let values = source.load().await.context("read the configuration")?;
        settings.set_layer(source.layer(), source.name(), short_sections(values)?);
    }
    settings.set_layer(Layer::Flag, "command line", short_sections(flag_values(flags))?);

    // What operators set stands below the environment, but the folder that it is in is a setting itself.
    let data_dir = decode_host(&settings)?.data_dir;
    if data_dir.as_os_str().is_empty() {
        return Err(ConfigError::invalid("data_dir", "is empty").into());
    }
    let overrides = OverrideFile::new(data_dir.join("config.json"));
    let kept = overrides.load().await.context("read the settings that operators made")?;
    settings.set_layer(Layer::Api, overrides.name(), kept);

    let host = decode_host(&settings)?;
    if host.node.trim().is_empty() {
        return Err(ConfigError::invalid("node", "is empty").into());
    }
    host.manager.check().map_err(|error| error.under("manager"))?;
    host.log.filter()?;
    host.log.format(host.env)?;
    Ok(Loaded { settings, host, overrides })
}

/// Every setting of what is always there. `apps/server/gantry.toml` says the same to people.
fn defaults() -> anyhow::Result<Map<String, Value>> {
    let host = HostConfig::default();
    let values = json!({
        "env": host.env.as_str(),
        "data_dir": host.data_dir,
        "node": host.node,
        "log": { "level": host.log.level },
        "manager": host.manager,
        "plugins": {
            scheduler::SCHEDULER: SchedulerConfig::default(),
            HTTP: HttpConfig::default(),
        },
    });
    match values {
        Value::Object(values) => Ok(values),
        _ => bail!("the defaults are no table"),
    }
}

fn decode_host(settings: &Settings) -> Result<HostConfig, ConfigError> {
    decode(&settings.effective())
}

fn flag_values(flags: &Flags) -> Map<String, Value> {
    let mut values = Map::new();
    for (key, value) in &flags.set {
        assign(&mut values, key, value);
    }
    if let Some(folder) = &flags.data_dir {
        values.insert("data_dir".to_owned(), Value::String(folder.display().to_string()));
    }
    if let Some(port) = flags.port {
        assign(&mut values, "plugins.http.port", &port.to_string());
    }
    values
}

/// `[scheduler]` is short for `[plugins.scheduler]`: the scheduler is a plugin like any other.
fn short_sections(mut values: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let Some(section) = values.remove("scheduler") else { return Ok(values) };
    let plugins = values.entry("plugins").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(plugins) = plugins
        && plugins.insert("scheduler".to_owned(), section).is_some()
    {
        return Err(ConfigError::invalid("scheduler", "given a second time as `plugins.scheduler`"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    async fn load_with(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Loaded> {
        let flags = Flags::parse_from(std::iter::once(&"gantry-server").chain(arguments));
        load(&flags, variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))).await
    }

    #[tokio::test]
    async fn flags_prevail_over_the_environment_and_that_over_defaults() {
        let variables = [("HTTP_PORT", "9000"), ("GO_ENV", "production"), ("GANTRY__NODE", "n1")];
        let loaded = load_with(&["--port", "9001"], &variables).await.unwrap();
        assert_eq!(loaded.host.plugins["http"]["port"], 9001);
        assert_eq!(loaded.host.env, Environment::Production);
        assert_eq!(loaded.host.node, "n1");
        assert_eq!(loaded.settings.origin(&["node"]).unwrap().layer, Layer::Environment);
    }

    #[tokio::test]
    async fn the_schedulers_section_has_a_short_name() {
        let loaded = load_with(&["--set", "scheduler.auto_start=false"], &[]).await.unwrap();
        assert_eq!(loaded.host.plugins["scheduler"]["auto_start"], false);
        let twice = ["--set", "scheduler.a=1", "--set", "plugins.scheduler.a=1"];
        assert!(load_with(&twice, &[]).await.is_err());
    }

    /// The file that people read has every key, with the default that is in force without it.
    #[tokio::test]
    async fn the_sample_file_says_what_is_built_in() {
        let sample = FileSource::required(concat!(env!("CARGO_MANIFEST_DIR"), "/gantry.toml"));
        let said = short_sections(sample.load().await.unwrap()).unwrap();
        assert_eq!(Value::Object(said), Value::Object(defaults().unwrap()));
    }

    #[tokio::test]
    async fn promise_10_what_is_wrong_is_named() {
        for (arguments, expected) in [
            (["--set", "mangler.auto_load=true"], "`mangler`: unknown"),
            (["--set", "manager.auto_laod=true"], "`manager.auto_laod`: unknown"),
            (["--set", "manager.auto_load=3"], "`manager.auto_load`: "),
            (["--set", "log.level=lout"], "`log.level`: "),
            (["--set", "log.format=xml"], "`log.format`: "),
            (["--set", "env=staging"], "`env`: "),
            (["--set", "node="], "`node`: is empty"),
            (["--set", "data_dir="], "`data_dir`: is empty"),
            (["--set", "manager.drain_deadline=5"], "expected a duration such as `500ms`"),
            (["--config", "absent.toml"], "absent.toml"),
        ] {
            let error = format!("{:#}", load_with(&arguments, &[]).await.unwrap_err());
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
