//! A store that takes its time, and remembers by itself what it has acknowledged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use scheduler::{Change, Commit, Grant, Loaded, Records, RunKey, RunView, StoreError, TaskStore};

/// Runs whose ends were committed, whichever life they ended in.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) runs: Vec<RunView>,
    /// Runs whose ends were refused since a run of the same key had ended.
    pub(super) refused: Vec<RunView>,
    keys: HashMap<RunKey, u32>,
}

impl Book {
    /// Keys that were committed more than once.
    pub(super) fn doubles(&self) -> Vec<&RunKey> {
        self.keys.iter().filter(|(_, times)| **times > 1).map(|(key, _)| key).collect()
    }
}

/// The store of one life of the process. What is on its way when the process dies is lost, or was taken
/// without its being told.
pub(super) struct Journal {
    pub(super) store: Arc<dyn TaskStore>,
    pub(super) book: Arc<Mutex<Book>>,
    /// How long a commit takes, before and after it is made; nothing for at once.
    pub(super) latency: Duration,
}

#[async_trait]
impl TaskStore for Journal {
    fn kind(&self) -> &'static str {
        "journal"
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError> {
        self.store.claim(grants).await
    }

    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError> {
        self.store.load(shards, cursor, limit).await
    }

    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>> {
        self.wait().await;
        let answers = self.store.commit(Arc::clone(&commits)).await;
        {
            let mut book = self.book.lock().unwrap();
            for (commit, answer) in commits.iter().zip(&answers) {
                if let (Change::Run { run, .. }, Err(StoreError::Duplicate(_))) = (&commit.change, answer) {
                    book.refused.push((**run).clone());
                }
                if let (Change::Run { run, .. }, Ok(())) = (&commit.change, answer) {
                    *book.keys.entry(RunKey::from(&**run)).or_default() += 1;
                    book.runs.push((**run).clone());
                }
            }
        }
        self.wait().await;
        answers
    }

    async fn history(
        &self,
        shards: &[u32],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        self.store.history(shards, cursor, limit).await
    }
}

impl Journal {
    async fn wait(&self) {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }
}
