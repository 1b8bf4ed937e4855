//! Answers to writes that carried an `Idempotency-Key`, so that a repeated one is not done twice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use runtime::{SharedClock, Timestamp};

use crate::{Problem, ProblemKind};

/// How long a key may be, in bytes.
const KEY_LEN_MAX: usize = 255;
/// How many answers are kept; the oldest go first.
const ANSWERS_MAX: usize = 4096;
/// How many bytes of answers are kept in all.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The largest answer that is kept; a larger one is not remembered, and its write is done again.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// How long an answer is kept.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(24);

/// What was answered to the first request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The status.
    pub status: u16,
    /// Headers beside those that every answer has.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is to be done with a request that carries a key.
#[derive(Debug)]
pub enum Idempotent {
    /// The first of its key: do it, and give the answer to the claim.
    First(Claim),
    /// It has been done: this was the answer.
    Done(Arc<StoredAnswer>),
}

/// The answers by caller and key. Bounded in number, size and age.
#[derive(Debug, Clone)]
pub struct IdempotencyStore {
    clock: SharedClock,
    answers: Arc<Mutex<Answers>>,
}

type Key = (Arc<str>, String);

#[derive(Debug, Default)]
struct Answers {
    by_key: HashMap<Key, Entry>,
    /// Keys in the order of their first requests.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    last_claim: u64,
}

#[derive(Debug)]
struct Entry {
    claim: u64,
    /// Tells this request from another one under the same key.
    fingerprint: u64,
    begun: Timestamp,
    answer: Option<Arc<StoredAnswer>>,
}

impl IdempotencyStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, answers: Arc::default() }
    }

    /// Begins a request with a key, or finds what was answered to it.
    ///
    /// # Errors
    ///
    /// `malformed` for what is no key, `invalid_field` where the key stands for another request, and
    /// `in_progress` while the first request is still being worked on.
    pub fn begin(&self, caller: &Arc<str>, key: &str, fingerprint: u64) -> Result<Idempotent, Problem> {
        if key.is_empty() || key.len() > KEY_LEN_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Problem::malformed("an `Idempotency-Key` is 1 to 255 visible ASCII characters"));
        }
        let now = self.clock.now();
        let key = (Arc::clone(caller), key.to_owned());
        let mut answers = self.lock();
        answers.forget_old(now);
        if let Some(entry) = answers.by_key.get(&key) {
            if entry.fingerprint != fingerprint {
                return Err(Problem::invalid("Idempotency-Key", "has been used for another request"));
            }
            return match &entry.answer {
                Some(answer) => Ok(Idempotent::Done(Arc::clone(answer))),
                None => Err(Problem::new(
                    ProblemKind::InProgress,
                    "a request with this `Idempotency-Key` is under way",
                )
                .retry_after(Duration::from_secs(1))),
            };
        }
        answers.last_claim += 1;
        let claim = answers.last_claim;
        answers.by_key.insert(key.clone(), Entry { claim, fingerprint, begun: now, answer: None });
        answers.order.push_back((key.clone(), claim));
        answers.make_room();
        drop(answers);
        Ok(Idempotent::First(Claim { store: self.clone(), key, claim }))
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn forget_old(&mut self, now: Timestamp) {
        while let Some((key, claim)) = self.order.front() {
            let old = self
                .by_key
                .get(key)
                .is_none_or(|entry| entry.claim != *claim || now.duration_since(entry.begun) > KEPT_FOR);
            if !old {
                return;
            }
            self.forget_first();
        }
    }

    fn make_room(&mut self) {
        while self.order.len() > ANSWERS_MAX || self.bytes > BYTES_MAX {
            if self.order.is_empty() {
                return;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((key, claim)) = self.order.pop_front()
            && self.by_key.get(&key).is_some_and(|entry| entry.claim == claim)
            && let Some(entry) = self.by_key.remove(&key)
        {
            self.bytes -= entry.answer.map_or(0, |answer| answer.body.len());
        }
    }
}

/// The right to answer for a key. Dropped without an answer, the key is free again.
#[derive(Debug)]
pub struct Claim {
    store: IdempotencyStore,
    key: Key,
    claim: u64,
}

impl Claim {
    /// Keeps the answer for whoever repeats the request.
    pub fn complete(self, answer: StoredAnswer) {
        if answer.body.len() > ANSWER_BYTES_MAX {
            return;
        }
        let mut answers = self.store.lock();
        let bytes = answer.body.len();
        let Some(entry) = answers.by_key.get_mut(&self.key).filter(|entry| entry.claim == self.claim) else {
            return;
        };
        entry.answer = Some(Arc::new(answer));
        answers.bytes += bytes;
        answers.make_room();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut answers = self.store.lock();
        let unanswered = |entry: &Entry| entry.claim == self.claim && entry.answer.is_none();
        if answers.by_key.get(&self.key).is_some_and(unanswered) {
            answers.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::VirtualClock;

    use super::*;

    fn answer(body: &str) -> StoredAnswer {
        StoredAnswer { status: 201, headers: Vec::new(), body: body.into() }
    }

    fn store() -> (IdempotencyStore, Arc<VirtualClock>) {
        let clock = VirtualClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        (IdempotencyStore::new(clock.clone()), clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_request_gets_the_first_answer() {
        let (store, clock) = store();
        let ada: Arc<str> = "ada".into();
        let Idempotent::First(claim) = store.begin(&ada, "k", 1).unwrap() else { panic!() };
        assert_eq!(store.begin(&ada, "k", 1).unwrap_err().kind, ProblemKind::InProgress);
        claim.complete(answer("done"));
        let Idempotent::Done(found) = store.begin(&ada, "k", 1).unwrap() else { panic!() };
        assert_eq!(*found, answer("done"));
        assert_eq!(store.begin(&ada, "k", 2).unwrap_err().status(), 422);
        assert!(matches!(store.begin(&"bob".into(), "k", 2).unwrap(), Idempotent::First(_)));
        clock.jump(SignedDuration::from_hours(25));
        assert!(matches!(store.begin(&ada, "k", 2).unwrap(), Idempotent::First(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_answered_frees_its_key() {
        let (store, _) = store();
        let ada: Arc<str> = "ada".into();
        drop(store.begin(&ada, "k", 1).unwrap());
        assert!(matches!(store.begin(&ada, "k", 2).unwrap(), Idempotent::First(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_is_bounded_in_number_and_bytes() {
        let (store, _) = store();
        let ada: Arc<str> = "ada".into();
        for n in 0..ANSWERS_MAX + 10 {
            if let Idempotent::First(claim) = store.begin(&ada, &format!("k{n}"), 1).unwrap() {
                claim.complete(answer("x"));
            }
        }
        assert_eq!(store.lock().by_key.len(), ANSWERS_MAX);
        for n in 0..100 {
            if let Idempotent::First(claim) = store.begin(&ada, &format!("big{n}"), 1).unwrap() {
                claim.complete(answer(&"x".repeat(ANSWER_BYTES_MAX)));
            }
        }
        let answers = store.lock();
        assert!(answers.bytes <= BYTES_MAX, "{}", answers.bytes);
        let real: usize =
            answers.by_key.values().filter_map(|e| e.answer.as_ref()).map(|a| a.body.len()).sum();
        assert_eq!(answers.bytes, real);
    }
}
