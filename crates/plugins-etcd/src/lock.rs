//! Locks with fencing.
//!
//! Whoever wants a lock writes a key of its own below the lock's, held by a lease. The one whose key was
//! created first has the lock; each other waits for the one before it to go, so that a release wakes one and
//! not all. This is the recipe of etcd's own lock service, made of transactions that may be sent twice.

use std::fmt;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use runtime::CancellationToken;

use crate::client::{Again, Etcd};
use crate::lease::Lease;
use crate::{Change, EtcdError, Seen};

impl Etcd {
    /// Takes the lock of this name, waiting for whoever has it. The wait ends when this future is dropped.
    ///
    /// A holder that dies loses it after `ttl`, in whole seconds.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; [`EtcdError::LeaseEnded`] if etcd was away for longer than `ttl` meanwhile.
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Held, EtcdError> {
        let held = Held::enter(self, &self.own_key(&["locks", name, ""]), Vec::new(), ttl).await?;
        held.wait().await?;
        Ok(held)
    }

    /// Takes the lock of this name, unless somebody has it.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Held>, EtcdError> {
        let held = Held::enter(self, &self.own_key(&["locks", name, ""]), Vec::new(), ttl).await?;
        if held.before().await?.is_none() {
            return Ok(Some(held));
        }
        held.release().await;
        Ok(None)
    }
}

/// A lock that is held, or a leadership. Dropping it gives it up, at the latest when its lease ends.
///
/// A process that is paused may hold it for longer than its lease lasts and not know. So what it does is
/// fenced: by [`token`](Held::token), which grows with each holder and which a store behind it compares, or
/// for etcd's own keys by [`put`](Held::put) and [`still`](Held::still).
pub struct Held {
    etcd: Etcd,
    lease: Lease,
    prefix: String,
    key: String,
    token: i64,
}

impl Held {
    /// Gets in line.
    pub(crate) async fn enter(
        etcd: &Etcd,
        prefix: &str,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<Self, EtcdError> {
        let lease = etcd.lease(ttl).await?;
        let key = format!("{prefix}{:016x}", lease.id());
        let options = PutOptions::new().with_lease(lease.id());
        // The key is this lease's alone: one that is there already was written by an attempt before.
        let enter = Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), value, Some(options))])
            .or_else([TxnOp::get(key.as_str(), None)]);
        let entered = etcd.transaction_again(enter).await?;
        let token = match entered.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => {
                found.kvs().first().map(etcd_client::KeyValue::create_revision)
            }
            _ => entered.header().map(etcd_client::ResponseHeader::revision),
        };
        let token = token.ok_or(EtcdError::LeaseEnded)?;
        Ok(Self { etcd: etcd.clone(), lease, prefix: prefix.to_owned(), key, token })
    }

    /// Waits until nobody is before.
    pub(crate) async fn wait(&self) -> Result<(), EtcdError> {
        let ended = self.lease.ended();
        tokio::select! {
            waited = self.wait_in_line() => waited,
            () = ended.cancelled() => Err(EtcdError::LeaseEnded),
        }
    }

    async fn wait_in_line(&self) -> Result<(), EtcdError> {
        while let Some((key, revision)) = self.before().await? {
            let mut watch = self.etcd.watch_from(key, revision + 1).await?;
            loop {
                let gone = match watch.next().await? {
                    Seen::Changes(changes) => {
                        changes.iter().any(|change| matches!(change, Change::Delete { .. }))
                    }
                    Seen::State(state) => state.items.is_empty(),
                };
                if gone {
                    break;
                }
            }
        }
        // Ours may have gone while we looked at others'.
        match self.etcd.get(self.key.as_str()).await? {
            Some(key) if key.create_revision() == self.token => Ok(()),
            _ => Err(EtcdError::LeaseEnded),
        }
    }

    /// The key of whoever came just before, and the revision at which that was so.
    async fn before(&self) -> Result<Option<(Vec<u8>, i64)>, EtcdError> {
        let (prefix, token) = (self.prefix.as_str(), self.token);
        let answer = self.etcd.call("get", Again::Always, |client| {
            let options = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(token - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(1);
            async move { client.kv_client().get(prefix, Some(options)).await }
        });
        let mut answer = answer.await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(answer.take_kvs().into_iter().next().map(|item| (item.into_key_value().0, revision)))
    }

    /// The fencing token: greater than that of every holder before.
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// Signalled when it is lost, before somebody else can have it.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lease.ended()
    }

    /// What a transaction compares, so that it is made only by whoever holds this still.
    #[must_use]
    pub fn still(&self) -> Compare {
        Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.token)
    }

    /// Writes a key, if this is held still.
    ///
    /// # Errors
    ///
    /// [`EtcdError::LeaseEnded`] if it is not, and nothing was written; the others as [`Etcd::put`].
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), EtcdError> {
        let put = Txn::new().when([self.still()]).and_then([TxnOp::put(key, value, None)]);
        // Twice does no harm: nobody else writes while this is held.
        if self.etcd.transaction_again(put).await?.succeeded() { Ok(()) } else { Err(EtcdError::LeaseEnded) }
    }

    /// Another value for the key that stands for this holder.
    pub(crate) async fn announce(&self, value: Vec<u8>) -> Result<(), EtcdError> {
        let options = PutOptions::new().with_lease(self.lease.id());
        let put =
            Txn::new().when([self.still()]).and_then([TxnOp::put(self.key.as_str(), value, Some(options))]);
        if self.etcd.transaction_again(put).await?.succeeded() { Ok(()) } else { Err(EtcdError::LeaseEnded) }
    }

    /// Gives it up; the next in line has it when this returns, unless etcd is away.
    pub async fn release(self) {
        self.lease.end().await;
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("key", &self.key).field("token", &self.token).finish_non_exhaustive()
    }
}
