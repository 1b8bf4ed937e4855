//! The API tokens of a host, in a file that survives whatever ends the process.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use runtime::{SharedClock, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Rejected;
use super::token::{ApiToken, Kept, NewToken, TokenRequest, id_of};
use crate::{Problem, Role};

/// How many tokens there may be.
const TOKENS_MAX: usize = 1000;
/// How large the file may be, far above what so many tokens take.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How often it is looked at whether somebody else has changed the file.
const LOOK_EACH: Duration = Duration::from_secs(1);
/// The form of the file.
const VERSION: u32 = 1;

/// Why tokens could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file is not what was written.
    #[error("{path}: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The file cannot be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// What is asked for is wrong.
    #[error("{0}")]
    Invalid(Problem),
    /// Another token has the name.
    #[error("there is a token named `{0}` already")]
    NameTaken(String),
    /// There are as many as there may be.
    #[error("there are {TOKENS_MAX} tokens, which is the limit")]
    Full,
    /// The system has no randomness to give.
    #[error("no random numbers")]
    Random(#[source] getrandom::Error),
}

/// The API tokens of a host. Only hashes are kept. The file is replaced in one step, each change is on disk
/// before it is answered, and several processes may change it: the server notices within a second.
#[derive(Debug)]
pub struct TokenFile {
    clock: SharedClock,
    /// None: in memory alone.
    path: Option<PathBuf>,
    by_id: RwLock<Arc<ById>>,
    seen: Mutex<Seen>,
    /// One change at a time.
    changing: Mutex<()>,
}

type ById = BTreeMap<String, Kept>;

/// Which file it was that was read, and when that was looked at.
#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    at: Instant,
}

/// Tells a file from the one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    tokens: Vec<Kept>,
}

impl TokenFile {
    /// The tokens of a file, which need not be there yet.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is damaged.
    pub fn open(path: impl Into<PathBuf>, clock: SharedClock) -> Result<Self, TokenError> {
        let path = path.into();
        let stamp = stamp(&path);
        let by_id = read(&path)?;
        Ok(Self::build(Some(path), by_id, stamp, clock))
    }

    /// Tokens that end with the process.
    #[must_use]
    pub fn in_memory(clock: SharedClock) -> Self {
        Self::build(None, ById::new(), None, clock)
    }

