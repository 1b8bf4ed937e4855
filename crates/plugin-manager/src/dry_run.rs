//! Operations that are only tried.

use std::sync::Arc;

use plugin_core::{Action, Manifest, PluginName, State};
use registry::PluginRegistry;
use serde_json::Value;

use crate::manager::{masked, not_found};
use crate::shared::{Shared, Status};
use crate::supervisor::{Command, ConfigChange, show_defaults, unmet, users};
use crate::{Change, LoadRequest, ManagerError, PluginOptions, PluginView, SwapRequest};

/// The operations of a [`PluginManager`](crate::PluginManager), only tried: each is refused where it would be
/// refused before any code of the plugin's is called, and nothing changes. Answers with the plugin as it is.
pub struct DryRun<'a> {
    shared: &'a Arc<Shared>,
}

impl<'a> DryRun<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared }
    }

    /// See [`PluginManager::initialize`](crate::PluginManager::initialize).
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub fn initialize(&self, name: &str) -> Result<PluginView, ManagerError> {
        let name = self.open(name)?;
        self.allowed(&name, Action::Initialize, |state| state.on(Action::Initialize).is_some())?;
        self.shared.seen(name.as_str())
    }

    /// See [`PluginManager::start`](crate::PluginManager::start).
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub fn start(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        let name = self.open(name)?;
        self.allowed(&name, Action::Start, |state| state != State::Running && !state.is_transient())?;
        let record = self.shared.registry.get(name.as_str()).ok_or_else(|| not_found(name.as_str()))?;
        let mut down = self.shared.registry.inspect(|records| unmet(records, &record.manifest));
        let comes_along = |needed: &PluginName| change.cascade && self.shared.known(needed.as_str()).is_ok();
        down.retain(|needed| !self.shared.will_come(needed) && !comes_along(needed));
        if !down.is_empty() {
            return Err(ManagerError::DependenciesDown { name, waiting_for: down });
        }
        self.shared.seen(name.as_str())
    }

    /// See [`PluginManager::stop`](crate::PluginManager::stop).
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub fn stop(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        let name = self.open(name)?;
        self.stoppable(&name, change)?;
        let waits = !self.shared.seen(name.as_str())?.waiting_for.is_empty();
        self.allowed(&name, Action::Stop, |state| state == State::Running || waits)?;
        self.shared.seen(name.as_str())
    }

    /// See [`PluginManager::restart`](crate::PluginManager::restart).
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub fn restart(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        if self.shared.registry.state(name) != State::Running {
            return self.start(name, change);
        }
        let name = self.open(name)?;
        // It takes those along who use it, and brings them back.
        self.stoppable(&name, &Change { cascade: true, ..change.clone() })?;
        self.shared.seen(name.as_str())
    }

    /// See [`PluginManager::unload`](crate::PluginManager::unload).
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub fn unload(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        let name = self.open(name)?;
        self.shared.check_not_needed(&name, change)?;
        if self.shared.registry.state(name.as_str()) == State::Running {
            self.stoppable(&name, change)?;
        } else {
            self.allowed(&name, Action::Unload, |state| state.on(Action::Unload).is_some())?;
        }
        self.shared.seen(name.as_str())
    }

    /// See [`PluginManager::load`](crate::PluginManager::load). A plugin is made and dropped; answers with it
    /// as it would be registered.
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub async fn load(&self, request: LoadRequest) -> Result<PluginView, ManagerError> {
        self.shared.clone().load(request, true).await
    }

    /// See [`PluginManager::swap`](crate::PluginManager::swap). The new version is made and destroyed.
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub async fn swap(&self, name: &str, request: SwapRequest) -> Result<PluginView, ManagerError> {
        self.shared.swap(name, request, true).await
    }

    /// See [`PluginManager::set_config_if`](crate::PluginManager::set_config_if). Answers with the
    /// configuration that would be in force, its secrets masked.
    ///
    /// # Errors
    ///
    /// As there, but for the plugin's own failures.
    pub async fn set_config(
        &self,
        name: &str,
        config: Value,
        version: Option<u64>,
    ) -> Result<Value, ManagerError> {
        let plugin = self.open(name)?;
        let change = ConfigChange::Request(config, version);
        let effective = self.shared.ask(name, |reply| Command::TryConfigure(change, reply)).await?;
        let record = self.shared.registry.get(name).ok_or_else(|| not_found(name))?;
        // Shown as it is shown when it is in force: with what the plugin falls back to.
        let mut shown = plugin_core::Settings::new();
        show_defaults(&mut shown, &record.manifest);
        let path = ["plugins", plugin.as_str()];
        shown.set_section(plugin_core::Layer::Flag, &path, Some(effective));
        Ok(masked(&record.manifest, shown.section(&path)))
    }

    fn open(&self, name: &str) -> Result<PluginName, ManagerError> {
        self.shared.open_for_business()?;
        self.shared.known(name)
    }

    fn allowed(
        &self,
        name: &PluginName,
        action: Action,
        allows: impl Fn(State) -> bool,
    ) -> Result<(), ManagerError> {
        let state = self.shared.registry.state(name.as_str());
        if allows(state) {
            Ok(())
        } else {
            Err(ManagerError::InvalidTransition { name: name.clone(), state, action })
        }
    }

    fn stoppable(&self, name: &PluginName, change: &Change) -> Result<(), ManagerError> {
        let mut taken_down = self.shared.running_dependents(name);
        taken_down.push(name.clone());
        self.shared.check_carrier(&taken_down, change)?;
        let dependents = self.shared.registry.inspect(|records| users(records, name));
        if change.cascade || dependents.is_empty() {
            Ok(())
        } else {
            Err(ManagerError::HasDependents { name: name.clone(), dependents })
        }
    }
}

impl std::fmt::Debug for DryRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DryRun").finish_non_exhaustive()
    }
}

impl Shared {
    /// A plugin as it would be once it is registered.
    pub(crate) fn as_registered(
        &self,
        manifest: Manifest,
        options: PluginOptions,
    ) -> Result<PluginView, ManagerError> {
        let (grants, restart) = self.admit(&manifest, options.permissions, options.restart)?;
        let status = Status::new(grants, restart.policy);
        let apart = PluginRegistry::new();
        let record = apart.register(Arc::new(manifest), options.type_name.as_deref(), self.now())?;
        Ok(self.view_with(&record, &status))
    }
}
