//! What can go wrong, one type for each family of operations.

use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;

/// Why a server was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The server's programs are not to be had on this machine.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A file, a folder, or a port could not be had.
    #[error("prepare `{server}`")]
    Prepare {
        /// The server.
        server: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be started.
    #[error("start `{server}` as `{command}`")]
    Spawn {
        /// The server.
        server: String,
        /// The program and its arguments.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The program ended before it was ready.
    #[error("`{server}` ended with {status} before it was ready; its log ends with:\n{log}")]
    Exited {
        /// The server.
        server: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// The deadline passed.
    #[error("`{server}` was not ready after {within:?}: {last}; its log ends with:\n{log}")]
    NotReady {
        /// The server.
        server: String,
        /// The deadline.
        within: Duration,
        /// What the last look at it showed.
        last: String,
        /// The last lines of its log.
        log: String,
    },
    /// A step after the start failed, such as forming a cluster.
    #[error("set up `{server}`: {what}")]
    Setup {
        /// The server.
        server: String,
        /// What failed.
        what: String,
    },
}

impl StartError {
    /// What is missing on this machine, where that is the reason.
    #[must_use]
    pub fn unavailable(&self) -> Option<&Unavailable> {
        match self {
            Self::Unavailable(missing) => Some(missing),
            _ => None,
        }
    }

    pub(crate) fn prepare(server: &str) -> impl FnOnce(std::io::Error) -> Self {
        let server = server.to_owned();
        |source| Self::Prepare { server, source }
    }

    pub(crate) fn setup(server: &str, what: impl ToString) -> Self {
        Self::Setup { server: server.to_owned(), what: what.to_string() }
    }
}

/// A server whose programs are not to be had, with all places that were looked at.
#[derive(Clone, Debug, Error)]
#[error("`{program}` is not to be had: {}", tried.join("; "))]
pub struct Unavailable {
    /// What was looked for.
    pub program: String,
    /// Where, and what was found there instead, in order.
    pub tried: Vec<String>,
}

/// Why a server could not be hurt, or brought back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The server was running before this process and is not its own to hurt.
    #[error("`{server}` is a server from the environment: only one that was started here is stopped")]
    NotOurs {
        /// The server.
        server: String,
    },
    /// The server is down.
    #[error("`{server}` is not running")]
    NotRunning {
        /// The server.
        server: String,
    },
    /// The server was started without links, so there is nothing to cut.
    #[error("`{server}` was started without links: start it with `linked()`")]
    NotLinked {
        /// The server.
        server: String,
    },
    /// The system refused a signal.
    #[error("signal `{server}`")]
    Signal {
        /// The server.
        server: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not come back.
    #[error("start again")]
    Start(#[from] StartError),
    /// It answered with something else than expected.
    #[error("ask `{server}`: {what}")]
    Ask {
        /// The server.
        server: String,
        /// What was wrong.
        what: String,
    },
}
