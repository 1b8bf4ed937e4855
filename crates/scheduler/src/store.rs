//! The port behind which tasks survive their process.
//!
//! The scheduler holds the tasks of its shards in memory and works on that; a store is told of every change
//! before it is acknowledged, and asked only when a shard is taken over. So a store is a journal with a way
//! to read it back, and a scheduler without one is what "kept in memory" means.
//!
//! # What a store keeps
//!
//! - For each shard the highest epoch that was claimed.
//! - For each task its definition, its state, its open runs, and for each of the four origins of runs the
//!   latest `scheduled_for` among the runs that have ended. Together with the open runs that is enough to
//!   know whether a key has been committed, however many records have been given up.
//! - The latest records of runs, bounded by [`Retention`] or by an age, which need no index: they are read
//!   from the newest to the oldest, and only then.
//!
//! # What a scheduler does with it
//!
//! Of one scheduler one `commit` is under way at a time, with all changes that came up during the one
//! before: from one to some ten thousand, which a store divides as its engine needs it. `claim`, `load` and
//! `history` come with a takeover, in this order. A call that fails is made again after a pause, so that a
//! store tries again only what is over at once, and gives up within seconds: callers wait for it.
//!
//! # What must be true of every store
//!
//! The module `contract` (with the feature `test-util`) checks it; the tests of an adapter call it on the
//! real engine.

use std::sync::Arc;

use async_trait::async_trait;
use runtime::{Timestamp, TraceContext};
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

    /// Where it keeps things, as far as it knows at once: it is asked at each look at the scheduler's state.
    fn place(&self) -> StorePlace {
        StorePlace::default()
    }

    /// Writes an owner's epochs for shards. From then on lower epochs are refused there, those of commits
    /// that are on their way included. To claim an epoch again is allowed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Fenced`] if a higher epoch has been claimed for one of them; of the others some may
    /// have been claimed then. [`StoreError::Engine`].
    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError>;

    /// Up to `limit` tasks of these shards, each with its runs that have begun and not ended, in an order
    /// of the store's own. `cursor` is where the page before ended; a page may be short, and is the last one
    /// if it names no next.
    ///
    /// Whoever loads has claimed the shards, so that nobody else changes them meanwhile: what was
    /// acknowledged to anybody before the claim is among what is loaded, and a task that is there throughout
    /// is on exactly one page.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError>;

    /// Makes changes, and answers for each of them, in their order. One that is refused does not keep the
    /// others out. Returns when those that were taken are as safe as the engine makes them.
    ///
    /// - A change is made as a whole or not at all, and sees the ones before it: that the epoch fits, that
    ///   the task and incarnation are there, that the key is new, and what is written, are one step.
    /// - What a crash of this process or of the engine leaves of a call is a beginning of it. An engine that
    ///   has shards in different places may make the changes of different shards at once, and says so in its
    ///   documentation: a task may then miss the end of a run that it runs after, if that is of another
    ///   shard and the node dies within the call.
    /// - [`StoreError::Engine`] is the answer to a change that was not made, and to one of which that is not
    ///   known. It may come again as it was: an insert of the incarnation that is stored is answered with
    ///   success then, and the end of a run as a duplicate, which whoever repeats it takes as made.
    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>>;

    /// Up to `limit` records of runs of these shards, as they were committed: those of a task from the
    /// latest to the earliest, and those of different tasks about so. Dead runs, which failed for good, are
    /// kept longer than others, and are among them. Records of tasks that have been removed are not.
    ///
    /// Pages are as those of [`TaskStore::load`]; what is committed meanwhile may be on one or on none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Engine`].
    async fn history(
        &self,
        shards: &[u32],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Records, StoreError>;
}

/// Where a store keeps things.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorePlace {
    /// A folder, or the addresses of servers; never a secret.
    pub location: Option<String>,
    /// How much room it takes, in bytes.
    pub bytes: Option<u64>,
}

/// How many records a store keeps of all tasks together; the oldest go first. Somewhat more may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Records of runs.
    pub records: usize,
    /// Dead runs that are older than these.
    pub dead_runs: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { records: 100_000, dead_runs: 10_000 }
    }
}

/// A page of what a store has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// The tasks.
    pub tasks: Vec<StoredTask>,
    /// What to ask for the next page with; none after the last.
    pub next: Option<String>,
}

/// A page of the records that a store has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Records {
    /// The records.
    pub runs: Vec<RunView>,
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
    /// A new task; refused as [`StoreError::Exists`] if its id is taken by another incarnation. Nothing
    /// changes if it is taken by this one.
    Insert(Box<StoredTask>),
    /// Another definition and state of a task; refused if the incarnation is another. Its open runs stay,
    /// whatever the task here says of them, and so does what is known of those that have ended.
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
    /// The end of a task, with its open runs and records; refused if the incarnation is another.
    Remove {
        /// The task.
        id: String,
        /// Which task of this id.
        incarnation: u64,
    },
    /// A run that has begun and not ended, or, for one that is open already, what has become of it since.
    Open {
        /// The task.
        id: String,
        /// Which task of this id.
        incarnation: u64,
        /// The run.
        run: Box<OpenRun>,
    },
    /// A run that has ended, with the state of its task after it where that is not said elsewhere. It is
    /// not open any more from then on. Refused as [`StoreError::Duplicate`] if a run with this key has ended
    /// before: that is, unless it is open, or its `scheduled_for` lies after that of all runs of its task,
    /// incarnation and origin that have ended; and as [`StoreError::NotFound`] if the incarnation is another.
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
    /// The work that it goes on with the trace of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// A task as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredTask {
    /// Its definition, but for the payload.
    pub spec: TaskSpec,
    /// What its executor gets, as JSON: a tree of values would only be made to be taken apart again.
    pub payload: Option<Box<str>>,
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
