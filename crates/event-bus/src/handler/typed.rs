//! Handlers of events whose data is of one type.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{EventHandler, HandlerError};
use crate::event::{Event, TypedPayload};

/// An event and its data as a `T`, which it derefs to.
#[derive(Clone)]
pub struct TypedEvent<T> {
    event: Event,
    data: Data<T>,
}

/// The payload as it was published, or what was read from its JSON.
enum Data<T> {
    Published(Arc<TypedPayload<T>>),
    Read(Arc<T>),
}

impl<T> Clone for Data<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Published(payload) => Self::Published(payload.clone()),
            Self::Read(value) => Self::Read(value.clone()),
        }
    }
}

impl<T> TypedEvent<T> {
    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }
}

impl<T> Deref for TypedEvent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.data {
            Data::Published(payload) => payload.value(),
            Data::Read(value) => value,
        }
    }
}

impl<T> fmt::Debug for TypedEvent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the data, which may hold what does not belong into a log.
        self.event.fmt(f)
    }
}

impl Event {
    /// The event with its data as a `T`: the payload as it was published, where it is one, without
    /// serialization; otherwise what `T` reads from its JSON.
    ///
    /// # Errors
    ///
    /// A permanent [`HandlerError`], if the data does not fit: another attempt would not either.
    pub fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<TypedEvent<T>, HandlerError> {
        let data = match self.payload().downcast_arc() {
            Some(payload) => Data::Published(payload),
            None => {
                let json = self.data_json().map_err(HandlerError::permanent)?;
                let value = T::deserialize(json)
                    .map_err(|error| HandlerError::permanent(format!("data: does not fit: {error}")))?;
                Data::Read(Arc::new(value))
            }
        };
        Ok(TypedEvent { event: self.clone(), data })
    }
}

/// A handler of events whose data is a `T`, see [`Event::typed`]. For one that does not fit, the function is
/// not called: the event counts as failed and is, where the options say so, a dead letter at once.
///
/// ```
/// use event_bus::{EventBus, SubscribeOptions, Topic, TypedEvent, typed};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order {
///     id: u64,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bus = EventBus::builder().build();
/// let options = SubscribeOptions::new().dead_letters();
/// let _orders = bus.subscribe("orders.*", options, typed(async |order: TypedEvent<Order>| {
///     println!("{} on {}", order.id, order.event().topic());
///     Ok(())
/// }))?;
/// let created = bus.event(Topic::new("orders.created")?).typed(Order { id: 7 }).build(&**bus.clock())?;
/// bus.publish(created).await?;
/// # Ok(()) }
/// ```
pub fn typed<T, F, Fut>(function: F) -> impl EventHandler
where
    T: DeserializeOwned + Send + Sync + 'static,
    F: Fn(TypedEvent<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    ByType { function, data: PhantomData }
}

struct ByType<T, F> {
    function: F,
    data: PhantomData<fn(T)>,
}

impl<T, F, Fut> EventHandler for ByType<T, F>
where
    T: DeserializeOwned + Send + Sync + 'static,
    F: Fn(TypedEvent<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send,
{
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        (self.function)(event.typed()?).await
    }
}
