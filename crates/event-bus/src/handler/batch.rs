//! Handlers of several events at once.

use super::{EventHandler, HandlerError};
use crate::event::Event;

/// What a handler did not do of a batch.
///
/// Made of an error, which then goes for every event of the batch, or of errors for some of them by their
/// places: the others are handled.
#[derive(Debug)]
pub struct BatchFailure {
    all: Option<HandlerError>,
    some: Vec<(usize, HandlerError)>,
}

impl BatchFailure {
    /// A failure of every event.
    pub fn all(error: impl Into<HandlerError>) -> Self {
        Self { all: Some(error.into()), some: Vec::new() }
    }

    /// A failure of some events, each by its place in the batch, counted from 0. A place that the batch does
    /// not have makes it a failure of every event.
    pub fn some(failures: impl IntoIterator<Item = (usize, HandlerError)>) -> Self {
        Self { all: None, some: failures.into_iter().collect() }
    }

    /// Whether no event failed.
    fn is_empty(&self) -> bool {
        self.all.is_none() && self.some.is_empty()
    }

    /// The failure of each event of a batch of that size: a text, and whether another attempt is pointless.
    pub(crate) fn by_event(self, events: usize) -> Vec<Option<(String, bool)>> {
        let told = |error: &HandlerError| Some((error.to_string(), error.is_permanent()));
        let Self { all, some } = self;
        let out_of_place = some.iter().find(|(place, _)| *place >= events).map(|(_, error)| error);
        if let Some(error) = all.as_ref().or(out_of_place) {
            return vec![told(error); events];
        }
        let mut failures = vec![None; events];
        for (place, error) in &some {
            if let Some(failure) = failures.get_mut(*place) {
                *failure = told(error);
            }
        }
        failures
    }
}

impl<E: Into<HandlerError>> From<E> for BatchFailure {
    fn from(error: E) -> Self {
        Self::all(error)
    }
}

/// One event after the other.
pub(super) async fn in_turn<H: EventHandler + ?Sized>(
    handler: &H,
    events: Vec<Event>,
) -> Result<(), BatchFailure> {
    let mut failure = BatchFailure::some([]);
    for (place, event) in events.iter().enumerate() {
        if let Err(error) = handler.handle(event).await {
            failure.some.push((place, error));
        }
    }
    if failure.is_empty() { Ok(()) } else { Err(failure) }
}

/// A handler of several events at once, for a subscription with
/// [`SubscribeOptions::batch`](crate::SubscribeOptions::batch).
///
/// The events are in the order in which they were published. Those that the function fails on, all or
/// [some](BatchFailure::some), go the way that the options give a failed event, each by itself: it is tried
/// again in a later batch, beside new events. A panic is a failure of every event.
///
/// ```
/// use std::time::Duration;
///
/// use event_bus::{Batch, BatchFailure, Event, EventBus, SubscribeOptions, by_batch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = EventBus::builder().build();
/// let options = SubscribeOptions::new().batch(Batch { events: 100, within: Duration::from_millis(50) });
/// let _rows = bus.subscribe("orders.*", options, by_batch(async |events: Vec<Event>| {
///     let wrong = events.iter().enumerate().filter(|(_, event)| !event.data().is_object());
///     Err(BatchFailure::some(wrong.map(|(place, _)| (place, "not an order".into()))))
/// }))?;
/// # Ok(()) }
/// ```
pub fn by_batch<F, Fut>(function: F) -> impl EventHandler
where
    F: Fn(Vec<Event>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BatchFailure>> + Send,
{
    ByBatch(function)
}

struct ByBatch<F>(F);

impl<F, Fut> EventHandler for ByBatch<F>
where
    F: Fn(Vec<Event>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BatchFailure>> + Send,
{
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let Err(BatchFailure { all, mut some }) = (self.0)(vec![event.clone()]).await else { return Ok(()) };
        all.or_else(|| some.pop().map(|(_, error)| error)).map_or(Ok(()), Err)
    }

    fn handle_batch(&self, events: Vec<Event>) -> impl Future<Output = Result<(), BatchFailure>> + Send {
        (self.0)(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_of_each_event() {
        let told = |failure: BatchFailure| -> Vec<_> {
            failure.by_event(3).into_iter().map(|f| f.map(|(text, _)| text)).collect()
        };
        let no = || Some("no".to_owned());
        assert_eq!(told(BatchFailure::all("no")), [no(), no(), no()]);
        assert_eq!(told(BatchFailure::some([(1, "no".into())])), [None, no(), None]);
        assert_eq!(told(BatchFailure::some([(3, "no".into())])), [no(), no(), no()], "nothing is lost");
    }
}
