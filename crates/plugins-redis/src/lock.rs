//! Locks that processes share.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::error::Error;
use fred::types::Value;
use fred::types::config::Options;
use runtime::{CancellationToken, TaskOwner};
use tokio::time::Instant;

use crate::client::Redis;
use crate::script::Script;

/// `KEYS[1]` is the owner, `KEYS[2]` the last fencing token. That one is kept for a day; the server's clock, in
/// microseconds, is the least it may be, so that what a failover forgot, or time, does not give a token twice.
const ACQUIRE: Script = Script {
    name: "EVAL lock.acquire",
    source: r"
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {redis.call('GET', KEYS[2]), 0}
elseif owner then
  return {'', redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local least = (tonumber(redis.call('GET', KEYS[2])) or 0) + 1
local token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], least))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], token, 'EX', 86400)
return {token, 0}
",
};

const RENEW: Script = Script {
    name: "EVAL lock.renew",
    source: r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
",
};

const RELEASE: Script = Script {
    name: "EVAL lock.release",
    source: r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
",
};

/// The shortest pause between two attempts to get a lock, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Locks by name: one holder at a time, among all processes that use this Redis.
///
/// What a lock cannot do is to stop a holder that has been paused past its time: so each holder has a **fencing
/// token**, greater than all before, which goes along with every write to what the lock protects, and which that
/// compares. A failover that loses the last moment may give a lock twice for a while; the tokens tell even then.
#[derive(Debug, Clone)]
pub struct Locks {
    redis: Redis,
    prefix: String,
}

impl Locks {
    /// Locks whose keys begin with `prefix`.
    #[must_use]
    pub fn new(redis: Redis, prefix: impl Into<String>) -> Self {
        Self { redis, prefix: prefix.into() }
    }

    /// The lock, if nobody holds it. It is renewed while the [`Lock`] lives, and free `ttl` after that at the
    /// latest, whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// Those of Redis.
    pub async fn try_acquire(&self, name: &str, ttl: Duration) -> Result<Option<Lock>, Error> {
        Ok(self.attempt(name, ttl, &owner()).await?.ok())
    }

    /// The lock, waited for; nothing if others hold it for all of `wait`.
    ///
    /// # Errors
    ///
    /// Those of Redis.
    pub async fn acquire(&self, name: &str, ttl: Duration, wait: Duration) -> Result<Option<Lock>, Error> {
        let (owner, deadline) = (owner(), Instant::now() + wait);
        let mut pause = PAUSE.0;
        loop {
            let held_for = match self.attempt(name, ttl, &owner).await? {
                Ok(lock) => return Ok(Some(lock)),
                Err(held_for) => held_for,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            tokio::time::sleep(jittered.min(held_for.max(PAUSE.0)).min(left)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The lock, or how long it is held at the least.
    async fn attempt(&self, name: &str, ttl: Duration, owner: &str) -> Result<Result<Lock, Duration>, Error> {
        // In braces, so that both are in one slot of a cluster, and never with nothing between them.
        let key = format!("{{lock:{}{name}}}", self.prefix);
        let ttl = ttl.max(Duration::from_millis(3));
        let begun = Instant::now();
        let keys = vec![key.clone(), format!("{key}:fence")];
        let (token, held_for): (String, i64) =
            self.redis.run(&ACQUIRE, keys, vec![owner.into(), millis(ttl)]).await?;
        let Ok(token) = token.parse::<u64>() else {
            return Ok(Err(Duration::from_millis(u64::try_from(held_for).unwrap_or(0))));
        };
        let held = Arc::new(Held {
            redis: self.redis.clone(),
            key,
            owner: owner.to_owned(),
            ttl,
            until: Mutex::new(begun + ttl),
            lost: CancellationToken::new(),
        });
        let tasks = TaskOwner::new("lock");
        let (renewed, cancelled) = (held.clone(), tasks.token());
        tasks.spawn("renew", async move {
            tokio::select! {
                () = renewed.renew() => renewed.lost.cancel(),
                () = cancelled.cancelled() => {}
            }
        });
        Ok(Ok(Lock { token, held, tasks }))
    }
}

/// A lock that is held. Dropped, it is no longer renewed and ends by itself; [`release`](Lock::release) ends it at
/// once.
#[must_use = "dropping the lock ends its renewal"]
pub struct Lock {
    token: u64,
    held: Arc<Held>,
    tasks: TaskOwner,
}

struct Held {
    redis: Redis,
    key: String,
    owner: String,
    ttl: Duration,
    /// Until when it is certain that nobody else has it, counted from before Redis was asked.
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl Lock {
    /// Greater than that of every holder before: to be sent along with what is done under the lock, and compared
    /// there.
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.token
    }

    /// Whether nobody else can have it at this moment, as far as clocks run at the same pace.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.held.lost.is_cancelled() && Instant::now() < self.held.until()
    }

    /// Returns once it could not be renewed in time: others may have it from then on.
    pub async fn lost(&self) {
        self.held.lost.cancelled().await;
    }

    /// Gives it back. Says whether it was held until then.
    ///
    /// # Errors
    ///
    /// Those of Redis; it ends by itself then.
    pub async fn release(self) -> Result<bool, Error> {
        self.tasks.shutdown(Duration::ZERO).await;
        let held = &self.held;
        let released: u32 =
            held.redis.run(&RELEASE, vec![held.key.clone()], vec![held.owner.as_str().into()]).await?;
        Ok(released == 1)
    }
}

impl Held {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews it for as long as that works, and returns when it no longer does.
    async fn renew(&self) {
        loop {
            // At a third of its time, so that two renewals may fail.
            tokio::time::sleep(self.ttl / 3).await;
            let begun = Instant::now();
            let left = self.until().saturating_duration_since(begun);
            if left.is_zero() {
                return;
            }
            let options = Options { timeout: Some((self.ttl / 3).min(left)), ..Options::default() };
            let arguments = vec![self.owner.as_str().into(), millis(self.ttl)];
            match self.redis.run_with::<u32>(&RENEW, vec![self.key.clone()], arguments, &options).await {
                Ok(1) => *self.until.lock().unwrap_or_else(PoisonError::into_inner) = begun + self.ttl,
                Ok(_) => return,
                // Redis may be back before the time is over.
                Err(_) => {}
            }
        }
    }
}

fn owner() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn millis(span: Duration) -> Value {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX).into()
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("key", &self.held.key)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
