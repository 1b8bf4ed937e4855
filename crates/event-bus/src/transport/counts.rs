//! What bridges count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::subscription::Subscriber;

/// The most transports that are told apart by name; those that come later are one, [`OTHERS`].
const MAX_TRANSPORTS: usize = 100;
const OTHERS: &str = "other";

/// What a bridge counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeStats {
    /// Events that went out.
    pub sent: u64,
    /// Events that wait to go out.
    pub waiting: u64,
    /// Events that did not go out: dropped by the overflow policy, or given up at the end.
    pub lost: u64,
    /// Events that the engine refused for good; they are dead letters.
    pub refused: u64,
    /// Events that came in and were published.
    pub received: u64,
    /// Events that came in and were known: echoes, and what came twice.
    pub duplicates: u64,
    /// Events that came in and whose topic the bridge does not carry.
    pub foreign: u64,
    /// Events that came in and that the bus refused, such as one that is too large.
    pub rejected: u64,
    /// Messages that came in and were no events.
    pub unreadable: u64,
    /// Times that sending or receiving failed for the moment.
    pub failures: u64,
}

impl BridgeStats {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.waiting += other.waiting;
        self.lost += other.lost;
        self.refused += other.refused;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.foreign += other.foreign;
        self.rejected += other.rejected;
        self.unreadable += other.unreadable;
        self.failures += other.failures;
    }
}

/// The counts of one bridge.
pub(crate) struct Counts {
    transport: String,
    /// What reads the events that go out, once it is there.
    pub(super) outgoing: OnceLock<Arc<Subscriber>>,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) foreign: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) failures: AtomicU64,
}

impl Counts {
    pub(super) fn new(transport: &str) -> Arc<Self> {
        Arc::new(Self {
            transport: transport.to_owned(),
            outgoing: OnceLock::new(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
            duplicates: AtomicU64::default(),
            foreign: AtomicU64::default(),
            refused: AtomicU64::default(),
            rejected: AtomicU64::default(),
            unreadable: AtomicU64::default(),
            failures: AtomicU64::default(),
        })
    }

    pub(super) fn stats(&self) -> BridgeStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let outgoing = self.outgoing.get().map(|subscriber| subscriber.stats()).unwrap_or_default();
        BridgeStats {
            sent: count(&self.sent),
            waiting: outgoing.depth,
            lost: outgoing.dropped + outgoing.discarded,
            refused: count(&self.refused),
            received: count(&self.received),
            duplicates: count(&self.duplicates),
            foreign: count(&self.foreign),
            rejected: count(&self.rejected),
            unreadable: count(&self.unreadable),
            failures: count(&self.failures),
        }
    }
}

/// The bridges of a bus, and what those counted that have ended.
#[derive(Default)]
pub(crate) struct Bridges {
    live: Vec<Arc<Counts>>,
    retired: BTreeMap<String, BridgeStats>,
}

impl Bridges {
    pub(super) fn add(&mut self, counts: Arc<Counts>) {
        self.retire();
        self.live.push(counts);
    }

    /// The counts of all bridges by the name of their transport.
    pub(crate) fn by_transport(&mut self) -> BTreeMap<String, BridgeStats> {
        self.retire();
        let mut sums = self.retired.clone();
        self.live.iter().for_each(|counts| add(&mut sums, counts));
        sums
    }

    /// Keeps the sums of those that nobody counts with any more.
    fn retire(&mut self) {
        let Self { live, retired } = self;
        live.retain(|counts| {
            let has_ended = counts.outgoing.get().is_none_or(|subscriber| subscriber.ended.is_cancelled());
            let is_over = Arc::strong_count(counts) == 1 && has_ended;
            if is_over {
                add(retired, counts);
            }
            !is_over
        });
    }
}

fn add(sums: &mut BTreeMap<String, BridgeStats>, counts: &Counts) {
    let has_room = sums.len() < MAX_TRANSPORTS || sums.contains_key(&counts.transport);
    let name = if has_room { &*counts.transport } else { OTHERS };
    sums.entry(name.to_owned()).or_default().add(&counts.stats());
}
