//! Tasks over HTTP.

use runtime::Timestamp;
use serde_json::{Value, json};

use crate::process::Server;

async fn create(server: &Server, body: Value) -> Value {
    let answer = server.post("/scheduler/tasks", body).await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text);
    answer.data()["task"].take()
}

async fn runs(server: &Server, id: &str) -> Vec<Value> {
    let data = server.get(&format!("/scheduler/tasks/{id}/runs")).await.data();
    data["runs"].as_array().unwrap().clone()
}

#[tokio::test]
async fn every_kind_of_schedule_is_taken_and_says_when_it_runs_next() {
    let server = Server::start().await;
    for (id, schedule) in [
        ("every", json!({"type": "cron", "cron": "@every 1m"})),
        ("daily", json!({"type": "cron", "cron": "@daily"})),
        ("five", json!({"type": "cron", "cron": "0 2 * * MON-FRI", "timezone": "Asia/Shanghai"})),
        ("six", json!({"type": "cron", "cron": "30 0 2 * * *", "timezone": "America/New_York"})),
        ("interval", json!({"type": "interval", "interval": "30s", "max_runs": 10})),
        ("delayed", json!({"type": "interval", "interval": "30s", "delay": "5s", "mode": "delay"})),
        ("after", json!({"type": "once", "delay": "10s"})),
        ("at", json!({"type": "once", "at": "2030-01-01T00:00:00Z"})),
    ] {
        let task =
            create(&server, json!({"id": id, "schedule": schedule, "payload": {"message": "hi"}})).await;
        assert_eq!((&task["status"], &task["executor"]), (&json!("pending"), &json!("log")), "{task}");
        let next: Timestamp = task["next_run_at"].as_str().unwrap().parse().unwrap();
        let created: Timestamp = task["created_at"].as_str().unwrap().parse().unwrap();
        assert!(next >= created, "{task}");
    }
    let list = server.get("/scheduler/tasks?limit=3").await.data();
    assert_eq!((list["tasks"].as_array().unwrap().len(), &list["total"]), (3, &json!(8)));
    let cursor = list["next_cursor"].as_str().unwrap();
    let rest = server.get(&format!("/scheduler/tasks?limit=10&cursor={cursor}")).await.data();
    assert_eq!((rest["tasks"].as_array().unwrap().len(), &rest["next_cursor"]), (5, &Value::Null));
    let pending = server.get("/scheduler/tasks/status/pending").await.data();
    assert_eq!(pending["total"], 8);
    let found = server.get("/scheduler/tasks?q=daily").await.data();
    assert_eq!(found["total"], 1, "{found}");
    let status = server.get("/scheduler/status").await.data();
    assert_eq!((&status["running"], &status["total_tasks"]), (&json!(true), &json!(8)), "{status}");
    assert_eq!(status["status_counts"]["pending"], 8);
}

#[tokio::test]
async fn promise_2_runs_are_on_time_never_early_and_stop_at_max_runs() {
    let server = Server::start().await;
    let schedule = json!({"type": "interval", "interval": "50ms", "max_runs": 3});
    create(&server, json!({"id": "thrice", "schedule": schedule, "payload": {"message": "hi"}})).await;
    let data = server.until("/scheduler/tasks/thrice", |data| data["task"]["status"] == "completed").await;
    assert_eq!(data["task"]["run_count"], 3, "{data}");
    let runs = runs(&server, "thrice").await;
    assert_eq!(runs.len(), 3);
    for run in &runs {
        let at = |key: &str| run[key].as_str().unwrap().parse::<Timestamp>().unwrap();
        assert!(at("started_at") >= at("scheduled_for"), "{run}");
        assert_eq!(run["outcome"], "completed", "{run}");
        let one = server.get(&format!("/scheduler/runs/{}", run["id"].as_str().unwrap())).await.data();
        assert_eq!(one["run"]["id"], run["id"]);
    }
}

