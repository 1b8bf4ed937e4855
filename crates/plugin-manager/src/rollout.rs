//! The order of an operation on many plugins: each as soon as those before it are done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use plugin_core::PluginName;
use registry::DependencyGraph;

/// Which way an operation goes through the dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// What is needed first.
    Up,
    /// Those who need it first.
    Down,
}

/// An operation on a set of plugins, under way.
#[derive(Debug)]
pub(crate) struct Rollout {
    /// How many each of the waiting ones has before it still.
    waiting: BTreeMap<PluginName, usize>,
    after: BTreeMap<PluginName, Vec<PluginName>>,
    /// How many levels come after each, itself included.
    height: BTreeMap<PluginName, usize>,
}

impl Rollout {
    /// The operation on `names`. A circle, which nothing could begin, is entered where it is met.
    pub(crate) fn new(graph: &DependencyGraph, names: &BTreeSet<PluginName>, direction: Direction) -> Self {
        let mut waiting: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), 0)).collect();
        let mut after: BTreeMap<PluginName, Vec<PluginName>> = BTreeMap::new();
        for (dependent, dependency) in graph.edges() {
            if !names.contains(dependent) || !names.contains(&dependency.name) {
                continue;
            }
            let (first, then) = match direction {
                Direction::Up => (&dependency.name, dependent),
                Direction::Down => (dependent, &dependency.name),
            };
            if let Some(count) = waiting.get_mut(then) {
                *count += 1;
                after.entry(first.clone()).or_default().push(then.clone());
            }
        }
        let mut rollout = Self { waiting, after, height: BTreeMap::new() };
        rollout.break_circles();
        rollout.measure();
        rollout
    }

    /// Lets go those that wait for each other, so that an operation always ends.
    fn break_circles(&mut self) {
        loop {
            let (order, stuck) = self.order();
            let _ = order;
            let Some(name) = stuck.into_iter().next() else { return };
            for list in self.after.values_mut() {
                list.retain(|after| *after != name);
            }
            self.waiting.insert(name, 0);
        }
    }

    /// All in an order in which they may be done, and those that wait for each other.
    fn order(&self) -> (Vec<PluginName>, Vec<PluginName>) {
        let mut counts = self.waiting.clone();
        let mut order: Vec<_> =
            counts.iter().filter(|(_, n)| **n == 0).map(|(name, _)| name.clone()).collect();
        let mut at = 0;
        while let Some(name) = order.get(at).cloned() {
            at += 1;
            counts.remove(&name);
            for after in self.after.get(&name).into_iter().flatten() {
                if let Some(count) = counts.get_mut(after) {
                    *count -= 1;
                    if *count == 0 {
                        order.push(after.clone());
                    }
                }
            }
        }
        (order, counts.into_keys().collect())
    }

    fn measure(&mut self) {
        for name in self.order().0.into_iter().rev() {
            let after = self.after.get(&name).into_iter().flatten();
            let height = 1 + after.filter_map(|after| self.height.get(after)).max().copied().unwrap_or(0);
            self.height.insert(name, height);
        }
    }

    /// Those that can be begun now, once each.
    pub(crate) fn begin(&mut self) -> Vec<PluginName> {
        let free: Vec<_> =
            self.waiting.iter().filter(|(_, n)| **n == 0).map(|(name, _)| name.clone()).collect();
        for name in &free {
            self.waiting.remove(name);
        }
        free
    }

    /// `name` is done, one way or the other; gives those that can be begun because of it.
    pub(crate) fn done(&mut self, name: &PluginName) -> Vec<PluginName> {
        let mut free = Vec::new();
        for after in self.after.remove(name).unwrap_or_default() {
            if let Some(count) = self.waiting.get_mut(&after) {
                *count -= 1;
                if *count == 0 {
                    self.waiting.remove(&after);
                    free.push(after);
                }
            }
        }
        free
    }

    /// How many levels there are from `name` to the end, its own included: what is left of the time is to
    /// be shared among them.
    pub(crate) fn levels_left(&self, name: &PluginName) -> u32 {
        self.height.get(name).map_or(1, |height| u32::try_from(*height).unwrap_or(u32::MAX))
    }

    /// Those that have not been begun.
    #[cfg(test)]
    fn left(&self) -> impl Iterator<Item = &PluginName> {
        self.waiting.keys()
    }
}

#[cfg(test)]
mod tests {
    use plugin_core::Manifest;
    use proptest::prelude::*;

    use super::*;

    fn graph(n: usize, needs: &[(usize, usize)]) -> (DependencyGraph, BTreeSet<PluginName>) {
        let manifests: Vec<_> = (0..n)
            .map(|i| {
                let mut manifest = Manifest::new(&format!("p{i}"), "1.0.0").unwrap();
                for (_, to) in needs.iter().filter(|(from, _)| *from == i) {
                    manifest = manifest.depends_on(&format!("p{to}"), "*").unwrap();
                }
                manifest
            })
            .collect();
        let graph = DependencyGraph::new(&manifests);
        let names = graph.names().cloned().collect();
        (graph, names)
    }

    fn run(mut rollout: Rollout) -> Vec<String> {
        let mut order = Vec::new();
        let mut ready = rollout.begin();
        while let Some(name) = ready.pop() {
            ready.extend(rollout.done(&name));
            order.push(name.to_string());
        }
        assert_eq!(rollout.left().count(), 0);
        order
    }

    #[test]
    fn goes_up_and_down_and_through_circles() {
        let (chain, names) = graph(3, &[(1, 0), (2, 1)]);
        let up = Rollout::new(&chain, &names, Direction::Up);
        assert_eq!(up.levels_left(&PluginName::new("p0").unwrap()), 3);
        assert_eq!(run(up), ["p0", "p1", "p2"]);
        assert_eq!(run(Rollout::new(&chain, &names, Direction::Down)), ["p2", "p1", "p0"]);
        let (circle, names) = graph(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!(run(Rollout::new(&circle, &names, Direction::Up)).len(), 3);
    }

    proptest! {
        #[test]
        fn each_is_done_once_and_after_those_before_it(
            needs in proptest::collection::btree_set((0_usize..8, 0_usize..8), 0..20),
        ) {
            // Only needs of lower numbers, so that there is no circle.
            let needs: Vec<_> = needs.into_iter().filter(|(from, to)| to < from).collect();
            let (graph, names) = graph(8, &needs);
            let order = run(Rollout::new(&graph, &names, Direction::Up));
            prop_assert_eq!(order.len(), 8);
            let at = |i: usize| order.iter().position(|name| *name == format!("p{i}")).unwrap();
            for (from, to) in needs {
                prop_assert!(at(to) < at(from));
            }
        }
    }
}
