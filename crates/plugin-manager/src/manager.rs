//! The manager as others see it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use event_bus::EventBus;
use plugin_core::{Host, Manifest, Permission, Plugin, PluginName, Settings, mask};
use registry::{PluginRegistry, ServiceDirectory};
use runtime::TaskOwner;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::autoload::Folder;
use crate::builder::PluginManagerBuilder;
use crate::dry_run::DryRun;
use crate::shared::{Entry, Shared, Status};
use crate::supervisor::{Grants, MAILBOX, Running, Supervisor, show_defaults};
use crate::{
    GraphView, LoadRequest, ManagerConfig, ManagerError, PluginStatusView, PluginView, RestartConfig,
    StartReport, StopReport, SwapRequest, TypeView,
};

/// How a plugin is kept, beside what it says of itself.
#[derive(Debug, Clone, Default)]
pub struct PluginOptions {
    /// What happens when it fails; the manager's own configuration where nothing is said.
    pub restart: Option<RestartConfig>,
    /// What it may do; all that it declares where nothing is said, as is right for the host's own code.
    pub permissions: Option<Vec<Permission>>,
    /// The type that it was made of.
    pub type_name: Option<String>,
    /// Left out when all plugins are started.
    pub manual: bool,
    /// Where its methods and its background work run; where all plugins' code runs where nothing is said.
    /// For the host's own parts, which others' code that blocks must not keep from starting and stopping.
    pub runtime: Option<Handle>,
}

/// How far an operation on one plugin may go.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Takes those along who use the plugin (stop, unload), or whom it uses (start).
    pub cascade: bool,
    /// Goes ahead although it cuts off the connection that asked.
    pub force: bool,
    /// The transport plugin whose connection asked, if one did.
    pub carried_by: Option<PluginName>,
}

/// Runs a host's plugins. A clone is the same manager; when the last one goes, the supervisors end and the
/// plugins are left as they are, so call [`stop_all`](PluginManager::stop_all) first.
#[derive(Clone)]
pub struct PluginManager {
    pub(crate) shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

/// Ends the supervisors, which hold what they share with the manager and so would keep it alive.
struct Owner {
    tasks: TaskOwner,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl PluginManager {
    pub(crate) fn new(shared: Shared, tasks: TaskOwner) -> Self {
        Self { shared: Arc::new(shared), _owner: Arc::new(Owner { tasks }) }
    }

    /// A builder; to be called within a `tokio` runtime, which serves where no other is given.
    #[must_use]
    pub fn builder(bus: EventBus) -> PluginManagerBuilder {
        PluginManagerBuilder::new(bus)
    }

    /// Makes a plugin known. Nothing of it runs yet.
    ///
    /// # Errors
    ///
    /// If the name is taken, the manifest cannot be, or the host is shutting down.
    pub fn register(
        &self,
        plugin: Arc<dyn Plugin>,
        options: PluginOptions,
    ) -> Result<PluginView, ManagerError> {
        let manifest = plugin.manifest();
        let name = manifest.name.clone();
        self.shared.clone().register(plugin, manifest, options, &json!({}))?;
        self.get(name.as_str())
    }

    /// Starts every plugin that is registered, each as soon as what it needs is there. Returns when each
    /// runs, has failed, or waits for something that does not come now.
    ///
    /// # Errors
    ///
    /// [`ManagerError::DependencyProblem`] with everything that is wrong, before anything starts, unless
    /// `dependency_check` is off.
    pub async fn start_all(&self) -> Result<StartReport, ManagerError> {
        let shared = self.shared.clone();
        self.run("start all", async move { shared.start_all().await }).await
    }

    /// Stops every plugin, dependents first, and returns within `deadline` whatever they do. No other
    /// operation begins from here on.
    pub async fn stop_all(&self, deadline: Duration) -> StopReport {
        let shared = self.shared.clone();
        let stopped = self.run("stop all", async move { Ok(shared.stop_all(deadline).await) }).await;
        stopped.unwrap_or_default()
    }

    /// Initializes a plugin.
    ///
    /// # Errors
    ///
    /// [`ManagerError`], such as that its state does not allow it, or its own failure.
    pub async fn initialize(&self, name: &str) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("initialize", async move { shared.initialize(&name).await }).await
    }

    /// Starts a plugin; with the cascade, what it needs before it.
    ///
    /// It may answer with a plugin that is not `running` and `waiting_for` others, which are on their way.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]; [`ManagerError::DependenciesDown`] if what it needs does not run and will not by
    /// itself.
    pub async fn start(&self, name: &str, change: Change) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("start", async move { shared.start(&name, &change).await }).await
    }

