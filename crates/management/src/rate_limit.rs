//! The port through which requests are counted against a budget.

use std::time::Duration;

use async_trait::async_trait;

#[cfg(any(test, feature = "test-util"))]
pub mod contract;
mod memory;

pub use memory::MemoryRateLimitStore;

/// The longest that a bucket may take to fill, so that all arithmetic is exact in whole microseconds, also
/// where numbers are doubles.
const WINDOW_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The size of a token bucket and how fast it fills: `burst` at once, and one more each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    burst: u32,
    interval: Duration,
}

/// Why a rate cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// Nobody would ever be let through.
    #[error("must let through at least one")]
    Nothing,
    /// The bucket fills faster than once in a microsecond.
    #[error("must be at most one in a microsecond")]
    TooFast,
    /// An empty bucket takes longer than 30 days to fill.
    #[error("must fill within 30 days")]
    TooSlow,
}

impl Rate {
    /// `burst` at once, and one more each `interval`, which is counted in whole microseconds.
    ///
    /// # Errors
    ///
    /// For a burst of 0, an interval below a microsecond, and a bucket that takes over 30 days to fill.
    pub fn new(burst: u32, interval: Duration) -> Result<Self, InvalidRate> {
        if burst == 0 {
            return Err(InvalidRate::Nothing);
        }
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 {
            return Err(InvalidRate::TooFast);
        }
        let interval = Duration::from_micros(micros);
        match interval.checked_mul(burst) {
            Some(window) if window <= WINDOW_MAX => Ok(Self { burst, interval }),
            _ => Err(InvalidRate::TooSlow),
        }
    }

    /// So many in each `period`, all of them at once if need be.
    ///
    /// # Errors
    ///
    /// As for [`Rate::new`].
    pub fn per(requests: u32, period: Duration) -> Result<Self, InvalidRate> {
        let interval = period.checked_div(requests).ok_or(InvalidRate::Nothing)?;
        Self::new(requests, interval)
    }

    /// How many fit into the bucket.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// How long it takes until one more may pass: whole microseconds, at least one.
    #[must_use]
    pub const fn interval(self) -> Duration {
        self.interval
    }

    /// How long an empty bucket takes to fill: 30 days at the most.
    #[must_use]
    pub fn window(self) -> Duration {
        self.interval * self.burst
    }
}

/// What a bucket says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateDecision {
    /// Whether it may pass. If not, it has taken nothing.
    pub allowed: bool,
    /// How many more could pass right now.
    pub remaining: u32,
    /// How long until one could pass; zero where this one did.
    pub retry_after: Duration,
    /// How long until the bucket is full.
    pub reset_after: Duration,
}

/// Why a store gave no answer. Whoever asked goes by a count of its own meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum RateLimitError {
    /// The engine cannot be reached or refuses. Asking again later may help.
    #[error("rate limits are unavailable: {0}")]
    Unavailable(String),
}

/// Token buckets by key, in one process or shared by many.
///
/// A bucket is one instant, the time at which it will be full (its theoretical arrival time in the generic cell
/// rate algorithm, ITU-T I.371). Where `t` is the later of that and now, but no later than now +
/// [`Rate::window`], a request passes if `t` + [`Rate::interval`] is no later than now + [`Rate::window`], and
/// that sum is the bucket's new instant. A bucket that is full is as good as none, and may be forgotten.
///
/// The store has the clock: an engine that many share uses its own, so that they agree. Buckets outlive neither
/// their window nor, necessarily, the engine. Every implementation passes the contract suite of the feature
/// `test-util`.
#[async_trait]
pub trait RateLimitStore: Send + Sync + 'static {
    /// Takes one from the bucket of this key, in one atomic step, and says what is left. A key is a text of up
    /// to 256 bytes of any kind. A rate other than at the last time is in force from now on, for what the
    /// bucket holds, too.
    ///
    /// # Errors
    ///
    /// [`RateLimitError::Unavailable`] if the engine gave no answer; the bucket may have lost one by then.
    async fn take(&self, key: &str, rate: Rate) -> Result<RateDecision, RateLimitError>;
}

/// What the algorithm makes of a bucket, all in microseconds: the bucket's new instant, and the decision.
fn decide(full_at: u64, now: u64, rate: Rate) -> (u64, RateDecision) {
    let interval = micros(rate.interval());
    let window = micros(rate.window());
    let full_at = full_at.clamp(now, now + window);
    let next = full_at + interval;
    let allowed = next <= now + window;
    let full_at = if allowed { next } else { full_at };
    let left = (now + window).saturating_sub(full_at) / interval;
    let decision = RateDecision {
        allowed,
        remaining: u32::try_from(left).unwrap_or(u32::MAX),
        retry_after: Duration::from_micros(if allowed { 0 } else { next - (now + window) }),
        reset_after: Duration::from_micros(full_at - now),
    };
    (full_at, decision)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_something_through_and_fills_in_time() {
        let second = Duration::from_secs(1);
        assert_eq!(Rate::new(0, second), Err(InvalidRate::Nothing));
        assert_eq!(Rate::per(0, second), Err(InvalidRate::Nothing));
        assert_eq!(Rate::new(1, Duration::from_nanos(999)), Err(InvalidRate::TooFast));
        assert_eq!(Rate::per(2_000_000, second), Err(InvalidRate::TooFast));
        assert_eq!(Rate::new(31, Duration::from_secs(24 * 3600)), Err(InvalidRate::TooSlow));
        assert_eq!(Rate::new(u32::MAX, Duration::MAX), Err(InvalidRate::TooSlow));
        let rate = Rate::per(600, Duration::from_secs(60)).unwrap();
        assert_eq!((rate.burst(), rate.interval()), (600, Duration::from_millis(100)));
    }

    #[test]
    fn a_refused_request_takes_nothing_and_is_told_when_to_come_back() {
        let rate = Rate::new(2, Duration::from_secs(10)).unwrap();
        let (second, now) = (1_000_000, 5_000_000);
        let (full_at, first) = decide(0, now, rate);
        assert_eq!((first.allowed, first.remaining, first.reset_after.as_secs()), (true, 1, 10));
        let (full_at, last) = decide(full_at, now, rate);
        assert_eq!((last.allowed, last.remaining, last.reset_after.as_secs()), (true, 0, 20));
        let (same, refused) = decide(full_at, now + 4 * second, rate);
        assert_eq!((refused.allowed, refused.remaining, refused.retry_after.as_secs()), (false, 0, 6));
        assert_eq!(same, full_at);
        assert!(decide(full_at, now + 10 * second - 1, rate).1.retry_after == Duration::from_micros(1));
        assert!(decide(full_at, now + 10 * second, rate).1.allowed);
    }
}
