//! Who needs whom, as a pure value: problems, levels, orders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use plugin_core::{Dependency, Manifest, PluginName};
use semver::{Version, VersionReq};

/// What stands in the way of starting a set of plugins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DependencyProblem {
    /// A plugin needs one that the host does not have.
    #[error("plugin `{plugin}` needs `{dependency}` ({requirement}), which is not there")]
    Missing {
        /// Who needs it.
        plugin: PluginName,
        /// What is missing.
        dependency: PluginName,
        /// The versions that would do.
        requirement: VersionReq,
    },
    /// A plugin needs another version than the host has.
    #[error("plugin `{plugin}` needs `{dependency}` {requirement}, and {found} is there")]
    Mismatch {
        /// Who needs it.
        plugin: PluginName,
        /// What is needed.
        dependency: PluginName,
        /// The versions that would do.
        requirement: VersionReq,
        /// The version that is there.
        found: Version,
    },
    /// Plugins need each other in a circle.
    #[error("dependency cycle: {}", Circle(.path))]
    Cycle {
        /// The circle, its first plugin again at the end.
        path: Vec<PluginName>,
    },
}

impl DependencyProblem {
    /// Whether the problem is one of `plugin`'s own: it needs what is not there, or is in the circle.
    #[must_use]
    pub fn concerns(&self, name: &str) -> bool {
        match self {
            Self::Missing { plugin, .. } | Self::Mismatch { plugin, .. } => plugin.as_str() == name,
            Self::Cycle { path } => path.iter().any(|plugin| plugin.as_str() == name),
        }
    }
}

struct Circle<'a>(&'a [PluginName]);

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" -> ")?;
            }
            f.write_str(name.as_str())?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Node {
    version: Version,
    dependencies: Vec<Dependency>,
    dependents: Vec<PluginName>,
}

/// The dependencies among a set of plugins. Immutable; made anew when the set changes.
///
/// An optional dependency counts like any other where it is there, and not at all where it is not.
#[derive(Debug, Clone, Default)]
pub struct DependencyGraph {
    nodes: BTreeMap<PluginName, Node>,
}

impl DependencyGraph {
    /// The graph of the plugins with these manifests.
    #[must_use]
    pub fn new<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Self {
        let mut nodes: BTreeMap<_, _> = manifests
            .into_iter()
            .map(|manifest| {
                let node = Node {
                    version: manifest.version.clone(),
                    dependencies: manifest.dependencies.clone(),
                    dependents: Vec::new(),
                };
                (manifest.name.clone(), node)
            })
            .collect();
        let edges: Vec<_> = nodes
            .iter()
            .flat_map(|(name, node)| node.dependencies.iter().map(|d| (name.clone(), d.name.clone())))
            .collect();
        // In order of the names of the dependents, since the map is.
        for (from, to) in edges {
            if let Some(node) = nodes.get_mut(&to) {
                node.dependents.push(from);
            }
        }
        Self { nodes }
    }

    /// The plugins in it, by name.
    pub fn names(&self) -> impl Iterator<Item = &PluginName> {
        self.nodes.keys()
    }

    /// How many plugins are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no plugin is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What `name` declares to need.
    #[must_use]
    pub fn dependencies(&self, name: &str) -> &[Dependency] {
        self.nodes.get(name).map_or(&[], |node| &node.dependencies)
    }

    /// Who needs `name` directly, sorted.
    #[must_use]
    pub fn dependents(&self, name: &str) -> &[PluginName] {
        self.nodes.get(name).map_or(&[], |node| &node.dependents)
    }

    /// Each dependency that is there, as (who needs, what is needed).
    pub fn edges(&self) -> impl Iterator<Item = (&PluginName, &Dependency)> {
        self.nodes.iter().flat_map(|(name, node)| {
            node.dependencies.iter().filter(|d| self.nodes.contains_key(&d.name)).map(move |d| (name, d))
        })
    }

    /// Everything that stands in the way of starting all of them, each named in full: first what is missing
    /// or does not fit, then circles. Each plugin that is in a circle is in one of those named.
    #[must_use]
    pub fn problems(&self) -> Vec<DependencyProblem> {
        let mut problems = Vec::new();
        for (plugin, node) in &self.nodes {
            for Dependency { name, version, optional, .. } in &node.dependencies {
                let (plugin, dependency, requirement) = (plugin.clone(), name.clone(), version.clone());
                match self.nodes.get(name) {
                    None if !optional => {
                        problems.push(DependencyProblem::Missing { plugin, dependency, requirement });
                    }
                    Some(there) if !version.matches(&there.version) => {
                        let found = there.version.clone();
                        problems.push(DependencyProblem::Mismatch { plugin, dependency, requirement, found });
                    }
                    _ => {}
                }
            }
        }
        problems.extend(self.cycles().into_iter().map(|path| DependencyProblem::Cycle { path }));
        problems
    }

