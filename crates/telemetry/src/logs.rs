//! What the program says about itself: how it looks, and how much of it.

mod filter;
mod format;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, reload};

pub use filter::{LogFilter, LogFilterError};
pub(crate) use format::layer;
pub use format::{LogFormat, UnknownLogFormat};

/// Changes at run time what is logged; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLevels {
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    filter: LogFilter,
    /// One for each way that lines take.
    reload: Vec<reload::Handle<Targets, Registry>>,
}

impl LogLevels {
    pub(crate) fn new(filter: LogFilter) -> Self {
        Self { now: Arc::new(Mutex::new(Now { filter, reload: Vec::new() })) }
    }

    /// A filter that follows the levels.
    pub(crate) fn follower(&self) -> reload::Layer<Targets, Registry> {
        let mut now = self.lock();
        let (layer, reload) = reload::Layer::new(now.filter.targets());
        now.reload.push(reload);
        layer
    }

    /// What is logged now.
    #[must_use]
    pub fn current(&self) -> LogFilter {
        self.lock().filter.clone()
    }

    /// Logs by `filter` from now on, and answers what went before.
    ///
    /// # Errors
    ///
    /// [`LogLevelsGone`] if the subscriber that this handle belongs to is no more.
    pub fn set(&self, filter: LogFilter) -> Result<LogFilter, LogLevelsGone> {
        // Held across all steps, so that two callers leave behind the filter and the text of one of them.
        let mut now = self.lock();
        for reload in &now.reload {
            reload.reload(filter.targets()).map_err(|_| LogLevelsGone)?;
        }
        Ok(std::mem::replace(&mut now.filter, filter))
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscriber whose levels were to be changed is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log subscriber is gone")]
pub struct LogLevelsGone;
