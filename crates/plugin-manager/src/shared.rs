//! What supervisors and operations have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use event_bus::{Event, Topic};
use plugin_core::{Host, Layer, OverrideFile, PluginLoader, PluginName, Scope, Settings};
use registry::{PluginRegistry, ServiceDirectory};
use runtime::{CancellationToken, TaskOwner, Timestamp};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, watch};

use crate::supervisor::{Command, Grants};
use crate::{ManagerConfig, ManagerError, RestartPolicy};

/// What the manager's events call their source.
const SOURCE: &str = "plugin-manager";

/// A loader, and whether what it makes is trusted as the host's own code is.
pub(crate) struct Loading {
    pub(crate) loader: Arc<dyn PluginLoader>,
    pub(crate) trusted: bool,
}

pub(crate) struct Shared {
    pub(crate) config: ManagerConfig,
    pub(crate) host: Host,
    pub(crate) directory: Arc<ServiceDirectory>,
    pub(crate) registry: PluginRegistry,
    pub(crate) loaders: Vec<Loading>,
    pub(crate) settings: Mutex<Settings>,
    /// Makes versions of configurations; a secret, since there are secrets among what it is a digest of.
    pub(crate) versions: RandomState,
    pub(crate) overrides: Option<OverrideFile>,
    /// Held while the overrides are written.
    pub(crate) keeping: tokio::sync::Mutex<()>,
    pub(crate) entries: RwLock<BTreeMap<PluginName, Entry>>,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) incarnations: AtomicU64,
    /// Whether all have been started once.
    pub(crate) started: AtomicBool,
    pub(crate) shutting_down: AtomicBool,
    /// Cancelled when starts that are under way are not worth waiting for any more.
    pub(crate) hurry: CancellationToken,
    /// The control plane's tasks.
    pub(crate) tasks: TaskOwner,
    pub(crate) definitions: Mutex<Vec<crate::DefinitionView>>,
    pub(crate) reported: Mutex<BTreeMap<PluginName, &'static str>>,
}

/// One plugin, from outside its supervisor.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) mailbox: mpsc::Sender<Command>,
    /// Told when a dependency may have become what the plugin waits for.
    pub(crate) poke: Arc<Notify>,
    pub(crate) status: Arc<Status>,
    /// Left out when all are started.
    pub(crate) manual: bool,
}

/// What a supervisor lets others see.
pub(crate) struct Status {
    pub(crate) seen: Mutex<Seen>,
    pub(crate) restarts: AtomicU64,
    /// Calls into the plugin that blocked past their deadline and have not come back.
    pub(crate) stuck: Arc<AtomicUsize>,
    /// The present incarnation, for a shutdown that cannot wait for the supervisor.
    pub(crate) scope: Mutex<Option<Arc<Scope>>>,
    pub(crate) grants: Grants,
}

/// The part of a status that changes together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) wanted: bool,
    pub(crate) waiting_for: Vec<PluginName>,
    pub(crate) health: Option<SeenHealth>,
    pub(crate) last_error: Option<(String, Timestamp)>,
    pub(crate) next_restart_at: Option<Timestamp>,
    pub(crate) incarnation: u64,
    pub(crate) startup: Option<Duration>,
    pub(crate) policy: RestartPolicy,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenHealth {
    pub(crate) healthy: bool,
    pub(crate) ready: bool,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

impl Status {
    pub(crate) fn new(grants: Grants, policy: RestartPolicy) -> Arc<Self> {
        Arc::new(Self {
            seen: Mutex::new(Seen { policy, ..Seen::default() }),
            restarts: AtomicU64::new(0),
            stuck: Arc::default(),
            scope: Mutex::default(),
            grants,
        })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each section sets single fields.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn scope(&self) -> Option<Arc<Scope>> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_scope(&self, scope: Option<Arc<Scope>>) {
        *self.scope.lock().unwrap_or_else(PoisonError::into_inner) = scope;
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.host.clock.now()
    }

    pub(crate) fn entry(&self, name: &str) -> Result<Entry, ManagerError> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(name).cloned().ok_or_else(|| ManagerError::NotFound(name.chars().take(80).collect()))
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_incarnation(&self) -> u64 {
        self.incarnations.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    /// Something that others wait for may have come about.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Has the direct dependents of `name` look whether they can start now.
    pub(crate) fn poke_dependents(&self, name: &str) {
        let graph = self.registry.graph();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        for dependent in graph.dependents(name) {
            if let Some(entry) = entries.get(dependent) {
                entry.poke.notify_one();
            }
        }
    }

    /// What tells one configuration from another, until the process ends.
    pub(crate) fn version_of(&self, config: &Value) -> u64 {
        self.versions.hash_one(config.to_string())
    }

    /// Says which keys of a plugin's section have other values in force, and never which: some are secret.
    pub(crate) fn tell_config_changed(
        &self,
        plugin: &PluginName,
        layer: Layer,
        before: &Value,
        after: &Value,
    ) {
        let mut paths = Vec::new();
        changed_paths(&format!("plugins.{plugin}"), before, after, &mut paths);
        if !paths.is_empty() {
            self.emit("system.config_changed", None, json!({ "layer": layer, "paths": paths }));
        }
    }

    /// Publishes one of the host's events. A bus that refuses it is shut down, which is not the manager's to
    /// mend.
    pub(crate) fn emit(&self, topic: &'static str, target: Option<&PluginName>, data: Value) {
        let Ok(parsed) = Topic::new(topic) else { return };
        let mut event = Event::builder(parsed).source(SOURCE).data(data);
        if let Some(target) = target {
            event = event.target(target.as_str());
        }
        let published = event
            .build(&*self.host.clock)
            .map_err(|error| error.to_string())
            .and_then(|event| self.host.bus.try_publish(event).map_err(|error| error.to_string()));
        if let Err(error) = published {
            tracing::debug!(topic, error, "event not published");
        }
    }
}

/// The paths of the keys in which two values differ, up to a bound.
fn changed_paths(path: &str, before: &Value, after: &Value, into: &mut Vec<String>) {
    const PATHS_MAX: usize = 100;
    if into.len() >= PATHS_MAX {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let value = |of: &Map<String, Value>| of.get(key).cloned().unwrap_or_default();
                changed_paths(&format!("{path}.{key}"), &value(before), &value(after), into);
            }
        }
        _ if before != after => into.push(path.to_owned()),
        _ => {}
    }
}
