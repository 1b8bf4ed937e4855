//! Real servers, started and hurt.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "outside of the tests' own bodies they are allowed as little as elsewhere"
)]

mod child;
mod environment;
mod etcd;
mod kafka;
mod leftovers;
mod links;
mod redis;
mod services;
mod wire;
