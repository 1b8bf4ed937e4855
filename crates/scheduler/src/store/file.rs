//! The store in a folder: a log of changes, brought down to a snapshot now and then, and an image of both
//! in memory. `docs/decisions/0005-task-store.md` says why it is no library's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tracing::{info, warn};

use super::image::Image;
use super::{Commit, Loaded, Records, Retention, StoreError, StorePlace, TaskStore};
use crate::coordinator::Grant;

mod disk;
mod frame;
mod log;
#[cfg(test)]
mod tests;

use disk::{Disk, Folder};
use log::{Log, Recovery, write_snapshot};

/// How long the log grows at least before it is brought down to a snapshot. It grows to the size of the
/// last snapshot too, so that what is written stays within twice what was asked for.
const LOG_BYTES_MIN: u64 = 32 << 20;

/// Why a store's folder was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileStoreError {
    /// Another process has it.
    #[error(
        "folder `{}` is in use by {}",
        folder.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("the process {pid}"))
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, if it says so.
        holder: Option<u32>,
    },
    /// The file system refuses.
    #[error("{doing} `{}`", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What is there is not what was written. Nothing has been changed.
    #[error("file `{}` is damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From where on it makes no sense.
        offset: u64,
        /// Why not.
        what: String,
    },
    /// A file is not there. Nothing has been changed.
    #[error("file `{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

/// Keeps tasks in a folder of its own. What is acknowledged has been synced to disk.
///
/// One process has the folder at a time. Closing it is dropping it.
#[derive(Debug)]
pub struct FileTaskStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    disk: Arc<dyn Disk>,
    /// How large all files are; beside the state, whose lock is held while the disk is waited for.
    bytes: AtomicU64,
    snapshots: Mutex<Option<JoinHandle<()>>>,
    /// Whether a snapshot is written by whoever finds that it is time; otherwise beside.
    in_line: bool,
    log_bytes_min: u64,
}

struct State {
    image: Image,
    log: Log,
    /// How large the files are that stand before the open segment.
    older_bytes: u64,
    /// At which length of the log a snapshot is due.
    snapshot_at: u64,
    is_snapshotting: bool,
}

impl FileTaskStore {
    /// Opens a folder, and makes it if it is not there. Reads all of it, which blocks the thread.
    ///
    /// # Errors
    ///
    /// If another process has the folder, the file system refuses, or what is there is damaged.
    pub fn open(folder: &Path, retention: Retention) -> Result<Self, FileStoreError> {
        let disk = Folder::take(folder)?;
        Self::on(Arc::new(disk), retention, LOG_BYTES_MIN, false)
    }

    fn on(
        disk: Arc<dyn Disk>,
        retention: Retention,
        log_bytes_min: u64,
        in_line: bool,
    ) -> Result<Self, FileStoreError> {
        let mut image = Image::new(retention);
        let recovered = Recovery::new(&disk, &mut image).run()?;
        info!(
            folder = %disk.path("").display(),
            tasks = image.len(),
            bytes = recovered.snapshot_bytes + recovered.log.len(),
            cut = recovered.cut,
            "task store opened"
        );
        let state = State {
            image,
            log: recovered.log,
            older_bytes: recovered.snapshot_bytes,
            snapshot_at: recovered.snapshot_bytes.max(log_bytes_min),
            is_snapshotting: false,
        };
        let bytes = AtomicU64::new(state.bytes());
        let shared = Shared {
            state: Mutex::new(state),
            disk,
            bytes,
            snapshots: Mutex::new(None),
            in_line,
            log_bytes_min,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Does work that waits for the disk, on a thread that may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|error| StoreError::Engine(format!("the store's thread ended: {error}")))?
    }
}

impl Drop for FileTaskStore {
    fn drop(&mut self) {
        let writing = self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writing) = writing {
            // It ends by itself: a snapshot is bounded by what there is.
            let _ = writing.join();
        }
    }
}

