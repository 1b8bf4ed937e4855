//! The wall clock as an argument: one for production, one that tests steer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

mod precise;

/// A boxed wait, so that [`Clock`] stays object-safe.
pub type Sleep<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// How long a sleep trusts the monotonic clock before it looks at the wall clock again.
///
/// A wall clock can be set; a sleeper notices within this time.
const RECHECK: Duration = Duration::from_millis(500);

/// Where a program gets the time from.
///
/// Implementations never wake a sleeper early: when [`Clock::sleep_until`] returns, [`Clock::now`] is at
/// or past the instant asked for.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The present time of day. It may jump, both ways.
    fn now(&self) -> Timestamp;

    /// Waits until [`Clock::now`] has reached `at`; returns at once if it has.
    ///
    /// Dropping the future cancels the wait.
    fn sleep_until(&self, at: Timestamp) -> Sleep<'_>;

    /// Waits for a span of time that jumps of the wall clock do not change.
    fn sleep(&self, span: Duration) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(span))
    }
}

/// A clock that is handed around.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock of the machine, ready to be handed around.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep<'_> {
        Box::pin(async move {
            while let Some(left) = time_left(self.now(), at) {
                match left.checked_sub(precise::STRETCH_MAX) {
                    Some(long) if !long.is_zero() => tokio::time::sleep(long.min(RECHECK)).await,
                    _ => precise::sleep(left).await,
                }
            }
        })
    }
}

/// A clock for tests: it follows tokio's time, which a test can pause and advance, and its time of day
/// can be made to jump.
///
/// Under `#[tokio::test(start_paused = true)]` time moves only when every task waits, straight to the
/// next timer, so that a day of schedules passes at once.
#[derive(Debug)]
pub struct VirtualClock {
    base: Timestamp,
    started: Instant,
    /// What jumps have added to the time of day, in nanoseconds.
    offset_ns: AtomicI64,
    jumped: Notify,
}

impl VirtualClock {
    /// A clock that shows `base` now.
    #[must_use]
    pub fn starting_at(base: Timestamp) -> Arc<Self> {
        Arc::new(Self { base, started: Instant::now(), offset_ns: AtomicI64::new(0), jumped: Notify::new() })
    }

    /// Sets the time of day forward or back without any time passing, as an operator or NTP would.
    /// Sleepers look again at once.
    pub fn jump(&self, by: SignedDuration) {
        let by = i64::try_from(by.as_nanos()).unwrap_or(if by.is_negative() { i64::MIN } else { i64::MAX });
        let _ = self
            .offset_ns
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |offset| Some(offset.saturating_add(by)));
        self.jumped.notify_waiters();
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        let offset = SignedDuration::from_nanos(self.offset_ns.load(Ordering::Acquire));
        self.base.checked_add(elapsed.saturating_add(offset)).unwrap_or(Timestamp::MAX)
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep<'_> {
        Box::pin(async move {
            loop {
                // Registered before the time is read, so that a jump between the two is not missed.
                let jumped = self.jumped.notified();
                let Some(left) = time_left(self.now(), at) else { return };
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = jumped => {}
                }
            }
        })
    }
}

/// What is left until `at`, or nothing if it has come. Never rounds down to zero.
fn time_left(now: Timestamp, at: Timestamp) -> Option<Duration> {
    let left = at.duration_since(now);
    if left.is_positive() { Duration::try_from(left).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-03-01T12:00:00Z";

    #[tokio::test(start_paused = true)]
    async fn a_virtual_day_passes_at_once() {
        let clock = VirtualClock::starting_at(NOON.parse().unwrap());
        let tomorrow = clock.now() + SignedDuration::from_hours(24);
        clock.sleep_until(tomorrow).await;
        assert!(clock.now() >= tomorrow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_forward_wakes_a_sleeper_and_a_jump_back_keeps_it_asleep() {
        let clock = VirtualClock::starting_at(NOON.parse().unwrap());
        let at = clock.now() + SignedDuration::from_hours(10);
        let begun = Instant::now();
        let sleeper = clock.sleep_until(at);
        tokio::pin!(sleeper);
        assert!(futures_util::poll!(&mut sleeper).is_pending());
        clock.jump(SignedDuration::from_hours(-1));
        clock.jump(SignedDuration::from_hours(6));
        sleeper.await;
        assert_eq!(begun.elapsed().as_secs(), 5 * 3600);
        assert!(clock.now() >= at);
    }

    #[tokio::test]
    async fn the_system_clock_never_wakes_early() {
        for _ in 0..20 {
            let at = SystemClock.now() + SignedDuration::from_millis(3);
            SystemClock.sleep_until(at).await;
            assert!(SystemClock.now() >= at);
        }
    }

    #[tokio::test]
    async fn a_time_that_has_passed_does_not_wait() {
        let mut sleep = SystemClock.sleep_until(Timestamp::UNIX_EPOCH);
        assert!(futures_util::poll!(&mut sleep).is_ready());
    }
}
