//! The port through which plugins come into a host.

use std::sync::Arc;

use async_trait::async_trait;
use semver::VersionReq;
use serde::{Deserialize, Serialize};

use crate::{BoxError, Manifest, Plugin, PluginName};

/// Where to take a plugin from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSource {
    /// The type that the factory knows, or the reference of a package.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The versions that will do; the newest of them is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionReq>,
    /// The name of the instance, where it is not to be the type's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PluginName>,
}

/// A kind of plugin that a loader can make.
#[derive(Debug, Clone)]
pub struct PluginType {
    /// The name to ask for it by.
    pub type_name: String,
    /// What an instance declares, under the type's own name.
    pub manifest: Manifest,
    /// Which loader has it.
    pub loader: String,
}

/// Why a plugin could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No loader knows the type.
    #[error("plugin type `{0}` is unknown")]
    UnknownType(String),
    /// The type is known, but in no version that will do.
    #[error("plugin type `{type_name}` is there in {}, and none fits `{requirement}`", .available.join(", "))]
    NoVersion {
        /// The type.
        type_name: String,
        /// What was asked for.
        requirement: VersionReq,
        /// What is there.
        available: Vec<String>,
    },
    /// The loader found it and could not make it.
    #[error("load plugin type `{type_name}`")]
    Failed {
        /// The type.
        type_name: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// A source of plugins: the factory of what is compiled in, or packages.
#[async_trait]
pub trait PluginLoader: Send + Sync + 'static {
    /// The loader's own name, such as `factory`.
    fn name(&self) -> &str;

    /// What it can make.
    fn types(&self) -> Vec<PluginType>;

    /// Makes a plugin. Nothing of it runs yet.
    ///
    /// # Errors
    ///
    /// [`LoadError::UnknownType`] if another loader should be asked.
    async fn load(&self, source: &PluginSource) -> Result<Arc<dyn Plugin>, LoadError>;
}
