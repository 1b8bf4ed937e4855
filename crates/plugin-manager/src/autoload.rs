//! The watched folder of definition files.

use plugin_core::PluginName;
use semver::VersionReq;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::RestartPolicy;

/// A definition file: one plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The type that a factory knows.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The plugin's name, where it is not to be the type's own.
    #[serde(default)]
    pub name: Option<PluginName>,
    /// The versions that will do; the newest of them is taken.
    #[serde(default)]
    pub version: Option<VersionReq>,
    /// Its configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Whether it is there at all. Default `true`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What happens when it fails.
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
}

fn yes() -> bool {
    true
}

/// A definition file and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DefinitionView {
    /// The file's name.
    pub file: String,
    /// The plugin that is there because of it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub plugin: Option<PluginName>,
    /// Why it is not in force as it stands.
    pub error: Option<String>,
}
