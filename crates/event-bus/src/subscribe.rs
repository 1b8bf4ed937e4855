//! Asking for events.

use std::pin::Pin;

use crate::dispatch::{self, Reader, Spanned};
use crate::handler::EventHandler;
use crate::options::{OptionsError, SubscribeOptions};
use crate::pattern::{Pattern, PatternError};
use crate::subscription::SubscriptionId;

/// Why a subscription was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// An option is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There are as many subscriptions as the bus allows.
    #[error("subscriptions: there are {0} already, and no more are allowed")]
    TooMany(usize),
    /// A subscription that was to be replaced has never been on this bus.
    #[error("subscription `{0}` does not exist")]
    Unknown(SubscriptionId),
    /// A replay was asked for, and the bus was built without a history.
    #[error("replay: the bus keeps no history")]
    NoHistory,
    /// The bus was shut down.
    #[error("event bus is shut down")]
    Closed,
    /// There is no tokio runtime to call handlers on.
    #[error("no runtime: build the bus within a tokio runtime or give it a handle")]
    NoRuntime,
}

impl From<std::convert::Infallible> for SubscribeError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

pub(crate) type Start = Box<dyn FnOnce(Reader) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A subscription to be: what [`crate::EventBus::subscribe`] takes, in one value, so that several can
/// begin in one step.
#[must_use]
pub struct SubscriptionSpec {
    pub(crate) pattern: Pattern,
    pub(crate) options: SubscribeOptions,
    /// Boxed once a subscription; what it makes is the handler's own loop.
    pub(crate) start: Start,
}

impl SubscriptionSpec {
    /// A subscription to the events whose topic the pattern takes.
    pub fn new(pattern: Pattern, options: SubscribeOptions, handler: impl EventHandler) -> Self {
        let start: Start = Box::new(move |reader| match reader.spans() {
            None => Box::pin(dispatch::run(handler, reader)),
            Some(name) => Box::pin(dispatch::run(Spanned::new(handler, name), reader)),
        });
        Self { pattern, options, start }
    }

    /// What it takes.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// How it wants its events.
    pub fn options(&self) -> &SubscribeOptions {
        &self.options
    }

    /// The same, for another owner.
    pub fn owned_by(mut self, owner: impl Into<String>) -> Self {
        self.options = self.options.owner(owner);
        self
    }
}

impl std::fmt::Debug for SubscriptionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionSpec")
            .field("pattern", &self.pattern)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