    /// Stops a plugin; with the cascade, those who use it before it.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]; [`ManagerError::HasDependents`] without the cascade if others use it.
    pub async fn stop(&self, name: &str, change: Change) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("stop", async move { shared.stop(&name, &change).await }).await
    }

    /// Stops a plugin and those who use it, and brings them back.
    ///
    /// # Errors
    ///
    /// [`ManagerError`], such as the plugin's own failure.
    pub async fn restart(&self, name: &str, change: Change) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("restart", async move { shared.restart(&name, &change).await }).await
    }

    /// Removes a plugin, stopping it if it runs.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]; [`ManagerError::HasDependents`] without the cascade if others declare to need it.
    /// With the cascade those are stopped, and wait.
    pub async fn unload(&self, name: &str, change: Change) -> Result<(), ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("unload", async move { shared.unload(&name, &change).await }).await
    }

    /// Makes a plugin through the loaders and registers it; starts it if the request says so. A plugin that
    /// fails to start stays, and its view says why.
    ///
    /// # Errors
    ///
    /// [`ManagerError`], and there is no new plugin.
    pub async fn load(&self, request: LoadRequest) -> Result<PluginView, ManagerError> {
        let shared = self.shared.clone();
        self.run("load", async move { shared.load(request, false).await }).await
    }

    /// Puts another version in a plugin's place, without a request that fails.
    ///
    /// # Errors
    ///
    /// [`ManagerError`]; the old version runs then.
    pub async fn swap(&self, name: &str, request: SwapRequest) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("swap", async move { shared.swap(&name, request, false).await }).await
    }

    /// The same with a plugin that the caller has made.
    ///
    /// # Errors
    ///
    /// As for [`swap`](PluginManager::swap).
    pub async fn swap_with(
        &self,
        name: &str,
        plugin: Arc<dyn Plugin>,
        request: SwapRequest,
    ) -> Result<PluginView, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("swap", async move { shared.swap_with(&name, plugin, request, false).await }).await
    }

    /// Replaces a plugin's configuration: checks it, applies it live or by a restart, keeps it, and takes it
    /// back if any of that fails. A masked secret means the one that is in force. What is left out goes back
    /// to what the configuration file says.
    ///
    /// # Errors
    ///
    /// [`ManagerError::InvalidConfig`] with the path of the key, or [`ManagerError`] of another kind; the
    /// configuration before is in force then.
    pub async fn set_config(&self, name: &str, config: Value) -> Result<crate::Applied, ManagerError> {
        self.set_config_if(name, config, None).await
    }

    /// The same, if the configuration in force has that [version](PluginManager::config_version) still.
    ///
    /// # Errors
    ///
    /// As there, and [`ManagerError::ConfigChanged`].
    pub async fn set_config_if(
        &self,
        name: &str,
        config: Value,
        version: Option<u64>,
    ) -> Result<crate::Applied, ManagerError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.run("configure", async move { shared.set_config(&name, config, version).await }).await
    }

    /// A plugin's effective configuration, its secrets masked.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NotFound`].
    pub fn config_of(&self, name: &str) -> Result<Value, ManagerError> {
        let record = self.shared.registry.get(name).ok_or_else(|| not_found(name))?;
        let mut settings = self.shared.settings().clone();
        show_defaults(&mut settings, &record.manifest);
        Ok(masked(&record.manifest, settings.section(&["plugins", name])))
    }

    /// What tells a plugin's configuration from any other, until the process ends.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NotFound`].
    pub fn config_version(&self, name: &str) -> Result<u64, ManagerError> {
        self.shared.registry.get(name).ok_or_else(|| not_found(name))?;
        Ok(self.shared.version_of(&self.shared.settings().section(&["plugins", name])))
    }

    /// The same operations, only tried.
    #[must_use]
    pub fn dry_run(&self) -> DryRun<'_> {
        DryRun::new(&self.shared)
    }

    /// The host's configuration with all its layers, the defaults of plugins among them. Secrets are not
    /// masked.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = self.shared.settings().clone();
        for record in self.shared.registry.list() {
            show_defaults(&mut settings, &record.manifest);
        }
        settings
    }

    /// All plugins, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginView> {
        self.shared.views()
    }

    /// State and health of all plugins, by name.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<PluginName, PluginStatusView> {
        self.shared.statuses()
    }

    /// One plugin.
    ///
    /// # Errors
    ///
    /// [`ManagerError::NotFound`].
    pub fn get(&self, name: &str) -> Result<PluginView, ManagerError> {
        self.shared.view(name).ok_or_else(|| not_found(name))
    }

    /// Who needs whom.
    #[must_use]
    pub fn graph(&self) -> GraphView {
        self.shared.graph_view()
    }

    /// What plugins can be made of.
    #[must_use]
    pub fn types(&self) -> Vec<TypeView> {
        self.shared.type_views()
    }

    /// The definition files of the auto-load folder, and what came of each.
    #[must_use]
    pub fn definitions(&self) -> Vec<crate::DefinitionView> {
        self.shared.definition_views()
    }

    /// Reads the folder of definition files, `auto_load_directory`, and follows it from then on: a file that
    /// comes, changes or goes makes, changes or unloads a plugin. A file that cannot be read, or whose plugin
    /// refuses it, is reported and changes nothing.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Invalid`] if the folder cannot be made or watched.
    pub async fn watch_folder(&self) -> Result<(), ManagerError> {
        let shared = self.shared.clone();
        self.run("watch folder", async move {
            let mut folder = Folder::new(shared.clone());
            let signs = folder.watch().await?;
            folder.read().await;
            shared.tasks.spawn("definition files", folder.follow(signs));
            Ok(())
        })
        .await
    }

    /// Waits until every plugin named runs and is ready; says whether that came about in time.
    pub async fn wait_ready(&self, names: &[&str], deadline: Duration) -> bool {
        let ready =
            || names.iter().all(|name| self.shared.registry.get(name).is_some_and(|record| record.ready));
        self.wait_until(deadline, ready).await
    }

    /// Waits until `condition` holds, looking again after each change of any plugin; says whether it does.
    pub async fn wait_until(&self, deadline: Duration, condition: impl Fn() -> bool) -> bool {
        let mut changes = self.shared.changes.subscribe();
        let held = async {
            loop {
                changes.borrow_and_update();
                if condition() {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(deadline, held).await.is_ok() || condition()
    }

    /// Services and routes of all plugins: what transports look up requests in.
    #[must_use]
    pub fn directory(&self) -> Arc<ServiceDirectory> {
        self.shared.directory.clone()
    }

    /// The records that everything here goes by.
    #[must_use]
    pub fn registry(&self) -> &PluginRegistry {
        &self.shared.registry
    }

    /// What plugins' contexts work with.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// How the plugins are run.
    #[must_use]
    pub fn config(&self) -> &ManagerConfig {
        &self.shared.config
    }

    /// Whether [`stop_all`](PluginManager::stop_all) has begun.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }

    /// Copies the plugins' state to the metrics, before they are read.
    pub fn report_metrics(&self) {
        self.shared.report_metrics();
    }

    /// Runs an operation as a task of the control plane, so that it goes on to its end even if whoever asked
    /// for it goes away.
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, ManagerError>> + Send + 'static,
    ) -> Result<T, ManagerError> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.shared.tasks.spawn(what, async move {
            let _ = sender.send(work.await);
        });
        receiver.await.unwrap_or(Err(ManagerError::ShuttingDown))
    }
}

