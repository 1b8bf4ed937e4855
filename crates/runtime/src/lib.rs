//! Clock, owned tasks, deadlines, shutdown and trace context: what every Gantry crate needs, and nothing else.
//!
//! Layer 0. Invariants of this crate:
//!
//! - Time comes in through a [`Clock`]; nothing above this crate reads the clock of the machine.
//! - A spawned task has an owner, a [`TaskOwner`], that can cancel and join it.
//! - Foreign code runs under [`guarded`]: its panic, its missed deadline and its refusal to yield are
//!   values that the caller looks at, and nothing else happens to the caller.
//!
//! ```
//! use std::time::Duration;
//! use runtime::{Clock, SystemClock, TaskOwner};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let clock = SystemClock::shared();
//! let started = clock.now();
//! let tasks = TaskOwner::new("example");
//! tasks.spawn("beat", async move { clock.sleep(Duration::from_millis(2)).await });
//! let report = tasks.shutdown(Duration::from_secs(1)).await;
//! assert!(report.is_clean());
//! # let _ = started; }
//! ```

mod clock;
mod duration;
mod guard;
mod shutdown;
mod tasks;
mod trace;

pub use clock::{Clock, SharedClock, Sleep, SystemClock, VirtualClock};
pub use duration::{DurationText, ParseDurationError, duration_text, format_duration, parse_duration};
pub use guard::{CallError, DeadlineExceeded, Watched, guarded, panic_message, within};
pub use jiff::Timestamp;
pub use shutdown::{Shutdown, ShutdownReason};
pub use tasks::{ShutdownReport, TaskOwner};
pub use tokio_util::sync::CancellationToken;
pub use trace::{InTrace, Sampler, SpanId, TraceContext, TraceContextError, TraceId};
