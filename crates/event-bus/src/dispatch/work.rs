//! What a subscription has taken from its ring and not finished: what may be handled now, what waits for its
//! key, and what waits for another attempt. Decides, and does nothing by itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant as Moment;

/// The hash of a key, where the subscription keeps order by one.
pub(super) type Key = Option<u64>;

/// See the module's text.
pub(super) struct Work<J> {
    /// Whether a job that is tried again keeps its key.
    keep_order: bool,
    /// The most jobs in one call.
    batch: usize,
    /// How long a batch waits to become full.
    within: Duration,
    ready: VecDeque<(Key, J)>,
    /// When the first of those that are ready became so.
    ready_since: Option<Moment>,
    /// The keys that have jobs.
    lines: HashMap<u64, Line<J>>,
    /// Jobs in lines.
    in_line: usize,
    /// Jobs that wait for another attempt, by when.
    aside: BTreeMap<(Moment, u64), (Key, J)>,
    /// How many were ever set aside: tells those of one moment apart, in their order.
    set_aside: u64,
}

/// The jobs of one key.
struct Line<J> {
    /// Jobs that are ready or in a call.
    running: usize,
    /// Jobs that are aside and keep the key.
    aside: usize,
    /// Jobs that were aside, which go before those that were not.
    returned: VecDeque<J>,
    waiting: VecDeque<J>,
}

impl<J> Work<J> {
    pub(super) fn new(keep_order: bool, batch: usize, within: Duration) -> Self {
        Self {
            keep_order,
            batch,
            within,
            ready: VecDeque::new(),
            ready_since: None,
            lines: HashMap::new(),
            in_line: 0,
            aside: BTreeMap::new(),
            set_aside: 0,
        }
    }

    /// Takes a new job in: it is ready, or waits behind those of its key.
    pub(super) fn add(&mut self, key: Key, job: J, now: Moment) {
        if let Some(key) = key {
            let line = self.lines.entry(key).or_insert_with(Line::new);
            if line.running + line.aside > 0 {
                line.waiting.push_back(job);
                self.in_line += 1;
                return;
            }
            line.running = 1;
        }
        self.is_ready(key, job, now);
    }

    /// Makes the first job ready whose wait is over, or, where its key is taken, the next of its key. Answers
    /// whether there was one.
    pub(super) fn wake(&mut self, now: Moment) -> bool {
        let Some(first) = self.aside.first_entry().filter(|first| first.key().0 <= now) else { return false };
        let (key, job) = first.remove();
        if let Some(key) = key {
            let line = self.lines.entry(key).or_insert_with(Line::new);
            line.aside -= usize::from(self.keep_order);
            if line.running > 0 {
                line.returned.push_back(job);
                self.in_line += 1;
                return true;
            }
            line.running = 1;
        }
        self.is_ready(key, job, now);
        true
    }

    /// Whether a call's worth of jobs is there; with `all`, whatever is there is.
    pub(super) fn has_call(&self, now: Moment, all: bool) -> bool {
        let waited =
            self.ready_since.is_some_and(|since| now.saturating_duration_since(since) >= self.within);
        self.ready.len() >= self.batch || (!self.ready.is_empty() && (all || waited))
    }

    /// Whether a call could have more jobs.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < self.batch
    }

    /// Takes out the jobs of one call. Those of one key that wait behind one of them come along.
    pub(super) fn take(&mut self, now: Moment, call: &mut Vec<(Key, J)>) {
        while call.len() < self.batch {
            let Some((key, job)) = self.ready.pop_front() else { break };
            call.push((key, job));
            let Some(line) = key.and_then(|key| self.lines.get_mut(&key)) else { continue };
            while call.len() < self.batch
                && let Some(next) = line.next()
            {
                line.running += 1;
                self.in_line -= 1;
                call.push((key, next));
            }
        }
        self.ready_since = (!self.ready.is_empty()).then_some(now);
    }

    /// A job is finished, and its key free for the next.
    pub(super) fn finished(&mut self, key: Key, now: Moment) {
        let Some(key) = key else { return };
        let Some(line) = self.lines.get_mut(&key) else { return };
        line.running -= 1;
        if line.running > 0 {
            return;
        }
        if let Some(next) = line.next() {
            line.running = 1;
            self.in_line -= 1;
            self.is_ready(Some(key), next, now);
        } else if line.aside == 0 {
            self.lines.remove(&key);
        }
    }

    /// Lets a job wait for another attempt. Those set aside until one moment come back in their order.
    pub(super) fn set_aside(&mut self, key: Key, job: J, due: Moment, now: Moment) {
        self.set_aside += 1;
        self.aside.insert((due, self.set_aside), (key, job));
        if self.keep_order
            && let Some(line) = key.and_then(|key| self.lines.get_mut(&key))
        {
            line.aside += 1;
        }
        self.finished(key, now);
    }

    /// How many jobs wait for another attempt.
    pub(super) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// How many jobs wait for their key.
    pub(super) fn in_line(&self) -> usize {
        self.in_line
    }

    /// When there will be something to do that nobody tells: an attempt, or a batch that is not full.
    pub(super) fn next_time(&self) -> Option<Moment> {
        let due = self.aside.first_key_value().map(|((due, _), _)| *due);
        let full = self.ready_since.map(|since| since + self.within);
        due.into_iter().chain(full).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.in_line == 0 && self.aside.is_empty()
    }

    /// Lets go of everything that is in no call.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.ready_since = None;
        self.lines.clear();
        self.in_line = 0;
        self.aside.clear();
    }

    fn is_ready(&mut self, key: Key, job: J, now: Moment) {
        self.ready.push_back((key, job));
        self.ready_since.get_or_insert(now);
    }
}

impl<J> Line<J> {
    fn new() -> Self {
        Self { running: 0, aside: 0, returned: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// What goes next. Where jobs are aside that keep the key, only they do.
    fn next(&mut self) -> Option<J> {
        let returned = self.returned.pop_front();
        if returned.is_some() || self.aside > 0 { returned } else { self.waiting.pop_front() }
    }
}

#[cfg(test)]
mod tests;
