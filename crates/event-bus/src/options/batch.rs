//! Several events in one call.

use std::time::Duration;

use runtime::duration_text;
use serde::{Deserialize, Serialize};

use super::OptionsError;

/// The most events that a handler may be given at once.
pub const MAX_BATCH: usize = 10_000;
/// The longest that a batch may wait to become full.
pub const MAX_BATCH_WAIT: Duration = Duration::from_secs(60 * 60);

/// How many events a handler is given in one call, and how long it is waited for so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Batch {
    /// As many as this, 1 to [`MAX_BATCH`].
    pub events: usize,
    /// Fewer, once this time has passed since the first of them was there; at most [`MAX_BATCH_WAIT`]. None
    /// at all: what is there is a batch.
    #[serde(with = "duration_text")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "100ms"))]
    pub within: Duration,
}

impl Batch {
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if !(1..=MAX_BATCH).contains(&self.events) {
            return Err(OptionsError::Batch(self.events));
        }
        if self.within > MAX_BATCH_WAIT {
            return Err(OptionsError::BatchWait);
        }
        Ok(())
    }
}
