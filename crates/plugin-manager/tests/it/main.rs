//! The manager from outside, with plugins that behave and plugins that do not.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers, too")]

mod bench;
mod config;
mod failures;
mod folder;
mod lifecycle;
mod metrics;
mod model;
mod shutdown;
mod swap;
