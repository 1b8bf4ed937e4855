//! Elections: one leader at a time, and all others know who.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::KeyValue;

use crate::client::Etcd;
use crate::lock::Held;
use crate::watch::Watch;
use crate::{Change, EtcdError, Seen};

/// An election by its name. Any number of hosts may campaign in it.
#[derive(Clone, Debug)]
pub struct Election {
    etcd: Etcd,
    prefix: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// What the leader says of itself.
    pub value: Vec<u8>,
    /// Greater than that of every leader before.
    pub token: i64,
}

impl Etcd {
    /// The election of this name.
    #[must_use]
    pub fn election(&self, name: &str) -> Election {
        Election { etcd: self.clone(), prefix: self.own_key(&["elections", name, ""]) }
    }
}

impl Election {
    /// Waits to be the leader. The leadership lasts until it is dropped or lost; a leader that dies is
    /// succeeded after `ttl`, in whole seconds. `value` is what others learn of this one.
    ///
    /// # Errors
    ///
    /// As [`Etcd::lock`].
    pub async fn campaign(&self, value: impl Into<Vec<u8>>, ttl: Duration) -> Result<Held, EtcdError> {
        let held = Held::enter(&self.etcd, &self.prefix, value.into(), ttl).await?;
        held.wait().await?;
        Ok(held)
    }

    /// Says something else of the leader.
    ///
    /// # Errors
    ///
    /// [`EtcdError::LeaseEnded`] if it leads no longer; the others as [`Etcd::put`].
    pub async fn proclaim(&self, held: &Held, value: impl Into<Vec<u8>>) -> Result<(), EtcdError> {
        held.announce(value.into()).await
    }

    /// Who leads now.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn leader(&self) -> Result<Option<Leader>, EtcdError> {
        let listing = self.etcd.list(self.prefix.as_str()).await?;
        Ok(first(listing.items.iter()))
    }

    /// Who leads, from now on.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn observe(&self) -> Result<Observer, EtcdError> {
        let watch = self.etcd.follow(self.prefix.as_str()).await?;
        Ok(Observer { watch, candidates: BTreeMap::new(), last: None })
    }
}

/// Watches an election.
pub struct Observer {
    watch: Watch,
    candidates: BTreeMap<Vec<u8>, KeyValue>,
    /// The leader that was given last; nothing before the first.
    last: Option<Option<Leader>>,
}

impl Observer {
    /// The leader now at the first call, and the next one at each further call, or that there is none.
    ///
    /// # Errors
    ///
    /// As [`Watch::next`].
    pub async fn next(&mut self) -> Result<Option<Leader>, EtcdError> {
        loop {
            match self.watch.next().await? {
                Seen::State(listing) => {
                    self.candidates =
                        listing.items.into_iter().map(|item| (item.key().to_vec(), item)).collect();
                }
                Seen::Changes(changes) => {
                    for change in changes {
                        match change {
                            Change::Put(item) => drop(self.candidates.insert(item.key().to_vec(), item)),
                            Change::Delete { key, .. } => drop(self.candidates.remove(&key)),
                        }
                    }
                }
            }
            let leader = first(self.candidates.values());
            if self.last.as_ref() != Some(&leader) {
                self.last = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}

/// The candidate that came first leads.
fn first<'a>(candidates: impl Iterator<Item = &'a KeyValue>) -> Option<Leader> {
    let first = candidates.min_by_key(|item| item.create_revision())?;
    Some(Leader { value: first.value().to_vec(), token: first.create_revision() })
}
