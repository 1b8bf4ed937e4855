//! The management API and a plugin's route, beside hyper and axum that answer the same bytes.

mod bare;
mod load;

use std::time::Duration;

use anyhow::ensure;

pub(crate) use bare::serve as serve_bare;

use crate::harness::{Goal, Plan, Row, Sample, Unit, block_on};
use crate::server::{Answer, Server, get, post};

/// The task that is asked for.
const TASK: &str = r#"{
    "id": "bench", "name": "Bench", "description": "asked for and never due",
    "schedule": { "type": "once", "at": "2200-01-01T00:00:00Z" },
    "executor": "log", "payload": { "message": "hello" }
}"#;

const TASK_PATH: &str = "/scheduler/tasks/bench";

pub(crate) fn rows(_: &Plan) -> Vec<Row> {
    let what = |path: &str, connections| {
        format!(
            "GET {path}, {connections} keep-alive connections, default telemetry, memory store; server and \
             client are processes of this machine"
        )
    };
    vec![
        Row::new(
            "http.get_task",
            what(TASK_PATH, load::CONNECTIONS),
            Unit::PerSecond,
            Goal::RatioAtLeast(0.85),
            |plan| ours(plan, TASK_PATH),
        )
        .reference("hyper, same bytes", |plan| beside(plan, "hyper", TASK_PATH))
        .without_warm_up(),
    ]
}

fn span(plan: &Plan) -> Duration {
    plan.pick(Duration::from_secs(3), Duration::from_secs(1))
}

/// Starts the server with the task in it.
async fn server() -> anyhow::Result<Server> {
    let server = Server::gantry().await?;
    let answer = post(server.address, "/scheduler/tasks", TASK).await?;
    ensure!(answer.status == 201, "creating the task: {}", String::from_utf8_lossy(&answer.body));
    Ok(server)
}

fn ours(plan: &Plan, path: &str) -> anyhow::Result<Sample> {
    let server = block_on(1, server())?;
    load::answers_per_second(&server, path, span(plan))
}

fn beside(plan: &Plan, kind: &str, path: &str) -> anyhow::Result<Sample> {
    let answer = block_on(1, answer_of_ours(path))?;
    let server = Server::bare(kind, &bare::text(path, &answer))?;
    load::answers_per_second(&server, path, span(plan))
}

async fn answer_of_ours(path: &str) -> anyhow::Result<Answer> {
    let server = server().await?;
    let answer = get(server.address, path).await?;
    ensure!(answer.status == 200, "GET {path} answered {}", answer.status);
    Ok(answer)
}
