//! The API as its clients see it. Every answer that these tests get is checked against the OpenAPI document.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "what helpers of tests do")]

mod access;
mod access_matrix;
mod client;
mod dead_letters;
mod document;
mod envelope;
mod events;
mod host;
mod plugin_routes;
mod plugins;
mod serving;
mod socket;
mod streaming;
mod strictness;
mod tasks;
