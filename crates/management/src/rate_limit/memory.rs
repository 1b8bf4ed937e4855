//! Buckets in this process.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Rate, RateDecision, RateLimitError, RateLimitStore, decide, micros};
use crate::recent::Recent;

/// How many buckets are kept; those that were asked for longest ago go first.
const BUCKETS_MAX: usize = 100_000;

/// Buckets in this process, by a clock that nobody sets. Bounded in number: where there are more clients than
/// that, those that have not come for longest begin anew.
#[derive(Debug)]
pub struct MemoryRateLimitStore {
    begun: Instant,
    /// When each bucket is full, in microseconds.
    full_at: Mutex<Recent<String, u64>>,
}

impl MemoryRateLimitStore {
    /// A store without buckets.
    #[must_use]
    pub fn new() -> Self {
        Self { begun: Instant::now(), full_at: Mutex::new(Recent::new(BUCKETS_MAX)) }
    }

    /// The same as [`RateLimitStore::take`], without waiting for anything.
    pub fn take_now(&self, key: &str, rate: Rate) -> RateDecision {
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that a bucket never sees time go back.
        let now = micros(self.begun.elapsed());
        let bucket = buckets.entry(key, || 0);
        let (full_at, decision) = decide(*bucket, now, rate);
        *bucket = full_at;
        decision
    }
}

impl Default for MemoryRateLimitStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl RateLimitStore for MemoryRateLimitStore {
    async fn take(&self, key: &str, rate: Rate) -> Result<RateDecision, RateLimitError> {
        Ok(self.take_now(key, rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn memory_passes_the_contract() {
        crate::rate_limit_contract::run(async || MemoryRateLimitStore::new()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_fills_as_time_goes_by() {
        let store = MemoryRateLimitStore::new();
        let rate = Rate::new(2, Duration::from_secs(10)).unwrap();
        assert!(store.take_now("a", rate).allowed && store.take_now("a", rate).allowed);
        let refused = store.take_now("a", rate);
        assert_eq!(refused.retry_after, Duration::from_secs(10));
        tokio::time::advance(refused.retry_after).await;
        assert!(store.take_now("a", rate).allowed);
        assert!(!store.take_now("a", rate).allowed);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(store.take_now("a", rate).remaining, 1, "it holds no more than its burst");
    }

    /// Promise 8: every queue, cache, body and wait has a bound.
    #[tokio::test]
    async fn promise_8_strangers_take_no_more_than_so_much_memory() {
        let store = MemoryRateLimitStore::new();
        let rate = Rate::new(1, Duration::from_secs(3600)).unwrap();
        for n in 0..BUCKETS_MAX + BUCKETS_MAX / 2 {
            store.take_now(&n.to_string(), rate);
        }
        assert!(store.full_at.lock().unwrap().len() <= BUCKETS_MAX);
    }
}
