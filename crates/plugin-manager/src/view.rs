//! What can be seen of plugins, in the shape in which the management API shows it.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use plugin_core::{Access, Needs, PluginKind, PluginName, State, SwapMode};
use registry::PluginRecord;
use runtime::{DurationText, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::RestartPolicy;
use crate::shared::{Shared, Status};

/// What a plugin says of its health, or the host of a plugin that does not run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthView {
    /// Whether it works.
    pub healthy: bool,
    /// A short reason.
    pub message: String,
    /// When it was asked.
    pub timestamp: Timestamp,
}

/// State and health of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginStatusView {
    /// Its state in the lifecycle.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "running"))]
    pub status: State,
    /// Its health.
    pub health: HealthView,
    /// Whether it runs and can serve.
    pub ready: bool,
    /// The dependencies that it waits for before it starts.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub waiting_for: Vec<PluginName>,
}

/// A plugin that another one needs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DependencyView {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: PluginName,
    /// The versions that will do.
    pub version: String,
    /// `ready`, or `running` where that is enough.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub needs: Needs,
    /// Whether the plugin runs without it where the host does not have it.
    pub optional: bool,
    /// Its state; `unknown` where it is not there.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub status: State,
}

/// A route that a plugin serves.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndpointView {
    /// The method.
    pub method: String,
    /// The path with its parameters.
    pub path: String,
    /// Who may call it: `public`, `viewer`, `operator` or `admin`.
    pub access: &'static str,
    /// What it does.
    pub summary: String,
}

/// A service that a plugin offers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its type, for people.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// The plugins that hold handles of it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub users: Vec<PluginName>,
}

/// An error and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorView {
    /// What happened.
    pub message: String,
    /// When.
    pub timestamp: Timestamp,
}

/// Everything that can be seen of one plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginView {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: PluginName,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// `service`, `middleware`, `transport` or `plain`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: PluginKind,
    /// The type that a loader made it of, if one did.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Its state in the lifecycle.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "running"))]
    pub status: State,
    /// Since when.
    pub since: Timestamp,
    /// Its health.
    pub health: HealthView,
    /// Whether it runs and can serve.
    pub ready: bool,
    /// The dependencies that it waits for before it starts.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub waiting_for: Vec<PluginName>,
    /// What it needs.
    pub dependencies: Vec<DependencyView>,
    /// Who needs it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub dependents: Vec<PluginName>,
    /// The routes that it serves now.
    pub endpoints: Vec<EndpointView>,
    /// How many middleware it has in force now.
    pub middleware: usize,
    /// The services that it offers now.
    pub services: Vec<ServiceView>,
    /// What it was granted.
    pub permissions: Vec<String>,
    /// What it asks for and was not granted.
    pub permissions_denied: Vec<String>,
    /// How it is swapped.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub swap: SwapMode,
    /// What happens when it fails.
    pub restart_policy: RestartPolicy,
    /// How often it was started again after a failure.
    pub restarts: u64,
    /// When it is started again, while it waits for that.
    pub next_restart_at: Option<Timestamp>,
    /// What it failed with last.
    pub last_error: Option<ErrorView>,
    /// The number of its present or last incarnation.
    pub incarnation: u64,
    /// How long its last start took.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, example = "12ms"))]
    pub startup_duration: Option<DurationText>,
    /// Calls into it that blocked past their deadline and have not come back.
    pub stuck_calls: usize,
}

/// A plugin in the dependency graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GraphNode {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: PluginName,
    /// Its version.
    pub version: String,
    /// Its kind.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: PluginKind,
    /// Its state.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub status: State,
    /// Its level; none for what is in or behind a circle.
    pub level: Option<usize>,
}

/// A dependency in the graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GraphEdge {
    /// Who needs.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub from: PluginName,
    /// What is needed.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub to: PluginName,
    /// The versions that will do.
    pub version: String,
    /// Whether it does without.
    pub optional: bool,
}

/// Who needs whom.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GraphView {
    /// The plugins.
    pub nodes: Vec<GraphNode>,
    /// Their dependencies on each other.
    pub edges: Vec<GraphEdge>,
    /// The plugins level by level, those without needs first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Vec<String>>))]
    pub levels: Vec<Vec<PluginName>>,
    /// What is wrong with it, in full.
    pub problems: Vec<String>,
}

/// A type that plugins can be made of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TypeView {
    /// The name to ask for it by.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its version.
    pub version: String,
    /// What it is for.
    pub description: String,
    /// Its kind.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: PluginKind,
    /// Which loader has it.
    pub loader: String,
    /// What it needs.
    pub dependencies: Vec<String>,
    /// What it asks to be allowed.
    pub permissions: Vec<String>,
    /// The JSON schema of its configuration, if it takes one.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub config_schema: Option<Value>,
    /// The plugins that were made of it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub instances: Vec<PluginName>,
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Public => "public",
        Access::Viewer => "viewer",
        Access::Operator => "operator",
        Access::Admin => "admin",
    }
}

fn health(record: &PluginRecord, status: &Status) -> HealthView {
    let seen = status.seen();
    match (&seen.health, record.state, &seen.last_error) {
        (Some(health), State::Running, _) => {
            HealthView { healthy: health.healthy, message: health.message.clone(), timestamp: health.at }
        }
        (_, State::Failed, Some((message, at))) => {
            HealthView { healthy: false, message: message.clone(), timestamp: *at }
        }
        _ => HealthView { healthy: false, message: record.state.to_string(), timestamp: record.since },
    }
}

