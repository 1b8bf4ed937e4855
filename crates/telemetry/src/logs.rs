//! What the program says about itself: how it looks, and how much of it.

mod filter;
mod format;

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, reload};

pub use filter::{LogFilter, LogFilterError};
pub(crate) use format::layer;
pub use format::{LogFormat, UnknownLogFormat};

/// Changes at run time what is logged; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLevels {
    reload: reload::Handle<Targets, Registry>,
    now: Arc<Mutex<LogFilter>>,
}

impl LogLevels {
    pub(crate) fn new(filter: LogFilter) -> (Self, reload::Layer<Targets, Registry>) {
        let (layer, reload) = reload::Layer::new(filter.targets());
        (Self { reload, now: Arc::new(Mutex::new(filter)) }, layer)
    }

    /// What is logged now.
    #[must_use]
    pub fn current(&self) -> LogFilter {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by `filter` from now on, and answers what went before.
    ///
    /// # Errors
    ///
    /// [`LogLevelsGone`] if the subscriber that this handle belongs to is no more.
    pub fn set(&self, filter: LogFilter) -> Result<LogFilter, LogLevelsGone> {
        // Held across both steps, so that two callers leave behind the filter and the text of one of them.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(filter.targets()).map_err(|_| LogLevelsGone)?;
        Ok(std::mem::replace(&mut *now, filter))
    }
}

/// The subscriber whose levels were to be changed is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log subscriber is gone")]
pub struct LogLevelsGone;
