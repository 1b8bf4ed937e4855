//! The scheduler from outside, on paused time.

mod controls;
mod policies;
mod promises;
mod runs;
mod support;
