//! Knowing when an event has been handled by everyone it went to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::subscription::SubscriptionId;

/// Why a subscription did not handle an event that someone waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailureKind {
    /// The handler returned an error; the text is the error's.
    #[error("handler failed: {0}")]
    Failed(String),
    /// The handler panicked; the text is the panic's.
    #[error("handler panicked: {0}")]
    Panicked(String),
    /// The event was dropped by the subscription's overflow policy, or the subscription ended first.
    #[error("event was not handled: dropped by the overflow policy or by the subscription's end")]
    Dropped,
}

/// One subscription that did not handle an event, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subscription `{name}`: {kind}")]
pub struct DeliveryFailure {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What it is called.
    pub name: Arc<str>,
    /// What happened.
    #[source]
    pub kind: FailureKind,
}

/// How the delivery of an awaited event went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct DeliveryReport {
    /// How many subscriptions the event went to.
    pub delivered_to: usize,
    /// How many of them handled it.
    pub handled: usize,
    /// Those that did not.
    pub failures: Vec<DeliveryFailure>,
}

impl DeliveryReport {
    /// Whether every subscription handled the event.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.handled == self.delivered_to
    }
}

/// Collects what the subscriptions report about one event.
pub(crate) struct Ack {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Known once the event has been put into every ring.
    expected: Option<usize>,
    /// No subscription can report any more.
    abandoned: bool,
    handled: usize,
    failures: Vec<DeliveryFailure>,
}

/// Held by each place that an event waits in. When the last goes, nobody will report any more.
pub(crate) struct AckTicket {
    ack: Arc<Ack>,
}

impl Ack {
    pub(crate) fn new() -> (Arc<Self>, Arc<AckTicket>) {
        let ack = Arc::new(Self { state: Mutex::default(), changed: Notify::new() });
        (ack.clone(), Arc::new(AckTicket { ack }))
    }

    pub(crate) fn expect(&self, subscriptions: usize) {
        self.state().expected = Some(subscriptions);
        self.changed.notify_waiters();
    }

    /// Waits until everyone has reported or nobody can any more.
    pub(crate) async fn done(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                let reported = state.handled + state.failures.len();
                if state.abandoned || state.expected.is_some_and(|expected| reported >= expected) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// What has been reported so far.
    pub(crate) fn report(&self) -> DeliveryReport {
        let state = self.state();
        DeliveryReport {
            delivered_to: state.expected.unwrap_or(0),
            handled: state.handled,
            failures: state.failures.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AckTicket {
    pub(crate) fn handled(&self) {
        self.ack.state().handled += 1;
        self.ack.changed.notify_waiters();
    }

    pub(crate) fn failed(&self, subscription: SubscriptionId, name: &Arc<str>, kind: FailureKind) {
        self.ack.state().failures.push(DeliveryFailure { subscription, name: name.clone(), kind });
        self.ack.changed.notify_waiters();
    }
}

impl Drop for AckTicket {
    fn drop(&mut self) {
        self.ack.state().abandoned = true;
        self.ack.changed.notify_waiters();
    }
}
