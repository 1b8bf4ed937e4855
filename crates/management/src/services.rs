//! Services that plugins offer, and the nodes that they run on.

use std::collections::BTreeMap;

use plugin_core::{RoundTrip, ServiceKey};
use runtime::Timestamp;
use scheduler::ClusterStatus;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{Caller, Management, Page, PageRequest, Permission, Problem, ProblemKind};

/// One live copy of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceInstance {
    /// The node that it runs on.
    pub node: String,
    /// The plugin that offers it.
    pub provider: String,
    /// Its Rust type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Whether it can be called now; not while its plugin restarts.
    pub available: bool,
    /// The plugins that hold handles of it.
    pub users: Vec<String>,
}

/// A service by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// Whether any instance can be called now.
    pub available: bool,
    /// Its instances.
    pub instances: Vec<ServiceInstance>,
}

/// How a service answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceTest {
    /// Its name.
    pub service: String,
    /// The plugin that answered.
    pub provider: String,
    /// What it says of the server behind it; empty for a service that has none.
    #[schema(value_type = Object)]
    pub detail: Map<String, Value>,
    /// How long it took.
    #[schema(value_type = String, example = "1ms")]
    pub took: runtime::DurationText,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// Its program and version; nothing of other nodes.
    pub product: Option<String>,
    /// Since when it runs; nothing of other nodes.
    pub started_at: Option<Timestamp>,
}

/// The nodes, and who owns what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// The node that answers.
    pub node: String,
    /// All nodes.
    pub nodes: Vec<NodeInfo>,
    /// Who runs which share of the tasks; null without a scheduler.
    pub tasks: Option<ClusterStatus>,
}

impl Management {
    fn all_services(&self) -> BTreeMap<String, ServiceInfo> {
        let mut services: BTreeMap<String, ServiceInfo> = BTreeMap::new();
        let entries = self.directory().map(registry::ServiceDirectory::services).unwrap_or_default();
        for entry in entries {
            // A way to try the service out, and none itself.
            if entry.key == ServiceKey::of::<dyn RoundTrip>(entry.key.name()) {
                continue;
            }
            let name = entry.key.name().to_owned();
            let service = services.entry(name.clone()).or_insert_with(|| ServiceInfo {
                name,
                available: false,
                instances: Vec::new(),
            });
            service.available |= entry.available;
            service.instances.push(ServiceInstance {
                node: self.inner.node.clone(),
                provider: entry.provider.to_string(),
                type_name: entry.key.type_name().to_owned(),
                available: entry.available,
                users: entry.users.iter().map(ToString::to_string).collect(),
            });
        }
        services
    }

    /// The services that plugins offer, by name.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn services(&self, caller: &Caller, page: &PageRequest) -> Result<Page<ServiceInfo>, Problem> {
        caller.require(Permission::ServiceRead)?;
        Ok(page.of_sorted(self.all_services().into_values().collect(), |service| &service.name))
    }

    /// One service.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub fn service(&self, caller: &Caller, name: &str) -> Result<ServiceInfo, Problem> {
        caller.require(Permission::ServiceRead)?;
        self.all_services().remove(name).ok_or_else(|| Problem::not_found("service", name))
    }

    /// Whether a service can be reached, the server behind it included, and how long that took.
    ///
    /// # Errors
    ///
    /// `not_found`, or `unavailable` while its plugin or its server is away.
    pub async fn test_service(&self, caller: &Caller, name: &str) -> Result<ServiceTest, Problem> {
        let begun = self.inner.clock.now();
        let service = self.service(caller, name)?;
        let away = || {
            let problem = Problem::new(ProblemKind::Unavailable, format!("service `{name}` is away"));
            problem.retry_after(std::time::Duration::from_secs(1))
        };
        let Some(instance) = service.instances.into_iter().find(|instance| instance.available) else {
            return Err(away());
        };
        let answer = match &self.inner.manager {
            Some(manager) => manager.round_trip(name).await,
            None => None,
        };
        let detail = match answer {
            None => Map::new(),
            Some(Ok(detail)) => detail,
            Some(Err(error)) => return Err(away().detail(error.to_string())),
        };
        let took = self.inner.clock.now().duration_since(begun).unsigned_abs();
        Ok(ServiceTest {
            service: service.name,
            provider: instance.provider,
            detail,
            took: runtime::DurationText::measured(took),
        })
    }

    /// The nodes, and who owns what.
    ///
    /// # Errors
    ///
    /// For callers without a role.
    pub fn cluster(&self, caller: &Caller) -> Result<ClusterView, Problem> {
        caller.require(Permission::ClusterRead)?;
        let tasks = self.inner.scheduler.as_ref().map(|scheduler| scheduler.status().cluster);
        let node = self.inner.node.clone();
        let mut names: Vec<String> = tasks.iter().flat_map(|tasks| tasks.members.iter().cloned()).collect();
        names.push(node.clone());
        names.sort();
        names.dedup();
        let nodes = names
            .into_iter()
            .map(|name| {
                let this = name == node;
                NodeInfo {
                    product: this.then(|| self.product()),
                    started_at: this.then_some(self.inner.started_at),
                    this,
                    name,
                }
            })
            .collect();
        Ok(ClusterView { node, nodes, tasks })
    }

    /// The name and version of the program.
    #[must_use]
    pub fn product(&self) -> String {
        format!("{} {}", self.inner.product.name, self.inner.product.version)
    }
}
