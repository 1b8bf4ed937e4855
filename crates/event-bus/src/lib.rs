//! Events between the parts of a process.
//!
//! Layer 1.

mod ack;
mod bus;
mod counter;
mod dispatch;
mod event;
mod handler;
mod history;
mod hub;
mod options;
mod pattern;
mod publish;
mod reply;
mod ring;
mod stream;
mod subscribe;
mod subscription;
mod table;
mod topic;
mod turn;

pub use ack::{DeliveryFailure, DeliveryReport, FailureKind};
pub use bus::{BusStats, DrainReport, EventBus, EventBusBuilder, Limits};
pub use event::*;
pub use handler::{EventHandler, HandlerError, by_ref};
pub use history::{HistoryFilter, Since};
pub use options::{
    DEFAULT_CAPACITY, MAX_CAPACITY, MAX_CONCURRENCY, OptionsError, Overflow, SubscribeOptions,
};
pub use pattern::{Pattern, PatternError};
pub use publish::{PublishError, Published, RequestError};
pub use reply::{CORRELATION_ID, ReplyError};
pub use stream::{EventStream, StreamItem};
pub use subscribe::{SubscribeError, SubscriptionSpec};
pub use subscription::{Subscription, SubscriptionId, SubscriptionInfo, SubscriptionStats};
pub use topic::{MAX_TOPIC_BYTES, Topic, TopicError};
