//! Plugins: what runs, its lifecycle, its configuration.

use std::collections::BTreeMap;

use plugin_core::{PluginName, State};
use plugin_manager::{
    Applied, Change, GraphView, LoadRequest, ManagerError, PluginManager, PluginStatusView, PluginView,
    SwapRequest, TypeView,
};
use runtime::TaskOwner;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::management::not_available;
use crate::{Caller, ConfigValue, Management, Page, PageRequest, Permission, Problem, ProblemKind};

/// What is to be done with a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LifecycleAction {
    /// Prepares it.
    Initialize,
    /// Lets it serve.
    Start,
    /// Ends it in order.
    Stop,
    /// Stops, initializes and starts it, and brings back those who use it.
    Restart,
}

impl LifecycleAction {
    /// What it asks of the caller.
    const fn permission(self) -> Permission {
        match self {
            Self::Initialize => Permission::PluginInitialize,
            Self::Start => Permission::PluginStart,
            Self::Stop => Permission::PluginStop,
            Self::Restart => Permission::PluginRestart,
        }
    }
}

/// How far an operation on a plugin goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LifecycleOptions {
    /// Takes those along who use the plugin, or whom it uses.
    pub cascade: bool,
    /// Goes ahead although it cuts off the connection that asked.
    pub force: bool,
    /// Waits for the end. Otherwise the answer is that it has begun.
    pub wait: bool,
}

impl Default for LifecycleOptions {
    fn default() -> Self {
        Self { cascade: false, force: false, wait: true }
    }
}

/// How far an operation on a plugin has come.
#[derive(Debug, Clone)]
pub enum Progress<T> {
    /// To its end.
    Done(T),
    /// It has begun; the value is as it was before.
    Begun(T),
}

/// How a configuration came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigApplied {
    /// The plugin took it while running.
    Live,
    /// The plugin was started anew with it.
    Restarted,
    /// The plugin does not run; it takes effect at its next start.
    AtNextStart,
}

/// A plugin's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// As it is in force, secrets masked.
    pub config: Value,
    /// Each of its values with its origin, by path.
    pub values: Vec<ConfigValue>,
    /// What tells it from any other, until the host ends.
    pub version: u64,
    /// How it came into force; nothing where it was only read, or tried.
    pub applied: Option<ConfigApplied>,
}

impl Management {
    fn manager(&self) -> Result<&PluginManager, Problem> {
        self.inner.manager.as_ref().ok_or_else(|| not_available("plugin manager"))
    }

