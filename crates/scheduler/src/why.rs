//! Why a task did or did not run at a time: the answer, and how it is found.

use runtime::Timestamp;
use serde::{Deserialize, Serialize};

use crate::view::RunView;

/// What became of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhyAnswer {
    /// It has run, or is under way: `run` is its record.
    Ran,
    /// It is in line: `detail` says for what.
    Queued,
    /// It was left out, by the overlap or the misfire policy, by a back-off, or for what it was to be given:
    /// `detail` says which.
    Skipped,
    /// The schedule does not have this time.
    NotScheduled,
    /// The time lies ahead.
    NotYet,
    /// It has come, and the run is about to begin.
    Due,
    /// The task rested: an operator had paused or cancelled it, its plugin had stopped, or too many runs in a
    /// row had failed.
    Paused,
    /// Runs had failed, and the task waited longer than its schedule says.
    BackedOff,
    /// What runs the task is not registered.
    ExecutorAbsent,
    /// The tasks that it runs after have not run.
    WaitsForTasks,
    /// The task had run as often as it should.
    Done,
    /// The task was not there yet.
    NotCreated,
    /// The schedule was another one, which is not known any more.
    Redefined,
    /// The scheduler was stopped.
    HostDown,
    /// The time was dealt with, and its record is not kept any more.
    NotKept,
    /// Nothing is known.
    Unknown,
}

/// Why a task did or did not run at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Why {
    /// The task.
    pub task: String,
    /// The time that was asked about; where that is a whole second, all of that second.
    pub at: Timestamp,
    /// What became of it.
    pub answer: WhyAnswer,
    /// The same in a sentence.
    pub detail: String,
    /// The record of that time, if there is one.
    pub run: Option<RunView>,
    /// The schedule's last time before it.
    pub previous: Option<Timestamp>,
    /// The schedule's first time after it.
    pub next: Option<Timestamp>,
}
