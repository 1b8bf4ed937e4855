//! Whether and when a plugin that failed is started again. Pure: time and chance are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use plugin_core::ConfigError;
use runtime::duration_text;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What happens when a plugin fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// It stays failed until somebody starts it.
    Never,
    /// It is started again, until it has failed too often in too short a time.
    #[default]
    OnFailure,
    /// It is started again however often it fails, at the longest backoff in the end.
    Always,
}

/// When a failed plugin is started again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartConfig {
    /// Whether at all: `never`, `on_failure` or `always`. Default `on_failure`.
    pub policy: RestartPolicy,
    /// The wait after the first failure; it doubles with each further one. Default `500ms`.
    #[serde(with = "duration_text")]
    pub backoff: Duration,
    /// The longest wait. Default `30s`.
    #[serde(with = "duration_text")]
    pub backoff_max: Duration,
    /// So many failures within the window are a crash loop, which `on_failure` ends. Default `5`.
    pub limit: u32,
    /// The window; a plugin that runs for so long without failing begins anew. Default `5m`.
    #[serde(with = "duration_text")]
    pub window: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::default(),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            limit: 5,
            window: Duration::from_secs(300),
        }
    }
}

impl RestartConfig {
    /// This, with another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Checks that each value is within its bounds.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the path of the first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.backoff < Duration::from_millis(1) {
            return Err(ConfigError::invalid("backoff", "has to be at least 1ms"));
        }
        if self.backoff_max < self.backoff || self.backoff_max > Duration::from_secs(24 * 3600) {
            return Err(ConfigError::invalid("backoff_max", "has to be between `backoff` and 24h"));
        }
        if self.limit == 0 || self.limit > 1000 {
            return Err(ConfigError::invalid("limit", "has to be between 1 and 1000"));
        }
        if self.window.is_zero() || self.window > Duration::from_secs(7 * 24 * 3600) {
            return Err(ConfigError::invalid("window", "has to be between 1ns and 168h"));
        }
        Ok(())
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start it again after this wait.
    RestartIn(Duration),
    /// The policy leaves it failed.
    LeaveIt,
    /// It fails too often.
    CrashLoop,
}

/// The failures of one plugin that count still.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    recent: VecDeque<Instant>,
}

impl Failures {
    /// A failure at `now`. `chance` is between 0 and 1: the wait is between half and all of the backoff, so
    /// that plugins that failed together do not come back together.
    pub(crate) fn add(&mut self, config: &RestartConfig, now: Instant, chance: f64) -> Verdict {
        if config.policy == RestartPolicy::Never {
            return Verdict::LeaveIt;
        }
        // Two failures that are further apart than the window do not belong together.
        if self.recent.back().is_some_and(|last| now.saturating_duration_since(*last) > config.window) {
            self.recent.clear();
        }
        self.recent.push_back(now);
        let limit = config.limit as usize;
        while self.recent.len() > limit.max(32) {
            self.recent.pop_front();
        }
        let within = |at: &&Instant| now.saturating_duration_since(**at) <= config.window;
        if config.policy == RestartPolicy::OnFailure && self.recent.iter().filter(within).count() > limit {
            return Verdict::CrashLoop;
        }
        let doublings = u32::try_from(self.recent.len() - 1).unwrap_or(u32::MAX).min(31);
        let full = config.backoff.saturating_mul(1 << doublings).min(config.backoff_max);
        Verdict::RestartIn(full.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0))
    }

    /// Somebody starts it by hand: what was does not count.
    pub(crate) fn forget(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(policy: RestartPolicy) -> RestartConfig {
        RestartConfig::default().with_policy(policy)
    }

    #[tokio::test]
    async fn the_wait_doubles_and_a_loop_ends() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let config = config(RestartPolicy::OnFailure);
        let waits: Vec<_> = (0..5).map(|_| failures.add(&config, now, 1.0)).collect();
        let expected = [500, 1000, 2000, 4000, 8000].map(|ms| Verdict::RestartIn(Duration::from_millis(ms)));
        assert_eq!(waits, expected);
        assert_eq!(failures.add(&config, now, 1.0), Verdict::CrashLoop);
        failures.forget();
        assert_eq!(failures.add(&config, now, 0.0), Verdict::RestartIn(Duration::from_millis(250)));
    }

    #[tokio::test]
    async fn a_long_good_time_counts() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let config = config(RestartPolicy::OnFailure);
        for i in 0..50 {
            let at = now + config.window * 2 * i;
            assert_eq!(failures.add(&config, at, 1.0), Verdict::RestartIn(config.backoff));
        }
    }

    #[tokio::test]
    async fn always_and_never_mean_it() {
        let now = Instant::now();
        assert_eq!(Failures::default().add(&config(RestartPolicy::Never), now, 0.5), Verdict::LeaveIt);
        let (mut failures, config) = (Failures::default(), config(RestartPolicy::Always));
        for _ in 0..100 {
            assert!(matches!(failures.add(&config, now, 1.0), Verdict::RestartIn(_)));
        }
        assert_eq!(failures.add(&config, now, 1.0), Verdict::RestartIn(config.backoff_max));
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds(
            gaps in proptest::collection::vec(0_u64..900_000, 1..80),
            chance in 0.0_f64..1.0,
        ) {
            let config = config(RestartPolicy::Always);
            let (mut failures, mut now) = (Failures::default(), Instant::now());
            for gap in gaps {
                now += Duration::from_millis(gap);
                let Verdict::RestartIn(wait) = failures.add(&config, now, chance) else { panic!() };
                prop_assert!(wait >= config.backoff / 2 && wait <= config.backoff_max);
            }
        }
    }
}