    fn build(path: Option<PathBuf>, by_id: ById, stamp: Option<Stamp>, clock: SharedClock) -> Self {
        let seen = Mutex::new(Seen { stamp, at: Instant::now() });
        Self { clock, path, by_id: RwLock::new(Arc::new(by_id)), seen, changing: Mutex::default() }
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<ApiToken> {
        self.look();
        let mut tokens: Vec<_> = self.tokens().values().map(|kept| kept.token.clone()).collect();
        tokens.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        tokens
    }

    /// Makes a token as it is asked for, on behalf of somebody. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// If the request is wrong, the name is taken, there is no room, or the file cannot be written: there is
    /// no token then.
    pub fn create_as(&self, request: &TokenRequest, created_by: &str) -> Result<NewToken, TokenError> {
        let expires_at = request.check(self.clock.now()).map_err(TokenError::Invalid)?;
        self.create(&request.name, request.role, created_by, expires_at)
    }

    /// Makes a token. Those that have expired are forgotten. Blocks until it is on disk.
    ///
    /// # Errors
    ///
    /// If the name is taken, there is no room, or the file cannot be written: there is no token then.
    pub(crate) fn create(
        &self,
        name: &str,
        role: Role,
        created_by: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<NewToken, TokenError> {
        let now = self.clock.now();
        self.change(|tokens| {
            tokens.retain(|_, kept| !kept.has_expired(now));
            room_for(tokens, name)?;
            let (kept, secret) =
                Kept::generate(name, role, created_by, now, expires_at).map_err(TokenError::Random)?;
            let token = kept.token.clone();
            tokens.insert(token.id.clone(), kept);
            Ok(NewToken { token, secret })
        })
    }

    /// Whether a token of this name could be made.
    pub(crate) fn check_room(&self, name: &str) -> Result<(), TokenError> {
        self.look();
        let now = self.clock.now();
        let mut live = (*self.tokens()).clone();
        live.retain(|_, kept| !kept.has_expired(now));
        room_for(&live, name)
    }

    /// The token of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<ApiToken> {
        self.look();
        self.tokens().get(id).map(|kept| kept.token.clone())
    }

    /// Takes a token back: it does not hold from now on. Blocks until that is on disk.
    ///
    /// # Errors
    ///
    /// If the file cannot be written: the token goes on to hold then.
    pub fn revoke(&self, id: &str) -> Result<Option<ApiToken>, TokenError> {
        self.change(|tokens| Ok(tokens.remove(id).map(|kept| kept.token)))
    }

    /// Whose token this is.
    pub(crate) fn verify(&self, text: &str) -> Result<ApiToken, Rejected> {
        self.look();
        let id = id_of(text).ok_or(Rejected::Invalid("not an api token"))?;
        let tokens = self.tokens();
        let kept = tokens.get(id).ok_or(Rejected::Invalid("unknown or revoked api token"))?;
        if !kept.is(text) {
            return Err(Rejected::Invalid("wrong secret of an api token"));
        }
        if kept.has_expired(self.clock.now()) { Err(Rejected::Expired) } else { Ok(kept.token.clone()) }
    }

    fn tokens(&self) -> Arc<ById> {
        Arc::clone(&self.by_id.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again if it is another by now. One caller in a second asks the system.
    fn look(&self) {
        let Some(path) = &self.path else { return };
        let Ok(mut seen) = self.seen.try_lock() else { return };
        if seen.at.elapsed() < LOOK_EACH {
            return;
        }
        seen.at = Instant::now();
        let now = stamp(path);
        if now == seen.stamp {
            return;
        }
        seen.stamp = now;
        match read(path) {
            Ok(by_id) => self.put(by_id),
            // What was known before goes on to hold; the file says nothing that can be gone by.
            Err(error) => tracing::error!(%error, "api tokens cannot be read again"),
        }
    }

    fn put(&self, by_id: ById) {
        *self.by_id.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_id);
    }

    fn change<T>(&self, change: impl FnOnce(&mut ById) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.path else {
            let mut by_id = (*self.tokens()).clone();
            let changed = change(&mut by_id)?;
            self.put(by_id);
            return Ok(changed);
        };
        let _lock = lock(path).map_err(io(path))?;
        // What another process has written since stays.
        let mut by_id = read(path)?;
        let changed = change(&mut by_id)?;
        write(path, &by_id).map_err(io(path))?;
        let mut seen = self.seen();
        seen.stamp = stamp(path);
        self.put(by_id);
        Ok(changed)
    }
}

fn room_for(tokens: &ById, name: &str) -> Result<(), TokenError> {
    if tokens.values().any(|kept| kept.token.name == name) {
        return Err(TokenError::NameTaken(name.to_owned()));
    }
    if tokens.len() >= TOKENS_MAX { Err(TokenError::Full) } else { Ok(()) }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> TokenError + '_ {
    move |source| TokenError::Io { path: path.display().to_string(), source }
}

fn read(path: &Path) -> Result<ById, TokenError> {
    let damaged = |detail: String| TokenError::Damaged { path: path.display().to_string(), detail };
    let len = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ById::new()),
        Err(error) => return Err(io(path)(error)),
    };
    if len > FILE_BYTES_MAX {
        return Err(damaged("is larger than any file of tokens".to_owned()));
    }
    let text = std::fs::read(path).map_err(io(path))?;
    let contents: Contents = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if contents.version != VERSION {
        return Err(damaged(format!("has version {}, and {VERSION} is known", contents.version)));
    }
    Ok(contents.tokens.into_iter().map(|kept| (kept.token.id.clone(), kept)).collect())
}

/// Puts a whole new file in the place of the old one, so that a crash leaves either.
fn write(path: &Path, by_id: &ById) -> std::io::Result<()> {
    let contents = Contents { version: VERSION, tokens: by_id.values().cloned().collect() };
    let fresh = path.with_extension("json.new");
    let mut file = private().truncate(true).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(&contents)?)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    File::open(folder_of(path))?.sync_all()
}

/// Keeps other processes from changing the file until it is dropped.
fn lock(path: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder_of(path))?;
    let lock = private().truncate(false).open(path.with_extension("lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// For its owner alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode })
}

#[cfg(test)]
mod tests;
