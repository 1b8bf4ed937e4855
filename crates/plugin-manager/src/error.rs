//! Why an operation on plugins was not done.

use std::time::Duration;

use plugin_core::{Action, ConfigError, LoadError, PluginName, State};
use registry::{DependencyProblem, RegistryError};
use runtime::format_duration;

/// Why an operation on a plugin was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// There is no such plugin.
    #[error("plugin `{0}` is unknown")]
    NotFound(String),
    /// The name is taken.
    #[error("plugin `{0}` is there already")]
    Conflict(PluginName),
    /// The lifecycle does not allow it now.
    #[error("plugin `{name}` is {state}, which does not allow `{}`", action_name(*.action))]
    InvalidTransition {
        /// The plugin.
        name: PluginName,
        /// Its state.
        state: State,
        /// What was asked for.
        action: Action,
    },
    /// The configuration is another than the caller has seen.
    #[error("the configuration of plugin `{0}` has changed")]
    ConfigChanged(PluginName),
    /// Others use the plugin, and the cascade was not asked for.
    #[error("plugin `{name}` is used by {}", join(.dependents))]
    HasDependents {
        /// The plugin.
        name: PluginName,
        /// Who uses it, directly.
        dependents: Vec<PluginName>,
    },
    /// Dependencies are missing, do not fit, or go in a circle.
    #[error("{}", join_problems(.0))]
    DependencyProblem(Vec<DependencyProblem>),
    /// Dependencies do not run, and will not by themselves.
    #[error("plugin `{name}` waits for {}", join(.waiting_for))]
    DependenciesDown {
        /// The plugin.
        name: PluginName,
        /// The dependencies.
        waiting_for: Vec<PluginName>,
    },
    /// The configuration is wrong; nothing has changed.
    #[error(transparent)]
    InvalidConfig(#[from] ConfigError),
    /// The plugin did not take the configuration. The one before is in force, unless the text says otherwise.
    #[error("configure plugin `{name}`: {reason}")]
    ConfigFailed {
        /// The plugin.
        name: PluginName,
        /// What failed.
        reason: String,
    },
    /// What an operator set could not be kept on disk; nothing has changed.
    #[error("keep the configuration of plugin `{name}`")]
    NotKept {
        /// The plugin.
        name: PluginName,
        /// The file system's reason.
        #[source]
        source: std::io::Error,
    },
    /// No loader could make the plugin.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What the plugin declares cannot be.
    #[error("manifest of plugin `{name}`: {detail}")]
    InvalidManifest {
        /// The plugin.
        name: PluginName,
        /// What is wrong.
        detail: String,
    },
    /// A request asks for what cannot be.
    #[error("{field}: {detail}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The plugin's own code failed; it is `failed` now, unless the text says otherwise.
    #[error("{} plugin `{name}`: {reason}", action_name(*.action))]
    Failed {
        /// The plugin.
        name: PluginName,
        /// What was to be done.
        action: Action,
        /// Why it was not.
        reason: String,
    },
    /// The plugin's own code took too long, or blocks still.
    #[error("{} plugin `{name}`: deadline of {} exceeded", action_name(*.action), format_duration(*.limit))]
    DeadlineExceeded {
        /// The plugin.
        name: PluginName,
        /// What was to be done.
        action: Action,
        /// The time that it had.
        limit: Duration,
    },
    /// The new version cannot take the old one's place. The old one runs.
    #[error("swap plugin `{name}`: {reason}")]
    SwapRefused {
        /// The plugin.
        name: PluginName,
        /// Why not.
        reason: String,
    },
    /// The new version failed before it took over. The old one runs, unless the text says otherwise.
    #[error("swap plugin `{name}`: {reason}")]
    SwapFailed {
        /// The plugin.
        name: PluginName,
        /// What failed.
        reason: String,
    },
    /// The operation would cut off the connection that asked for it, and was not forced.
    #[error("plugin `{0}` carries this request")]
    CarriesRequest(PluginName),
    /// Too many operations on the plugin wait already.
    #[error("plugin `{0}` is busy")]
    Busy(PluginName),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    ShuttingDown,
}

impl From<RegistryError> for ManagerError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Exists(name) => Self::Conflict(name),
            RegistryError::Unknown(name) => Self::NotFound(name),
            RegistryError::InvalidTransition { name, state, action } => {
                Self::InvalidTransition { name, state, action }
            }
        }
    }
}

pub(crate) fn action_name(action: Action) -> &'static str {
    match action {
        Action::Register => "register",
        Action::Initialize => "initialize",
        Action::Start => "start",
        Action::Stop => "stop",
        Action::Unload => "unload",
        Action::Done => "done",
        Action::Fail => "fail",
        Action::GiveUp => "give_up",
    }
}

fn join(names: &[PluginName]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn join_problems(problems: &[DependencyProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
