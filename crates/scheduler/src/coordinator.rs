//! The port through which nodes agree on who runs which tasks.
//!
//! Tasks are divided into shards by their id. A [`Coordinator`] grants each shard to one member at a time,
//! with an epoch that grows with each change of owner; the owner writes that epoch into the store before it
//! touches the shard's tasks, and the store does the fencing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

#[cfg(feature = "test-util")]
pub mod contract;

/// Grants shards of tasks to nodes.
#[async_trait]
pub trait Coordinator: Send + Sync + 'static {
    /// Into how many shards tasks are divided: the same for every node, for ever.
    fn shards(&self) -> u32;

    /// Makes a node a member.
    ///
    /// # Errors
    ///
    /// If the engine cannot be reached, or the name is taken.
    async fn join(&self, node: &str) -> Result<Box<dyn Membership>, CoordinatorError>;
}

/// A node's part in the cluster. Dropping it is leaving it, as far as the engine then notices.
#[async_trait]
pub trait Membership: Send + Sync {
    /// The present assignment at the first call, and the next one that differs at each further call.
    ///
    /// # Errors
    ///
    /// If the membership was lost: the node owns nothing any more, and joins again.
    async fn assignment(&mut self) -> Result<Assignment, CoordinatorError>;

    /// Gives up what the node owns, so that others need not wait for its lease to end.
    async fn leave(self: Box<Self>);
}

/// Who is there, and what this node owns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The members, in order.
    pub members: Vec<String>,
    /// What this node owns, in order.
    pub grants: Vec<Grant>,
}

/// The ownership of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The shard.
    pub shard: u32,
    /// Greater with each change of the shard's owner.
    pub epoch: u64,
}

/// Why coordination failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// A member of this name is there.
    #[error("node `{0}` is a member already")]
    NameTaken(String),
    /// The membership has ended.
    #[error("the membership was lost")]
    Lost,
    /// The engine cannot be reached or refuses.
    #[error("{0}")]
    Engine(String),
}

/// Divides the shards among members of one process: for a single node, and for tests of several.
#[derive(Debug, Clone)]
pub struct MemoryCoordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shards: u32,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    members: BTreeMap<String, u64>,
    next_member: u64,
    owners: Vec<Option<(String, u64)>>,
    last_epoch: u64,
}

impl MemoryCoordinator {
    /// With so many shards, at least one. Epochs begin after `first_epoch`: what outlives the process, such
    /// as a store on disk, must see greater ones in the next, so that the time is a good choice.
    #[must_use]
    pub fn new(shards: u32, first_epoch: u64) -> Self {
        let shards = shards.max(1);
        let state = State {
            members: BTreeMap::new(),
            next_member: 0,
            owners: vec![None; shards as usize],
            last_epoch: first_epoch,
        };
        Self { inner: Arc::new(Inner { shards, state: Mutex::new(state), changes: watch::Sender::new(0) }) }
    }

    /// Makes further epochs greater than this one.
    pub(crate) fn begin_after(&self, epoch: u64) {
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_epoch = state.last_epoch.max(epoch);
    }
}

impl Inner {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.divide();
        drop(state);
        self.changes.send_modify(|version| *version += 1);
    }

    fn leave(&self, node: &str, member: u64) {
        self.change(|state| {
            if state.members.get(node) == Some(&member) {
                state.members.remove(node);
            }
        });
    }
}

impl State {
    /// Gives every shard an owner, as evenly as it goes and with as few changes as that needs.
    fn divide(&mut self) {
        let members: Vec<String> = self.members.keys().cloned().collect();
        if members.is_empty() {
            self.owners.fill(None);
            return;
        }
        let share = self.owners.len().div_ceil(members.len());
        let floor = self.owners.len() / members.len();
        let mut held: BTreeMap<&str, usize> = members.iter().map(|name| (name.as_str(), 0)).collect();
        // How many members may hold one more than the others.
        let mut larger = self.owners.len() - floor * members.len();
        let mut free = Vec::new();
        for (shard, owner) in self.owners.iter().enumerate() {
            let kept =
                owner.as_ref().and_then(|(name, _)| held.get_mut(name.as_str())).is_some_and(|count| {
                    if *count < floor {
                        *count += 1;
                        true
                    } else if *count < share && larger > 0 {
                        *count += 1;
                        larger -= 1;
                        true
                    } else {
                        false
                    }
                });
            if !kept {
                free.push(shard);
            }
        }
        for shard in free {
            let Some((name, count)) = held.iter_mut().min_by_key(|(_, count)| **count) else { return };
            *count += 1;
            self.last_epoch += 1;
            if let Some(owner) = self.owners.get_mut(shard) {
                *owner = Some(((*name).to_owned(), self.last_epoch));
            }
        }
    }

    fn assignment(&self, node: &str) -> Assignment {
        let grants = (0_u32..).zip(&self.owners).filter_map(|(shard, owner)| {
            owner.as_ref().filter(|(name, _)| name == node).map(|(_, epoch)| Grant { shard, epoch: *epoch })
        });
        Assignment { members: self.members.keys().cloned().collect(), grants: grants.collect() }
    }
}

#[async_trait]
impl Coordinator for MemoryCoordinator {
    fn shards(&self) -> u32 {
        self.inner.shards
    }

    async fn join(&self, node: &str) -> Result<Box<dyn Membership>, CoordinatorError> {
        let mut joined = None;
        self.inner.change(|state| {
            if !state.members.contains_key(node) {
                state.next_member += 1;
                state.members.insert(node.to_owned(), state.next_member);
                joined = Some(state.next_member);
            }
        });
        let member = joined.ok_or_else(|| CoordinatorError::NameTaken(node.to_owned()))?;
        let mut changes = self.inner.changes.subscribe();
        changes.mark_changed();
        Ok(Box::new(MemoryMembership {
            inner: Arc::clone(&self.inner),
            node: node.to_owned(),
            member,
            changes,
            last: None,
        }))
    }
}

struct MemoryMembership {
    inner: Arc<Inner>,
    node: String,
    member: u64,
    changes: watch::Receiver<u64>,
    last: Option<Assignment>,
}

#[async_trait]
impl Membership for MemoryMembership {
    async fn assignment(&mut self) -> Result<Assignment, CoordinatorError> {
        loop {
            self.changes.changed().await.map_err(|_| CoordinatorError::Lost)?;
            let present = {
                let state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.members.get(&self.node) != Some(&self.member) {
                    return Err(CoordinatorError::Lost);
                }
                state.assignment(&self.node)
            };
            if self.last.as_ref() != Some(&present) {
                self.last = Some(present.clone());
                return Ok(present);
            }
        }
    }

    async fn leave(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for MemoryMembership {
    fn drop(&mut self) {
        self.inner.leave(&self.node, self.member);
    }
}