    /// State and health of all plugins, by name.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn plugin_statuses(
        &self,
        caller: &Caller,
    ) -> Result<BTreeMap<PluginName, PluginStatusView>, Problem> {
        caller.require(Permission::PluginRead)?;
        Ok(self.manager()?.statuses())
    }

    /// The plugins, by name.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn plugins(&self, caller: &Caller, page: &PageRequest) -> Result<Page<PluginView>, Problem> {
        caller.require(Permission::PluginRead)?;
        Ok(page.of_sorted(self.manager()?.list(), |plugin| plugin.name.as_str()))
    }

    /// One plugin.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub fn plugin(&self, caller: &Caller, name: &str) -> Result<PluginView, Problem> {
        caller.require(Permission::PluginRead)?;
        Ok(self.manager()?.get(name)?)
    }

    /// Who needs whom.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn plugin_graph(&self, caller: &Caller) -> Result<GraphView, Problem> {
        caller.require(Permission::PluginRead)?;
        Ok(self.manager()?.graph())
    }

    /// What plugins can be made of.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn plugin_types(&self, caller: &Caller) -> Result<Vec<TypeView>, Problem> {
        caller.require(Permission::PluginRead)?;
        Ok(self.manager()?.types())
    }

    /// Moves a plugin along its lifecycle.
    ///
    /// An operation that stops the transport which carries the request is refused unless it is forced, and
    /// then it is not waited for, since it would wait for the request.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_state`, `in_use`, `timeout`, or `plugin_failed` with the plugin's own reason.
    pub async fn lifecycle(
        &self,
        caller: &Caller,
        name: &str,
        action: LifecycleAction,
        options: LifecycleOptions,
    ) -> Result<Progress<PluginView>, Problem> {
        self.write(caller, action.permission(), name, async |dry_run| {
            let manager = self.manager()?.clone();
            let before = manager.get(name)?;
            let change = Change {
                cascade: options.cascade,
                force: options.force,
                carried_by: PluginName::new(caller.origin.transport).ok(),
            };
            if dry_run {
                let tried = manager.dry_run();
                return Ok(Progress::Done(match action {
                    LifecycleAction::Initialize => tried.initialize(name)?,
                    LifecycleAction::Start => tried.start(name, &change)?,
                    LifecycleAction::Stop => tried.stop(name, &change)?,
                    LifecycleAction::Restart => tried.restart(name, &change)?,
                }));
            }
            let carrier = change.carried_by.clone();
            let carries = self.takes_down_carrier(name, action, carrier.as_ref())?;
            let target = name.to_owned();
            let work = async move {
                match action {
                    LifecycleAction::Initialize => manager.initialize(&target).await,
                    LifecycleAction::Start => manager.start(&target, change).await,
                    LifecycleAction::Stop => manager.stop(&target, change).await,
                    LifecycleAction::Restart => manager.restart(&target, change).await,
                }
            };
            if options.wait && !(carries && options.force) {
                return Ok(Progress::Done(work.await?));
            }
            if carries && !options.force {
                return Err(ManagerError::CarriesRequest(before.name).into());
            }
            self.begin(action.permission().name(), name, async move { work.await.map(|_| ()) });
            Ok(Progress::Begun(before))
        })
        .await
    }

    /// Whether the operation stops the plugin by which it was asked for.
    fn takes_down_carrier(
        &self,
        name: &str,
        action: LifecycleAction,
        carrier: Option<&PluginName>,
    ) -> Result<bool, Problem> {
        let Some(carrier) = carrier else { return Ok(false) };
        let down = matches!(action, LifecycleAction::Stop | LifecycleAction::Restart);
        let graph = self.manager()?.registry().graph();
        Ok(down && (carrier.as_str() == name || graph.all_dependents(name).contains(carrier)))
    }

    /// Does something after its request has been answered, and logs how it went.
    fn begin(
        &self,
        what: &'static str,
        name: &str,
        work: impl Future<Output = Result<(), ManagerError>> + Send + 'static,
    ) {
        let name = name.to_owned();
        self.background().spawn(what, async move {
            if let Err(error) = work.await {
                tracing::warn!(plugin = name, what, %error, "operation failed after it was answered");
            }
        });
    }

    fn background(&self) -> &TaskOwner {
        &self.inner.background
    }

    /// A plugin's effective configuration, its secrets masked, and where each value comes from.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub fn plugin_config(&self, caller: &Caller, name: &str) -> Result<PluginConfig, Problem> {
        caller.require(Permission::PluginRead)?;
        self.present_config(name)
    }

    fn present_config(&self, name: &str) -> Result<PluginConfig, Problem> {
        let manager = self.manager()?;
        // The version first: what changes meanwhile makes it an old one, and never the other way round.
        let version = manager.config_version(name)?;
        let values = self.config_values(&format!("plugins.{name}."));
        Ok(PluginConfig { config: manager.config_of(name)?, values, version, applied: None })
    }

    /// Replaces a plugin's configuration; what was before is in force if any of it fails.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_field` with the path of the key, `precondition_failed` where its version is not
    /// `if_version`, or what the plugin says.
    pub async fn set_plugin_config(
        &self,
        caller: &Caller,
        name: &str,
        config: Value,
        if_version: Option<u64>,
    ) -> Result<PluginConfig, Problem> {
        self.write(caller, Permission::PluginConfigure, name, async |dry_run| {
            let manager = self.manager()?;
            if dry_run {
                let config = manager.dry_run().set_config(name, config, if_version).await?;
                return Ok(PluginConfig { config, ..self.present_config(name)? });
            }
            let applied = match manager.set_config_if(name, config, if_version).await? {
                Applied::Live => ConfigApplied::Live,
                Applied::Restarted => ConfigApplied::Restarted,
                Applied::AtNextStart => ConfigApplied::AtNextStart,
            };
            Ok(PluginConfig { applied: Some(applied), ..self.present_config(name)? })
        })
        .await
    }

    /// Makes a plugin of a type that the host knows.
    ///
    /// # Errors
    ///
    /// `not_found` for the type, `already_exists`, or `invalid_field`.
    pub async fn load_plugin(&self, caller: &Caller, request: LoadRequest) -> Result<PluginView, Problem> {
        let target = request.type_name.clone();
        self.write(caller, Permission::PluginLoad, &target, async |dry_run| {
            let manager = self.manager()?;
            Ok(if dry_run { manager.dry_run().load(request).await? } else { manager.load(request).await? })
        })
        .await
    }

    /// Removes a plugin, stopping it if it runs.
    ///
    /// # Errors
    ///
    /// `not_found`, `in_use`, or `invalid_state`.
    pub async fn unload_plugin(
        &self,
        caller: &Caller,
        name: &str,
        options: LifecycleOptions,
    ) -> Result<Progress<PluginView>, Problem> {
        self.write(caller, Permission::PluginUnload, name, async |dry_run| {
            let manager = self.manager()?.clone();
            let mut before = manager.get(name)?;
            let carried_by = PluginName::new(caller.origin.transport).ok();
            let carries = self.takes_down_carrier(name, LifecycleAction::Stop, carried_by.as_ref())?;
            let change = Change { cascade: options.cascade, force: options.force, carried_by };
            if dry_run {
                return Ok(Progress::Done(manager.dry_run().unload(name, &change)?));
            }
            if options.wait && !(carries && options.force) {
                manager.unload(name, change).await?;
                // What it was, and that it no longer is.
                before.status = State::Destroyed;
                before.ready = false;
                return Ok(Progress::Done(before));
            }
            if carries && !options.force {
                return Err(ManagerError::CarriesRequest(before.name).into());
            }
            let target = name.to_owned();
            self.begin("plugin.unload", name, async move { manager.unload(&target, change).await });
            Ok(Progress::Begun(before))
        })
        .await
    }

    /// Puts another version in a plugin's place, without a request that fails.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_state` or `plugin_failed` with the reason; the old version runs then.
    pub async fn swap_plugin(
        &self,
        caller: &Caller,
        name: &str,
        request: SwapRequest,
    ) -> Result<PluginView, Problem> {
        self.write(caller, Permission::PluginSwap, name, async |dry_run| {
            let manager = self.manager()?;
            Ok(match dry_run {
                true => manager.dry_run().swap(name, request).await?,
                false => manager.swap(name, request).await?,
            })
        })
        .await
    }
}

