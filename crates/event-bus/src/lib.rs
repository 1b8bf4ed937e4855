//! Events between the parts of a process.
//!
//! Layer 1.

mod event;
mod handler;
mod options;
mod pattern;
mod reply;
mod topic;

pub use event::*;
pub use handler::{EventHandler, HandlerError, by_ref};
pub use options::*;
pub use pattern::{Pattern, PatternError};
pub use reply::{CORRELATION_ID, ReplyError};
pub use topic::{MAX_TOPIC_BYTES, Topic, TopicError};
