//! What runs when an event arrives.

mod batch;
mod typed;

use std::error::Error;
use std::fmt;

pub use batch::{BatchFailure, by_batch};
pub use typed::{TypedEvent, typed};

use crate::event::Event;

/// A handler did not do what the event asked for.
///
/// Made of a text or of any error:
/// `store.save(order).await.map_err(HandlerError::new)?`.
#[derive(Debug)]
pub struct HandlerError {
    source: Box<dyn Error + Send + Sync>,
    permanent: bool,
}

impl HandlerError {
    /// A failure that a later attempt may not meet again.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: error.into(), permanent: false }
    }

    /// A failure that every attempt would meet: a retry policy does not try again.
    pub fn permanent(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: error.into(), permanent: true }
    }

    /// Whether another attempt is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for HandlerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The text above is the source's own, so what follows it is the source's source.
        self.source.source()
    }
}

impl From<&str> for HandlerError {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for HandlerError {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<Box<dyn Error + Send + Sync>> for HandlerError {
    fn from(error: Box<dyn Error + Send + Sync>) -> Self {
        Self::new(error)
    }
}

/// What a subscription calls for each event.
///
/// Implemented by every closure `Fn(Event) -> impl Future<Output = Result<(), HandlerError>>`, for which
/// the event is cloned (a counter, not a copy). An implementation of one's own borrows the event and pays
/// not even that; [`by_ref`] makes one of a plain function.
///
/// The future is polled in place: a handler that is ready at once costs no allocation. A handler shares
/// its thread with others, so it must not block; what blocks belongs into `tokio::task::spawn_blocking`.
pub trait EventHandler: Send + Sync + 'static {
    /// Handles one event.
    fn handle(&self, event: &Event) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Handles the events of a batch, where the subscription asks for batches: one after the other, if
    /// nothing else is said. [`by_batch`] makes a handler that gets them all.
    fn handle_batch(&self, events: Vec<Event>) -> impl Future<Output = Result<(), BatchFailure>> + Send {
        batch::in_turn(self, events)
    }
}

impl<F, Fut> EventHandler for F
where
    F: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    fn handle(&self, event: &Event) -> impl Future<Output = Result<(), HandlerError>> + Send {
        self(event.clone())
    }
}

/// A handler made of a plain function that borrows the event and returns when it is done.
pub fn by_ref<F>(function: F) -> impl EventHandler
where
    F: Fn(&Event) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    ByRef(function)
}

struct ByRef<F>(F);

impl<F> EventHandler for ByRef<F>
where
    F: Fn(&Event) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    fn handle(&self, event: &Event) -> impl Future<Output = Result<(), HandlerError>> + Send {
        std::future::ready((self.0)(event))
    }
}