impl From<ManagerError> for Problem {
    fn from(error: ManagerError) -> Self {
        use ProblemKind as K;
        let text = error.to_string();
        let names =
            |names: &[PluginName]| names.iter().map(PluginName::as_str).collect::<Vec<_>>().join(", ");
        match &error {
            ManagerError::NotFound(name) => Self::not_found("plugin", name),
            ManagerError::Conflict(_) => Self::new(K::AlreadyExists, text),
            ManagerError::ConfigChanged(_) => Self::new(K::PreconditionFailed, text),
            ManagerError::HasDependents { dependents, .. } => {
                Self::new(K::InUse, text).detail(names(dependents))
            }
            ManagerError::DependenciesDown { waiting_for, .. } => {
                Self::new(K::InvalidState, text).detail(names(waiting_for))
            }
            ManagerError::CarriesRequest(_) => Self::new(K::InvalidState, text)
                .detail("`force=true` goes ahead, and the answer may be the last that comes over it"),
            ManagerError::InvalidTransition { .. }
            | ManagerError::DependencyProblem(_)
            | ManagerError::SwapRefused { .. } => Self::new(K::InvalidState, text),
            ManagerError::InvalidConfig(config) => {
                let detail = match config {
                    plugin_core::ConfigError::Invalid { detail, .. }
                    | plugin_core::ConfigError::Unreadable { detail, .. } => detail.clone(),
                    plugin_core::ConfigError::Unknown { .. } => "unknown key".to_owned(),
                };
                Self::invalid(config.path(), detail)
            }
            ManagerError::Invalid { field, detail } => Self::invalid(*field, detail),
            ManagerError::InvalidManifest { .. } => Self::new(K::InvalidState, text),
            ManagerError::Load(plugin_core::LoadError::UnknownType(name)) => {
                Self::not_found("plugin type", name)
            }
            ManagerError::Load(plugin_core::LoadError::NoVersion { .. }) => Self::invalid("version", text),
            ManagerError::Busy(_) => {
                Self::new(K::Unavailable, text).retry_after(std::time::Duration::from_secs(1))
            }
            ManagerError::ShuttingDown => Self::new(K::Unavailable, text),
            ManagerError::DeadlineExceeded { .. } => Self::new(K::Timeout, text),
            // The plugin's own reason is what the operator has to know, and its view shows it too.
            ManagerError::Failed { reason, .. } | ManagerError::SwapFailed { reason, .. } => {
                Self::new(K::PluginFailed, text.clone()).detail(reason.clone())
            }
            ManagerError::ConfigFailed { reason, .. } => {
                Self { detail: Some(reason.clone()), ..Self::new(K::InvalidField, text) }
            }
            ManagerError::NotKept { .. } | ManagerError::Load(_) => {
                tracing::error!(%error, cause = ?std::error::Error::source(&error), "plugin operation failed");
                Self::new(K::Internal, text)
            }
        }
    }
}