#[tokio::test]
async fn a_task_is_paused_resumed_triggered_replaced_cancelled_and_removed() {
    let server = Server::start().await;
    let body = json!({"id": "t", "schedule": {"type": "interval", "interval": "1h"}});
    create(&server, body.clone()).await;
    let control = async |action: &str| {
        let path = format!("/scheduler/tasks/t/{action}");
        server.send(reqwest::Method::POST, &path, None).await
    };
    control("pause").await.data();
    let task = server.get("/scheduler/tasks/t").await.data();
    assert_eq!((&task["task"]["status"], &task["task"]["next_run_at"]), (&json!("paused"), &Value::Null));
    control("pause").await.refusal(409);
    control("resume").await.data();
    control("trigger").await.data();
    server.until("/scheduler/tasks/t", |data| data["task"]["run_count"] == 1).await;

    let answer = server.get("/scheduler/tasks/t").await;
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    let mut changed = body.clone();
    changed["description"] = json!("changed");
    let put = async |tag: &str| {
        let text = changed.to_string();
        let body = Some((text.as_str(), "application/json"));
        server.send_as(reqwest::Method::PUT, "/scheduler/tasks/t", body, &[("if-match", tag)]).await
    };
    put(&tag).await.data();
    let stale = put(&tag).await;
    assert!([409, 412].contains(&stale.status.as_u16()), "{}", stale.text);

    control("cancel").await.data();
    assert_eq!(server.get("/scheduler/tasks/t").await.data()["task"]["status"], "canceled");
    server.delete("/scheduler/tasks/t").await.data();
    server.get("/scheduler/tasks/t").await.refusal(404);
    control("pause").await.refusal(404);
}

#[tokio::test]
async fn the_event_executor_publishes_and_the_http_executor_calls() {
    let server = Server::start().await;
    let mut events = server.events("?type=custom.*", None).await;
    let once = json!({"type": "once", "delay": "1ms"});
    let payload = json!({"topic": "custom.tick", "data": {"n": 1}});
    create(&server, json!({"id": "e", "executor": "event", "payload": payload, "schedule": once})).await;
    let (_, event) = events.next_of("custom.tick").await;
    assert_eq!(event["data"], json!({"n": 1}), "{event}");

    let payload = json!({"url": format!("{}/health/live", server.base), "method": "GET"});
    create(&server, json!({"id": "h", "executor": "http", "payload": payload, "schedule": once})).await;
    server.until("/scheduler/tasks/h", |data| data["task"]["status"] == "completed").await;
    assert_eq!(runs(&server, "h").await[0]["outcome"], "completed");

    let payload = json!({"url": format!("{}/absent", server.base), "method": "GET"});
    create(&server, json!({"id": "f", "executor": "http", "payload": payload, "schedule": once})).await;
    let failed = server.until("/scheduler/tasks/f", |data| data["task"]["status"] == "failed").await;
    assert!(failed["task"]["last_error"].as_str().unwrap().contains("404"), "{failed}");
}

#[tokio::test]
async fn what_is_to_run_next_can_be_asked_without_creating_anything() {
    let server = Server::start().await;
    let schedule = json!({"type": "cron", "cron": "0 2 * * *", "timezone": "Europe/Berlin"});
    let data = server.post("/scheduler/preview", json!({"schedule": schedule, "count": 3})).await.data();
    assert_eq!(data["times"].as_array().unwrap().len(), 3, "{data}");
    assert_eq!(server.get("/scheduler/tasks").await.data()["total"], 0);
    let executors = server.get("/scheduler/executors").await.data().to_string();
    for name in ["log", "event", "http"] {
        assert!(executors.contains(&format!("\"{name}\"")), "{executors}");
    }
}

/// A run that hangs is cancelled in time, so that the stop is orderly and the run has its record.
#[tokio::test]
async fn a_stop_of_the_scheduler_cancels_what_hangs() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start().await;
    let task = json!({
        "id": "hangs", "executor": "http", "payload": {"url": format!("http://{}/", hole.local_addr().unwrap())},
        "schedule": {"type": "once", "delay": "1ms"},
    });
    server.post("/scheduler/tasks", task).await.data();
    server.until("/scheduler/tasks/hangs", |data| data["task"]["status"] == "running").await;
    let stopped = server.send(reqwest::Method::POST, "/plugins/scheduler/stop", None).await.data();
    assert_eq!(stopped["plugin"]["status"], "stopped", "{stopped}");
    let runs = server.get("/scheduler/tasks/hangs/runs").await.data();
    assert!(runs["runs"][0]["ended_at"].is_string(), "{runs}");
}

