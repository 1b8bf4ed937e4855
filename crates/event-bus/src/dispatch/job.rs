//! An event that a subscription has taken from its ring and not finished.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ring::Entry;
use crate::subscription::Subscriber;

/// Dropped as it is, it counts as discarded.
pub(super) struct Job {
    pub(super) entry: Entry,
    /// Calls so far.
    pub(super) attempts: u32,
    pub(super) redriven: u32,
    /// Its place among those that are not finished, by which the oldest is known.
    pub(super) number: u64,
    place: Place,
    pub(super) subscriber: Arc<Subscriber>,
}

/// Where the counts have it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Among those that wait.
    Waiting,
    /// In its first call.
    Called,
    /// Among those that are retried.
    Retrying,
    /// Among those that are finished.
    Settled,
}

impl Job {
    pub(super) fn new(entry: Entry, subscriber: Arc<Subscriber>) -> Self {
        subscriber.counters.parked.fetch_add(1, Ordering::Relaxed);
        Self { entry, attempts: 0, redriven: 0, number: 0, place: Place::Waiting, subscriber }
    }

    /// A dead letter that is to be handled again; the inbox has counted it.
    pub(super) fn redriven(entry: Entry, redriven: u32, subscriber: Arc<Subscriber>) -> Self {
        Self { entry, attempts: 0, redriven, number: 0, place: Place::Retrying, subscriber }
    }

    /// A call begins.
    pub(super) fn begins(&mut self) {
        if self.attempts > 0 {
            self.subscriber.counters.retried.fetch_add(1, Ordering::Relaxed);
        }
        self.attempts += 1;
        if self.place == Place::Waiting {
            self.moves_to(Place::Called);
        }
    }

    /// It is to have another attempt.
    pub(super) fn retries(&mut self) {
        self.moves_to(Place::Retrying);
    }

    /// Takes it out of the counts of what is on its way.
    pub(super) fn settles(&mut self) {
        self.moves_to(Place::Settled);
    }

    fn moves_to(&mut self, place: Place) {
        let counters = &self.subscriber.counters;
        let count = |place| match place {
            Place::Waiting => Some(&counters.parked),
            Place::Retrying => Some(&counters.retrying),
            Place::Called | Place::Settled => None,
        };
        if self.place != place {
            // Never in neither for a moment, as far as one can tell from the sum.
            count(place).map(|count| count.fetch_add(1, Ordering::Relaxed));
            count(self.place).map(|count| count.fetch_sub(1, Ordering::Relaxed));
            self.place = place;
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.place != Place::Settled {
            self.settles();
            self.subscriber.counters.discarded.fetch_add(1, Ordering::Relaxed);
            self.subscriber.passed_over(&self.entry);
        }
    }
}
