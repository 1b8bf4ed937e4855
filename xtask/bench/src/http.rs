//! The management API and a plugin's route, beside hyper and axum that answer the same bytes.

mod bare;
mod host;
mod load;

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Goal, Plan, Row, Sample, Unit, block_on};
use crate::server::{Answer, Server, get, post};

/// A task that is asked for.
fn task(id: &str) -> String {
    let task = json!({
        "id": id,
        "name": "Bench",
        "description": "asked for and never due",
        "schedule": { "type": "once", "at": "2200-01-01T00:00:00Z" },
        "executor": "log",
        "payload": { "message": "hello" },
    });
    task.to_string()
}

const TASK_PATH: &str = "/scheduler/tasks/bench";

/// More tasks than the server remembers written answers about.
const TASKS: usize = 1_000;

pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    let span = plan.pick(Duration::from_secs(3), Duration::from_secs(1));
    let row = |id, path: &'static str, goal, bare: &'static str| {
        let what = format!(
            "GET {path}, {} keep-alive connections for {} s, memory store, metrics and logs on; server and client \
             are processes of this machine",
            load::CONNECTIONS,
            span.as_secs()
        );
        Row::new(id, what, Unit::PerSecond, Goal::RatioAtLeast(goal), move |_| ours(span, path))
            .reference(format!("{bare}, same bytes"), move |_| beside(span, bare, path))
            .without_warm_up()
    };
    vec![row("http.get_task", TASK_PATH, 0.85, "hyper"), row("http.plugin_route", host::ROUTE, 0.90, "axum")]
}

/// How many threads each of the server's runtimes has at the least.
const SERVER_THREADS_MIN: usize = 4;

/// How many threads a server of this kind has for its connections: the bare ones as many as a runtime takes by
/// default, the host as many as the real server.
pub(crate) fn workers(kind: &str) -> anyhow::Result<usize> {
    let cores = std::thread::available_parallelism()?.get();
    Ok(if kind == "host" { cores.max(SERVER_THREADS_MIN) } else { cores })
}

/// Is one of the servers that stand beside ours, or the host whose plugin's route is measured.
pub(crate) async fn serve(kind: &str, answer: &str) -> anyhow::Result<()> {
    match kind {
        "host" => host::serve(workers(kind)?).await,
        bare => bare::serve(bare, answer).await,
    }
}

/// Starts the server that answers on `path`: the real one with the task in it, or the host with the plugin.
async fn server(path: &str) -> anyhow::Result<Server> {
    if path == host::ROUTE {
        return Server::of_this_program("host", "");
    }
    let server = Server::gantry().await?;
    let answer = post(server.address, "/scheduler/tasks", &task("bench")).await?;
    ensure!(answer.status == 201, "creating the task: {}", String::from_utf8_lossy(&answer.body));
    Ok(server)
}

fn ours(span: Duration, path: &str) -> anyhow::Result<Sample> {
    let server = block_on(1, server(path))?;
    let sample = load::answers_per_second(&server, &[path.to_owned()], span)?;
    if path != TASK_PATH {
        return Ok(sample);
    }
    // Beside one task, which the server need not write out again: many, which it has to.
    let paths = block_on(1, many_tasks(&server))?;
    let many = load::answers_per_second(&server, &paths, span)?;
    Ok(sample.detail(format!("{TASKS} tasks in turn"), many.value))
}

async fn many_tasks(server: &Server) -> anyhow::Result<Vec<String>> {
    let mut paths = Vec::new();
    for number in 0..TASKS {
        let id = format!("b{number:04}");
        let answer = post(server.address, "/scheduler/tasks", &task(&id)).await?;
        ensure!(answer.status == 201, "creating a task: {}", String::from_utf8_lossy(&answer.body));
        paths.push(format!("/scheduler/tasks/{id}"));
    }
    Ok(paths)
}

fn beside(span: Duration, kind: &str, path: &str) -> anyhow::Result<Sample> {
    let answer = block_on(1, answer_of_ours(path))?;
    let server = Server::of_this_program(kind, &bare::text(path, &answer))?;
    load::answers_per_second(&server, &[path.to_owned()], span)
}

async fn answer_of_ours(path: &str) -> anyhow::Result<Answer> {
    let server = server(path).await?;
    let answer = get(server.address, path).await?;
    ensure!(answer.status == 200, "GET {path} answered {}", answer.status);
    Ok(answer)
}
