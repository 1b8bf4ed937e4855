//! What slows down whoever guesses credentials.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::recent::Recent;
use crate::{Origin, Problem, ProblemKind};

/// How many failures are answered at once: people mistype.
const FREE: u32 = 3;
/// How long the first one after these waits; each further one waits twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(3);
/// After so long without a failure all is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// How many addresses are remembered.
const ADDRESSES_MAX: usize = 10_000;
/// How many failures may wait for their answer at once; more are refused at once.
const WAITING_MAX: usize = 256;

/// Answers failures late, the later the more there are from one network. Credentials that hold are not
/// delayed: nobody is locked out by what others try from the same address.
#[derive(Debug)]
pub(crate) struct FailureDelay {
    by_network: Mutex<Recent<Network, Failures>>,
    waiting: Semaphore,
}

/// Where somebody has as many addresses as they like: a single IPv4 address, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(Option<IpAddr>);

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Network {
    fn of(origin: Origin) -> Self {
        Self(origin.address.map(|address| match address.ip().to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        }))
    }
}

impl FailureDelay {
    pub(crate) fn new() -> Self {
        Self { by_network: Mutex::new(Recent::new(ADDRESSES_MAX)), waiting: Semaphore::new(WAITING_MAX) }
    }

    /// Counts a failure, and returns when it may be answered.
    ///
    /// # Errors
    ///
    /// `too_many` where too many wait already.
    pub(crate) async fn failed(&self, origin: Origin) -> Result<(), Problem> {
        let wait = self.count(Network::of(origin));
        if wait.is_zero() {
            return Ok(());
        }
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Problem::new(ProblemKind::TooMany, "too many failed attempts").retry_after(wait));
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn count(&self, network: Network) -> Duration {
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let failures = by_network.entry(&network, || Failures { count: 0, last: now });
        if now.duration_since(failures.last) > FORGIVEN_AFTER {
            failures.count = 0;
        }
        failures.last = now;
        failures.count = failures.count.saturating_add(1);
        match failures.count.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST.saturating_mul(1 << doublings.min(10)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Origin {
        Origin { transport: "http", address: Some(address.parse().unwrap()) }
    }

    async fn took(delay: &FailureDelay, address: &str) -> Duration {
        let begun = Instant::now();
        delay.failed(from(address)).await.unwrap();
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_further_failure_waits_longer_and_others_do_not_wait() {
        let delay = FailureDelay::new();
        let mut waits = Vec::new();
        for port in 1..=12 {
            waits.push(took(&delay, &format!("203.0.113.1:{port}")).await.as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 100, 200, 400, 800, 1600, 3000, 3000, 3000, 3000]);
        assert_eq!(took(&delay, "203.0.113.2:1").await, Duration::ZERO);
        assert_eq!(took(&delay, "[::ffff:203.0.113.1]:1").await, LONGEST, "the same in other letters");
        tokio::time::advance(FORGIVEN_AFTER + Duration::from_secs(1)).await;
        assert_eq!(took(&delay, "203.0.113.1:1").await, Duration::ZERO);
        for n in 1..=4 {
            assert_eq!(took(&delay, &format!("[2001:db8::{n}]:1")).await.is_zero(), n < 4);
        }
    }

    /// Promise 8: every wait has a bound.
    #[tokio::test(start_paused = true)]
    async fn promise_8_so_many_wait_and_more_are_refused() {
        let delay = FailureDelay::new();
        let origin = from("203.0.113.1:1");
        for _ in 0..12 {
            delay.failed(origin).await.unwrap();
        }
        let all = (0..WAITING_MAX + 10).map(|_| delay.failed(origin));
        let refused = futures_util::future::join_all(all).await;
        let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 10);
        assert_eq!((refused[0].status(), refused[0].retry_after), (429, Some(LONGEST)));
    }
}