#[tokio::test]
async fn executors_say_what_their_payloads_look_like() {
    let server = Server::start().await;
    let executors = server.get("/scheduler/executors").await.data()["executors"].take();
    for name in ["event", "http", "log"] {
        let executor =
            executors.as_array().unwrap().iter().find(|executor| executor["name"] == name).unwrap();
        let schema = jsonschema::Validator::new(&executor["payload_schema"]).unwrap();
        let examples = executor["payload_schema"]["examples"].as_array().unwrap().clone();
        for (at, payload) in examples.into_iter().enumerate() {
            assert!(schema.is_valid(&payload), "{name}: {payload}");
            let task = json!({
                "id": format!("{name}-{at}"), "executor": name, "payload": payload,
                "schedule": {"type": "once", "delay": "1h"},
            });
            server.post("/scheduler/tasks", task).await.data();
        }
    }
}

/// Each time of a range is run once, after a dry run, and what became of each can be asked.
#[tokio::test]
async fn promise_3_missed_times_are_made_up_for_once() {
    let server = Server::start().await;
    create(&server, json!({"id": "hourly", "schedule": {"type": "cron", "cron": "@hourly"}})).await;
    let range = json!({"from": "2024-02-29T00:00:00Z", "until": "2024-02-29T04:59:59Z"});
    let dry = server.post("/scheduler/tasks/hourly/backfill?dry_run=true", range.clone()).await;
    assert_eq!((dry.status.as_u16(), &dry.json()["data"]["count"]), (200, &json!(5)), "{}", dry.text);
    assert_eq!(server.get("/scheduler/runs").await.data()["total"], 0);
    let begun = server.post("/scheduler/tasks/hourly/backfill", range.clone()).await;
    assert_eq!(begun.status.as_u16(), 202, "{}", begun.text);
    server.until("/scheduler/tasks/hourly", |data| data["task"]["run_count"] == 5).await;
    let again = server.post("/scheduler/tasks/hourly/backfill", range).await;
    let data = &again.json()["data"];
    assert_eq!((again.status.as_u16(), &data["count"], &data["already_run"]), (200, &json!(0), &json!(5)));
    let mut times: Vec<String> = runs(&server, "hourly")
        .await
        .iter()
        .map(|run| format!("{} {}", run["origin"].as_str().unwrap(), run["scheduled_for"].as_str().unwrap()))
        .collect();
    times.sort_unstable();
    let all: Vec<_> = (0..5).map(|hour| format!("backfill 2024-02-29T0{hour}:00:00Z")).collect();
    assert_eq!(times, all);
    let why = async |at: &str| {
        server.get(&format!("/scheduler/tasks/hourly/why?at={at}")).await.data()["answer"].take()
    };
    assert_eq!(why("2024-02-29T03:00:00Z").await, "ran");
    assert_eq!(why("2024-02-29T05:00:00Z").await, "not_created");
    assert_eq!(why("2999-01-01T05:00:00Z").await, "not_yet");
    assert_eq!(why("2999-01-01T05:00:01Z").await, "not_scheduled");
    server
        .post("/scheduler/tasks/hourly/backfill", json!({"from": "2999-01-01T00:00:00Z"}))
        .await
        .refusal(422);
    server.get("/scheduler/tasks/hourly/why?at=noon").await.refusal(422);
    server.get("/scheduler/tasks/none/why").await.refusal(404);
}

