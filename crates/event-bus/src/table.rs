//! Which rings an event goes to: the topic table.
//!
//! The index under its lock is the truth; a publisher keeps the routes that it used last to itself, and
//! finds out that one is out of date by its generation. The generation is looked at while the rings of the
//! route are held, and changed by someone who holds the rings that change: so a publisher either writes
//! before a change or sees it.

mod trie;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::pattern::Pattern;
use crate::ring::Ring;
use crate::topic::Topic;
use trie::Trie;

/// Topics are dealt out to so many generations, so that a change for one topic leaves most routes alone.
const GENERATIONS: usize = 64;
/// The routes that a thread keeps to itself, one for each value of some bits of the topic's hash.
const KEPT_ROUTES: usize = 1024;

/// A topic's hash is computed when the topic is made; this passes it on.
#[derive(Default)]
pub(crate) struct TopicHasher(u64);

impl Hasher for TopicHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// See the module's text.
pub(crate) struct Table {
    /// Tells the tables of a process apart.
    id: u64,
    index: RwLock<Index>,
    generations: Box<[AtomicU64]>,
}

#[derive(Default)]
struct Index {
    /// The rings of subscriptions without wildcard.
    exact: HashMap<Topic, Vec<Arc<Ring>>, BuildHasherDefault<TopicHasher>>,
    wild: Trie,
}

/// The rings that the events of a topic go to.
pub(crate) struct Route {
    generation: u64,
    /// In the order of their ids, which is the order in which they are locked.
    pub(crate) rings: Box<[Arc<Ring>]>,
}

/// Whether a route is still that of its topic.
#[derive(Clone, Copy)]
pub(crate) struct Current<'a> {
    generation: &'a AtomicU64,
    seen: u64,
}

impl Current<'_> {
    #[inline]
    pub(crate) fn holds(self) -> bool {
        self.generation.load(Ordering::Acquire) == self.seen
    }
}

struct Kept {
    table: u64,
    topic: Topic,
    route: Route,
}

thread_local! {
    static KEPT: RefCell<Vec<Option<Kept>>> = const { RefCell::new(Vec::new()) };
}

impl Table {
    pub(crate) fn new() -> Self {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        Self {
            id: TABLES.fetch_add(1, Ordering::Relaxed),
            index: RwLock::default(),
            generations: (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Calls `visit` with the route of what is carried, which must not run foreign code.
    ///
    /// The route may be out of date: [`Current::holds`] says so, and has to be asked while the route's rings
    /// are held.
    #[inline]
    pub(crate) fn with_route<C, T>(
        &self,
        carried: C,
        topic_of: impl Fn(&C) -> &Topic,
        visit: impl FnOnce(C, &Route, Current<'_>) -> T,
    ) -> T {
        KEPT.with_borrow_mut(|kept| {
            let topic = topic_of(&carried);
            let slot = topic.precomputed_hash() as usize % KEPT_ROUTES;
            let generation = self.generation(topic);
            if let Some(Some(kept)) = kept.get(slot)
                && kept.table == self.id
                && kept.topic == *topic
            {
                let current = Current { generation, seen: kept.route.generation };
                if current.holds() {
                    return visit(carried, &kept.route, current);
                }
            }
            let route = self.find(topic);
            if kept.is_empty() {
                kept.resize_with(KEPT_ROUTES, || None);
            }
            // What it replaces are counted pointers to rings; one without members holds no event.
            let kept = kept[slot].insert(Kept { table: self.id, topic: topic.clone(), route });
            let current = Current { generation, seen: kept.route.generation };
            visit(carried, &kept.route, current)
        })
    }

    fn find(&self, topic: &Topic) -> Route {
        // Before the index is read: if it changes meanwhile, the route is out of date at once.
        let generation = self.generation(topic).load(Ordering::Acquire);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut rings = index.exact.get(topic).cloned().unwrap_or_default();
        index.wild.collect(topic, &mut rings);
        drop(index);
        rings.sort_by_key(|ring| ring.id());
        rings.dedup_by_key(|ring| ring.id());
        Route { generation, rings: rings.into() }
    }

    /// Adds a ring for a pattern. Publishers see it once [`Table::changed`] has been called.
    pub(crate) fn insert(&self, pattern: &Pattern, ring: &Arc<Ring>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match exact_topic(pattern) {
            Some(topic) => index.exact.entry(topic).or_default().push(ring.clone()),
            None => index.wild.insert(pattern, ring),
        }
    }

    /// Takes a ring out again.
    pub(crate) fn remove(&self, pattern: &Pattern, ring: &Arc<Ring>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match exact_topic(pattern) {
            Some(topic) => {
                if let Some(rings) = index.exact.get_mut(&topic) {
                    rings.retain(|held| held.id() != ring.id());
                    if rings.is_empty() {
                        index.exact.remove(&topic);
                    }
                }
            }
            None => index.wild.remove(pattern, ring),
        }
    }

    /// Makes the routes of all topics that the pattern may take out of date.
    pub(crate) fn changed(&self, pattern: &Pattern) {
        match exact_topic(pattern) {
            Some(topic) => drop(self.generation(&topic).fetch_add(1, Ordering::AcqRel)),
            None => self.all_changed(),
        }
    }

    /// Makes all routes out of date.
    pub(crate) fn all_changed(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn generation(&self, topic: &Topic) -> &AtomicU64 {
        // Other bits than those that choose the slot of a thread.
        &self.generations[(topic.precomputed_hash() >> 32) as usize % GENERATIONS]
    }
}

/// The topic of a pattern without wildcard.
fn exact_topic(pattern: &Pattern) -> Option<Topic> {
    if pattern.is_exact() { Topic::new(pattern.as_str()).ok() } else { None }
}
