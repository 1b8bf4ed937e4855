//! What every suite shares: rows, rounds, statistics, and how figures are shown.

mod process;
mod report;
mod row;
mod run;
mod stats;

pub(crate) use process::{cpu_seconds, resident_bytes, this_program};
pub(crate) use report::{json, summary, text};
pub(crate) use row::{Goal, Plan, Row, Sample, Unit, count};
pub(crate) use run::{Contender, measure, probe};
pub(crate) use stats::growth;

/// Runs `future` to its end on a runtime of its own with this many worker threads, all timers and sockets on.
pub(crate) fn block_on<T>(
    workers: usize,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?.block_on(future)
}
