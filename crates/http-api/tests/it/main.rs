//! The API as its clients see it.

mod client;
mod envelope;
mod serving;