impl State {
    const fn bytes(&self) -> u64 {
        self.older_bytes + self.log.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `change` put entries into the log, and syncs them. Where that fails nothing has changed.
    fn write<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Image, &mut Log) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let mut state = self.state();
        let State { image, log, .. } = &mut *state;
        match change(image, log).and_then(|answer| log.append().map(|()| answer)) {
            Ok(answer) => {
                image.keep();
                self.bytes.store(state.bytes(), Ordering::Relaxed);
                self.snapshot_if_due(state);
                Ok(answer)
            }
            Err(error) => {
                image.revert();
                log.forget();
                Err(StoreError::Engine(format!("write `{}`: {error}", self.disk.path("").display())))
            }
        }
    }

    fn claim(self: &Arc<Self>, grants: &[Grant]) -> Result<(), StoreError> {
        self.write(|image, log| Ok(image.claim(grants, log.buffer())))?
    }

    fn commit(self: &Arc<Self>, commits: &[Commit]) -> Vec<Result<(), StoreError>> {
        let made = self.write(|image, log| {
            let mut answers = Vec::with_capacity(commits.len());
            for commit in commits {
                answers.push(image.commit(commit, log.buffer()));
                log.write_if_long()?;
            }
            Ok(answers)
        });
        made.unwrap_or_else(|error| vec![Err(error); commits.len()])
    }

    /// Begins a new segment, and has what was before it written down once more, all together.
    fn snapshot_if_due(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.is_snapshotting || state.log.is_torn() || state.log.len() < state.snapshot_at {
            return;
        }
        let before = state.log.len();
        let number = match state.log.roll() {
            Ok(number) => number,
            Err(error) => {
                warn!(%error, "no snapshot: the next segment of the log cannot be made");
                state.snapshot_at = state.log.len() + self.log_bytes_min;
                return;
            }
        };
        state.older_bytes += before;
        let frozen = state.image.freeze();
        state.is_snapshotting = true;
        drop(state);
        let shared = Arc::clone(self);
        let work = move || {
            let written = write_snapshot(&*shared.disk, number, frozen);
            let mut state = shared.state();
            state.is_snapshotting = false;
            match written {
                Ok(bytes) => {
                    state.older_bytes = bytes;
                    state.snapshot_at = bytes.max(shared.log_bytes_min);
                }
                Err(error) => {
                    warn!(%error, "no snapshot, the log goes on");
                    state.snapshot_at = state.log.len() + shared.log_bytes_min;
                }
            }
        };
        if self.in_line {
            return work();
        }
        let thread = std::thread::Builder::new().name("gantry-snapshot".to_owned()).spawn(work);
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        match thread {
            // The one before has ended, or this one would not have begun.
            Ok(thread) => *snapshots = Some(thread),
            Err(error) => {
                warn!(%error, "no snapshot: no thread for it");
                self.state().is_snapshotting = false;
            }
        }
    }
}

#[async_trait]
impl TaskStore for FileTaskStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn place(&self) -> StorePlace {
        StorePlace {
            location: Some(self.shared.disk.path("").components().as_path().display().to_string()),
            bytes: Some(self.shared.bytes.load(Ordering::Relaxed)),
        }
    }

    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError> {
        let grants = grants.to_vec();
        self.blocking(move |shared| shared.claim(&grants)).await
    }

    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError> {
        let (shards, cursor) = (shards.to_vec(), cursor.map(str::to_owned));
        self.blocking(move |shared| {
            let page = shared.state().image.page(&shards, cursor.as_deref(), limit);
            page.decode()
        })
        .await
    }

    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>> {
        let count = commits.len();
        let answers = self.blocking(move |shared| Ok(shared.commit(&commits)));
        answers.await.unwrap_or_else(|error| vec![Err(error); count])
    }

    async fn history(
        &self,
        shards: &[u32],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let (shards, cursor) = (shards.to_vec(), cursor.map(str::to_owned));
        self.blocking(move |shared| {
            let page = shared.state().image.history(&shards, cursor.as_deref(), limit);
            page.decode()
        })
        .await
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("tasks", &self.image.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for dyn Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}
