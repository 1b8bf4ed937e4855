//! The executors that every scheduler has.

use std::sync::Arc;

use async_trait::async_trait;
use event_bus::EventBus;
use serde_json::{Value, json};
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

    fn payload_schema(&self) -> Option<Value> {
        Some(json!({
            "description": "any JSON; it stands in the log as the field `payload`",
            "examples": [{ "message": "hello" }],
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the schema shows is what the executor takes, and what it does not name is refused.
    #[cfg(feature = "http")]
    #[tokio::test]
    async fn schemas_say_what_is_taken() {
        let registry = ExecutorRegistry::new();
        let bus = EventBus::builder().build();
        let _guards = register(&registry, Some(&bus)).unwrap();
        for info in registry.list() {
            let schema = info.payload_schema.expect("a schema");
            let key = registry.find(&info.name).unwrap();
            let executor = registry.present(key).unwrap().executor.clone();
            let mut shown = std::collections::BTreeSet::new();
            for example in schema["examples"].as_array().expect("examples") {
                executor.check(example).unwrap();
                shown.extend(example.as_object().unwrap().keys().cloned());
                if schema["additionalProperties"] == false {
                    let mut more = example.clone();
                    more["unheard_of"] = 1.into();
                    executor.check(&more).unwrap_err();
                }
            }
            let known = schema["properties"].as_object().into_iter().flat_map(|named| named.keys());
            assert!(known.clone().all(|name| shown.contains(name)), "{}: {schema}", info.name);
            for name in schema["required"].as_array().into_iter().flatten() {
                let mut less = schema["examples"][0].clone();
                less.as_object_mut().unwrap().remove(name.as_str().unwrap());
                executor.check(&less).unwrap_err();
            }
        }
    }
}
