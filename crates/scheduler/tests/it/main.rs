//! The scheduler from outside, on paused time.

mod controls;
#[cfg(feature = "plugin")]
mod plugin;
mod policies;
mod promises;
mod runs;
mod support;
