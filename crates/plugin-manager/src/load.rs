//! Plugins that come in at run time: through the loaders, and in the place of others.

use std::sync::Arc;
use std::time::Duration;

use plugin_core::{Layer, LoadError, Permission, Plugin, PluginName, PluginSource, Settings};
use registry::{DependencyGraph, DependencyProblem};
use runtime::{CallError, guarded};
use semver::{Version, VersionReq};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::manager::not_found;
use crate::shared::Shared;
use crate::supervisor::{Command, SwapOrder};
use crate::{ManagerError, PluginOptions, PluginView, RestartConfig};

/// A plugin to be made and registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// The type that a factory knows, or the reference of a package.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The versions that will do, such as `^1.2`; the newest of them is taken. A version in full is that one.
    #[serde(default, deserialize_with = "wanted_version", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "^1.2"))]
    pub version: Option<VersionReq>,
    /// The name of the instance, where it is not to be the type's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub name: Option<PluginName>,
    /// Its configuration, above what the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub config: Option<Map<String, Value>>,
    /// Whether it is started, too. Default `true`.
    #[serde(default = "yes")]
    pub start: bool,
    /// What a package is granted. What is compiled in gets what it declares.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub permissions: Vec<Permission>,
    /// What happens when it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub restart: Option<RestartConfig>,
}

impl LoadRequest {
    /// A plugin of this type, in the newest version, to be started.
    pub fn new(type_name: impl Into<String>) -> Self {
        Self {
            type_name: type_name.into(),
            version: None,
            name: None,
            config: None,
            start: true,
            permissions: Vec::new(),
            restart: None,
        }
    }
}

/// Another version of a plugin to take its place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SwapRequest {
    /// The type; that of the present version where nothing is said.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// The versions that will do, such as `^1.2`; the newest of them is taken. A version in full is that one.
    #[serde(deserialize_with = "wanted_version", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "^1.2"))]
    pub version: Option<VersionReq>,
    /// How long to wait for the calls that are inside the old version.
    #[serde(with = "option_duration", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "10s"))]
    pub drain: Option<Duration>,
}

mod option_duration {
    use std::time::Duration;

    use runtime::DurationText;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        span.map(DurationText).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<DurationText>::deserialize(deserializer)?.map(|text| text.0))
    }
}

/// Reads which versions will do. Among dependencies `1.2.0` is whatever is compatible with it; here somebody
/// asks for a version to run, and means the one that they name.
pub(crate) fn wanted_version<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<VersionReq>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let exact = text.trim().parse::<Version>().is_ok();
    let wanted = if exact { format!("={}", text.trim()) } else { text };
    wanted.parse().map(Some).map_err(serde::de::Error::custom)
}

fn yes() -> bool {
    true
}

/// Longer than anybody drains.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// How a plugin comes in.
pub(crate) struct Intake {
    pub(crate) request: LoadRequest,
    /// The layer that its configuration goes to.
    pub(crate) layer: Layer,
    /// Whether what it needs may be missing yet.
    pub(crate) may_wait: bool,
    /// Whether it is only tried.
    pub(crate) dry_run: bool,
}

impl Shared {
    pub(crate) async fn load(
        self: Arc<Self>,
        request: LoadRequest,
        dry_run: bool,
    ) -> Result<PluginView, ManagerError> {
        let may_wait = !request.start || !self.config.dependency_check;
        self.take_in(Intake { request, layer: Layer::Api, may_wait, dry_run }).await
    }

    pub(crate) async fn take_in(self: Arc<Self>, intake: Intake) -> Result<PluginView, ManagerError> {
        if self.is_shutting_down() {
            return Err(ManagerError::ShuttingDown);
        }
        let Intake { request, layer, may_wait, dry_run } = intake;
        let source = PluginSource {
            type_name: request.type_name.clone(),
            version: request.version.clone(),
            name: request.name.clone(),
        };
        let (plugin, trusted) = self.make(&source).await?;
        let manifest = plugin.manifest();
        let name = manifest.name.clone();
        if self.registry.get(name.as_str()).is_some() {
            return Err(ManagerError::Conflict(name));
        }
        let problems = self.problems_with(&manifest, may_wait);
        if !problems.is_empty() {
            return Err(ManagerError::DependencyProblem(problems));
        }
        let path = ["plugins", name.as_str()];
        let section = request.config.map(Value::Object);
        {
            let mut candidate: Settings = self.settings().clone();
            if section.is_some() {
                candidate.set_section(layer, &path, section.clone());
            }
            if let Some(spec) = &manifest.config {
                spec.check(&candidate.section(&path)).map_err(|error| error.under("config"))?;
            }
        }
        if let Some(restart) = &request.restart {
            restart.check().map_err(|error| error.under("restart"))?;
        }
        let options = PluginOptions {
            restart: request.restart,
            permissions: if trusted { None } else { Some(request.permissions) },
            type_name: Some(request.type_name.clone()),
            ..PluginOptions::default()
        };
        if dry_run {
            return self.as_registered(manifest, options);
        }
        let version = manifest.version.clone();
        self.clone().register(plugin, manifest, options, &json!({ "type": request.type_name }))?;
        if section.is_some() {
            let before = self.settings().section(&path);
            self.settings().set_section(layer, &path, section);
            let after = self.settings().section(&path);
            self.tell_config_changed(&name, layer, &before, &after);
        }
        let data = json!({ "plugin": name, "type": request.type_name, "version": version });
        self.emit("plugin.loaded", Some(&name), data);
        if request.start {
            // Whether it runs, waits or has failed is in the view.
            let _ = self.ask(name.as_str(), Command::Start).await;
        }
        self.view(name.as_str()).ok_or_else(|| not_found(name.as_str()))
    }

