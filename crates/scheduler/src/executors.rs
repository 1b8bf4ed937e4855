//! The executors that every scheduler has.

use std::sync::Arc;

use async_trait::async_trait;
use event_bus::EventBus;
use tracing::info;

use crate::executor::{
    Executor, ExecutorGuard, ExecutorRegistry, RegisterError, RunContext, RunError, RunOutput,
};

mod event;
#[cfg(feature = "http")]
mod http;

/// Writes the payload to the log.
struct Log;

#[async_trait]
impl Executor for Log {
    async fn execute(&self, run: RunContext) -> Result<RunOutput, RunError> {
        info!(
            task = run.task_id(),
            run = %run.run_id(),
            scheduled_for = %run.scheduled_for(),
            payload = run.payload_text().unwrap_or("null"),
            "task ran"
        );
        Ok(RunOutput::none())
    }

    fn description(&self) -> &str {
        "writes the payload to the log"
    }
}

/// Registers the built-in executors, except where a name is taken already.
pub(crate) fn register(
    executors: &ExecutorRegistry,
    bus: Option<&EventBus>,
) -> Result<Vec<ExecutorGuard>, RegisterError> {
    let mut built_in: Vec<(&str, Arc<dyn Executor>)> = vec![("log", Arc::new(Log))];
    if let Some(bus) = bus {
        built_in.push(("event", Arc::new(event::EventExecutor { bus: bus.clone() })));
    }
    #[cfg(feature = "http")]
    match http::HttpExecutor::new() {
        Ok(executor) => built_in.push(("http", Arc::new(executor))),
        // Without roots to trust, say: tasks that name it wait for it, and say so.
        Err(error) => tracing::warn!(%error, "executor `http` is not available"),
    }
    let mut guards = Vec::new();
    for (name, executor) in built_in {
        let is_taken = executors.find(name).is_some_and(|key| executors.present(key).is_some());
        if !is_taken {
            guards.push(executors.register(name, None, executor)?);
        }
    }
    Ok(guards)
}

/// The trace context of a run: its own trace, and a span for the attempt.
fn traceparent(run: &RunContext) -> String {
    let span = (run.run_id().as_u128() as u64) ^ (u64::from(run.attempt()) << 48);
    format!("00-{}-{:016x}-01", run.run_id().trace_id(), span.max(1))
}
