//! How a run is told to end.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// A flag that can be waited for; much smaller than a cancellation token, since there is one for each run.
#[derive(Debug, Default)]
pub(crate) struct CancelFlag {
    state: AtomicU8,
    changed: Notify,
}

const CANCELED: u8 = 1;
const TIMED_OUT: u8 = 2;

impl CancelFlag {
    /// A caller wants the run to end.
    pub(crate) fn cancel(&self) {
        self.set(CANCELED);
    }

    /// The run is out of time.
    pub(crate) fn time_out(&self) {
        self.set(TIMED_OUT);
    }

    fn set(&self, bit: u8) {
        self.state.fetch_or(bit, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_canceled(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCELED != 0
    }

    pub(crate) fn is_set(&self) -> bool {
        self.state.load(Ordering::Acquire) != 0
    }

    pub(crate) async fn wait(&self) {
        loop {
            // Registered before the flag is read, so that a change between the two is not missed.
            let changed = self.changed.notified();
            if self.is_set() {
                return;
            }
            changed.await;
        }
    }
}
