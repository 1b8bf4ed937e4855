//! Leases: keys that go with whoever wrote them.

use std::fmt;
use std::time::Duration;

use runtime::{CancellationToken, TaskOwner};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::EtcdError;
use crate::client::{Again, Etcd};

/// How long the end of a lease that nobody holds any more may take, before it is left to its time.
const REVOKE_WITHIN: Duration = Duration::from_secs(2);

/// A lease as etcd grants it, to be kept alive by whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// How long it lasts without being kept alive: what was asked for, or etcd's least.
    pub ttl: Duration,
}

impl Etcd {
    /// Grants a lease of whole seconds, rounded up.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn grant(&self, ttl: Duration) -> Result<Granted, EtcdError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds.max(1)).unwrap_or(i64::MAX);
        // One whose answer got lost ends by itself.
        let granted = self.call("grant", Again::Always, |client| async move {
            client.lease_client().grant(seconds, None).await
        });
        let granted = granted.await?;
        Ok(Granted { id: granted.id(), ttl: Duration::from_secs(granted.ttl().unsigned_abs()) })
    }

    /// Has a lease last for its whole time from now.
    ///
    /// # Errors
    ///
    /// [`EtcdError::LeaseEnded`], and the others.
    pub async fn keep_alive(&self, id: i64) -> Result<(), EtcdError> {
        self.call("keep_alive", Again::Always, |client| async move {
            client.lease_client().keep_alive(id).await.map(|_| ())
        })
        .await
    }

    /// Ends a lease; its keys are gone when this returns. One that has ended is no error.
    ///
    /// # Errors
    ///
    /// [`EtcdError`]; the lease then ends by its time.
    pub async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        let revoked = self.call("revoke", Again::Always, |client| async move {
            client.lease_client().revoke(id).await.map(|_| ())
        });
        match revoked.await {
            Err(EtcdError::LeaseEnded) => Ok(()),
            other => other,
        }
    }

    /// A lease that is kept alive until it is dropped.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn lease(&self, ttl: Duration) -> Result<Lease, EtcdError> {
        // Before the grant: etcd's count of the time begins later than ours.
        let asked = Instant::now();
        let Granted { id, ttl } = self.grant(ttl).await?;
        let tasks = TaskOwner::new("etcd lease");
        let ended = CancellationToken::new();
        tasks.spawn("keep", keep(self.clone(), id, ttl, asked, tasks.token(), ended.clone()));
        Ok(Lease { id, ttl, ended, tasks })
    }
}

/// A lease that is kept alive. Dropping it ends it, at the latest when its time is over.
pub struct Lease {
    id: i64,
    ttl: Duration,
    ended: CancellationToken,
    tasks: TaskOwner,
}

impl Lease {
    /// Its id, for [`Etcd::put_leased`].
    #[must_use]
    pub fn id(&self) -> i64 {
        self.id
    }

    /// How long it lasts without being kept alive.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Signalled when it has ended, or has not been kept alive for so long that it may have: at that time it
    /// lasts still, and whoever holds something by it has to let go now.
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends it; its keys are gone when this returns, unless etcd is away for longer than two seconds.
    pub async fn end(self) {
        let _ = self.tasks.shutdown(REVOKE_WITHIN + Duration::from_secs(1)).await;
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// Keeps a lease alive at a third of its time, so that two lost beats do no harm, until `dropped`.
async fn keep(
    etcd: Etcd,
    id: i64,
    ttl: Duration,
    asked: Instant,
    dropped: CancellationToken,
    ended: CancellationToken,
) {
    // Whatever happens, nobody goes on as if it were held.
    let _ended = ended.drop_guard();
    let mut until = asked + ttl;
    loop {
        tokio::select! {
            () = sleep(ttl / 3) => {}
            () = dropped.cancelled() => break,
        }
        let begun = Instant::now();
        let kept = tokio::select! {
            kept = timeout_at(until, etcd.keep_alive(id)) => kept,
            () = dropped.cancelled() => break,
        };
        match kept {
            Ok(Ok(())) => until = begun + ttl,
            // It may be back before the time is over.
            Ok(Err(error)) if error.is_away() && Instant::now() < until => {
                debug!(%error, "a lease was not kept")
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _ = tokio::time::timeout(REVOKE_WITHIN, etcd.revoke(id)).await;
}
