//! [`Coordinator`] over etcd: who is a member, and one key that says who owns which shard.
//!
//! Each member is a key that its lease holds. The owners of all shards are one value, which any member may
//! replace if nobody else has since: whoever sees that it does not fit the members any more computes what it
//! should be, and of those who do so at once one is first. So there is no leader that could be away.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use scheduler::{Assignment, Coordinator, CoordinatorError, Grant, Membership};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::debug;

use crate::client::Etcd;
use crate::lease::Lease;
use crate::watch::Watch;
use crate::{Change, EtcdError, Seen};

/// Between two attempts to divide the shards while etcd is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Divides the shards among the hosts that know the same etcd.
///
/// A member that dies is succeeded after the time of its lease; one that leaves, at once. A member that was
/// paused may believe for a while that it owns what it has lost: the epochs of its grants, which the store of
/// tasks compares, keep it from doing harm.
#[derive(Clone, Debug)]
pub struct EtcdCoordinator {
    etcd: Etcd,
    name: String,
    shards: u32,
    ttl: Duration,
}

/// The owners of shards, as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Owners {
    /// Greater than every epoch that was ever granted.
    next_epoch: u64,
    /// The owner of each shard, by place.
    shards: Vec<Option<Owner>>,
}

/// A member as an owner. The name is not enough: one that comes back under its name owns nothing yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    member: Member,
    epoch: u64,
}

/// A node, and the lease of its membership.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Member {
    node: String,
    lease: i64,
}

impl EtcdCoordinator {
    /// The cluster of this name, whose tasks are in so many shards: the same for every host, for ever. A
    /// member that dies is succeeded after `ttl`, in whole seconds.
    #[must_use]
    pub fn new(etcd: Etcd, name: &str, shards: u32, ttl: Duration) -> Self {
        Self { etcd, name: name.to_owned(), shards: shards.max(1), ttl }
    }

    fn prefix(&self) -> String {
        self.etcd.own_key(&["clusters", &self.name, ""])
    }
}

#[async_trait]
impl Coordinator for EtcdCoordinator {
    fn shards(&self) -> u32 {
        self.shards
    }

    async fn join(&self, node: &str) -> Result<Box<dyn Membership>, CoordinatorError> {
        let prefix = self.prefix();
        let lease = self.etcd.lease(self.ttl).await.map_err(engine)?;
        let key = format!("{prefix}members/{node}");
        let options = PutOptions::new().with_lease(lease.id());
        let enter = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), "", Some(options))])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let entered = self.etcd.transaction_again(enter).await.map_err(engine)?;
        if let Some(TxnOpResponse::Get(there)) = entered.op_responses().first()
            // One that we wrote in an attempt before is ours.
            && there.kvs().first().is_some_and(|there| there.lease() != lease.id())
        {
            lease.end().await;
            return Err(CoordinatorError::NameTaken(node.to_owned()));
        }
        let watch = self.etcd.follow(prefix.as_str()).await.map_err(engine)?;
        Ok(Box::new(EtcdMembership {
            etcd: self.etcd.clone(),
            me: Member { node: node.to_owned(), lease: lease.id() },
            lease,
            watch,
            seen: Cluster { prefix, ..Cluster::default() },
            shards: self.shards,
            is_loaded: false,
            last: None,
        }))
    }
}

/// What a member knows of the others.
#[derive(Debug, Default)]
struct Cluster {
    prefix: String,
    /// The members, by name, with their leases.
    members: BTreeMap<String, i64>,
    owners: Owners,
    /// The revision of the owners; 0 where there are none yet.
    revision: i64,
}

impl Cluster {
    fn take(&mut self, seen: Seen) -> Result<(), CoordinatorError> {
        match seen {
            Seen::State(listing) => {
                (self.members, self.owners, self.revision) = (BTreeMap::new(), Owners::default(), 0);
                listing.items.into_iter().try_for_each(|item| self.change(&Change::Put(item)))
            }
            Seen::Changes(changes) => changes.iter().try_for_each(|change| self.change(change)),
        }
    }

