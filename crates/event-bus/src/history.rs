//! The last events, kept for those who come late. Bounded by count and by size.
//!
//! In shards, one for each thread that publishes, so that publishers do not wait for each other here. An event
//! gets its number while the rings that it goes to are held, so that by their numbers all events are in the
//! order in which subscriptions have them. A publisher holds its shard from before it looks for the rings
//! until the event is kept; whoever holds all shards therefore sees no event halfway.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::Timestamp;

use crate::event::{Event, EventId};
use crate::pattern::Pattern;
use crate::thread::{self, THREADS};

/// What one event counts beside its data, in bytes.
const EVENT_BYTES: usize = 512;
/// One for each thread that has a number, and one for all others.
const SHARDS: usize = THREADS + 1;

/// Which events to give back.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HistoryFilter {
    pattern: Option<Pattern>,
    source: Option<String>,
    since: Option<Since>,
    limit: Option<usize>,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// After the event of that id; from the oldest kept one, if that event is no longer known.
    Id(EventId),
    /// With the events of that time and later.
    Time(Timestamp),
}

impl HistoryFilter {
    /// Everything that is kept.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only topics that the pattern takes.
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// Only events of that source.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Only what is newer.
    pub fn since(mut self, since: Since) -> Self {
        self.since = Some(since);
        self
    }

    /// Only the newest so many.
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = Some(events);
        self
    }

    fn takes(&self, event: &Event) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(event.topic()))
            && self.source.as_ref().is_none_or(|source| source == event.source())
    }
}

/// See the module's text.
pub(crate) struct History {
    shards: Box<[Shard; SHARDS]>,
    next: Padded<AtomicU64>,
    bytes: Padded<AtomicUsize>,
    /// What has a lower number was forgotten for its size.
    floor: AtomicU64,
    max_events: usize,
    max_bytes: usize,
}

#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

type Shard = Padded<Mutex<Kept>>;

#[derive(Default)]
struct Kept {
    /// With their numbers, which ascend.
    events: VecDeque<(u64, Event)>,
    bytes: usize,
}

/// A publisher's shard, held.
pub(crate) struct Open<'a> {
    kept: MutexGuard<'a, Kept>,
    history: &'a History,
}

/// All shards, held.
pub(crate) struct Held<'a> {
    shards: [MutexGuard<'a, Kept>; SHARDS],
    history: &'a History,
}

/// Events that are to be dropped where no lock is held. As a rule one goes for one that comes, which then
/// costs no allocation.
#[derive(Default)]
pub(crate) struct Forgotten {
    first: Option<Event>,
    more: Vec<Event>,
    /// Other shards have to give up something, too.
    is_over: bool,
}

impl History {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            shards: Box::new(std::array::from_fn(|_| Shard::default())),
            next: Padded::default(),
            bytes: Padded::default(),
            floor: AtomicU64::new(0),
            max_events,
            max_bytes,
        }
    }

    /// Holds the shard of this thread.
    pub(crate) fn open(&self) -> Open<'_> {
        let shard = &self.shards[thread::number().unwrap_or(THREADS)];
        Open { kept: lock(shard), history: self }
    }

    /// Holds the history, so that what is in it and what else happens look like one step.
    pub(crate) fn hold(&self) -> Held<'_> {
        // Always in this order, and a publisher holds one.
        Held { shards: std::array::from_fn(|n| lock(&self.shards[n])), history: self }
    }

    /// Where events get their numbers from.
    pub(crate) fn numbers(&self) -> &AtomicU64 {
        &self.next.0
    }

    /// See [`Held::select`].
    pub(crate) fn select(&self, filter: &HistoryFilter) -> (Vec<Event>, bool) {
        // Copied first: it is a counter each, and publishers wait meanwhile.
        let events = self.hold().events();
        select(&events, filter)
    }

    pub(crate) fn len(&self) -> usize {
        let held = self.hold();
        let first = self.first();
        held.shards.iter().map(|kept| kept.events.len() - kept.before(first)).sum()
    }

    /// Drops what was forgotten, and what is over a bound in other shards. To be called where no lock is held.
    pub(crate) fn settle(&self, forgotten: Forgotten) {
        if forgotten.is_over {
            drop(self.hold().trim());
        }
    }

    /// Brings the sum up to date with a shard that is held; answers the sum.
    fn change_bytes(&self, before: usize, after: usize) -> usize {
        let bytes = &self.bytes.0;
        // As a rule as much goes as comes.
        if before == after {
            return bytes.load(Ordering::Relaxed);
        }
        // Wraps back where there is less than before.
        let change = after.wrapping_sub(before);
        bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change)
    }

    /// The number of the oldest event that counts.
    fn first(&self) -> u64 {
        let by_count = self.next.0.load(Ordering::Relaxed).saturating_sub(self.max_events as u64);
        by_count.max(self.floor.load(Ordering::Relaxed))
    }
}

