//! The executor `event`: publishes the payload's event.

use async_trait::async_trait;
use event_bus::{Event, EventBus, MAX_TOPIC_BYTES, Topic, TraceContext};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::executor::{Executor, PayloadError, RunContext, RunError, RunOutput};

/// Publishes an event at each run.
pub(crate) struct EventExecutor {
    pub(crate) bus: EventBus,
}

/// What the payload says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(alias = "type")]
    topic: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    target: Option<String>,
}

/// Topics that only the host publishes.
const RESERVED: [&str; 3] = ["plugin", "system", "scheduler"];

fn topic(body: &Body) -> Result<Topic, PayloadError> {
    let refuse = |detail: String| PayloadError { field: "topic".to_owned(), detail };
    let topic = Topic::new(&body.topic).map_err(|error| refuse(error.to_string()))?;
    if topic.segments().next().is_some_and(|first| RESERVED.contains(&first)) {
        return Err(refuse(format!("`{topic}` is the host's to publish")));
    }
    Ok(topic)
}

#[async_trait]
impl Executor for EventExecutor {
    async fn execute(&self, run: RunContext) -> Result<RunOutput, RunError> {
        let body: Body = run.payload_as()?;
        let topic = topic(&body).map_err(|error| RunError::permanent(error.to_string()))?;
        let mut event = self
            .bus
            .event(topic)
            .source("scheduler")
            .data(body.data)
            .metadata("task", run.task_id())
            .metadata("run", run.run_id().to_string())
            .trace(TraceContext::from(run.trace()));
        if let Some(target) = body.target {
            event = event.target(target);
        }
        let event: Event =
            event.build(&**self.bus.clock()).map_err(|error| RunError::permanent(error.to_string()))?;
        let published = self.bus.publish(event).await.map_err(|error| RunError::new(error.to_string()))?;
        Ok(json!({ "delivered_to": published.delivered_to }).into())
    }

    fn check(&self, payload: &Value) -> Result<(), PayloadError> {
        let body = Body::deserialize(payload)
            .map_err(|error| PayloadError { field: String::new(), detail: error.to_string() })?;
        topic(&body).map(drop)
    }

    fn payload_schema(&self) -> Option<Value> {
        Some(json!({
            "type": "object",
            "required": ["topic"],
            "properties": {
                "topic": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_TOPIC_BYTES,
                    "description": "the event's type; not below `plugin`, `system` or `scheduler`",
                },
                "data": { "description": "the event's data: any JSON" },
                "target": { "type": ["string", "null"], "description": "whom it is meant for" },
            },
            "additionalProperties": false,
            "examples": [{ "topic": "custom.report", "data": { "day": "today" }, "target": "billing" }],
        }))
    }

    fn description(&self) -> &str {
        "publishes an event: the payload's `topic`, `data` and `target`"
    }
}
