//! The store in memory: shared by schedulers of one process, and the measure for all others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::image::Image;
use super::{Commit, Loaded, Records, Retention, StoreError, TaskStore};
use crate::coordinator::Grant;

/// Keeps tasks in memory. A clone is the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryTaskStore {
    image: Arc<Mutex<Image>>,
}

impl MemoryTaskStore {
    /// A store with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with another bound on its records.
    #[must_use]
    pub fn with_retention(retention: Retention) -> Self {
        Self { image: Arc::new(Mutex::new(Image::new(retention))) }
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TaskStore for MemoryTaskStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_durable(&self) -> bool {
        false
    }

    async fn claim(&self, grants: &[Grant]) -> Result<(), StoreError> {
        let mut image = self.image();
        let answer = image.claim(grants, &mut Vec::new());
        image.keep();
        answer
    }

    async fn load(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> Result<Loaded, StoreError> {
        let page = self.image().page(shards, cursor, limit);
        page.decode()
    }

    async fn commit(&self, commits: Arc<[Commit]>) -> Vec<Result<(), StoreError>> {
        let mut image = self.image();
        let mut log = Vec::new();
        let answers = commits.iter().map(|commit| {
            log.clear();
            image.commit(commit, &mut log)
        });
        let answers = answers.collect();
        image.keep();
        answers
    }

    async fn history(
        &self,
        shards: &[u32],
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let page = self.image().history(shards, cursor, limit);
        page.decode()
    }
}
