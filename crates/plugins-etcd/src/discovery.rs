//! [`Discovery`] over etcd: an instance is a key that a lease holds.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use registry::{Discovery, DiscoveryError, Instance, InstanceWatch, Lease};
use runtime::TaskOwner;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::client::Etcd;
use crate::{EtcdError, Listing, Seen};

/// How long the end of a lease that was dropped may take, before it is left to its time.
const REVOKE_WITHIN: Duration = Duration::from_secs(2);

/// Between two attempts where somebody has to do something first, such as to mend the credentials.
const REFUSED_PACE: Duration = Duration::from_secs(5);

/// The instances of services, in etcd. A clone is the same discovery.
///
/// A lease lasts for whole seconds, rounded up, and for no less than etcd's own least, which is about two.
#[derive(Clone)]
pub struct EtcdDiscovery {
    etcd: Etcd,
    tasks: TaskOwner,
}

impl EtcdDiscovery {
    /// Instances below `services/` of the client's namespace. To be made within a `tokio` runtime, which then
    /// runs the watches.
    #[must_use]
    pub fn new(etcd: Etcd) -> Self {
        Self { etcd, tasks: TaskOwner::on(Handle::current(), "etcd discovery") }
    }

    fn prefix(&self, service: &str) -> String {
        self.etcd.own_key(&["services", &segment(service), ""])
    }

    fn key(&self, service: &str, id: &str) -> String {
        format!("{}{}", self.prefix(service), segment(id))
    }
}

#[async_trait]
impl Discovery for EtcdDiscovery {
    async fn register(&self, instance: Instance, ttl: Duration) -> Result<Box<dyn Lease>, DiscoveryError> {
        for (field, is_empty) in
            [("service", instance.service.is_empty()), ("id", instance.id.is_empty()), ("ttl", ttl.is_zero())]
        {
            if is_empty {
                return Err(DiscoveryError::Invalid { field, detail: "is empty".to_owned() });
            }
        }
        let granted = self.etcd.grant(ttl).await.map_err(unavailable)?;
        let registered = Registered {
            key: self.key(&instance.service, &instance.id),
            lease: granted.id,
            etcd: self.etcd.clone(),
            tasks: self.tasks.clone(),
            instance,
            revoked: false,
        };
        let options = PutOptions::new().with_lease(granted.id);
        let put = Txn::new().and_then([
            TxnOp::get(registered.key.as_str(), None),
            TxnOp::put(registered.key.as_str(), value(&registered.instance)?, Some(options)),
        ]);
        let answer = self.etcd.transaction_again(put).await.map_err(unavailable)?;
        if let Some(TxnOpResponse::Get(before)) = answer.op_responses().first()
            && let Some(lease) = before.kvs().first().map(KeyValue::lease)
            && lease != 0
            && lease != granted.id
        {
            // It holds nothing any more; ended, it tells whoever had it at the next renewal.
            let _ = self.etcd.revoke(lease).await;
        }
        Ok(Box::new(registered))
    }

    async fn instances(&self, service: &str) -> Result<Arc<[Instance]>, DiscoveryError> {
        let listing = self.etcd.list(self.prefix(service)).await.map_err(unavailable)?;
        Ok(instances(&listing))
    }

