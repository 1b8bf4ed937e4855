//! The scheduler from outside, on paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "so a test fails")]

mod backfill;
mod controls;
mod dependencies;
mod failures;
#[cfg(feature = "http")]
mod http;
mod many;
#[cfg(feature = "plugin")]
mod plugin;
mod policies;
#[cfg(feature = "test-util")]
mod ports;
mod promises;
mod restart;
mod runs;
mod settings;
#[cfg(feature = "test-util")]
mod simulation;
mod support;
mod why;