impl Open<'_> {
    /// Keeps an event that has this number.
    pub(crate) fn push(&mut self, number: u64, event: Event) -> Forgotten {
        let (kept, history) = (&mut *self.kept, self.history);
        let mut forgotten = Forgotten::default();
        let before = kept.bytes;
        kept.bytes += size(&event);
        kept.events.push_back((number, event));
        let first = (number + 1).saturating_sub(history.max_events as u64);
        let first = first.max(history.floor.load(Ordering::Relaxed));
        while kept.oldest() < first {
            forgotten.add(kept.pop());
        }
        let mut all = history.change_bytes(before, kept.bytes);
        // Where this shard has everything, what is the oldest here is the oldest.
        while all > history.max_bytes && all == kept.bytes && kept.events.len() > 1 {
            history.floor.fetch_max(kept.oldest() + 1, Ordering::Relaxed);
            let before = kept.bytes;
            forgotten.add(kept.pop());
            all = history.change_bytes(before, kept.bytes);
        }
        // Shards whose threads no longer publish are looked after now and then.
        let look = (history.max_events / 4).max(64) as u64;
        let is_over = all > history.max_bytes && all != kept.bytes;
        forgotten.is_over = is_over || number.is_multiple_of(look);
        forgotten
    }
}

impl Held<'_> {
    /// The events that the filter takes, oldest first, and whether the one that `since` names is known (or
    /// none was named).
    pub(crate) fn select(&self, filter: &HistoryFilter) -> (Vec<Event>, bool) {
        select(&self.events(), filter)
    }

    /// All events, oldest first.
    fn events(&self) -> Vec<Event> {
        let first = self.history.first();
        let kept = self.shards.iter().flat_map(|kept| kept.events.iter().skip(kept.before(first)));
        let mut events: Vec<_> = kept.collect();
        events.sort_by_key(|(number, _)| *number);
        events.into_iter().map(|(_, event)| event.clone()).collect()
    }

    /// Takes out what is over a bound; some more for the size, so that this is not needed for every event.
    fn trim(mut self) -> Vec<Event> {
        let history = self.history;
        let mut gone = Vec::new();
        let first = history.first();
        for kept in &mut self.shards {
            let before = kept.bytes;
            for _ in 0..kept.before(first) {
                gone.extend(kept.pop());
            }
            history.change_bytes(before, kept.bytes);
        }
        let bytes = || history.bytes.0.load(Ordering::Relaxed);
        let bound = if bytes() > history.max_bytes { history.max_bytes / 16 * 15 } else { usize::MAX };
        let mut left: usize = self.shards.iter().map(|kept| kept.events.len()).sum();
        while bytes() > bound && left > 1 {
            let oldest = self.shards.iter_mut().min_by_key(|kept| kept.oldest());
            let Some(kept) = oldest else { break };
            history.floor.fetch_max(kept.oldest().saturating_add(1), Ordering::Relaxed);
            let before = kept.bytes;
            gone.extend(kept.pop());
            history.change_bytes(before, kept.bytes);
            left -= 1;
        }
        gone
    }
}

impl Kept {
    /// The number of the first event; the greatest there is where there is none.
    fn oldest(&self) -> u64 {
        self.events.front().map_or(u64::MAX, |(number, _)| *number)
    }

    /// How many events have a lower number.
    fn before(&self, first: u64) -> usize {
        self.events.partition_point(|(number, _)| *number < first)
    }

    fn pop(&mut self) -> Option<Event> {
        let (_, event) = self.events.pop_front()?;
        self.bytes -= size(&event);
        Some(event)
    }
}

impl Forgotten {
    fn add(&mut self, event: Option<Event>) {
        match self.first {
            None => self.first = event,
            Some(_) => self.more.extend(event),
        }
    }
}

fn size(event: &Event) -> usize {
    event.data_bytes() + EVENT_BYTES
}

