//! Which rings an event goes to: the topic table.
//!
//! Sharded by topic. A publisher holds its topic's shard for reading while it writes to every ring of the
//! route, so that whoever holds all shards for writing changes what several subscriptions see in one step:
//! no event falls between.

mod trie;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::pattern::Pattern;
use crate::ring::Ring;
use crate::topic::Topic;
use trie::Trie;

/// More than there are cores, so that publishers of different topics seldom meet.
const SHARDS: usize = 64;
/// Routes that a shard remembers for topics to which nobody subscribed by name.
const CACHED_ROUTES: usize = 1024;

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

type ByTopic<V> = HashMap<Topic, V, BuildHasherDefault<TopicHasher>>;

/// See the module's text.
pub(crate) struct Table {
    shards: Box<[Padded]>,
    /// Changed only by the holder of all shards.
    wild: RwLock<Trie>,
    /// Counts the changes of `wild`; a route of another generation is out of date.
    generation: AtomicU64,
    wild_rings: AtomicUsize,
}

/// On cache lines of its own, since every publish writes to its lock word.
#[repr(align(128))]
struct Padded {
    shard: RwLock<Shard>,
    published: AtomicU64,
}

#[derive(Default)]
struct Shard {
    /// The rings of subscriptions without wildcard.
    exact: ByTopic<Vec<Arc<Ring>>>,
    routes: ByTopic<Route>,
}

/// The rings that the events of a topic go to.
pub(crate) struct Route {
    generation: u64,
    /// Those that may hold up the publisher, in the order of their ids.
    pub(crate) gated: Box<[Arc<Ring>]>,
    pub(crate) free: Box<[Arc<Ring>]>,
}

/// Holds a topic's shard; while it lives, no subscription changes what the topic's events go to.
pub(crate) struct Lookup<'a> {
    shard: RwLockReadGuard<'a, Shard>,
    topic: &'a Topic,
}

/// Holds shards for writing.
pub(crate) struct Edit<'a> {
    table: &'a Table,
    /// One shard, by its number, or all.
    shards: Vec<(usize, RwLockWriteGuard<'a, Shard>)>,
    wild_changed: bool,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| Padded { shard: RwLock::default(), published: AtomicU64::new(0) })
                .collect(),
            wild: RwLock::default(),
            generation: AtomicU64::new(0),
            wild_rings: AtomicUsize::new(0),
        }
    }

    /// The route of a topic, held; nothing where nobody listens.
    pub(crate) fn look_up<'a>(&'a self, topic: &'a Topic) -> Lookup<'a> {
        let padded = &self.shards[number(topic)];
        loop {
            let shard = padded.shard.read().unwrap_or_else(PoisonError::into_inner);
            let known = match shard.routes.get(topic) {
                Some(route) => route.generation == self.generation.load(Ordering::Relaxed),
                // An exact subscription removes the route that it changes, so look there as well.
                None => self.wild_rings.load(Ordering::Relaxed) == 0 && !shard.exact.contains_key(topic),
            };
            if known {
                padded.published.fetch_add(1, Ordering::Relaxed);
                return Lookup { shard, topic };
            }
            drop(shard);
            self.remember(topic);
        }
    }

    fn remember(&self, topic: &Topic) {
        let mut shard = self.shards[number(topic)].shard.write().unwrap_or_else(PoisonError::into_inner);
        let wild = self.wild.read().unwrap_or_else(PoisonError::into_inner);
        let mut rings = shard.exact.get(topic).cloned().unwrap_or_default();
        wild.collect(topic, &mut rings);
        rings.sort_by_key(|ring| ring.id());
        rings.dedup_by_key(|ring| ring.id());
        let (gated, free): (Vec<_>, Vec<_>) = rings.into_iter().partition(|ring| ring.is_gated());
        let generation = self.generation.load(Ordering::Relaxed);
        if shard.routes.len() >= CACHED_ROUTES + shard.exact.len() {
            let Shard { exact, routes } = &mut *shard;
            routes.retain(|topic, _| exact.contains_key(topic));
        }
        let route = Route { generation, gated: gated.into(), free: free.into() };
        shard.routes.insert(topic.clone(), route);
    }

    /// Begins to change what the events of one topic go to.
    pub(crate) fn edit_topic(&self, topic: &Topic) -> Edit<'_> {
        let number = number(topic);
        let shard = self.shards[number].shard.write().unwrap_or_else(PoisonError::into_inner);
        Edit { table: self, shards: vec![(number, shard)], wild_changed: false }
    }

    /// Begins to change anything. Waits for the publishers that are at work and holds up the next.
    pub(crate) fn edit_all(&self) -> Edit<'_> {
        let mut shards = Vec::with_capacity(SHARDS);
        for (number, padded) in self.shards.iter().enumerate() {
            shards.push((number, padded.shard.write().unwrap_or_else(PoisonError::into_inner)));
        }
        Edit { table: self, shards, wild_changed: false }
    }

    /// How many events were published.
    pub(crate) fn published(&self) -> u64 {
        self.shards.iter().map(|padded| padded.published.load(Ordering::Relaxed)).sum()
    }
}

impl Lookup<'_> {
    pub(crate) fn route(&self) -> Option<&Route> {
        self.shard.routes.get(self.topic)
    }
}

impl Edit<'_> {
    /// Adds a ring for a pattern. The edit must hold the shards that the pattern concerns.
    pub(crate) fn insert(&mut self, pattern: &Pattern, ring: &Arc<Ring>) {
        match exact_topic(pattern) {
            Some(topic) => {
                if let Some(shard) = self.shard(&topic) {
                    shard.exact.entry(topic.clone()).or_default().push(ring.clone());
                    shard.routes.remove(&topic);
                }
            }
            None => self.change_wild(|wild| wild.insert(pattern, ring)),
        }
    }

    /// Takes a ring out again.
    pub(crate) fn remove(&mut self, pattern: &Pattern, ring: &Arc<Ring>) {
        match exact_topic(pattern) {
            Some(topic) => {
                if let Some(shard) = self.shard(&topic) {
                    if let Some(rings) = shard.exact.get_mut(&topic) {
                        rings.retain(|held| held.id() != ring.id());
                        if rings.is_empty() {
                            shard.exact.remove(&topic);
                        }
                    }
                    shard.routes.remove(&topic);
                }
            }
            None => self.change_wild(|wild| wild.remove(pattern, ring)),
        }
    }

    fn change_wild(&mut self, change: impl FnOnce(&mut Trie)) {
        debug_assert_eq!(self.shards.len(), SHARDS, "a wildcard concerns every shard");
        let mut wild = self.table.wild.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut wild);
        self.table.wild_rings.store(wild.len(), Ordering::Relaxed);
        self.wild_changed = true;
    }

    fn shard(&mut self, topic: &Topic) -> Option<&mut Shard> {
        let wanted = number(topic);
        let held = self.shards.iter_mut().find(|(number, _)| *number == wanted);
        debug_assert!(held.is_some(), "the edit holds the topic's shard");
        held.map(|(_, shard)| &mut **shard)
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        if self.wild_changed {
            // Before the shards are let go: a publisher reads it under its shard's lock.
            self.table.generation.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The topic of a pattern without wildcard.
pub(crate) fn exact_topic(pattern: &Pattern) -> Option<Topic> {
    if pattern.is_exact() { Topic::new(pattern.as_str()).ok() } else { None }
}

fn number(topic: &Topic) -> usize {
    // The high bits: the map within the shard uses the low ones and the top seven.
    (topic.precomputed_hash() >> 32) as usize % SHARDS
}