    /// The levels: a plugin's level is one above the highest of those it needs. Those in a circle, and those
    /// that need one that is, have none.
    #[must_use]
    pub fn levels(&self) -> Vec<Vec<PluginName>> {
        let mut waiting: BTreeMap<&PluginName, usize> =
            self.nodes.iter().map(|(name, node)| (name, self.present(node).count())).collect();
        let mut level: Vec<&PluginName> =
            waiting.iter().filter(|(_, n)| **n == 0).map(|(name, _)| *name).collect();
        let mut levels = Vec::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for name in &level {
                for dependent in self.dependents(name.as_str()) {
                    if let Some(count) = waiting.get_mut(dependent) {
                        *count -= 1;
                        if *count == 0 {
                            next.push(dependent);
                        }
                    }
                }
            }
            next.sort_unstable();
            levels.push(level.into_iter().cloned().collect());
            level = next;
        }
        levels
    }

    /// The order in which all can be started one by one. Those in or behind a circle are not in it.
    #[must_use]
    pub fn start_order(&self) -> Vec<PluginName> {
        self.levels().into_iter().flatten().collect()
    }

    /// All that need `name`, directly or through others, in the order in which they can be stopped one by
    /// one. Without `name` itself.
    #[must_use]
    pub fn all_dependents(&self, name: &str) -> Vec<PluginName> {
        self.reach(name, |node| node.dependents.iter().collect())
    }

    /// All that `name` needs, directly or through others, in the order in which they can be started one by
    /// one. Without `name` itself, and without what is not there.
    #[must_use]
    pub fn all_dependencies(&self, name: &str) -> Vec<PluginName> {
        self.reach(name, |node| self.present(node).map(|d| &d.name).collect())
    }

    /// Everything that can be reached by `next`, those further away first.
    fn reach<'a>(&'a self, name: &str, next: impl Fn(&'a Node) -> Vec<&'a PluginName>) -> Vec<PluginName> {
        let Some((name, node)) = self.nodes.get_key_value(name) else { return Vec::new() };
        // Depth first, with a stack of its own since chains may be long: a plugin comes after all that can be
        // reached from it.
        let mut order = Vec::new();
        let mut seen = BTreeSet::from([name]);
        let mut stack = vec![(name, next(node).into_iter())];
        while let Some((at, rest)) = stack.last_mut() {
            match rest.next() {
                Some(further) => {
                    if seen.insert(further)
                        && let Some(node) = self.nodes.get(further)
                    {
                        stack.push((further, next(node).into_iter()));
                    }
                }
                None => {
                    if *at != name {
                        order.push((*at).clone());
                    }
                    stack.pop();
                }
            }
        }
        order
    }

    fn present<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Dependency> {
        node.dependencies.iter().filter(|d| self.nodes.contains_key(&d.name))
    }

    fn cycles(&self) -> Vec<Vec<PluginName>> {
        let placed: BTreeSet<_> = self.levels().into_iter().flatten().collect();
        let mut named = BTreeSet::new();
        let mut cycles = Vec::new();
        for name in self.nodes.keys().filter(|name| !placed.contains(*name)) {
            if named.contains(name) {
                continue;
            }
            if let Some(cycle) = self.shortest_cycle(name, &placed) {
                named.extend(cycle.iter().cloned());
                cycles.push(cycle);
            }
        }
        cycles
    }

    /// The shortest way from `start` along its dependencies back to it.
    fn shortest_cycle(&self, start: &PluginName, placed: &BTreeSet<PluginName>) -> Option<Vec<PluginName>> {
        let mut came_from: BTreeMap<&PluginName, &PluginName> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for dependency in self.present(self.nodes.get(at)?) {
                if dependency.name == *start {
                    let mut path = vec![start.clone()];
                    let mut back = at;
                    while back != start {
                        path.push(back.clone());
                        back = came_from.get(back)?;
                    }
                    path.push(start.clone());
                    path.reverse();
                    return Some(path);
                }
                if !placed.contains(&dependency.name) && !came_from.contains_key(&dependency.name) {
                    came_from.insert(&dependency.name, at);
                    queue.push_back(&dependency.name);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