impl Shared {
    fn status_of(&self, record: &PluginRecord) -> Option<std::sync::Arc<Status>> {
        self.entry(record.name().as_str()).ok().map(|entry| entry.status)
    }

    pub(crate) fn statuses(&self) -> BTreeMap<PluginName, PluginStatusView> {
        let with_status = |record: PluginRecord| {
            let status = self.status_of(&record)?;
            let view = PluginStatusView {
                status: record.state,
                health: health(&record, &status),
                ready: record.ready,
                waiting_for: status.seen().waiting_for.clone(),
            };
            Some((record.name().clone(), view))
        };
        self.registry.list().into_iter().filter_map(with_status).collect()
    }

    pub(crate) fn views(&self) -> Vec<PluginView> {
        self.registry.list().iter().filter_map(|record| self.view_of(record)).collect()
    }

    pub(crate) fn view(&self, name: &str) -> Option<PluginView> {
        self.view_of(&self.registry.get(name)?)
    }

    fn view_of(&self, record: &PluginRecord) -> Option<PluginView> {
        Some(self.view_with(record, &*self.status_of(record)?))
    }

    /// What is known of a plugin, the registered ones or one that might be.
    pub(crate) fn view_with(&self, record: &PluginRecord, status: &Status) -> PluginView {
        let manifest = &record.manifest;
        let live = record.slot.live();
        let users = record.slot.services_in_use();
        let (mut endpoints, mut services, mut middleware) = (Vec::new(), Vec::new(), 0);
        if let Some(live) = &live {
            endpoints.extend(live.routes().iter().map(|route| EndpointView {
                method: route.endpoint.method().to_string(),
                path: route.endpoint.path().to_owned(),
                access: access(route.endpoint.required_access()),
                summary: route.endpoint.summary_text().to_owned(),
            }));
            services.extend(live.services().map(|key| ServiceView {
                name: key.name().to_owned(),
                type_name: key.type_name(),
                users:
                    users.iter().find(|(used, _)| used == key).map(|(_, by)| by.clone()).unwrap_or_default(),
            }));
            services.sort_by(|a, b| (&a.name, a.type_name).cmp(&(&b.name, b.type_name)));
            middleware = live.middleware().count();
        }
        let granted = status.grants.of(manifest);
        let granted = granted.granted();
        let denied = manifest.permissions.iter().filter(|asked| !granted.contains(asked));
        let health = health(record, status);
        let seen = status.seen().clone();
        PluginView {
            name: record.name().clone(),
            version: manifest.version.to_string(),
            description: manifest.description.clone(),
            kind: manifest.kind,
            type_name: record.type_name.as_deref().map(str::to_owned),
            status: record.state,
            since: record.since,
            health,
            ready: record.ready,
            waiting_for: seen.waiting_for,
            dependencies: manifest
                .dependencies
                .iter()
                .map(|dependency| DependencyView {
                    name: dependency.name.clone(),
                    version: dependency.version.to_string(),
                    needs: dependency.needs,
                    optional: dependency.optional,
                    status: self.registry.state(dependency.name.as_str()),
                })
                .collect(),
            dependents: self.registry.graph().dependents(record.name().as_str()).to_vec(),
            endpoints,
            middleware,
            services,
            permissions: granted.iter().map(ToString::to_string).collect(),
            permissions_denied: denied.map(ToString::to_string).collect(),
            swap: manifest.swap,
            restart_policy: seen.policy,
            restarts: status.restarts.load(Ordering::Relaxed),
            next_restart_at: seen.next_restart_at,
            last_error: seen.last_error.map(|(message, timestamp)| ErrorView { message, timestamp }),
            incarnation: seen.incarnation,
            startup_duration: seen.startup.map(DurationText::measured),
            stuck_calls: status.stuck.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn graph_view(&self) -> GraphView {
        let graph = self.registry.graph();
        let levels = graph.levels();
        let by_name: BTreeMap<_, _> = levels
            .iter()
            .enumerate()
            .flat_map(|(level, names)| names.iter().map(move |name| (name, level)))
            .collect();
        let nodes = self.registry.list();
        GraphView {
            nodes: nodes
                .iter()
                .map(|record| GraphNode {
                    name: record.name().clone(),
                    version: record.manifest.version.to_string(),
                    kind: record.manifest.kind,
                    status: record.state,
                    level: by_name.get(record.name()).copied(),
                })
                .collect(),
            edges: graph
                .edges()
                .map(|(from, dependency)| GraphEdge {
                    from: from.clone(),
                    to: dependency.name.clone(),
                    version: dependency.version.to_string(),
                    optional: dependency.optional,
                })
                .collect(),
            problems: graph.problems().iter().map(ToString::to_string).collect(),
            levels,
        }
    }

    pub(crate) fn type_views(&self) -> Vec<TypeView> {
        let types = self.loaders.iter().flat_map(|loading| loading.loader.types());
        let view = |known: plugin_core::PluginType| TypeView {
            version: known.manifest.version.to_string(),
            description: known.manifest.description.clone(),
            kind: known.manifest.kind,
            dependencies: known
                .manifest
                .dependencies
                .iter()
                .map(|dependency| format!("{} {}", dependency.name, dependency.version))
                .collect(),
            permissions: known.manifest.permissions.iter().map(ToString::to_string).collect(),
            config_schema: known.manifest.config.as_ref().map(|spec| spec.schema().clone()),
            instances: self.registry.by_type(&known.type_name).iter().map(|r| r.name().clone()).collect(),
            loader: known.loader,
            type_name: known.type_name,
        };
        types.map(view).collect()
    }

    pub(crate) fn definition_views(&self) -> Vec<crate::DefinitionView> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
