//! The port through which a host finds the instances of a service on other nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod memory;

pub use memory::MemoryDiscovery;

/// One live copy of a service on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The service, such as `greeter`.
    pub service: String,
    /// Unique among the instances of the service.
    pub id: String,
    /// The node that it runs on.
    pub node: String,
    /// Where to reach it, in whatever form its callers know: `10.0.0.7:8080`.
    pub address: String,
    /// The version of the plugin that offers it.
    pub version: Version,
    /// Whether it can serve now. One that cannot is known and not picked.
    pub healthy: bool,
    /// What else callers may choose by.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// Why the instances of a service could not be told or changed.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The engine cannot be reached or refuses. Asking again later may help.
    #[error("discovery is unavailable: {0}")]
    Unavailable(String),
    /// The lease has ended: it was not renewed in time, or was taken over by a later registration.
    #[error("the lease of instance `{id}` of service `{service}` has ended")]
    LeaseEnded {
        /// The service.
        service: String,
        /// The instance.
        id: String,
    },
    /// The instance or the time to live cannot be.
    #[error("`{field}`: {detail}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// Why.
        detail: String,
    },
}

/// Knows the instances of services, each held by a lease.
///
/// Every implementation passes the contract suite of the feature `test-util`.
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// Makes an instance known until its lease is revoked, or has not been renewed for `ttl`. An instance of
    /// the same service and id takes the place of the one before, whose lease ends.
    ///
    /// # Errors
    ///
    /// If the engine is away, or the instance has no name, no id, or the time to live is zero.
    async fn register(&self, instance: Instance, ttl: Duration) -> Result<Box<dyn Lease>, DiscoveryError>;

    /// The instances of a service now, by id; none is no error.
    ///
    /// # Errors
    ///
    /// If the engine is away.
    async fn instances(&self, service: &str) -> Result<Arc<[Instance]>, DiscoveryError>;

    /// The instances of a service from now on.
    ///
    /// # Errors
    ///
    /// If the engine is away.
    async fn watch(&self, service: &str) -> Result<InstanceWatch, DiscoveryError>;
}

/// The right to be among a service's instances. Dropping it revokes it, at the latest when it expires.
#[async_trait]
pub trait Lease: Send + Sync + 'static {
    /// Prolongs it by its time to live. To be called at a third of that, so that two lost calls do no harm.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::LeaseEnded`] once it is over: register again then.
    async fn renew(&self) -> Result<(), DiscoveryError>;

    /// Says whether the instance can serve.
    ///
    /// # Errors
    ///
    /// As for [`renew`](Lease::renew).
    async fn set_healthy(&self, healthy: bool) -> Result<(), DiscoveryError>;

    /// Ends it; the instance is known no more when this returns.
    ///
    /// # Errors
    ///
    /// If the engine is away; the lease then ends by its time.
    async fn revoke(self: Box<Self>) -> Result<(), DiscoveryError>;
}

/// The instances of a service as they change. It shows the latest state and skips those in between, so that
/// a slow reader costs nothing.
#[derive(Debug, Clone)]
pub struct InstanceWatch {
    receiver: watch::Receiver<Arc<[Instance]>>,
}

impl InstanceWatch {
    /// A watch that shows what the sender of `receiver` sends: for implementations.
    #[must_use]
    pub fn new(receiver: watch::Receiver<Arc<[Instance]>>) -> Self {
        Self { receiver }
    }

    /// The instances now, by id.
    #[must_use]
    pub fn current(&self) -> Arc<[Instance]> {
        self.receiver.borrow().clone()
    }

    /// Waits for a change since the last call, and gives the instances after it; nothing once the discovery
    /// itself has ended.
    pub async fn changed(&mut self) -> Option<Arc<[Instance]>> {
        self.receiver.changed().await.ok()?;
        Some(self.receiver.borrow_and_update().clone())
    }
}

/// Picks one healthy instance after another.
#[derive(Debug, Default)]
pub struct Picker {
    turn: AtomicUsize,
}

impl Picker {
    /// Begins with the first.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next healthy instance in turn, if there is one.
    pub fn pick<'a>(&self, instances: &'a [Instance]) -> Option<&'a Instance> {
        let healthy = instances.iter().filter(|instance| instance.healthy).count();
        if healthy == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % healthy;
        instances.iter().filter(|instance| instance.healthy).nth(turn)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at {}", self.service, self.id, self.address)
    }
}

#[cfg(test)]
mod tests;
