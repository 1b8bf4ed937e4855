//! The last events, kept for those who come late. Bounded by count and by size.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::Timestamp;

use crate::event::{Event, EventId};
use crate::pattern::Pattern;

/// What one event counts beside its data, in bytes.
const EVENT_BYTES: usize = 512;

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
    kept: Mutex<Kept>,
    max_events: usize,
    max_bytes: usize,
}

/// The history, held.
pub(crate) struct Open<'a> {
    kept: MutexGuard<'a, Kept>,
    history: &'a History,
}

impl Open<'_> {
    /// Keeps an event; answers those that had to go, to be dropped where no lock is held.
    pub(crate) fn push(&mut self, event: Event) -> (Option<Event>, Vec<Event>) {
        let (kept, history) = (&mut *self.kept, self.history);
        kept.bytes += event.data_bytes() + EVENT_BYTES;
        kept.events.push_back(event);
        let mut first = None;
        let mut more = Vec::new();
        let over = |kept: &Kept| kept.events.len() > history.max_events || kept.bytes > history.max_bytes;
        while over(kept) && kept.events.len() > 1 {
            let Some(gone) = kept.events.pop_front() else { break };
            kept.bytes -= gone.data_bytes() + EVENT_BYTES;
            // As a rule one goes for one that comes, which then costs no allocation.
            match first {
                None => first = Some(gone),
                Some(_) => more.push(gone),
            }
        }
        (first, more)
    }

    /// See [`History::select`].
    pub(crate) fn select(&self, filter: &HistoryFilter) -> (Vec<Event>, bool) {
        select(&self.kept.events, filter)
    }
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
}

impl History {
    pub(crate) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { kept: Mutex::default(), max_events, max_bytes }
    }

    /// Holds the history, so that what is pushed and what else happens look like one step.
    pub(crate) fn open(&self) -> Open<'_> {
        Open { kept: self.kept(), history: self }
    }

    /// The events that the filter takes, oldest first, and whether the one that `since` names is known (or
    /// none was named).
    pub(crate) fn select(&self, filter: &HistoryFilter) -> (Vec<Event>, bool) {
        // Copied first: it is a counter each, and publishers wait meanwhile.
        let events = self.kept().events.clone();
        select(&events, filter)
    }

    pub(crate) fn len(&self) -> usize {
        self.kept().events.len()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No foreign code runs under the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn select(kept: &VecDeque<Event>, filter: &HistoryFilter) -> (Vec<Event>, bool) {
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

    #[test]
    fn keeps_the_last_and_finds_them() {
        let history = History::new(3, usize::MAX);
        let events: Vec<_> = ["a", "b.x", "c", "b.y"].iter().map(|t| event(t, json!(null))).collect();
        for event in &events {
            drop(history.open().push(event.clone()));
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
            drop(history.open().push(event("a", json!("x".repeat(98)))));
        }
        assert_eq!(history.len(), 10);
        drop(history.open().push(event("a", json!("x".repeat(100_000)))));
        assert_eq!(history.len(), 1, "the newest is kept whatever its size");
    }
}
