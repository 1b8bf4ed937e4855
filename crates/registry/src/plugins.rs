//! The plugins of a host: what each is and how far it has come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use plugin_core::{Action, Manifest, PluginKind, PluginName, Slot, State};
use runtime::Timestamp;

use crate::DependencyGraph;

/// One plugin, as it was when asked for.
#[derive(Debug, Clone)]
pub struct PluginRecord {
    /// What it declares.
    pub manifest: Arc<Manifest>,
    /// The type that a loader made it of, where one did.
    pub type_name: Option<Arc<str>>,
    /// Where it stands in its lifecycle.
    pub state: State,
    /// Whether it is running and can serve.
    pub ready: bool,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// Its place in the host.
    pub slot: Arc<Slot>,
}

impl PluginRecord {
    /// The plugin's name.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.manifest.name
    }
}

/// A step in a plugin's lifecycle that has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state now.
    pub to: State,
}

/// Why a plugin's record was not made or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The name is taken.
    #[error("plugin `{0}` is registered already")]
    Exists(PluginName),
    /// There is no such plugin. What was asked for need not even be a name.
    #[error("plugin `{0}` is unknown")]
    Unknown(String),
    /// The lifecycle does not allow it.
    #[error("plugin `{name}` is {state}, which does not allow to {}", verb(*.action))]
    InvalidTransition {
        /// The plugin.
        name: PluginName,
        /// Its state.
        state: State,
        /// What was to be done.
        action: Action,
    },
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Register => "register it",
        Action::Initialize => "initialize it",
        Action::Start => "start it",
        Action::Stop => "stop it",
        Action::Unload => "unload it",
        Action::Done => "complete an operation",
        Action::Fail => "fail an operation",
        Action::GiveUp => "give it up",
    }
}

/// Why a conditional step was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused<E> {
    /// Unknown plugin, or not allowed by the lifecycle.
    Registry(RegistryError),
    /// The condition did not hold.
    Condition(E),
}

/// All plugins by name. A clone is the same registry.
///
/// States change only along [`State::on`].
#[derive(Debug, Clone, Default)]
pub struct PluginRegistry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Mutex<Records>,
    /// Made when first asked for after a change; many plugins are registered before anybody asks.
    graph: ArcSwapOption<DependencyGraph>,
}

/// What a condition can look at while nothing changes.
#[derive(Debug, Default)]
pub struct Records {
    by_name: BTreeMap<PluginName, PluginRecord>,
}

impl Records {
    /// One plugin.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&PluginRecord> {
        self.by_name.get(name)
    }

    /// All plugins, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PluginRecord> {
        self.by_name.values()
    }
}