pub(crate) fn not_found(name: &str) -> ManagerError {
    ManagerError::NotFound(name.chars().take(80).collect())
}

impl Shared {
    /// Makes a plugin known and gives it a supervisor.
    pub(crate) fn register(
        self: Arc<Self>,
        plugin: Arc<dyn Plugin>,
        manifest: Manifest,
        options: PluginOptions,
        detail: &Value,
    ) -> Result<(), ManagerError> {
        if self.is_shutting_down() {
            return Err(ManagerError::ShuttingDown);
        }
        let name = manifest.name.clone();
        let (grants, restart) = self.admit(&manifest, options.permissions, options.restart)?;
        let manifest = Arc::new(manifest);
        let status = Status::new(grants.clone(), restart.policy);
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let poke = Arc::new(Notify::new());
        let record = {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            let record =
                self.registry.register(manifest.clone(), options.type_name.as_deref(), self.now())?;
            let entry =
                Entry { mailbox: sender, poke: poke.clone(), status: status.clone(), manual: options.manual };
            entries.insert(name.clone(), entry);
            record
        };
        let mut host = self.host.clone();
        if let Some(runtime) = options.runtime {
            host.runtime = runtime;
        }
        let supervisor = Supervisor {
            shared: self.clone(),
            name: name.clone(),
            slot: record.slot,
            plugin,
            manifest: manifest.clone(),
            grants,
            restart,
            status,
            mailbox,
            poke,
            host,
            running: Running::default(),
        };
        let mut data = json!({ "plugin": name, "version": manifest.version, "to": record.state });
        if let (Value::Object(data), Value::Object(detail)) = (&mut data, detail) {
            data.extend(detail.clone());
        }
        self.emit("plugin.registered", Some(&name), data);
        self.changed();
        self.tasks.spawn(format!("supervisor of {name}"), supervisor.run());
        Ok(())
    }

    /// Checks what a plugin is to be registered with; gives what it may do, and how it is restarted.
    pub(crate) fn admit(
        &self,
        manifest: &Manifest,
        permissions: Option<Vec<Permission>>,
        restart: Option<RestartConfig>,
    ) -> Result<(Grants, RestartConfig), ManagerError> {
        let invalid = |detail: String| ManagerError::InvalidManifest { name: manifest.name.clone(), detail };
        manifest.check().map_err(|error| invalid(error.to_string()))?;
        let restart = restart.unwrap_or_else(|| self.config.restart.clone());
        restart.check().map_err(|error| error.under("restart"))?;
        Ok((Grants::from_options(permissions), restart))
    }
}

impl fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginManager").field("plugins", &self.shared.registry.len()).finish_non_exhaustive()
    }
}

/// A configuration without its secrets.
pub(crate) fn masked(manifest: &Manifest, config: Value) -> Value {
    match &manifest.config {
        Some(spec) => mask(spec.schema(), &config),
        None => config,
    }
}