    /// Asks one loader after another.
    async fn make(&self, source: &PluginSource) -> Result<(Arc<dyn Plugin>, bool), ManagerError> {
        if source.type_name.is_empty() || source.type_name.len() > 512 {
            let detail = "has to have 1 to 512 bytes".to_owned();
            return Err(ManagerError::Invalid { field: "type", detail });
        }
        for loading in &self.loaders {
            let (loader, wanted) = (loading.loader.clone(), source.clone());
            // A loader runs foreign code: what it makes, and perhaps its own.
            let work = async move { loader.load(&wanted).await };
            match guarded(&self.host.runtime, self.config.max_startup_time, work).await {
                Ok(Ok(plugin)) => return Ok((plugin, loading.trusted)),
                Ok(Err(LoadError::UnknownType(_))) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => return Err(failed_load(source, error).into()),
            }
        }
        Err(LoadError::UnknownType(source.type_name.clone()).into())
    }

    /// What is wrong with the dependencies once a plugin with this manifest is there, as far as it concerns
    /// that plugin.
    fn problems_with(&self, manifest: &plugin_core::Manifest, may_wait: bool) -> Vec<DependencyProblem> {
        let records = self.registry.list();
        let others = records.iter().map(|record| &*record.manifest);
        let graph = DependencyGraph::new(others.chain([manifest]));
        let mut problems = graph.problems();
        problems.retain(|problem| {
            problem.concerns(manifest.name.as_str())
                && !(may_wait && matches!(problem, DependencyProblem::Missing { .. }))
        });
        problems
    }

    pub(crate) async fn swap(
        &self,
        name: &str,
        request: SwapRequest,
        dry_run: bool,
    ) -> Result<PluginView, ManagerError> {
        let record = self.registry.get(name).ok_or_else(|| not_found(name))?;
        let type_name = request.type_name.clone().or_else(|| record.type_name.as_deref().map(str::to_owned));
        let Some(type_name) = type_name else {
            let detail = "is needed: the plugin was not made of a type".to_owned();
            return Err(ManagerError::Invalid { field: "type", detail });
        };
        let source = PluginSource {
            type_name: type_name.clone(),
            version: request.version.clone(),
            name: Some(record.name().clone()),
        };
        let (plugin, _) = self.make(&source).await?;
        self.swap_with(name, plugin, SwapRequest { type_name: Some(type_name), ..request }, dry_run).await
    }

    pub(crate) async fn swap_with(
        &self,
        name: &str,
        plugin: Arc<dyn Plugin>,
        request: SwapRequest,
        dry_run: bool,
    ) -> Result<PluginView, ManagerError> {
        if self.is_shutting_down() {
            return Err(ManagerError::ShuttingDown);
        }
        let drain = request.drain.unwrap_or(self.config.drain_deadline);
        if drain > DRAIN_MAX {
            let detail = "has to be at most 1h".to_owned();
            return Err(ManagerError::Invalid { field: "drain", detail });
        }
        let manifest = plugin.manifest();
        let invalid = |detail: String| ManagerError::InvalidManifest { name: manifest.name.clone(), detail };
        manifest.check().map_err(|error| invalid(error.to_string()))?;
        let version = manifest.version.to_string();
        let manifest = Arc::new(manifest);
        let order = SwapOrder { plugin, manifest, type_name: request.type_name, drain, dry_run };
        self.ask(name, |reply| Command::Swap(Box::new(order), reply)).await?;
        let view = self.view(name).ok_or_else(|| not_found(name))?;
        Ok(if dry_run { PluginView { version, ..view } } else { view })
    }
}

fn failed_load(source: &PluginSource, error: CallError) -> LoadError {
    LoadError::Failed { type_name: source.type_name.clone(), source: Box::new(error) }
}
