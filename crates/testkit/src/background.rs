//! The runtime that everything of this crate runs on: two threads of its own.
//!
//! A test may pause the time of its own runtime, block its only thread, or drop it before a server. None of
//! that may stall a proxy or fire the deadline of a start, so nothing here runs on the caller's runtime.

use std::future::Future;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::StartError;

static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();

/// The handle to that runtime, which lives as long as the process does.
pub(crate) fn handle() -> Result<&'static Handle, StartError> {
    let runtime = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).thread_name("testkit").enable_all().build()
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => {
            Err(StartError::Setup { server: "testkit".into(), what: format!("own thread: {error}") })
        }
    }
}

/// Runs a future there and waits for it from wherever the caller runs. With a caller that goes away it ends at
/// its next wait, and what it started ends with it.
pub(crate) async fn run<T: Send + 'static>(
    future: impl Future<Output = Result<T, StartError>> + Send + 'static,
) -> Result<T, StartError> {
    let mut running = Running(handle()?.spawn(future));
    match (&mut running.0).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(StartError::Setup { server: "testkit".into(), what: error.to_string() }),
        },
    }
}

struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs blocking work (package managers, the file system) on a thread for such work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    match handle()?.spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StartError::Setup { server: "testkit".into(), what: error.to_string() }),
    }
}
