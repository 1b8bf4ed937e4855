//! Waiting for a condition, with a deadline.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const PACE: Duration = Duration::from_millis(10);

/// A condition that did not come about.
#[derive(Clone, Debug, Error)]
#[error("waited {within:?} for {what}: {last}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub within: Duration,
    /// What the last look showed.
    pub last: String,
}

/// Looks until `condition` gives a value, at most for `within`; in between it says why not yet. A look that
/// hangs is given up at the deadline. Each look begins 10 ms after the end of the one before.
///
/// # Errors
///
/// [`TimedOut`], with the reason that the last look gave.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mut looks = 0;
/// let seen = testkit::until("a third look", Duration::from_secs(5), async || {
///     looks += 1;
///     if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
/// });
/// assert_eq!(seen.await.unwrap(), 3);
/// # }
/// ```
pub async fn until<T>(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let mut last = "no look was finished".to_owned();
    let deadline = Instant::now() + within;
    let look = async {
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(reason) => last = reason,
            }
            sleep(PACE).await;
        }
    };
    let found = timeout_at(deadline, look).await;
    found.map_err(|_| TimedOut { what: what.to_owned(), within, last })
}

/// The same for a future that is known to be [`Send`], which the compiler cannot tell of the closures above.
pub(crate) async fn until_ready<T, F>(
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> F + Send,
) -> Result<T, TimedOut>
where
    T: Send,
    F: Future<Output = Result<T, String>> + Send,
{
    let mut last = "no look was finished".to_owned();
    let deadline = Instant::now() + within;
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => last = reason,
            Err(_) => return Err(TimedOut { what: what.to_owned(), within, last }),
        }
        if Instant::now() + PACE > deadline {
            return Err(TimedOut { what: what.to_owned(), within, last });
        }
        sleep(PACE).await;
    }
}
