//! What a plugin declares about itself.

use std::fmt;

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use crate::{ConfigSpec, InvalidName, InvalidPermission, Permission, PluginName};

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginKind {
    /// Offers services to other plugins.
    Service,
    /// Wraps routes.
    Middleware,
    /// Carries requests or events in from outside.
    Transport,
    /// None of these in particular.
    #[default]
    Plain,
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "service",
            Self::Middleware => "middleware",
            Self::Transport => "transport",
            Self::Plain => "plain",
        })
    }
}

/// How far a dependency has to be before its dependent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// Running and ready: its server answers.
    #[default]
    Ready,
    /// Running is enough, even while its server is away.
    Running,
}

/// Whether a new version of a plugin can stand beside the old one during a swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapMode {
    /// Both run for a moment; no request waits.
    #[default]
    Beside,
    /// It holds something that only one can hold: the old one stops first, and requests wait meanwhile.
    Exclusive,
}

/// Another plugin that has to run for this one to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Its name.
    pub name: PluginName,
    /// The versions that will do.
    pub version: VersionReq,
    /// How far it has to be.
    #[serde(default)]
    pub needs: Needs,
    /// Whether this one runs without it where the host does not have it.
    #[serde(default)]
    pub optional: bool,
}

/// Name, version and needs of a plugin.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The plugin's name, unique in its host.
    pub name: PluginName,
    /// Its semantic version.
    pub version: Version,
    /// What it is for, in a sentence.
    pub description: String,
    /// What kind of plugin it is.
    pub kind: PluginKind,
    /// The plugins that it needs.
    pub dependencies: Vec<Dependency>,
    /// What it asks to be allowed.
    pub permissions: Vec<Permission>,
    /// Its configuration's schema and check, if it takes one.
    pub config: Option<ConfigSpec>,
    /// Whether two versions can stand side by side.
    pub swap: SwapMode,
}

/// Why a manifest cannot be.
#[derive(Debug, thiserror::Error)]
pub enum InvalidManifest {
    /// The name is none.
    #[error("name")]
    Name(#[from] InvalidName),
    /// The version is not a semantic version.
    #[error("version `{text}`")]
    Version {
        /// What was given.
        text: String,
        /// Why not.
        #[source]
        source: semver::Error,
    },
    /// A permission cannot be read.
    #[error("permissions")]
    Permission(#[from] InvalidPermission),
    /// The plugin names itself among its dependencies.
    #[error("plugin `{0}` depends on itself")]
    SelfDependency(PluginName),
    /// A dependency is named twice.
    #[error("dependency `{0}` is declared twice")]
    DuplicateDependency(PluginName),
}

impl Manifest {
    /// A plain plugin with no needs.
    ///
    /// # Errors
    ///
    /// If the name or the version is none.
    pub fn new(name: &str, version: &str) -> Result<Self, InvalidManifest> {
        Ok(Self {
            name: PluginName::new(name)?,
            version: parse_version(version)?,
            description: String::new(),
            kind: PluginKind::default(),
            dependencies: Vec::new(),
            permissions: Vec::new(),
            config: None,
            swap: SwapMode::default(),
        })
    }

    /// Says what it is for.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// Says what kind it is.
    #[must_use]
    pub fn kind(mut self, kind: PluginKind) -> Self {
        self.kind = kind;
        self
    }

    /// Adds a dependency that has to be ready, such as `("redis-cluster", "^1.2")`.
    ///
    /// # Errors
    ///
    /// If the name or the requirement is none.
    pub fn depends_on(self, name: &str, version: &str) -> Result<Self, InvalidManifest> {
        let version = VersionReq::parse(version)
            .map_err(|source| InvalidManifest::Version { text: version.to_owned(), source })?;
        Ok(self.dependency(Dependency {
            name: PluginName::new(name)?,
            version,
            needs: Needs::Ready,
            optional: false,
        }))
    }

    /// Adds a dependency in full.
    #[must_use]
    pub fn dependency(mut self, dependency: Dependency) -> Self {
        self.dependencies.push(dependency);
        self
    }

    /// Adds a permission, such as `service:use:redis-cluster`.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn permission(mut self, permission: &str) -> Result<Self, InvalidManifest> {
        self.permissions.push(permission.parse()?);
        Ok(self)
    }

    /// Declares its configuration: see [`ConfigSpec::of`].
    #[must_use]
    pub fn config(mut self, spec: ConfigSpec) -> Self {
        self.config = Some(spec);
        self
    }

    /// Says whether two versions can stand side by side.
    #[must_use]
    pub fn swap(mut self, mode: SwapMode) -> Self {
        self.swap = mode;
        self
    }

    /// Checks what the types alone do not: that dependencies are distinct and others.
    ///
    /// # Errors
    ///
    /// If the plugin depends on itself or names a dependency twice.
    pub fn check(&self) -> Result<(), InvalidManifest> {
        for (i, dependency) in self.dependencies.iter().enumerate() {
            if dependency.name == self.name {
                return Err(InvalidManifest::SelfDependency(self.name.clone()));
            }
            if self.dependencies[..i].iter().any(|other| other.name == dependency.name) {
                return Err(InvalidManifest::DuplicateDependency(dependency.name.clone()));
            }
        }
        Ok(())
    }
}

fn parse_version(text: &str) -> Result<Version, InvalidManifest> {
    Version::parse(text).map_err(|source| InvalidManifest::Version { text: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be() {
        assert!(matches!(Manifest::new("A", "1.0.0"), Err(InvalidManifest::Name(_))));
        assert!(matches!(Manifest::new("a", "1"), Err(InvalidManifest::Version { .. })));
        let a = || Manifest::new("a", "1.0.0").unwrap();
        assert!(matches!(a().depends_on("b", "one"), Err(InvalidManifest::Version { .. })));
        assert!(matches!(a().permission("x"), Err(InvalidManifest::Permission(_))));
        assert!(matches!(a().depends_on("a", "*").unwrap().check(), Err(InvalidManifest::SelfDependency(_))));
        let twice = a().depends_on("b", "*").unwrap().depends_on("b", "^1").unwrap();
        assert!(matches!(twice.check(), Err(InvalidManifest::DuplicateDependency(_))));
        assert!(a().depends_on("b", "^1.2").unwrap().check().is_ok());
    }
}