    async fn watch(&self, service: &str) -> Result<InstanceWatch, DiscoveryError> {
        let mut watch = self.etcd.follow(self.prefix(service)).await.map_err(unavailable)?;
        let Seen::State(listing) = watch.next().await.map_err(unavailable)? else {
            return Err(DiscoveryError::Unavailable("a watch began without a state".to_owned()));
        };
        let (sender, receiver) = watch::channel(instances(&listing));
        let (discovery, prefix, token) = (self.etcd.clone(), self.prefix(service), self.tasks.token());
        self.tasks.spawn(format!("watch {service}"), async move {
            let follow = async {
                loop {
                    // What changed is read anew: one state, and no second way to make it.
                    let listing = match watch.next().await {
                        Ok(Seen::State(listing)) => Ok(listing),
                        Ok(Seen::Changes(_)) => discovery.list(prefix.as_str()).await,
                        Err(error) => Err(error),
                    };
                    match listing {
                        Ok(listing) => drop(sender.send_if_modified(|now| {
                            let next = instances(&listing);
                            let changed = *now != next;
                            *now = next;
                            changed
                        })),
                        Err(error) => {
                            warn!(%error, prefix, "instances cannot be followed");
                            sleep(REFUSED_PACE).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = sender.closed() => {}
                () = token.cancelled() => {}
            }
        });
        Ok(InstanceWatch::new(receiver))
    }
}

/// A registered instance. Dropping it revokes its lease.
struct Registered {
    etcd: Etcd,
    tasks: TaskOwner,
    instance: Instance,
    key: String,
    lease: i64,
    revoked: bool,
}

impl Registered {
    fn failed(&self, error: EtcdError) -> DiscoveryError {
        match error {
            EtcdError::LeaseEnded => {
                let Instance { service, id, .. } = self.instance.clone();
                DiscoveryError::LeaseEnded { service, id }
            }
            error => unavailable(error),
        }
    }
}

#[async_trait]
impl Lease for Registered {
    async fn renew(&self) -> Result<(), DiscoveryError> {
        self.etcd.keep_alive(self.lease).await.map_err(|error| self.failed(error))?;
        // A lease may live on for a moment after another one has taken its key.
        let key = self.etcd.get(self.key.as_str()).await.map_err(|error| self.failed(error))?;
        if key.is_some_and(|key| key.lease() == self.lease) {
            Ok(())
        } else {
            Err(self.failed(EtcdError::LeaseEnded))
        }
    }

    async fn set_healthy(&self, healthy: bool) -> Result<(), DiscoveryError> {
        let instance = Instance { healthy, ..self.instance.clone() };
        let options = PutOptions::new().with_lease(self.lease);
        let put = Txn::new()
            .when([Compare::lease(self.key.as_str(), CompareOp::Equal, self.lease)])
            .and_then([TxnOp::put(self.key.as_str(), value(&instance)?, Some(options))]);
        let answer = self.etcd.transaction_again(put).await.map_err(|error| self.failed(error))?;
        if answer.succeeded() { Ok(()) } else { Err(self.failed(EtcdError::LeaseEnded)) }
    }

    async fn revoke(mut self: Box<Self>) -> Result<(), DiscoveryError> {
        self.etcd.revoke(self.lease).await.map_err(unavailable)?;
        self.revoked = true;
        Ok(())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.revoked {
            return;
        }
        let (etcd, lease) = (self.etcd.clone(), self.lease);
        self.tasks.spawn("revoke", async move {
            let _ = timeout(REVOKE_WITHIN, etcd.revoke(lease)).await;
        });
    }
}

fn unavailable(error: EtcdError) -> DiscoveryError {
    DiscoveryError::Unavailable(error.to_string())
}

fn value(instance: &Instance) -> Result<Vec<u8>, DiscoveryError> {
    serde_json::to_vec(instance)
        .map_err(|error| DiscoveryError::Invalid { field: "instance", detail: error.to_string() })
}

/// By id. What others wrote there and is none is left out.
fn instances(listing: &Listing) -> Arc<[Instance]> {
    let read = |item: &KeyValue| match serde_json::from_slice::<Instance>(item.value()) {
        Ok(instance) => Some(instance),
        Err(error) => {
            warn!(key = %String::from_utf8_lossy(item.key()), %error, "no instance");
            None
        }
    };
    let mut instances: Vec<Instance> = listing.items.iter().filter_map(read).collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.into()
}

/// A name as one part of a key: `/` stands between parts, and would make one service's instances another's.
fn segment(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_apart_whatever_is_in_them() {
        let names = ["a", "a/b", "a%2Fb", "a%252Fb", "a%"];
        let parts: Vec<String> = names.iter().map(|name| segment(name)).collect();
        assert!(parts.iter().all(|part| !part.contains('/')));
        assert!(parts.iter().enumerate().all(|(at, part)| !parts[..at].contains(part)), "{parts:?}");
    }
}
