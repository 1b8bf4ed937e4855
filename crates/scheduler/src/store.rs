//! The port behind which tasks survive their process.
//!
//! The scheduler holds the tasks of its shards in memory and works on that; a store is told of every change
//! before it is acknowledged, and asked only when a shard is taken over. So a store is a journal with a way
//! to read it back, and a scheduler without one is what "kept in memory" means.

use std::sync::Arc;

use async_trait::async_trait;
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::coordinator::Grant;
use crate::id::RunId;
use crate::rare::RareState;
use crate::spec::TaskSpec;
use crate::upstream::UpstreamRun;
use crate::view::{RunOrigin, RunView};

mod codec;
#[cfg(feature = "test-util")]
pub mod contract;
mod file;
mod image;
mod memory;

pub use file::{FileStoreError, FileTaskStore};
pub use image::Retention;
pub use memory::MemoryTaskStore;

/// Keeps tasks and the records of their runs.
///
/// Commits of one shard carry the epoch of whoever owns it. The store compares it with the epoch that was
/// last claimed, in the same atomic step as the change: that is what fences an owner off that has been
/// replaced without knowing it.
#[async_trait]
pub trait TaskStore: Send + Sync + 'static {
    /// The engine's name for people: `memory`, `file`, …
    fn kind(&self) -> &'static str;

    /// Whether what is acknowledged survives the process.
    fn is_durable(&self) -> bool;

    /// Writes an owner's epochs for shards. From then on lower epochs are refused there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`] if a higher epoch has been claimed for one of them; none is written then.
    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError>;

    /// Up to `limit` tasks of these shards, each with its runs that have begun and not ended, in an order
    /// of the store's own. `cursor` is where the page before ended. Whoever loads has claimed the shards, so
    /// that nobody else changes them meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError>;

    /// Makes changes, in their order, each by itself: one that is refused does not keep the others out.
    /// Returns when those that were taken are as safe as the engine makes them, with an answer for each.
    /// Of what is answered with [`StoreError::Engine`] nothing has been taken, or the same change that comes
    /// again is recognized.
    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>>;

    /// The latest records of a task's runs, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn runs(&self, task: &str, limit: usize) -> Result<Vec<RunView>, StoreError>;

    /// The latest records of all tasks of these shards, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn history(&self, shards: &[u32], limit: usize) -> Result<Vec<RunView>, StoreError>;

    /// The latest dead runs of these shards, newest first: those that failed for good. They are kept longer
    /// than other records.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn dead_runs(&self, shards: &[u32], limit: usize) -> Result<Vec<RunView>, StoreError>;
}

/// A page of what a store has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// The tasks.
    pub tasks: Vec<StoredTask>,
    /// What to ask for the next page with; none after the last.
    pub next: Option<String>,
}

/// A change, and who makes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The shard that the task lies in.
    pub shard: u32,
    /// The epoch of the shard's owner.
    pub epoch: u64,
    /// The change.
    pub change: Change,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A new task; refused if its id is taken.
    Insert(Box<StoredTask>),
    /// Another definition and state of a task; refused if the incarnation is another. Its open runs stay.
    Replace(Box<StoredTask>),
    /// Another state of a task; refused if the incarnation is another.
    State {
        /// The task.
        id: String,
        /// Which task of this id.
        incarnation: u64,
        /// Its state.
        state: TaskState,
    },
    /// The end of a task; refused if the incarnation is another.
    Remove {
        /// The task.
        id: String,
        /// Which task of this id.
        incarnation: u64,
    },
    /// A run that has begun and not ended, or what has become of it since.
    Open {
        /// The task.
        id: String,
        /// Which task of this id.
        incarnation: u64,
        /// The run.
        run: Box<OpenRun>,
    },
    /// A run that has ended, with the state of its task after it where that is not said elsewhere. Refused
    /// as [`StoreError::Duplicate`] if a run with this key has ended before: that is, unless it is open, or
    /// lies after all runs of its task and origin that have ended.
    Run {
        /// The record.
        run: Box<RunView>,
        /// The task's state.
        state: Option<Box<TaskState>>,
    },
}

