//! The management API and a plugin's route, beside hyper and axum that answer the same bytes.

mod bare;
mod host;
mod load;

use std::time::Duration;

use anyhow::ensure;

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
    let row = |id, path: &'static str, goal, bare: &'static str| {
        let what = format!(
            "GET {path}, {} keep-alive connections, memory store, metrics and logs on; server and client are \
             processes of this machine",
            load::CONNECTIONS
        );
        Row::new(id, what, Unit::PerSecond, Goal::RatioAtLeast(goal), move |plan| ours(plan, path))
            .reference(format!("{bare}, same bytes"), move |plan| beside(plan, bare, path))
            .without_warm_up()
    };
    vec![row("http.get_task", TASK_PATH, 0.85, "hyper"), row("http.plugin_route", host::ROUTE, 0.90, "axum")]
}

/// Is one of the servers that stand beside ours, or the host whose plugin's route is measured.
pub(crate) async fn serve(kind: &str, answer: &str) -> anyhow::Result<()> {
    match kind {
        "host" => host::serve().await,
        bare => bare::serve(bare, answer).await,
    }
}

fn span(plan: &Plan) -> Duration {
    plan.pick(Duration::from_secs(3), Duration::from_secs(1))
}

/// Starts the server that answers on `path`: the real one with the task in it, or the host with the plugin.
async fn server(path: &str) -> anyhow::Result<Server> {
    if path == host::ROUTE {
        return Server::of_this_program("host", "");
    }
    let server = Server::gantry().await?;
    let answer = post(server.address, "/scheduler/tasks", TASK).await?;
    ensure!(answer.status == 201, "creating the task: {}", String::from_utf8_lossy(&answer.body));
    Ok(server)
}

fn ours(plan: &Plan, path: &str) -> anyhow::Result<Sample> {
    let server = block_on(1, server(path))?;
    load::answers_per_second(&server, path, span(plan))
}

fn beside(plan: &Plan, kind: &str, path: &str) -> anyhow::Result<Sample> {
    let answer = block_on(1, answer_of_ours(path))?;
    let server = Server::of_this_program(kind, &bare::text(path, &answer))?;
    load::answers_per_second(&server, path, span(plan))
}

async fn answer_of_ours(path: &str) -> anyhow::Result<Answer> {
    let server = server(path).await?;
    let answer = get(server.address, path).await?;
    ensure!(answer.status == 200, "GET {path} answered {}", answer.status);
    Ok(answer)
}
