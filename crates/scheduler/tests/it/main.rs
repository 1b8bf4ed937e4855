//! The scheduler from outside, on paused time.

mod controls;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "plugin")]
mod plugin;
mod policies;
#[cfg(feature = "test-util")]
mod ports;
mod promises;
mod runs;
mod support;
