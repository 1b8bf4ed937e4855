//! What happens to an event whose handler fails.

use std::time::Duration;

use runtime::duration_text;
use serde::{Deserialize, Serialize};

use super::OptionsError;

/// The most attempts that a policy may allow for one event.
pub const MAX_ATTEMPTS: u32 = 100;
/// The longest wait between two attempts that a policy may ask for.
pub const MAX_BACKOFF: Duration = Duration::from_secs(24 * 60 * 60);

/// How often, and how far apart, a handler is called for an event that it fails on.
///
/// The wait doubles with each attempt up to a longest one, and is shortened by chance to between half and all
/// of that. A panic is a failure like any other; [`HandlerError::permanent`](crate::HandlerError::permanent)
/// ends the attempts at once.
///
/// While an event waits for its next attempt, what follows it is handled: a retried event is overtaken. As
/// many events as the subscription's capacity may wait so; one more is a dead letter at once. With
/// [`Retry::keep_order`] no event is overtaken, and what follows waits, for [`Retry::longest_wait`] and the
/// calls themselves at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct Retry {
    attempts: u32,
    #[serde(with = "duration_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "100ms"))]
    backoff: Duration,
    #[serde(with = "duration_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "30s"))]
    backoff_max: Duration,
    keep_order: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self::new(5)
    }
}

impl Retry {
    /// So many calls at the most for one event, the first among them; 1 to [`MAX_ATTEMPTS`]. The first wait
    /// is 100 ms, the longest 30 s.
    pub fn new(attempts: u32) -> Self {
        Self {
            attempts,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            keep_order: false,
        }
    }

    /// The wait after the first failure.
    pub fn backoff(mut self, first: Duration) -> Self {
        self.backoff = first;
        self
    }

    /// The longest wait, up to [`MAX_BACKOFF`].
    pub fn backoff_max(mut self, longest: Duration) -> Self {
        self.backoff_max = longest;
        self
    }

    /// Lets what follows wait until the attempts for an event are over. With a concurrency above 1 an event
    /// keeps its place among those that are handled at once.
    pub fn keep_order(mut self) -> Self {
        self.keep_order = true;
        self
    }

    /// How many calls there are for one event at the most.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether what follows waits.
    #[must_use]
    pub fn keeps_order(&self) -> bool {
        self.keep_order
    }

    /// The longest that all waits for one event come to.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        (1..self.attempts).fold(Duration::ZERO, |sum, failed| sum.saturating_add(self.longest_after(failed)))
    }

    /// The wait after so many failures; `share`, of 0 to 1, is chance.
    pub(crate) fn wait_after(&self, failed: u32, share: f64) -> Duration {
        self.longest_after(failed).mul_f64(0.5 + share / 2.0)
    }

    fn longest_after(&self, failed: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff.saturating_mul(doubled).min(self.backoff_max)
    }

    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_ATTEMPTS).contains(&self.attempts) {
            return Err(OptionsError::Attempts(self.attempts));
        }
        if self.backoff_max > MAX_BACKOFF {
            return Err(OptionsError::Backoff);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_chance_only_shortens_them() {
        let retry = Retry::new(6).backoff(Duration::from_secs(1)).backoff_max(Duration::from_secs(5));
        let longest: Vec<_> = (1..6).map(|failed| retry.wait_after(failed, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 5, 5]);
        assert_eq!(retry.wait_after(3, 0.0), Duration::from_secs(2));
        assert_eq!(retry.longest_wait(), Duration::from_secs(17));
        assert_eq!(retry.wait_after(99, 1.0), Duration::from_secs(5), "no overflow");
    }

    #[test]
    fn bounds_are_checked_and_the_text_form_is_read() {
        assert_eq!(Retry::new(0).check(), Err(OptionsError::Attempts(0)));
        assert_eq!(Retry::new(MAX_ATTEMPTS + 1).check(), Err(OptionsError::Attempts(MAX_ATTEMPTS + 1)));
        assert_eq!(Retry::new(2).backoff_max(Duration::MAX).check(), Err(OptionsError::Backoff));
        let retry: Retry = serde_json::from_str(r#"{"attempts":3,"backoff":"250ms"}"#).unwrap();
        assert_eq!(retry, Retry::new(3).backoff(Duration::from_millis(250)));
        assert!(serde_json::from_str::<Retry>(r#"{"attempt":3}"#).is_err());
    }
}
