//! A map that keeps what was asked for of late, and forgets the rest: its size has a bound whatever the number
//! of strangers that knock.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Two generations: what is asked for moves into the young one. Where that is full it becomes the old one, and
/// what was in the old one, asked for longest ago, is gone.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    generation_max: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    /// Keeps the latest `max / 2` at the least, and `max` at the most.
    pub(crate) fn new(max: usize) -> Self {
        Self { generation_max: (max / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// The entry of a key, made if it is not there.
    pub(crate) fn entry<Q>(&mut self, key: &Q, make: impl FnOnce() -> V) -> &mut V
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.young.contains_key(key) {
            if self.young.len() == self.generation_max {
                self.old = std::mem::take(&mut self.young);
            }
            let value = self.old.remove(key).unwrap_or_else(make);
            return self.young.entry(key.to_owned()).or_insert(value);
        }
        self.young.entry(key.to_owned()).or_insert_with(make)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_bounded() {
        let mut recent: Recent<String, u32> = Recent::new(10);
        for n in 0..1000 {
            *recent.entry("regular", || 0) += 1;
            *recent.entry(format!("stranger {n}").as_str(), || 0) += 1;
            assert!(recent.len() <= 10, "{}", recent.len());
        }
        assert_eq!(*recent.entry("regular", || 0), 1000);
        assert_eq!(*recent.entry("stranger 0", || 0), 0, "forgotten");
    }
}