impl Change {
    /// The task that it is about.
    #[must_use]
    pub fn task(&self) -> &str {
        match self {
            Self::Insert(task) | Self::Replace(task) => &task.spec.id,
            Self::State { id, .. } | Self::Remove { id, .. } | Self::Open { id, .. } => id,
            Self::Run { run, .. } => &run.task,
        }
    }
}

/// A run that has begun: planned, and not ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRun {
    /// The run's id.
    pub id: RunId,
    /// The time that it is due at.
    pub scheduled_for: Timestamp,
    /// What made it happen.
    pub origin: RunOrigin,
    /// How many attempts have begun.
    pub attempt: u32,
    /// When the next attempt is, where one has failed.
    pub retry_at: Option<Timestamp>,
    /// What it gets in place of the task's payload.
    pub payload: Option<Value>,
    /// The runs of other tasks that let it go.
    pub upstream: Vec<UpstreamRun>,
    /// The first run of the chain that it belongs to, where others let it go.
    pub chain: Option<RunId>,
}

/// A task as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredTask {
    /// Its definition.
    pub spec: TaskSpec,
    /// The plugin that registered it.
    pub owner: Option<String>,
    /// Tells it from an earlier task with the same id.
    pub incarnation: u64,
    /// The version of the definition.
    pub version: u64,
    /// What its intervals and delays count from.
    pub anchor: Timestamp,
    /// When its definition was last changed.
    pub updated_at: Timestamp,
    /// What has become of it.
    pub state: TaskState,
    /// Its runs that have begun and not ended, in the order in which they began.
    pub open: Vec<OpenRun>,
}

/// What has become of a task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskState {
    /// An operator has paused it.
    pub paused: bool,
    /// Its plugin has stopped.
    pub suspended: bool,
    /// It has been cancelled.
    pub canceled: bool,
    /// The latest time that a run was planned for.
    pub planned: Option<Timestamp>,
    /// How many scheduled runs have been planned.
    pub fired: u32,
    /// How many runs have ended.
    pub run_count: u64,
    /// How many of these have failed.
    pub failure_count: u64,
    /// When the latest run started.
    pub last_run_at: Option<Timestamp>,
    /// Whether it failed.
    pub last_failed: bool,
    /// Why.
    pub last_error: Option<String>,
    /// When it is due next, as far as that is known.
    pub next: Option<Timestamp>,
    /// What few tasks have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rare: Option<Box<RareState>>,
}

/// What a run is known by: no two runs with one key both commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// The task.
    pub task: String,
    /// Which task of this id.
    pub incarnation: u64,
    /// The time that the run was due at.
    pub scheduled_for: Timestamp,
    /// What made it happen.
    pub origin: RunOrigin,
}

impl From<&RunView> for RunKey {
    fn from(run: &RunView) -> Self {
        Self {
            task: run.task.clone(),
            incarnation: run.incarnation,
            scheduled_for: run.scheduled_for,
            origin: run.origin,
        }
    }
}

/// Why a store did not take a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another node has taken over the shard since.
    #[error("epoch {ours} of shard {shard} has been fenced off by epoch {theirs}")]
    Fenced {
        /// The shard.
        shard: u32,
        /// The epoch of whoever wrote.
        ours: u64,
        /// The epoch that the store knows.
        theirs: u64,
    },
    /// The id is taken.
    #[error("task `{0}` is stored already")]
    Exists(String),
    /// No such task, or another incarnation of it.
    #[error("task `{0}` is not stored, or is another one by now")]
    NotFound(String),
    /// A run with this key has been committed.
    #[error("a run of `{0}` with the same key is stored already")]
    Duplicate(String),
    /// The engine cannot be reached or refuses.
    #[error("{0}")]
    Engine(String),
}

/// The shard of a task: the same on every node and in every version.
#[must_use]
pub fn shard_of(id: &str, shards: u32) -> u32 {
    // FNV-1a, as in draft-eastlake-fnv; the standard hasher is seeded anew in each process.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The remainder is less than a 32-bit number.
    ((hash ^ (hash >> 32)) % u64::from(shards.max(1))) as u32
}
