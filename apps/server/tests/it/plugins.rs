//! Plugins over HTTP: what runs, what depends on what, and what happens to one that fails.

use reqwest::Method;
use serde_json::{Value, json};

use crate::process::{Folder, Server, command};

/// The server of an example, with these in its environment.
pub(crate) async fn example(name: &str, variables: &[(&str, &str)]) -> Server {
    let mut program = std::env::current_exe().unwrap();
    program.pop();
    program.pop();
    let folder = Folder::new();
    let mut command = command(&folder, program.join("examples").join(name));
    command.envs(variables.iter().copied());
    Server::spawn(folder, command).await
}

/// The server of `examples/troubled`: Gantry's, with plugins that do wrong.
pub(crate) async fn troubled() -> Server {
    // As on a machine with one core, where one plugin that blocks would hold all the threads there are.
    let one_core = ("TOKIO_WORKER_THREADS", "1");
    example("troubled", &[("GANTRY__MANAGER__MAX_STARTUP_TIME", "500ms"), one_core]).await
}

async fn act(server: &Server, plugin: &str, action: &str) -> crate::process::Answer {
    server.send(Method::POST, &format!("/plugins/{plugin}/{action}"), None).await
}

async fn state(server: &Server, plugin: &str) -> Value {
    server.get(&format!("/plugins/{plugin}")).await.data()["plugin"]["status"].take()
}

#[tokio::test]
async fn what_runs_is_shown_the_scheduler_and_the_transport_among_it() {
    let server = Server::start().await;
    let status = server.get("/plugins/status").await.data();
    for name in ["scheduler", "http"] {
        assert_eq!(status["plugins"][name]["status"], "running", "{status}");
        assert_eq!(status["plugins"][name]["health"]["healthy"], true, "{status}");
        let plugin = server.get(&format!("/plugins/{name}")).await.data();
        assert_eq!(plugin["plugin"]["status"], "running", "{plugin}");
    }
    assert_eq!(status["total"], status["plugins"].as_object().unwrap().len());
    assert!(server.get("/plugins").await.data()["total"].as_u64().unwrap() >= 2);
    let graph = server.get("/plugins/graph").await.data();
    assert!(graph["nodes"].is_array() && graph["edges"].is_array() && graph["levels"].is_array(), "{graph}");
    let types = server.get("/plugins/types").await.data();
    assert!(types["types"].to_string().contains("greeter"), "{types}");
}

#[tokio::test]
async fn a_type_is_loaded_configured_stopped_started_and_unloaded() {
    let server = Server::start().await;
    let greeting = async || server.raw(Method::GET, "/greeter/ada", None, &[]).await;
    assert_eq!(greeting().await.status.as_u16(), 404);
    server.post("/plugins/load", json!({"type": "greeter"})).await.data();
    server.until("/plugins/greeter", |data| data["plugin"]["status"] == "running").await;
    assert_eq!(greeting().await.data()["greeting"], "hello, ada");
    assert_eq!(greeting().await.headers["x-greeter"], "was here");

    // The events of the two greetings are counted beside the requests, not within them.
    let counted = |data: &Value| {
        let subscriptions = data["subscriptions"].as_array().unwrap();
        subscriptions.iter().any(|it| it["pattern"] == "greeter.greeted" && it["delivered"] == 2)
    };
    server.until("/events/subscriptions?limit=1000", counted).await;
    let trigger = "/scheduler/tasks/greeter-report/trigger";
    server.send(Method::POST, trigger, None).await.data();
    let task = "/scheduler/tasks/greeter-report/runs";
    let runs = server.until(task, |data| data["runs"][0]["outcome"] == "completed").await;
    assert_eq!(runs["runs"][0]["output"]["greetings"], 2, "{runs}");

    let refused = server.put("/plugins/greeter/config", json!({"greeting": 7})).await;
    assert!(refused.refusal(422)["field"].as_str().unwrap().contains("greeting"), "{}", refused.text);
    let refused = server.put("/plugins/greeter/config", json!({"greting": "x"})).await;
    assert!(refused.refusal(422)["field"].as_str().unwrap().contains("greting"), "{}", refused.text);
    assert_eq!(greeting().await.data()["greeting"], "hello, ada", "a refused configuration changes nothing");
    server.put("/plugins/greeter/config", json!({"greeting": "good day"})).await.data();
    assert_eq!(greeting().await.data()["greeting"], "good day, ada");

    act(&server, "greeter", "stop").await.data();
    assert_eq!(greeting().await.status.as_u16(), 404, "promise 4: its routes are gone");
    act(&server, "greeter", "stop").await.refusal(409);
    act(&server, "greeter", "start").await.data();
    assert_eq!(greeting().await.status.as_u16(), 200);
    act(&server, "greeter", "restart").await.data();
    let gone = server.delete("/plugins/greeter").await.data();
    assert_eq!(gone["plugin"]["status"], "destroyed", "{gone}");
    server.get("/plugins/greeter").await.refusal(404);
    server.get("/scheduler/tasks/greeter-report").await.refusal(404);
    server.post("/plugins/load", json!({"type": "absent"})).await.refusal(404);
}

#[tokio::test]
async fn what_others_use_is_stopped_only_by_a_cascade() {
    let server = Server::start().await;
    server.post("/plugins/load", json!({"type": "greeter"})).await.data();
    server.until("/plugins/greeter", |data| data["plugin"]["status"] == "running").await;
    let refused = act(&server, "scheduler", "stop").await;
    refused.refusal(409);
    assert!(refused.text.contains("greeter"), "{}", refused.text);
    let answer = server.send(Method::POST, "/plugins/scheduler/stop?cascade=true", None).await;
    answer.data();
    assert_eq!(
        (state(&server, "scheduler").await, state(&server, "greeter").await),
        (json!("stopped"), json!("stopped"))
    );
    act(&server, "scheduler", "start").await.data();
    act(&server, "greeter", "start").await.data();
    act(&server, "scheduler", "restart").await.data();
    server.until("/plugins/greeter", |data| data["plugin"]["status"] == "running").await;
    server.delete("/plugins/scheduler").await.refusal(409);
    act(&server, "http", "stop").await.refusal(409);
}

#[tokio::test]
async fn a_plugin_that_does_wrong_is_failed_with_its_reason_and_nothing_else_notices() {
    let server = troubled().await;
    for (plugin, reason) in
        [("panics", "out of luck"), ("fails", "no disk"), ("hangs", "deadline"), ("blocks", "")]
    {
        let path = format!("/plugins/{plugin}");
        let data = server.until(&path, |data| data["plugin"]["status"] == "failed").await;
        let error = data["plugin"]["last_error"].to_string();
        assert!(error.contains(reason), "{plugin}: {error}");
    }
    let flaky = server
        .until("/plugins/flaky", |data| {
            data["plugin"]["status"] == "running" && data["plugin"]["restarts"] != 0
        })
        .await;
    assert_eq!(flaky["plugin"]["restarts"], 2, "{flaky}");
    assert_eq!(state(&server, "scheduler").await, "running");
    assert_eq!(server.get("/health/live").await.status.as_u16(), 200);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.ended().await, Some(0));
}
