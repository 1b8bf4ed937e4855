//! The manager from outside, with plugins that behave and plugins that do not.

mod bench;
mod lifecycle;