fn lock(shard: &Shard) -> MutexGuard<'_, Kept> {
    // No foreign code runs under the lock.
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn select(kept: &[Event], filter: &HistoryFilter) -> (Vec<Event>, bool) {
    let (from, known) = match &filter.since {
        Some(Since::Id(id)) => match kept.iter().rposition(|event| event.id() == id) {
            Some(at) => (at + 1, true),
            None => (0, false),
        },
        None | Some(Since::Time(_)) => (0, true),
    };
    let fits = |event: &&Event| match &filter.since {
        Some(Since::Time(since)) => event.time() >= *since && filter.takes(event),
        _ => filter.takes(event),
    };
    let mut events: Vec<Event> = kept.iter().skip(from).filter(fits).cloned().collect();
    if let Some(limit) = filter.limit {
        let surplus = events.len().saturating_sub(limit);
        events.drain(..surplus);
    }
    (events, known)
}

#[cfg(test)]
mod tests {
    use runtime::SystemClock;
    use serde_json::json;

    use super::*;
    use crate::topic::Topic;

    fn event(topic: &str, data: serde_json::Value) -> Event {
        Event::builder(Topic::new(topic).unwrap()).data(data).build(&SystemClock).unwrap()
    }

    fn push(history: &History, event: Event) {
        let mut open = history.open();
        let number = history.numbers().fetch_add(1, Ordering::Relaxed);
        let forgotten = open.push(number, event);
        drop(open);
        history.settle(forgotten);
    }

    #[test]
    fn keeps_the_last_and_finds_them() {
        let history = History::new(3, usize::MAX);
        let events: Vec<_> = ["a", "b.x", "c", "b.y"].iter().map(|t| event(t, json!(null))).collect();
        for event in &events {
            push(&history, event.clone());
        }
        let ids = |filter: &HistoryFilter| -> Vec<_> {
            history.select(filter).0.iter().map(|event| event.topic().to_string()).collect()
        };
        assert_eq!(ids(&HistoryFilter::new()), ["b.x", "c", "b.y"]);
        assert_eq!(ids(&HistoryFilter::new().pattern(Pattern::new("b.*").unwrap())), ["b.x", "b.y"]);
        assert_eq!(ids(&HistoryFilter::new().limit(1)), ["b.y"]);
        assert_eq!(ids(&HistoryFilter::new().source("other")), Vec::<String>::new());
        let since = |event: &Event| HistoryFilter::new().since(Since::Id(event.id().clone()));
        assert_eq!(ids(&since(&events[2])), ["b.y"]);
        assert!(!history.select(&since(&events[0])).1, "gone");
        assert_eq!(ids(&HistoryFilter::new().since(Since::Time(events[3].time()))), ["b.y"]);
    }

    #[test]
    fn promise_8_history_is_bounded_in_bytes_too() {
        let history = History::new(1000, 10 * (EVENT_BYTES + 100));
        for _ in 0..100 {
            push(&history, event("a", json!("x".repeat(98))));
        }
        assert_eq!(history.len(), 10);
        push(&history, event("a", json!("x".repeat(100_000))));
        assert_eq!(history.len(), 1, "the newest is kept whatever its size");
    }
    /// Ten events of this size from each of so many threads that are there at one time.
    fn from_threads(history: &History, threads: usize, bytes: usize) {
        let all_there = std::sync::Barrier::new(threads);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    all_there.wait();
                    (0..10).for_each(|_| push(history, event("a", json!("x".repeat(bytes)))));
                    all_there.wait();
                });
            }
        });
    }

    #[test]
    fn promise_8_history_is_bounded_across_threads() {
        let history = History::new(20, usize::MAX);
        from_threads(&history, 8, 10);
        assert_eq!(history.len(), 20);
        (0..1000).for_each(|_| push(&history, event("a", json!(1))));
        let held: usize = history.hold().shards.iter().map(|kept| kept.events.len()).sum();
        assert!(held <= 20 + 64, "{held} are in memory");
        let history = History::new(1000, 20 * (EVENT_BYTES + 1000));
        from_threads(&history, 8, 998);
        let bytes: usize = history.hold().shards.iter().map(|kept| kept.bytes).sum();
        assert_eq!(bytes, history.bytes.0.load(Ordering::Relaxed));
        assert!(bytes <= history.max_bytes && history.len() > 15, "{bytes} bytes");
    }
}
