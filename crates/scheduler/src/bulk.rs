//! One action on many tasks.

use serde::{Deserialize, Serialize};

use crate::view::TaskFilter;

/// What is done to each of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// As [`Scheduler::pause`](crate::Scheduler::pause).
    Pause,
    /// As [`Scheduler::resume`](crate::Scheduler::resume).
    Resume,
    /// As [`Scheduler::cancel`](crate::Scheduler::cancel).
    Cancel,
    /// As [`Scheduler::remove`](crate::Scheduler::remove).
    Remove,
}

impl BulkAction {
    /// The action as it stands on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Remove => "remove",
        }
    }
}

/// What to do to which tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done.
    pub action: BulkAction,
    /// To the tasks that match all of this.
    #[serde(default)]
    pub filter: TaskFilter,
    /// Says that all tasks are meant, where the filter is empty.
    #[serde(default)]
    pub all: bool,
    /// At most so many tasks; 1 to 10000, 1000 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000, default = 1000))]
    pub limit: Option<u32>,
}

/// What has been done to tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BulkReport {
    /// What was done.
    pub action: BulkAction,
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How many tasks match.
    pub matched: u64,
    /// To how many it was done.
    pub done: u64,
    /// For how many it was refused.
    pub refused: u64,
    /// The ids of those that it was done to, the first 100.
    pub tasks: Vec<String>,
    /// Why it was refused, for the first 100.
    pub refusals: Vec<BulkRefusal>,
    /// Whether more tasks match than the limit lets through: ask again for the rest.
    pub more: bool,
}

/// Why it was not done to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BulkRefusal {
    /// The task.
    pub task: String,
    /// Why.
    pub reason: String,
}
