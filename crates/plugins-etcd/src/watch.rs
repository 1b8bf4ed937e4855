//! Watches that go on where they were, whatever becomes of the member that served them.

use etcd_client::{Client, EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use tokio::time::sleep;
use tracing::debug;

use crate::client::{Again, Etcd, pace};
use crate::error::judge_watch;
use crate::{EtcdError, Listing};

/// Which keys are watched.
#[derive(Clone, Debug)]
enum Keys {
    One(Vec<u8>),
    Prefix(Vec<u8>),
}

/// A change of a key.
#[derive(Clone, Debug)]
pub enum Change {
    /// It was written.
    Put(KeyValue),
    /// It was removed, or its lease ended.
    Delete {
        /// The key.
        key: Vec<u8>,
        /// The revision of its end.
        revision: i64,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(item) => item.key(),
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put(item) => item.mod_revision(),
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Changes, in the order of their revisions; each comes once.
    Changes(Vec<Change>),
    /// All that there is now, in place of changes that cannot be told one by one: etcd was compacted while
    /// the watch was away from it. What is not among the keys has been removed. A watch that was opened with
    /// [`Etcd::follow`] begins with this.
    State(Listing),
}

/// A watch of one key or of all with a common beginning.
///
/// It ends when it is dropped. A member that dies, hangs, or is cut off from the others is left for another
/// one, and the watch goes on behind the last change that it gave, so that none is lost and none comes twice.
/// Waiting in it may be cancelled and begun again.
pub struct Watch {
    etcd: Etcd,
    keys: Keys,
    /// The first revision that has not been seen.
    next: i64,
    stream: Option<Open>,
    /// What is to be given before anything else.
    state: Option<Listing>,
    failures: u32,
}

struct Open {
    stream: WatchStream,
    member: usize,
}

/// How an attempt to open a watch ended.
enum Opened {
    Stream(Box<WatchStream>, i64),
    Compacted,
    Refused(String),
}

impl Etcd {
    /// Watches a key from now on; from here on no change is missed.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn watch(&self, key: impl Into<Vec<u8>>) -> Result<Watch, EtcdError> {
        Watch::begin(self, Keys::One(key.into()), 0).await
    }

    /// Watches a key from a revision on, which may have passed.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn watch_from(&self, key: impl Into<Vec<u8>>, revision: i64) -> Result<Watch, EtcdError> {
        Watch::begin(self, Keys::One(key.into()), revision).await
    }

    /// Watches all keys that begin with `prefix`, from now on.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn watch_prefix(&self, prefix: impl Into<Vec<u8>>) -> Result<Watch, EtcdError> {
        Watch::begin(self, Keys::Prefix(prefix.into()), 0).await
    }

    /// Watches all keys that begin with `prefix` from a revision on, which may have passed.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn watch_prefix_from(
        &self,
        prefix: impl Into<Vec<u8>>,
        revision: i64,
    ) -> Result<Watch, EtcdError> {
        Watch::begin(self, Keys::Prefix(prefix.into()), revision).await
    }

    /// All keys that begin with `prefix` as they are now, and then every change.
    ///
    /// # Errors
    ///
    /// [`EtcdError`].
    pub async fn follow(&self, prefix: impl Into<Vec<u8>>) -> Result<Watch, EtcdError> {
        let prefix = prefix.into();
        let listing = self.list(prefix.clone()).await?;
        let mut watch = Watch::begin(self, Keys::Prefix(prefix), listing.revision + 1).await?;
        // A watch that found its beginning compacted has a newer one by now.
        watch.state.get_or_insert(listing);
        Ok(watch)
    }
}

impl Watch {
    async fn begin(etcd: &Etcd, keys: Keys, next: i64) -> Result<Self, EtcdError> {
        let mut watch = Self { etcd: etcd.clone(), keys, next, stream: None, state: None, failures: 0 };
        watch.open().await?;
        Ok(watch)
    }

