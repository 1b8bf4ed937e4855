//! What can go wrong.

use crate::store::StoreError;
use crate::view::TaskStatus;

/// Why an operation on tasks was refused. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// What was given is wrong.
    #[error("{field}: {detail}")]
    Invalid {
        /// The path of the field, such as `schedule.cron`.
        field: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A task with this id is there already.
    #[error("task `{0}` exists already")]
    Exists(String),
    /// No such task.
    #[error("no task `{0}`")]
    NotFound(String),
    /// No such run, or its record has been given up.
    #[error("no run `{0}`")]
    RunNotFound(String),
    /// The task's state does not allow it.
    #[error("task `{id}` is {state}: {detail}")]
    Conflict {
        /// The task.
        id: String,
        /// The state that it is in.
        state: TaskStatus,
        /// What the state does not allow.
        detail: String,
    },
    /// The definition has changed since the caller read it.
    #[error("task `{id}` is at version {present}, not {expected}")]
    VersionMismatch {
        /// The task.
        id: String,
        /// The version that the caller knows.
        expected: u64,
        /// The version that it has.
        present: u64,
    },
    /// Other tasks run after this one.
    #[error("task `{id}` is needed by {dependents:?}")]
    InUse {
        /// The task.
        id: String,
        /// Tasks that name it in `after`, the first few.
        dependents: Vec<String>,
    },
    /// A bound of the host has been reached.
    #[error("no room: {0}")]
    Full(String),
    /// The scheduler has been stopped.
    #[error("the scheduler has been stopped")]
    Stopped,
    /// Another node owns the task.
    #[error("task `{0}` belongs to another node")]
    NotOwner(String),
    /// The store did not take it.
    #[error("store the change")]
    Store(#[source] StoreError),
}

impl TaskError {
    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), detail: detail.into() }
    }
}