    fn change(&mut self, change: &Change) -> Result<(), CoordinatorError> {
        let key = String::from_utf8_lossy(change.key()).into_owned();
        let Some(name) = key.strip_prefix(&self.prefix) else { return Ok(()) };
        match (name.strip_prefix("members/"), change) {
            (Some(node), Change::Put(item)) => drop(self.members.insert(node.to_owned(), item.lease())),
            (Some(node), Change::Delete { .. }) => drop(self.members.remove(node)),
            (None, Change::Put(item)) if name == "owners" => {
                self.owners = serde_json::from_slice(item.value())
                    .map_err(|error| CoordinatorError::Engine(format!("`{key}` cannot be read: {error}")))?;
                self.revision = item.mod_revision();
            }
            (None, Change::Delete { .. }) if name == "owners" => {
                return Err(CoordinatorError::Engine(format!("`{key}` was removed, and with it all epochs")));
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// What the owners should be, if they are not.
    fn divided(&self, shards: u32) -> Option<Owners> {
        let members: Vec<Member> =
            self.members.iter().map(|(node, lease)| Member { node: node.clone(), lease: *lease }).collect();
        let next = divide(&self.owners, &members, shards as usize);
        (next != self.owners).then_some(next)
    }

    fn assignment(&self, me: &Member) -> Assignment {
        let grants = (0_u32..).zip(&self.owners.shards).filter_map(|(shard, owner)| {
            owner
                .as_ref()
                .filter(|owner| owner.member == *me)
                .map(|owner| Grant { shard, epoch: owner.epoch })
        });
        Assignment { members: self.members.keys().cloned().collect(), grants: grants.collect() }
    }
}

/// Gives every shard an owner, as evenly as it goes and with as few changes as that needs.
fn divide(owners: &Owners, members: &[Member], shards: usize) -> Owners {
    let mut next = owners.clone();
    next.next_epoch = next.next_epoch.max(1);
    next.shards.resize(shards, None);
    let Some(floor) = shards.checked_div(members.len()) else {
        next.shards.fill(None);
        return next;
    };
    let mut held: BTreeMap<&Member, usize> = members.iter().map(|member| (member, 0)).collect();
    // How many members may hold one more than the others.
    let mut larger = shards - floor * members.len();
    let mut free = Vec::new();
    for (shard, owner) in next.shards.iter().enumerate() {
        let count = owner.as_ref().and_then(|owner| held.get_mut(&owner.member));
        match count {
            Some(count) if *count < floor => *count += 1,
            Some(count) if *count == floor && larger > 0 => {
                *count += 1;
                larger -= 1;
            }
            _ => free.push(shard),
        }
    }
    for shard in free {
        let Some((member, count)) = held.iter_mut().min_by_key(|(_, count)| **count) else { break };
        *count += 1;
        if let Some(owner) = next.shards.get_mut(shard) {
            *owner = Some(Owner { member: (*member).clone(), epoch: next.next_epoch });
            next.next_epoch += 1;
        }
    }
    next
}

struct EtcdMembership {
    etcd: Etcd,
    me: Member,
    lease: Lease,
    watch: Watch,
    seen: Cluster,
    shards: u32,
    /// Whether anything was seen yet.
    is_loaded: bool,
    last: Option<Assignment>,
}

impl EtcdMembership {
    /// Writes what the owners should be, unless somebody has written since: what is there then comes by the
    /// watch. Says whether one or the other is so.
    async fn write(&self, owners: &Owners) -> Result<bool, CoordinatorError> {
        let key = format!("{}owners", self.seen.prefix);
        let value =
            serde_json::to_vec(owners).map_err(|error| CoordinatorError::Engine(error.to_string()))?;
        let mine = format!("{}members/{}", self.seen.prefix, self.me.node);
        let write = Txn::new()
            .when([
                Compare::mod_revision(key.as_str(), CompareOp::Equal, self.seen.revision),
                // Who is no member any more decides nothing.
                Compare::lease(mine.as_str(), CompareOp::Equal, self.me.lease),
            ])
            .and_then([TxnOp::put(key.as_str(), value, None)]);
        match self.etcd.transaction_again(write).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_away() => {
                debug!(%error, "shards are not divided");
                Ok(false)
            }
            Err(error) => Err(engine(error)),
        }
    }

    async fn next(&mut self) -> Result<Assignment, CoordinatorError> {
        loop {
            // First of all, since a call that was given up may have left any of this undone.
            let decided = if self.is_loaded { self.decide().await? } else { true };
            let present = self.seen.assignment(&self.me);
            // Before the first division there is nothing to say.
            if self.seen.revision > 0 && self.last.as_ref() != Some(&present) {
                self.last = Some(present.clone());
                return Ok(present);
            }
            let seen = match decided {
                true => self.watch.next().await,
                false => match timeout(AGAIN, self.watch.next()).await {
                    Ok(seen) => seen,
                    Err(_) => continue,
                },
            };
            self.seen.take(seen.map_err(engine)?)?;
            self.is_loaded = true;
        }
    }

    /// Sees to it that the owners fit the members; says whether that is decided, or has to be tried again.
    async fn decide(&self) -> Result<bool, CoordinatorError> {
        if self.seen.members.get(&self.me.node) != Some(&self.me.lease) {
            return Err(CoordinatorError::Lost);
        }
        match self.seen.divided(self.shards) {
            Some(owners) => self.write(&owners).await,
            None => Ok(true),
        }
    }
}

#[async_trait]
impl Membership for EtcdMembership {
    async fn assignment(&mut self) -> Result<Assignment, CoordinatorError> {
        let ended = self.lease.ended();
        tokio::select! {
            assignment = self.next() => assignment,
            () = ended.cancelled() => Err(CoordinatorError::Lost),
        }
    }

    async fn leave(self: Box<Self>) {
        self.lease.end().await;
    }
}

fn engine(error: EtcdError) -> CoordinatorError {
    match error {
        EtcdError::LeaseEnded => CoordinatorError::Lost,
        error => CoordinatorError::Engine(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[(&str, i64)]) -> Vec<Member> {
        names.iter().map(|(node, lease)| Member { node: (*node).to_owned(), lease: *lease }).collect()
    }

    fn counts(owners: &Owners) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for owner in owners.shards.iter().flatten() {
            *counts.entry(owner.member.node.as_str()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn shards_are_divided_evenly_and_move_only_where_they_must() {
        let one = divide(&Owners::default(), &members(&[("a", 1)]), 16);
        assert_eq!(counts(&one), BTreeMap::from([("a", 16)]));
        let two = divide(&one, &members(&[("a", 1), ("b", 2)]), 16);
        assert_eq!(counts(&two), BTreeMap::from([("a", 8), ("b", 8)]));
        let moved = one.shards.iter().zip(&two.shards).filter(|(before, now)| before != now);
        for (before, now) in moved.clone() {
            assert!(now.as_ref().unwrap().epoch > before.as_ref().unwrap().epoch, "promise 3");
        }
        assert_eq!(moved.count(), 8);
        assert_eq!(divide(&two, &members(&[("a", 1), ("b", 2)]), 16), two, "nothing to do");
        let three = divide(&two, &members(&[("a", 1), ("b", 2), ("c", 3)]), 16);
        assert!(counts(&three).values().all(|count| (5..=6).contains(count)), "{:?}", counts(&three));
    }

    #[test]
    fn who_comes_back_under_its_name_owns_nothing_of_what_it_had() {
        let before = divide(&Owners::default(), &members(&[("a", 1)]), 4);
        let after = divide(&before, &members(&[("a", 2)]), 4);
        for (before, after) in before.shards.iter().zip(&after.shards) {
            assert!(after.as_ref().unwrap().epoch > before.as_ref().unwrap().epoch);
        }
        // Nobody there: the epochs go on from where they were.
        let nobody = divide(&after, &[], 4);
        assert!(nobody.shards.iter().all(Option::is_none) && nobody.next_epoch == after.next_epoch);
    }
}
