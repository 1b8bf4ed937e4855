//! The real server as a process: each promise of its README, over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod bad_input;
mod contract;
mod crash;
mod docs;
mod durable;
mod etcd;
mod events;
mod folder;
mod host;
mod plugins;
mod process;
mod redis;
mod tasks;
mod telemetry;
