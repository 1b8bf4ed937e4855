//! Discovery within one process.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use runtime::TaskOwner;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Discovery, DiscoveryError, Instance, InstanceWatch, Lease};

/// Knows the instances that this process has registered. A clone is the same discovery.
#[derive(Clone)]
pub struct MemoryDiscovery {
    shared: Arc<Shared>,
    /// Its one task removes what has expired; it ends with the last clone.
    _reaper: TaskOwner,
}

#[derive(Default)]
struct Shared {
    services: Mutex<HashMap<String, Service>>,
    /// Signalled when a lease may expire earlier than the reaper thinks.
    sooner: Notify,
    registrations: AtomicU64,
}

struct Service {
    held: BTreeMap<String, Held>,
    current: watch::Sender<Arc<[Instance]>>,
}

struct Held {
    instance: Instance,
    /// Which registration of this id it is.
    lease: u64,
    expires: Instant,
}

impl Default for MemoryDiscovery {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryDiscovery {
    /// Knows of no instance. To be made within a `tokio` runtime, which then removes what expires.
    #[must_use]
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let reaper = TaskOwner::new("memory discovery");
        let (weak, token) = (Arc::downgrade(&shared), reaper.token());
        reaper.spawn("expire", async move {
            tokio::select! {
                () = expire(weak) => {}
                () = token.cancelled() => {}
            }
        });
        Self { shared, _reaper: reaper }
    }
}

async fn expire(shared: Weak<Shared>) {
    // Strong from here on; the task is cancelled with its owner, which lives beside the other reference.
    let Some(shared) = shared.upgrade() else { return };
    loop {
        let next = shared.remove_expired(Instant::now());
        let sooner = shared.sooner.notified();
        match next {
            Some(at) => {
                let _ = tokio::time::timeout_at(at, sooner).await;
            }
            None => sooner.await,
        }
    }
}

impl Shared {
    fn services(&self) -> MutexGuard<'_, HashMap<String, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what has expired by `now`, and tells when the next does.
    fn remove_expired(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.services().retain(|_, service| {
            let before = service.held.len();
            service.held.retain(|_, held| held.expires > now);
            if service.held.len() != before {
                service.show();
            }
            for held in service.held.values() {
                next = Some(next.map_or(held.expires, |next| next.min(held.expires)));
            }
            !service.held.is_empty() || service.current.receiver_count() > 0
        });
        next
    }

    /// Changes what a lease holds; [`DiscoveryError::LeaseEnded`] if it holds nothing any more.
    fn change(&self, lease: &MemoryLease, change: impl FnOnce(&mut Service)) -> Result<(), DiscoveryError> {
        let ended = || DiscoveryError::LeaseEnded { service: lease.service.clone(), id: lease.id.clone() };
        let mut services = self.services();
        let service = services.get_mut(&lease.service).ok_or_else(ended)?;
        match service.held.get(&lease.id) {
            Some(held) if held.lease == lease.number && held.expires > Instant::now() => {
                change(service);
                Ok(())
            }
            _ => Err(ended()),
        }
    }
}

impl Service {
    fn new() -> Self {
        Self { held: BTreeMap::new(), current: watch::Sender::new(Arc::from([])) }
    }

    fn show(&self) {
        self.current.send_replace(self.held.values().map(|held| held.instance.clone()).collect());
    }
}

#[async_trait]
impl Discovery for MemoryDiscovery {
    async fn register(&self, instance: Instance, ttl: Duration) -> Result<Box<dyn Lease>, DiscoveryError> {
        let invalid = |field, detail: &str| DiscoveryError::Invalid { field, detail: detail.to_owned() };
        if instance.service.is_empty() {
            return Err(invalid("service", "is empty"));
        }
        if instance.id.is_empty() {
            return Err(invalid("id", "is empty"));
        }
        if ttl.is_zero() {
            return Err(invalid("ttl", "is zero"));
        }
        let (service, id) = (instance.service.clone(), instance.id.clone());
        // Never used twice, so that a lease that has ended cannot be taken for a later one.
        let number = self.shared.registrations.fetch_add(1, Ordering::Relaxed);
        {
            let mut services = self.shared.services();
            let entry = services.entry(service.clone()).or_insert_with(Service::new);
            entry.held.insert(id.clone(), Held { instance, lease: number, expires: Instant::now() + ttl });
            entry.show();
        }
        self.shared.sooner.notify_one();
        Ok(Box::new(MemoryLease { shared: Arc::downgrade(&self.shared), service, id, number, ttl }))
    }

    async fn instances(&self, service: &str) -> Result<Arc<[Instance]>, DiscoveryError> {
        let now = Instant::now();
        let services = self.shared.services();
        let held = services.get(service).into_iter().flat_map(|service| service.held.values());
        Ok(held.filter(|held| held.expires > now).map(|held| held.instance.clone()).collect())
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch, DiscoveryError> {
        let mut services = self.shared.services();
        let entry = services.entry(service.to_owned()).or_insert_with(Service::new);
        Ok(InstanceWatch::new(entry.current.subscribe()))
    }
}

impl fmt::Debug for MemoryDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDiscovery").field("services", &self.shared.services().len()).finish()
    }
}

struct MemoryLease {
    shared: Weak<Shared>,
    service: String,
    id: String,
    number: u64,
    ttl: Duration,
}

impl MemoryLease {
    fn change(&self, change: impl FnOnce(&mut Service)) -> Result<(), DiscoveryError> {
        match self.shared.upgrade() {
            Some(shared) => shared.change(self, change),
            None => Err(DiscoveryError::LeaseEnded { service: self.service.clone(), id: self.id.clone() }),
        }
    }
}

#[async_trait]
impl Lease for MemoryLease {
    async fn renew(&self) -> Result<(), DiscoveryError> {
        self.change(|service| {
            if let Some(held) = service.held.get_mut(&self.id) {
                held.expires = Instant::now() + self.ttl;
            }
        })
    }

    async fn set_healthy(&self, healthy: bool) -> Result<(), DiscoveryError> {
        self.change(|service| {
            if let Some(held) = service.held.get_mut(&self.id)
                && held.instance.healthy != healthy
            {
                held.instance.healthy = healthy;
                service.show();
            }
        })
    }

    async fn revoke(self: Box<Self>) -> Result<(), DiscoveryError> {
        // The drop does it; that the lease had ended before comes to the same.
        Ok(())
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let _ = self.change(|service| {
            service.held.remove(&self.id);
            service.show();
        });
    }
}