impl PluginRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a plugin known, in state `registered`, and gives it a slot.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Exists`] if the name is taken.
    pub fn register(
        &self,
        manifest: Arc<Manifest>,
        type_name: Option<&str>,
        now: Timestamp,
    ) -> Result<PluginRecord, RegistryError> {
        let mut records = self.records();
        let name = manifest.name.clone();
        if records.by_name.contains_key(&name) {
            return Err(RegistryError::Exists(name));
        }
        let unregistered = State::Unknown;
        let Some(state) = unregistered.on(Action::Register) else {
            return Err(RegistryError::InvalidTransition {
                name,
                state: unregistered,
                action: Action::Register,
            });
        };
        let record = PluginRecord {
            manifest,
            type_name: type_name.map(Into::into),
            state,
            ready: false,
            since: now,
            slot: Slot::new(name.clone()),
        };
        records.by_name.insert(name, record.clone());
        self.inner.graph.store(None);
        Ok(record)
    }

    /// Takes a step in a plugin's lifecycle. [`Action::Unload`] removes its record.
    ///
    /// # Errors
    ///
    /// If there is no such plugin, or its state does not allow the step.
    pub fn transition(
        &self,
        name: &str,
        action: Action,
        now: Timestamp,
    ) -> Result<Transition, RegistryError> {
        match self.transition_if(name, action, now, |_| Ok::<(), std::convert::Infallible>(())) {
            Ok(transition) => Ok(transition),
            Err(Refused::Registry(error)) => Err(error),
            Err(Refused::Condition(never)) => match never {},
        }
    }

    /// Takes a step if `condition` holds. No other step is taken between the look and the step, so that two
    /// plugins that look at each other cannot both go ahead.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing has changed.
    pub fn transition_if<E>(
        &self,
        name: &str,
        action: Action,
        now: Timestamp,
        condition: impl FnOnce(&Records) -> Result<(), E>,
    ) -> Result<Transition, Refused<E>> {
        let mut records = self.records();
        let Some(record) = records.by_name.get(name) else {
            return Err(Refused::Registry(RegistryError::Unknown(name.to_owned())));
        };
        let from = record.state;
        let Some(to) = from.on(action) else {
            let name = record.name().clone();
            return Err(Refused::Registry(RegistryError::InvalidTransition { name, state: from, action }));
        };
        condition(&records).map_err(Refused::Condition)?;
        if to == State::Destroyed {
            records.by_name.remove(name);
            self.inner.graph.store(None);
        } else if let Some(record) = records.by_name.get_mut(name) {
            record.state = to;
            record.since = now;
            record.ready = false;
        }
        Ok(Transition { from, to })
    }

    /// Says whether a plugin can serve; without effect unless it is running. Tells whether that changed
    /// anything.
    pub fn set_ready(&self, name: &str, ready: bool) -> bool {
        let mut records = self.records();
        match records.by_name.get_mut(name) {
            Some(record) if record.state == State::Running && record.ready != ready => {
                record.ready = ready;
                true
            }
            _ => false,
        }
    }

    /// Says that a plugin is what it is since `now`, as after a swap.
    pub fn renew(&self, name: &str, now: Timestamp) {
        if let Some(record) = self.records().by_name.get_mut(name) {
            record.since = now;
        }
    }

    /// Puts another version's manifest in the place of a plugin's own, in whatever state it is.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unknown`] if there is no plugin of that name.
    pub fn replace_manifest(
        &self,
        manifest: Arc<Manifest>,
        type_name: Option<&str>,
    ) -> Result<(), RegistryError> {
        let mut records = self.records();
        let Some(record) = records.by_name.get_mut(&manifest.name) else {
            return Err(RegistryError::Unknown(manifest.name.to_string()));
        };
        record.manifest = manifest;
        if let Some(type_name) = type_name {
            record.type_name = Some(type_name.into());
        }
        self.inner.graph.store(None);
        Ok(())
    }

    /// One plugin.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<PluginRecord> {
        self.records().by_name.get(name).cloned()
    }

    /// A plugin's state; `unknown` for what is not there.
    #[must_use]
    pub fn state(&self, name: &str) -> State {
        self.records().by_name.get(name).map_or(State::Unknown, |record| record.state)
    }

    /// All plugins, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginRecord> {
        self.records().by_name.values().cloned().collect()
    }

    /// How many plugins there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records().by_name.len()
    }

    /// Whether there is no plugin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The plugins of a kind, by name.
    #[must_use]
    pub fn by_kind(&self, kind: PluginKind) -> Vec<PluginRecord> {
        self.matching(|record| record.manifest.kind == kind)
    }

    /// The plugins made of a loader's type, by name.
    #[must_use]
    pub fn by_type(&self, type_name: &str) -> Vec<PluginRecord> {
        self.matching(|record| record.type_name.as_deref() == Some(type_name))
    }

    /// How many plugins are in each state; states without a plugin are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<State, usize> {
        let mut counts = BTreeMap::new();
        for record in self.records().by_name.values() {
            *counts.entry(record.state).or_insert(0) += 1;
        }
        counts
    }

    /// Looks at the records while nothing changes.
    pub fn inspect<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        look(&self.records())
    }

    /// The dependencies among the plugins as they are now.
    #[must_use]
    pub fn graph(&self) -> Arc<DependencyGraph> {
        if let Some(graph) = self.inner.graph.load_full() {
            return graph;
        }
        // Under the lock, so that no change comes between the look and the store.
        let records = self.records();
        let graph = Arc::new(DependencyGraph::new(records.by_name.values().map(|record| &*record.manifest)));
        self.inner.graph.store(Some(graph.clone()));
        graph
    }

    fn matching(&self, wanted: impl Fn(&PluginRecord) -> bool) -> Vec<PluginRecord> {
        self.records().by_name.values().filter(|record| wanted(record)).cloned().collect()
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // A condition may panic, but changes nothing; the changes themselves are single map operations.
        self.inner.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(plugins: &[(&str, PluginKind)]) -> PluginRegistry {
        let registry = PluginRegistry::new();
        for (name, kind) in plugins {
            let manifest = Manifest::new(name, "1.0.0").unwrap().kind(*kind);
            registry.register(Arc::new(manifest), Some("t"), Timestamp::UNIX_EPOCH).unwrap();
        }
        registry
    }

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn states_change_along_the_table_only() {
        let registry = registry(&[("a", PluginKind::Plain)]);
        let refused = registry.transition("a", Action::Stop, NOW).unwrap_err();
        assert!(matches!(refused, RegistryError::InvalidTransition { state: State::Registered, .. }));
        for action in [Action::Initialize, Action::Done, Action::Start, Action::Done] {
            assert!(!registry.set_ready("a", true), "not ready before it runs");
            registry.transition("a", action, NOW).unwrap();
        }
        assert!(registry.set_ready("a", true) && !registry.set_ready("a", true));
        registry.transition("a", Action::Stop, NOW).unwrap();
        assert!(!registry.get("a").unwrap().ready);
        registry.transition("a", Action::Done, NOW).unwrap();
        registry.transition("a", Action::Unload, NOW).unwrap();
        assert_eq!(registry.state("a"), State::Unknown);
        assert!(matches!(registry.transition("a", Action::Start, NOW), Err(RegistryError::Unknown(_))));
    }

    #[test]
    fn a_condition_that_fails_changes_nothing() {
        let registry = registry(&[("a", PluginKind::Plain)]);
        let refused = registry.transition_if("a", Action::Initialize, NOW, |records| {
            assert_eq!(records.iter().count(), 1);
            Err("no")
        });
        assert_eq!(refused, Err(Refused::Condition("no")));
        assert_eq!(registry.state("a"), State::Registered);
    }

    #[test]
    fn finds_by_kind_and_type_and_counts() {
        let registry = registry(&[("a", PluginKind::Service), ("b", PluginKind::Transport)]);
        assert_eq!(registry.by_kind(PluginKind::Transport)[0].name().as_str(), "b");
        assert_eq!(registry.by_type("t").len(), 2);
        assert!(registry.by_type("u").is_empty());
        assert_eq!(registry.counts(), BTreeMap::from([(State::Registered, 2)]));
        let again = registry.register(registry.get("a").unwrap().manifest, None, NOW);
        assert!(matches!(again, Err(RegistryError::Exists(_))));
    }

    #[test]
    fn the_graph_follows_changes() {
        let registry = registry(&[("a", PluginKind::Plain)]);
        assert_eq!(registry.graph().len(), 1);
        let b = Manifest::new("b", "1.0.0").unwrap().depends_on("a", "*").unwrap();
        registry.register(Arc::new(b), None, NOW).unwrap();
        assert_eq!(registry.graph().dependents("a").len(), 1);
        registry.replace_manifest(Arc::new(Manifest::new("b", "2.0.0").unwrap()), None).unwrap();
        assert!(registry.graph().dependents("a").is_empty());
    }
}
