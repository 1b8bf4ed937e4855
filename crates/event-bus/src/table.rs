//! Which rings an event goes to: the topic table.
//!
//! The index under its lock is the truth. Routes that were found in it are kept in shards by topic, for all
//! threads, and a thread keeps the routes that it uses most to itself. That a kept one is out of date is seen
//! by its generation, which is looked at while the rings of the route are held, and changed by someone who
//! holds the rings that change: so a publisher either writes before a change or sees it.

mod trie;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use smallvec::SmallVec;

use crate::pattern::Pattern;
use crate::ring::Ring;
use crate::topic::Topic;
use trie::Trie;

/// Topics are dealt out to so many shards, each with a generation of its own, so that a change for one topic
/// leaves most routes alone.
const SHARDS: usize = 64;
/// The routes that a shard keeps at the most.
const SHARD_ROUTES: usize = 4096;
/// The routes that a thread keeps to itself, one for each value of some bits of the topic's hash.
const KEPT_ROUTES: usize = 1024;
/// A thread keeps one of so many routes that it did not have: of many topics that come in turn none is kept
/// long enough to be used, and keeping it costs more than finding it.
const KEEP_EACH: u32 = 64;

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
    shards: Box<[Shard]>,
}

#[derive(Default)]
struct Index {
    /// The rings of subscriptions without wildcard.
    exact: ByTopic<Vec<Arc<Ring>>>,
    wild: Trie,
}

type ByTopic<T> = HashMap<Topic, T, BuildHasherDefault<TopicHasher>>;

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard {
    generation: AtomicU64,
    routes: RwLock<ByTopic<Route>>,
}

impl Shard {
    #[inline]
    fn current(&self, route: &Route) -> Current<'_> {
        Current { generation: &self.generation, seen: route.generation }
    }
}

/// Where the events of a topic go to.
#[derive(Clone)]
struct Route {
    generation: u64,
    /// In the order of their ids, which is the order in which they are locked.
    rings: SmallVec<[Arc<Ring>; 2]>,
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

/// What a thread keeps to itself.
struct Own {
    routes: Vec<Option<Kept>>,
    /// How often it looked for a route in vain.
    misses: u32,
}

thread_local! {
    static OWN: RefCell<Own> = const { RefCell::new(Own { routes: Vec::new(), misses: 0 }) };
}

impl Table {
    pub(crate) fn new() -> Self {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        Self {
            id: TABLES.fetch_add(1, Ordering::Relaxed),
            index: RwLock::default(),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
        }
    }

    /// Calls `visit` with the rings that what is carried goes to; it must not run foreign code.
    ///
    /// They may be out of date: [`Current::holds`] says so, and has to be asked while the rings are held.
    #[inline]
    pub(crate) fn with_route<C, T>(
        &self,
        carried: C,
        topic_of: impl Fn(&C) -> Option<&Topic>,
        visit: impl FnOnce(C, &[Arc<Ring>], Current<'_>) -> T,
    ) -> Option<T> {
        OWN.with_borrow_mut(|own| {
            let topic = topic_of(&carried)?;
            let shard = self.shard(topic);
            let slot = topic.precomputed_hash() as usize % KEPT_ROUTES;
            if let Some(Some(kept)) = own.routes.get(slot)
                && kept.table == self.id
                && kept.topic == *topic
            {
                let current = shard.current(&kept.route);
                if current.holds() {
                    return Some(visit(carried, &kept.route.rings, current));
                }
            }
            own.misses = own.misses.wrapping_add(1);
            if own.misses.is_multiple_of(KEEP_EACH) {
                self.keep(own, slot, topic);
            }
            {
                // Nobody who holds a ring waits for a shard, so it may be held while the rings are waited for.
                let routes = shard.routes.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(route) = routes.get(topic)
                    && shard.current(route).holds()
                {
                    return Some(visit(carried, &route.rings, shard.current(route)));
                }
            }
            let route = self.find(topic);
            Some(visit(carried, &route.rings, shard.current(&route)))
        })
    }

    /// Keeps a route for this thread.
    fn keep(&self, own: &mut Own, slot: usize, topic: &Topic) {
        let shard = self.shard(topic);
        let found = shard.routes.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        let route = found.filter(|route| shard.current(route).holds()).unwrap_or_else(|| self.find(topic));
        if own.routes.is_empty() {
            own.routes.resize_with(KEPT_ROUTES, || None);
        }
        // What it replaces are counted pointers to rings; one without members holds no event.
        own.routes[slot] = Some(Kept { table: self.id, topic: topic.clone(), route });
    }

    /// The route of a topic, kept for all threads from now on.
    fn find(&self, topic: &Topic) -> Route {
        let shard = self.shard(topic);
        // Before the index is read: if it changes meanwhile, the route is out of date at once.
        let generation = shard.generation.load(Ordering::Acquire);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut rings = index.exact.get(topic).cloned().unwrap_or_default();
        index.wild.collect(topic, &mut rings);
        drop(index);
        rings.sort_by_key(|ring| ring.id());
        rings.dedup_by_key(|ring| ring.id());
        let route = Route { generation, rings: rings.into() };
        let mut routes = shard.routes.write().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= SHARD_ROUTES && !routes.contains_key(topic) {
            routes.clear();
        }
        routes.insert(topic.clone(), route.clone());
        route
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
                drop(index);
                let mut routes = self.shard(&topic).routes.write().unwrap_or_else(PoisonError::into_inner);
                routes.remove(&topic);
            }
            None => index.wild.remove(pattern, ring),
        }
    }

    /// Finds the route of the topic of a pattern without wildcard, so that the first who publishes to it has it.
    pub(crate) fn prepare(&self, pattern: &Pattern) {
        if let Some(topic) = exact_topic(pattern) {
            self.find(&topic);
        }
    }

    /// Makes the routes of all topics that the pattern may take out of date.
    pub(crate) fn changed(&self, pattern: &Pattern) {
        match exact_topic(pattern) {
            Some(topic) => drop(self.shard(&topic).generation.fetch_add(1, Ordering::AcqRel)),
            None => self.all_changed(),
        }
    }

    /// Makes all routes out of date.
    pub(crate) fn all_changed(&self) {
        for shard in &self.shards {
            shard.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    #[inline]
    fn shard(&self, topic: &Topic) -> &Shard {
        // Other bits than those that choose the slot of a thread, and than those that a map looks at first.
        &self.shards[(topic.precomputed_hash() >> 32) as usize % SHARDS]
    }
}

/// The topic of a pattern without wildcard.
fn exact_topic(pattern: &Pattern) -> Option<Topic> {
    pattern.is_exact().then(|| Topic::of_checked(pattern.text().clone()))
}
