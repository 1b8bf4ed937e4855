//! Which tasks run after which.

use serde::{Deserialize, Serialize};

use crate::spec::AfterCondition;
use crate::view::TaskStatus;

/// How many tasks a graph shows at the most.
pub const GRAPH_NODES_MAX: usize = 1000;

/// A task's place in the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskNode {
    /// The task's id.
    pub id: String,
    /// Its state.
    pub status: TaskStatus,
    /// What runs it.
    pub executor: String,
}

/// That a task runs after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskEdge {
    /// The task that runs first.
    pub from: String,
    /// The task that runs after it.
    pub to: String,
    /// How the first one's run must have ended.
    pub on: AfterCondition,
}

/// Which tasks run after which.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskGraph {
    /// The tasks, up to 1000.
    pub nodes: Vec<TaskNode>,
    /// What binds them.
    pub edges: Vec<TaskEdge>,
    /// How many tasks there are.
    pub total: u64,
    /// Whether there are tasks that belong here and are not shown.
    pub more: bool,
}
