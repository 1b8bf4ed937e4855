//! Typed configuration in layers: where each value comes from, what a plugin takes, and what is secret.

mod decode;
mod secret;
mod settings;
mod source;
mod spec;

pub use decode::{ConfigError, decode, in_plain_words};
pub use secret::{MASK, Secret, mask, unmask};
pub use settings::{Layer, Origin, Settings, ValueSource};
pub use source::{ConfigSource, EnvSource, FileSource, OverrideFile, assign};
pub use spec::ConfigSpec;
