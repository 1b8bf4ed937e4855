//! Patterns with wildcards, found by topic in time that does not depend on the patterns that do not match.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::pattern::{Part, Pattern};
use crate::ring::Ring;
use crate::topic::Topic;

/// A tree of pattern segments.
#[derive(Default)]
pub(super) struct Trie {
    root: Node,
    rings: usize,
}

#[derive(Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    one: Option<Box<Node>>,
    any: Option<Box<Node>>,
    rings: Vec<Arc<Ring>>,
}

impl Trie {
    /// How many rings there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rings
    }

    pub(super) fn insert(&mut self, pattern: &Pattern, ring: &Arc<Ring>) {
        let mut node = &mut self.root;
        for part in pattern.parts() {
            node = match part {
                Part::Literal(text) => node.literal.entry(text.into()).or_default(),
                Part::One => node.one.get_or_insert_default(),
                Part::Any => node.any.get_or_insert_default(),
            };
        }
        node.rings.push(ring.clone());
        self.rings += 1;
    }

    pub(super) fn remove(&mut self, pattern: &Pattern, ring: &Arc<Ring>) {
        let parts: Vec<_> = pattern.parts().collect();
        if self.root.remove(&parts, ring.id()) {
            self.rings -= 1;
        }
    }

    /// Appends the rings of every pattern that takes the topic.
    ///
    /// The tree is run as a nondeterministic automaton, all its states at once, so that patterns with many
    /// `**` cost no more than nodes times segments.
    pub(super) fn collect(&self, topic: &Topic, found: &mut Vec<Arc<Ring>>) {
        if self.rings == 0 {
            return;
        }
        let mut states = States::default();
        states.add(&self.root, false);
        for segment in topic.segments() {
            let mut next = States::default();
            for &(node, loops) in &states.list {
                if loops {
                    next.add(node, true);
                }
                if let Some(child) = node.literal.get(segment) {
                    next.add(child, false);
                }
                if let Some(child) = &node.one {
                    next.add(child, false);
                }
            }
            states = next;
        }
        found.extend(states.list.iter().flat_map(|(node, _)| node.rings.iter().cloned()));
    }
}

/// Nodes that the segments read so far may lead to. A node below `**` takes any segment and stays.
#[derive(Default)]
struct States<'a> {
    list: Vec<(&'a Node, bool)>,
    seen: HashSet<usize>,
}

impl<'a> States<'a> {
    fn add(&mut self, node: &'a Node, loops: bool) {
        // Each node is reached by one kind of edge, so its address alone identifies the state.
        if self.seen.insert(std::ptr::from_ref(node).addr()) {
            self.list.push((node, loops));
            if let Some(child) = &node.any {
                self.add(child, true);
            }
        }
    }
}

impl Node {
    /// Whether the ring was there.
    fn remove(&mut self, parts: &[Part<'_>], ring: u64) -> bool {
        let Some((part, rest)) = parts.split_first() else {
            let before = self.rings.len();
            self.rings.retain(|held| held.id() != ring);
            return self.rings.len() < before;
        };
        let (removed, empty) = match part {
            Part::Literal(text) => match self.literal.get_mut(*text) {
                Some(child) => (child.remove(rest, ring), child.is_empty()),
                None => (false, false),
            },
            Part::One => remove_below(self.one.as_deref_mut(), rest, ring),
            Part::Any => remove_below(self.any.as_deref_mut(), rest, ring),
        };
        if empty {
            match part {
                Part::Literal(text) => drop(self.literal.remove(*text)),
                Part::One => self.one = None,
                Part::Any => self.any = None,
            }
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.rings.is_empty() && self.literal.is_empty() && self.one.is_none() && self.any.is_none()
    }
}

fn remove_below(child: Option<&mut Node>, rest: &[Part<'_>], ring: u64) -> (bool, bool) {
    child.map_or((false, false), |child| (child.remove(rest, ring), child.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ring::RingClass;

    fn ids(trie: &Trie, topic: &str) -> Vec<u64> {
        let mut found = Vec::new();
        trie.collect(&Topic::new(topic).unwrap(), &mut found);
        let mut ids: Vec<_> = found.iter().map(|ring| ring.id()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn many_double_wildcards_do_not_explode() {
        let mut trie = Trie::default();
        let pattern = Pattern::new(["**"; 80].join(".")).unwrap();
        trie.insert(&pattern, &Arc::new(Ring::new(1, RingClass::Free)));
        assert_eq!(ids(&trie, &["a"; 120].join(".")), [1]);
    }

    fn pattern() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(&["a", "b", "*", "**"]), 1..6).prop_map(|s| s.join("."))
    }

    proptest! {
        #[test]
        fn finds_what_the_patterns_themselves_say(
            patterns in prop::collection::vec(pattern(), 1..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            topic in prop::collection::vec(prop::sample::select(&["a", "b", "c"]), 1..6),
        ) {
            let mut trie = Trie::default();
            let rings: Vec<_> = patterns
                .iter()
                .zip(1..)
                .map(|(text, id)| (Pattern::new(text).unwrap(), Arc::new(Ring::new(id, RingClass::Free))))
                .collect();
            for (pattern, ring) in &rings {
                trie.insert(pattern, ring);
            }
            for ((pattern, ring), _) in rings.iter().zip(&removed).filter(|(_, removed)| **removed) {
                trie.remove(pattern, ring);
            }
            let topic = Topic::new(topic.join(".")).unwrap();
            let expected: Vec<u64> = rings
                .iter()
                .zip(&removed)
                .filter(|((pattern, _), removed)| !**removed && pattern.matches(&topic))
                .map(|((_, ring), _)| ring.id())
                .collect();
            prop_assert_eq!(ids(&trie, topic.as_str()), expected);
            for (pattern, ring) in &rings {
                trie.remove(pattern, ring);
            }
            prop_assert_eq!(trie.len(), 0);
            prop_assert!(trie.root.is_empty());
        }
    }
}
