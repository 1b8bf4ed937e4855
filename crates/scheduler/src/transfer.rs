//! All tasks as JSON Lines, out and in.

use serde::{Deserialize, Serialize};

use crate::spec::TaskSpec;
use crate::view::TaskStatus;

/// One line of an export, and of what is imported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TaskLine {
    /// The definition.
    pub task: TaskSpec,
    /// The task's state. An import pauses what was paused, and leaves out what was done: it would run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
    /// The plugin that registered it. An import leaves such a task out: the plugin registers it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What an import does with a task whose id is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Refuses the whole import.
    #[default]
    Fail,
    /// Leaves the present task as it is.
    Skip,
    /// Gives the present task the definition of the import; its counters and its records stay.
    Replace,
}

/// A text that names none of the ways.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of `fail skip replace`")]
pub struct ParseOnConflictError;

impl std::str::FromStr for OnConflict {
    type Err = ParseOnConflictError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "fail" => Ok(Self::Fail),
            "skip" => Ok(Self::Skip),
            "replace" => Ok(Self::Replace),
            _ => Err(ParseOnConflictError),
        }
    }
}

/// What an import has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How many tasks were read.
    pub read: u64,
    /// How many are new.
    pub created: u64,
    /// How many have another definition.
    pub replaced: u64,
    /// How many were left as they are, since their id is taken.
    pub skipped: u64,
    /// How many were left out, since they were done, or belong to a plugin.
    pub left_out: u64,
    /// How many could not be taken although the whole was valid, since tasks have changed meanwhile or the
    /// store has failed.
    pub failed: u64,
    /// Why, for the first 100.
    pub failures: Vec<crate::bulk::BulkRefusal>,
}
