//! The plugin and its helpers on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod bad_input;
mod cache;
mod client;
mod guide;
mod limit;
mod lock;
mod measure;
mod plugin;
mod stream;
mod support;
