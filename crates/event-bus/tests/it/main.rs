//! The bus as its users see it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are tests, which clippy does not see"
)]

mod contract;
mod delivery;
mod failures;
mod guide;
mod interleavings;
mod metrics;
mod promises;
mod refusals;
mod replay;
mod requests;
mod soak;
mod spans;
mod streams;
mod support;
mod transports;
