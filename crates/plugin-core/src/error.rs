//! What can go wrong for a plugin.

use std::fmt;

use crate::{ConfigError, PluginName};

/// An error of any kind, as plugins' dependencies bring them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a plugin's own operation failed.
///
/// Anything that is an error turns into it with `?`; [`PluginError::new`] makes one from a text.
pub struct PluginError(BoxError);

impl PluginError {
    /// An error that says `message`: a lowercase fragment without a period.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// The error and what caused it, in one line: `a: b: c`.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// The error inside.
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}

impl fmt::Debug for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PluginError({:?})", self.chain())
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

// `PluginError` is no `std::error::Error` itself: that is what lets every error turn into it by `?`.
impl<E: Into<BoxError>> From<E> for PluginError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Why something could not be registered through a context.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The manifest does not declare it, or the host has not granted it.
    #[error("permission `{0}` is not granted")]
    NotPermitted(String),
    /// Services, routes, middleware, executors and tasks are registered in `start`, and nowhere else.
    #[error("`{what}` can only be registered during start")]
    NotStarting {
        /// What was to be registered.
        what: String,
    },
    /// The context belongs to an incarnation that has been stopped.
    #[error("the context is closed: its plugin has been stopped")]
    Closed,
    /// The same was registered before, by this plugin or by another.
    #[error("`{what}` is registered already{}", by_whom(.by.as_ref()))]
    Duplicate {
        /// What was to be registered.
        what: String,
        /// Who has it, where it is another plugin.
        by: Option<PluginName>,
    },
    /// What was given cannot be registered.
    #[error("`{field}`: {detail}")]
    Invalid {
        /// What is wrong.
        field: String,
        /// Why.
        detail: String,
    },
    /// The event bus refused a subscription.
    #[error("subscribe")]
    Subscribe(#[source] BoxError),
}

fn by_whom(by: Option<&PluginName>) -> String {
    by.map_or_else(String::new, |name| format!(" by `{name}`"))
}

/// Why a service cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No running plugin offers a service of this name and type.
    #[error("no service `{name}` of type `{type_name}`")]
    Absent {
        /// The service's name.
        name: String,
        /// The type that was asked for.
        type_name: &'static str,
    },
    /// Its plugin is stopped, restarting or gone. Ask again later.
    #[error("service `{name}` of plugin `{provider}` is unavailable")]
    Unavailable {
        /// The service's name.
        name: String,
        /// The plugin that offers it.
        provider: PluginName,
    },
    /// The manifest does not declare its use, or the host has not granted it.
    #[error("permission `{0}` is not granted")]
    NotPermitted(String),
}

impl From<ConfigError> for RegisterError {
    fn from(error: ConfigError) -> Self {
        let (field, detail) = match error {
            ConfigError::Invalid { path, detail } => (path, detail),
            ConfigError::Unknown { path } => (path, "unknown key".to_owned()),
            ConfigError::Unreadable { origin, detail } => (origin, detail),
        };
        Self::Invalid { field, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_each_cause_once() {
        let error: PluginError = RegisterError::Subscribe("bus is shut down".into()).into();
        assert_eq!(error.chain(), "subscribe: bus is shut down");
        assert_eq!(PluginError::new("bad").to_string(), "bad");
    }

    #[test]
    fn a_configuration_error_keeps_its_text() {
        for error in [ConfigError::invalid("a.b", "too big"), ConfigError::Unknown { path: "a".to_owned() }] {
            assert_eq!(RegisterError::from(error.clone()).to_string(), error.to_string());
        }
    }
}
