//! What survives the end of the process.

use serde_json::{Value, json};

use crate::process::{Server, command, server_program};

async fn create(server: &Server, body: Value) {
    server.post("/scheduler/tasks", body).await.data();
}

#[tokio::test]
async fn promise_1_what_was_acknowledged_is_there_after_a_kill() {
    let server = Server::start().await;
    create(&server, json!({"id": "later", "schedule": {"type": "once", "at": "2040-01-01T00:00:00Z"}})).await;
    create(&server, json!({"id": "rests", "schedule": {"type": "interval", "interval": "1h"}})).await;
    server.post("/scheduler/tasks/rests/pause", Value::Null).await.data();
    create(&server, json!({"id": "gone", "schedule": {"type": "interval", "interval": "1h"}})).await;
    server.delete("/scheduler/tasks/gone").await.data();
    create(&server, json!({"id": "done", "schedule": {"type": "once", "delay": "1ms"}})).await;
    server.until("/scheduler/tasks/done", |data| data["task"]["status"] == "completed").await;
    let before = server.get("/scheduler/tasks/later").await.data();

    let server = Server::again(server.kill().await).await;
    assert_eq!(server.get("/scheduler/tasks/later").await.data(), before);
    assert_eq!(server.get("/scheduler/tasks/rests").await.data()["task"]["status"], "paused");
    server.get("/scheduler/tasks/gone").await.refusal(404);
    let store = server.get("/scheduler/status").await.data()["store"].clone();
    assert_eq!(
        (&store["kind"], &store["durable"], &store["healthy"]),
        (&json!("file"), &json!(true), &json!(true))
    );
    assert!(store["location"].as_str().unwrap().ends_with("data/tasks"), "{store}");
    assert!(store["bytes"].as_u64() > Some(100), "{store}");
    assert_eq!(store["errors"], 0, "{store}");
    assert!(store["pending"].is_u64(), "{store}");
    create(&server, json!({"id": "late", "schedule": {"type": "interval", "interval": "1h"}})).await;
    let store = server.get("/scheduler/status").await.data()["store"].clone();
    assert!(store["last_commit_at"].is_string(), "{store}");
}

#[tokio::test]
async fn an_orderly_end_keeps_the_records_of_runs() {
    let server = Server::start().await;
    create(&server, json!({"id": "done", "schedule": {"type": "once", "delay": "1ms"}})).await;
    server.until("/scheduler/tasks/done", |data| data["task"]["status"] == "completed").await;
    let before = server.get("/scheduler/runs").await.data();
    server.signal(rustix::process::Signal::TERM);
    let (folder, code) = server.ended_in().await;
    assert_eq!(code, Some(0));
    let server = Server::again(folder).await;
    let task = server.get("/scheduler/tasks/done").await.data()["task"].clone();
    assert_eq!((&task["status"], &task["run_count"]), (&json!("completed"), &json!(1)), "{task}");
    for path in ["/scheduler/tasks/done/runs", "/scheduler/runs"] {
        assert_eq!(server.get(path).await.data()["runs"], before["runs"], "{path}");
    }
    let run = before["runs"][0]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/scheduler/runs/{run}")).await.data()["run"]["outcome"], "completed");
}

#[tokio::test]
async fn a_second_process_is_refused_the_folder_by_name() {
    let server = Server::start().await;
    let mut second = command(&server.folder, server_program());
    let output = tokio::time::timeout(crate::process::PATIENCE, second.output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("data/tasks") && said.contains(&server.pid().to_string()), "{said}");
    assert!(said.contains("open the task store"), "{said}");
}

#[tokio::test]
async fn tasks_in_memory_end_with_their_process() {
    let server = Server::with_config("[scheduler]\nstore = \"memory\"\n").await;
    create(&server, json!({"id": "later", "schedule": {"type": "interval", "interval": "1h"}})).await;
    assert_eq!(server.get("/scheduler/status").await.data()["store"]["kind"], "memory");
    assert!(!server.folder.path().join("data").exists(), "and leave nothing behind");
    let server = Server::again(server.kill().await).await;
    server.get("/scheduler/tasks/later").await.refusal(404);
}
