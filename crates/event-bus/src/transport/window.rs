//! The last so many of something, to know what comes twice.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::LazyLock;

use crate::event::Event;

/// Keyed per process, so that nobody can choose ids that look like another's.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What tells events apart: CloudEvents says that source and id together do. Kept as a hash of 64 bits, so
/// that a long id costs no more; among as many events as a window holds, two share one about once in 10^14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EventKey(u64);

impl EventKey {
    pub(super) fn of(event: &Event) -> Self {
        Self(HASHER.hash_one((event.source(), event.id())))
    }
}

/// A set that forgets the oldest beyond its bound.
pub(super) struct Window<T> {
    known: HashSet<T>,
    order: VecDeque<T>,
    bound: usize,
}

impl<T: Eq + Hash + Clone> Window<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self { known: HashSet::new(), order: VecDeque::new(), bound }
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, item: T) -> bool {
        if !self.known.insert(item.clone()) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > self.bound
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Forgets one of the newest.
    pub(super) fn remove(&mut self, item: &T) {
        if self.known.remove(item)
            && let Some(at) = self.order.iter().rposition(|known| known == item)
        {
            self.order.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_8_remembers_the_last_and_no_more() {
        let mut window = Window::new(3);
        assert!((1..=3).all(|n| window.insert(n)));
        assert!(!window.insert(1));
        assert!(window.insert(4));
        assert!(window.insert(1), "the oldest is forgotten");
        window.remove(&1);
        assert!(window.insert(1));
        assert_eq!(window.order.len(), 3);
        assert_eq!(window.known.len(), 3);
    }
}