    /// Waits for what comes next.
    ///
    /// While etcd is away it waits; it goes on by itself.
    ///
    /// # Errors
    ///
    /// [`EtcdError`] where somebody has to do something, as where the credentials are not taken any more.
    /// Calling it again tries again.
    pub async fn next(&mut self) -> Result<Seen, EtcdError> {
        loop {
            if let Some(listing) = self.state.take() {
                return Ok(Seen::State(listing));
            }
            let Some(open) = &mut self.stream else {
                match self.open().await {
                    Ok(()) => {}
                    Err(error) if error.is_away() => debug!(%error, "the watch goes on when etcd is back"),
                    Err(error) => return Err(error),
                }
                continue;
            };
            let answer = open.stream.message().await;
            match answer {
                Ok(Some(answer)) if !answer.canceled() => {
                    self.failures = 0;
                    let changes = self.taken(&answer);
                    if !changes.is_empty() {
                        return Ok(Seen::Changes(changes));
                    }
                }
                Ok(Some(answer)) if answer.compact_revision() > 0 => {
                    self.stream = None;
                    self.load().await?;
                }
                other => self.lost(other).await,
            }
        }
    }

    /// The changes in an answer that have not been seen.
    fn taken(&mut self, answer: &WatchResponse) -> Vec<Change> {
        let known = self.next;
        let changes: Vec<Change> = answer
            .events()
            .iter()
            .filter_map(|event| {
                let item = event.kv()?;
                Some(match event.event_type() {
                    EventType::Put => Change::Put(item.clone()),
                    EventType::Delete => {
                        Change::Delete { key: item.key().to_vec(), revision: item.mod_revision() }
                    }
                })
            })
            .filter(|change| change.revision() >= known)
            .collect();
        // An answer without changes tells how far there were none.
        let last = changes.last().map(Change::revision);
        let last = last.or_else(|| answer.header().map(etcd_client::ResponseHeader::revision));
        self.next = self.next.max(last.unwrap_or(0) + 1);
        changes
    }

    /// The stream has ended: leaves its member.
    async fn lost(&mut self, why: Result<Option<WatchResponse>, etcd_client::Error>) {
        let Some(Open { member, .. }) = self.stream.take() else { return };
        debug!(member = self.etcd.members().name(member), why = ?why.map(|_| ()), "a watch lost its member");
        if self.etcd.members().leave(member) {
            self.etcd.meter().moved();
        }
        self.etcd.meter().resumed();
        self.failures = self.failures.saturating_add(1);
        sleep(pace(self.failures, self.etcd.members().len())).await;
    }

    async fn open(&mut self) -> Result<(), EtcdError> {
        let etcd = self.etcd.clone();
        let call = || {
            etcd.call("watch", Again::Always, |client| {
                let (keys, next) = (self.keys.clone(), self.next);
                open(client, keys, next)
            })
        };
        let mut opened = call().await?;
        if matches!(opened, Opened::Refused(_)) && etcd.config().username.is_some() {
            // A token that has expired while nobody used it is refused like this; another connection has
            // another one.
            etcd.members().leave(etcd.members().current());
            opened = call().await?;
        }
        match opened {
            Opened::Stream(stream, revision) => {
                if self.next == 0 {
                    self.next = revision + 1;
                }
                let member = self.etcd.members().current();
                self.stream = Some(Open { stream: *stream, member });
                Ok(())
            }
            Opened::Compacted => self.load().await,
            Opened::Refused(reason) => {
                let members = self.etcd.members();
                Err(judge_watch(members.name(members.current()), &reason))
            }
        }
    }

    /// Reads all that there is, where changes cannot be had any more.
    async fn load(&mut self) -> Result<(), EtcdError> {
        let listing = match &self.keys {
            Keys::Prefix(prefix) => self.etcd.list(prefix.clone()).await?,
            Keys::One(key) => self.etcd.list_one(key.clone()).await?,
        };
        self.next = listing.revision + 1;
        self.state = Some(listing);
        Ok(())
    }
}

async fn open(client: Client, keys: Keys, next: i64) -> Result<Opened, etcd_client::Error> {
    // With progress, a watch that sees no changes knows how far, and is not thrown back by a compaction.
    let options = WatchOptions::new().with_start_revision(next).with_progress_notify();
    let (key, options) = match keys {
        Keys::One(key) => (key, options),
        Keys::Prefix(prefix) => (prefix.clone(), options.with_range(crate::kv::end_of(&prefix))),
    };
    let mut stream = client.watch_client().watch(key, Some(options)).await?;
    let Some(first) = stream.message().await? else {
        return Err(etcd_client::Error::WatchError("the stream ended before it began".to_owned()));
    };
    if first.canceled() {
        return Ok(match first.compact_revision() {
            0 => Opened::Refused(first.cancel_reason().to_owned()),
            _ => Opened::Compacted,
        });
    }
    let revision = first.header().map_or(0, etcd_client::ResponseHeader::revision);
    Ok(Opened::Stream(Box::new(stream), revision))
}