#[tokio::test]
async fn a_failing_task_is_paused_and_outputs_are_passed_on() {
    let server = Server::start().await;
    let url = format!("{}/absent", server.base);
    let every = json!({"type": "interval", "interval": "20ms", "delay": "0s"});
    create(
        &server,
        json!({"id": "fails", "executor": "http", "payload": {"url": url, "method": "GET"},
            "schedule": every, "pause_after_failures": 2}),
    )
    .await;
    let data = server.until("/scheduler/tasks/fails", |data| data["task"]["status"] == "paused").await;
    assert_eq!(data["task"]["pause_reason"], "2 failures in a row", "{data}");
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("scheduler_task_auto_pauses_total 1"), "{metrics}");

    let mut events = server.events("?type=custom.*", None).await;
    let first = json!({"id": "first", "executor": "event", "payload": {"topic": "custom.first"},
        "schedule": {"type": "interval", "interval": "1h"}});
    create(&server, first).await;
    let second = json!({"id": "second", "executor": "event", "payload": {"topic": "custom.second", "data": {}},
        "after": [{"task": "first", "into": "/data"}]});
    create(&server, second).await;
    server.send(reqwest::Method::POST, "/scheduler/tasks/first/trigger", None).await.data();
    let (_, event) = events.next_of("custom.second").await;
    assert!(event["data"]["delivered_to"].is_number(), "the output of the first: {event}");
    let done = |data: &Value| data["task"]["run_count"] == 1;
    server.until("/scheduler/tasks/second", done).await;
    let root = runs(&server, "first").await[0]["id"].as_str().unwrap().to_owned();
    let chain = server.get(&format!("/scheduler/runs?chain={root}")).await.data();
    assert_eq!((&chain["total"], &chain["runs"][0]["caused_by"]), (&json!(2), &json!([root])), "{chain}");
    let graph = server.get("/scheduler/graph?task=second&depth=1").await.data();
    assert_eq!(graph["edges"], json!([{"from": "first", "to": "second", "on": "success"}]));
}

#[tokio::test]
async fn many_tasks_are_changed_exported_and_imported() {
    let server = Server::start().await;
    for n in 0..20 {
        let group = if n % 2 == 0 { "even" } else { "odd" };
        let schedule = json!({"type": "interval", "interval": "1h"});
        create(&server, json!({"id": format!("t{n:02}"), "group": group, "schedule": schedule})).await;
    }
    let request = json!({"action": "pause", "filter": {"group": "odd"}});
    let dry = server.post("/scheduler/bulk?dry_run=true", request.clone()).await.data();
    assert_eq!((&dry["done"], &dry["dry_run"]), (&json!(10), &json!(true)), "{dry}");
    let report = server.post("/scheduler/bulk", request).await.data();
    assert_eq!(
        (&report["done"], &report["refused"], &report["more"]),
        (&json!(10), &json!(0), &json!(false))
    );
    assert_eq!(server.get("/scheduler/tasks?group=odd&status=paused&limit=1").await.data()["total"], 10);
    server.post("/scheduler/bulk", json!({"action": "remove"})).await.refusal(422);

    let text = server.get("/scheduler/export").await.text;
    assert_eq!(text.lines().count(), 20, "{text}");
    let import = async |query: &str, text: &str| {
        let body = Some((text, "application/jsonl"));
        server.send_as(reqwest::Method::POST, &format!("/scheduler/import{query}"), body, &[]).await
    };
    assert_eq!(import("", &text).await.refusal(422)["field"], "line 1, task.id");
    server.post("/scheduler/bulk", json!({"action": "remove", "all": true})).await.data();
    assert_eq!(server.get("/scheduler/tasks").await.data()["total"], 0);
    let tried = import("?dry_run=true", &text).await.data();
    assert_eq!((&tried["created"], &tried["dry_run"]), (&json!(20), &json!(true)), "{tried}");
    assert_eq!(server.get("/scheduler/tasks").await.data()["total"], 0);
    assert_eq!(import("", &text).await.data()["created"], 20);
    assert_eq!(server.get("/scheduler/tasks/status/paused").await.data()["total"], 10);
    let wrong = format!("{text}{}", json!({"task": {"id": "x", "after": ["nobody"]}}));
    let refused = import("?on_conflict=replace", &wrong).await;
    assert_eq!(refused.refusal(422)["field"], "line 21, task.after[0].task", "{}", refused.text);
    server.post("/scheduler/import", json!({})).await.refusal(415);
}
