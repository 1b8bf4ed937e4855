//! Tasks over the API.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::client::{Answered, call, get, send};
use crate::host::host;
use http_api::{Api, HttpConfig};

const HOURLY: &str = r#"{"id": "t", "schedule": {"type": "interval", "interval": "1h"}}"#;

fn error(answer: &Answered) -> (u16, String, String) {
    let json = answer.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(json["code"], answer.status.as_u16());
    assert_eq!(json["trace_id"], answer.header("x-trace-id"));
    (answer.status.as_u16(), text(&json["error"]["kind"]), text(&json["error"]["field"]))
}

#[tokio::test]
async fn a_task_is_made_looked_at_replaced_and_removed() {
    let host = host().await;
    let made = call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    assert_eq!((made.status.as_u16(), made.header("location")), (201, "/scheduler/tasks/t"));
    assert_eq!(made.json()["data"]["task"]["status"], "pending");

    let seen = get(&host.api, "/scheduler/tasks/t").await;
    assert_eq!(seen.header("etag"), made.header("etag"));
    let task = &seen.json()["data"]["task"];
    for field in
        ["id", "name", "description", "schedule", "executor", "payload", "status", "created_at", "updated_at"]
    {
        assert!(!task[field].is_null() || field == "payload", "{field}: {task}");
    }
    assert_eq!((&task["executor"], &task["run_count"]), (&json!("log"), &json!(0)));

    let put = |tag: &str| {
        let body = r#"{"id": "t", "schedule": {"type": "interval", "interval": "2h"}}"#;
        Request::put("/scheduler/tasks/t")
            .header("content-type", "application/json")
            .header("if-match", tag)
            .body(Full::from(body))
            .unwrap()
    };
    assert_eq!(error(&send(&host.api, put("\"99\"")).await).0, 412);
    let replaced = send(&host.api, put(seen.header("etag"))).await;
    assert_eq!(replaced.status, 200);
    assert_ne!(replaced.header("etag"), seen.header("etag"));
    assert_eq!(error(&send(&host.api, put(seen.header("etag"))).await).0, 412);
    assert_eq!(error(&send(&host.api, put("2")).await).0, 400);

    assert_eq!(call(&host.api, Method::DELETE, "/scheduler/tasks/t", "").await.status, 200);
    assert_eq!(error(&get(&host.api, "/scheduler/tasks/t").await), (404, "not_found".into(), String::new()));
}

#[tokio::test]
async fn a_task_is_paused_resumed_triggered_and_cancelled() {
    let host = host().await;
    call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    let post =
        async |what: &str| call(&host.api, Method::POST, &format!("/scheduler/tasks/t/{what}"), "").await;
    assert_eq!(error(&post("resume").await), (409, "invalid_state".into(), String::new()));
    assert_eq!(post("pause").await.json()["data"]["task"]["status"], "paused");
    let paused = get(&host.api, "/scheduler/tasks/status/paused").await.json();
    assert_eq!(paused["data"]["tasks"][0]["id"], "t");
    assert_eq!(post("resume").await.json()["data"]["task"]["status"], "pending");

    let triggered = post("trigger").await.json();
    let run = triggered["data"]["run"]["id"].as_str().unwrap_or_else(|| panic!("{triggered}")).to_owned();
    let ended = async {
        while get(&host.api, &format!("/scheduler/runs/{run}")).await.json()["data"]["run"]["outcome"]
            != "completed"
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the run ends");
    let runs = get(&host.api, "/scheduler/tasks/t/runs").await.json();
    assert_eq!((&runs["data"]["total"], &runs["data"]["runs"][0]["id"]), (&json!(1), &json!(run)));

    assert_eq!(post("cancel").await.json()["data"]["task"]["status"], "canceled");
    assert_eq!(error(&post("pause").await).0, 409);
    let status = get(&host.api, "/scheduler/status").await.json();
    assert_eq!(
        (&status["data"]["running"], &status["data"]["status_counts"]),
        (&json!(true), &json!({"canceled": 1}))
    );
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let host = host().await;
    for n in 0..5 {
        let executor = if n == 0 { "event" } else { "log" };
        let body = json!({"id": format!("t{n}"), "executor": executor, "schedule": {"type": "interval", "interval": "1h"},
            "payload": {"type": "custom.x"}});
        let made = call(&host.api, Method::POST, "/scheduler/tasks", &body.to_string()).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
    }
    let first = get(&host.api, "/scheduler/tasks?executor=log&limit=3").await.json();
    assert_eq!(
        (first["data"]["total"].clone(), first["data"]["tasks"].as_array().unwrap().len()),
        (json!(4), 3)
    );
    let cursor = first["data"]["next_cursor"].as_str().unwrap();
    let rest = get(&host.api, &format!("/scheduler/tasks?executor=log&limit=3&cursor={cursor}")).await.json();
    assert_eq!(rest["data"]["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(rest["data"]["next_cursor"], Value::Null);
    assert_eq!(get(&host.api, "/scheduler/tasks?q=T3").await.json()["data"]["total"], 1);
}

#[tokio::test]
async fn previews_executors_and_the_graph_are_shown() {
    let host = host().await;
    let body = r#"{"schedule": {"type": "cron", "cron": "0 2 * * *", "timezone": "Asia/Shanghai"}, "count": 2, "from": "2030-01-01T00:00:00Z"}"#;
    let times = call(&host.api, Method::POST, "/scheduler/preview", body).await.json();
    assert_eq!(times["data"]["times"], json!(["2030-01-01T18:00:00Z", "2030-01-02T18:00:00Z"]));
    assert_eq!(
        times["data"]["description"],
        json!({
            "en": "At 02:00, every day, in the time zone Asia/Shanghai",
            "zh": "每天 02:00，时区 Asia/Shanghai",
        })
    );
    let executors = get(&host.api, "/scheduler/executors").await.json();
    let names: Vec<_> =
        executors["data"]["executors"].as_array().unwrap().iter().map(|e| e["name"].clone()).collect();
    assert!(names.contains(&json!("log")), "{names:?}");
    call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    call(&host.api, Method::POST, "/scheduler/tasks", r#"{"id": "u", "after": ["t"]}"#).await;
    let graph = get(&host.api, "/scheduler/graph").await.json();
    assert_eq!(graph["data"]["edges"], json!([{"from": "t", "to": "u", "on": "success"}]));
    assert_eq!(error(&call(&host.api, Method::DELETE, "/scheduler/tasks/t", "").await).1, "in_use");
}

/// Promise 10: bad input gets a clear error that names the field, and changes nothing.
#[tokio::test]
async fn promise_10_a_body_that_is_refused_leaves_no_task() {
    let host = host().await;
    let once =
        |extra: &str| format!(r#"{{"id": "t", "schedule": {{"type": "once", "delay": "1h"}}{extra}}}"#);
    let scheduled = |schedule: &str| format!(r#"{{"id": "t", "schedule": {schedule}}}"#);
    let cases = [
        ("{".to_owned(), 400, "malformed", ""),
        ("[]".to_owned(), 422, "invalid_field", ""),
        ("null".to_owned(), 422, "invalid_field", ""),
        (once(", "), 400, "malformed", ""),
        (once(r#", "colour": "red""#), 422, "invalid_field", "colour"),
        (once(r#", "priority": "high""#), 422, "invalid_field", "priority"),
        (once(r#", "priority": 101"#), 422, "invalid_field", "priority"),
        (once(r#", "timeout": "soon""#), 422, "invalid_field", "timeout"),
        (once(r#", "executor": "a b""#), 422, "invalid_field", "executor"),
        (once(r#", "after": ["t"]"#), 422, "invalid_field", "after"),
        (r#"{"id": "", "schedule": {"type": "once", "delay": "1h"}}"#.to_owned(), 422, "invalid_field", "id"),
        (
            r#"{"id": "a b", "schedule": {"type": "once", "delay": "1h"}}"#.to_owned(),
            422,
            "invalid_field",
            "id",
        ),
        (r#"{"id": 7, "schedule": {"type": "once", "delay": "1h"}}"#.to_owned(), 422, "invalid_field", "id"),
        (scheduled(r#"{"type": "cron", "cron": "0 0 31 2 *"}"#), 422, "invalid_field", "schedule.cron"),
        (scheduled(r#"{"type": "cron", "cron": "nonsense"}"#), 422, "invalid_field", "schedule.cron"),
        (
            scheduled(r#"{"type": "cron", "cron": "* * * * *", "timezone": "Mars/Olympus"}"#),
            422,
            "invalid_field",
            "schedule.timezone",
        ),
        (scheduled(r#"{"type": "interval", "interval": "0s"}"#), 422, "invalid_field", "schedule.interval"),
        (scheduled(r#"{"type": "interval", "interval": "-5s"}"#), 422, "invalid_field", "schedule.interval"),
        (scheduled(r#"{"type": "interval"}"#), 422, "invalid_field", "schedule.interval"),
        (scheduled(r#"{"type": "once", "at": "tomorrow"}"#), 422, "invalid_field", "schedule.at"),
        (scheduled(r#"{"type": "sometimes"}"#), 422, "invalid_field", "schedule.type"),
        (scheduled("{}"), 422, "invalid_field", "schedule.type"),
    ];
    for (body, status, kind, field) in cases {
        let answer = call(&host.api, Method::POST, "/scheduler/tasks", &body).await;
        let (got_status, got_kind, got_field) = error(&answer);
        assert_eq!((got_status, got_kind.as_str()), (status, kind), "{body}: {}", answer.json());
        assert!(got_field.starts_with(field), "{body}: {got_field} is not {field}: {}", answer.json());
    }
    assert_eq!(get(&host.api, "/scheduler/tasks").await.json()["data"]["total"], 0);
    assert_eq!(host.scheduler.status().total_tasks, 0);
}

#[tokio::test]
async fn what_is_unknown_or_out_of_range_is_refused() {
    let host = host().await;
    call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    for (method, path, status, field) in [
        (Method::GET, "/scheduler/tasks/none", 404, ""),
        (Method::DELETE, "/scheduler/tasks/none", 404, ""),
        (Method::POST, "/scheduler/tasks/none/pause", 404, ""),
        (Method::GET, "/scheduler/runs/none", 404, ""),
        (Method::GET, "/scheduler/runs/0190b5c5-0000-7000-8000-000000000000", 404, ""),
        (Method::GET, "/scheduler/tasks/%FF", 400, ""),
        (Method::GET, "/scheduler/tasks/status/asleep", 422, "status"),
        (Method::GET, "/scheduler/tasks?status=asleep", 422, "status"),
        (Method::GET, "/scheduler/tasks?limit=0", 422, "limit"),
        (Method::GET, "/scheduler/tasks?limit=1001", 422, "limit"),
        (Method::GET, "/scheduler/tasks?limit=many", 422, "limit"),
        (Method::GET, "/scheduler/tasks?page=2", 422, "page"),
        (Method::GET, "/scheduler/tasks/t/runs?limit=-1", 422, "limit"),
        (Method::GET, "/plugins/events?type=a..b", 422, "type"),
        (Method::GET, "/plugins/events?since=yesterday", 422, "since"),
        (Method::GET, "/services/none", 404, ""),
    ] {
        let answer = call(&host.api, method, path, "").await;
        let (got, _, got_field) = error(&answer);
        assert_eq!((got, got_field.as_str()), (status, field), "{path}: {}", answer.json());
    }
    let again = call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    assert_eq!(error(&again), (409, "already_exists".into(), String::new()));
    let other = r#"{"id": "u", "schedule": {"type": "once", "delay": "1h"}}"#;
    assert_eq!(error(&call(&host.api, Method::PUT, "/scheduler/tasks/t", other).await).2, "id");
}

#[tokio::test]
async fn only_json_is_read() {
    let host = host().await;
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("text/json; x")]
    {
        let mut request = Request::post("/scheduler/tasks");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let answer = send(&host.api, request.body(Full::from(HOURLY)).unwrap()).await;
        assert_eq!(error(&answer).0, 415, "{content_type:?}");
    }
    for content_type in
        ["application/json; charset=utf-8", "APPLICATION/JSON", "application/merge-patch+json"]
    {
        let request = Request::post("/scheduler/tasks").header("content-type", content_type);
        let answer = send(&host.api, request.body(Full::from("{}")).unwrap()).await;
        assert_eq!(answer.status, 422, "{content_type}");
    }
}

#[tokio::test]
async fn a_repeated_write_with_a_key_is_done_once() {
    let host = host().await;
    let post = async |key: &str, body: &'static str| {
        let request = Request::post("/scheduler/tasks")
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(Full::from(body))
            .unwrap();
        send(&host.api, request).await
    };
    let first = post("k1", HOURLY).await;
    let again = post("k1", HOURLY).await;
    assert_eq!(
        (first.status, again.status, again.header("idempotency-replayed")),
        (again.status, first.status, "true")
    );
    assert_eq!((first.body, first.headers["etag"].clone()), (again.body, again.headers["etag"].clone()));
    assert_eq!(host.scheduler.status().total_tasks, 1);
    let other = post("k1", r#"{"id": "u", "schedule": {"type": "once", "delay": "1h"}}"#).await;
    assert_eq!(error(&other).2, "Idempotency-Key");
    assert_eq!(error(&post("k 2", HOURLY).await).0, 400);
    assert_eq!(error(&post("k3", HOURLY).await).0, 409, "another key is another request");
}

#[tokio::test]
async fn every_write_is_in_the_audit_log_refused_ones_too() {
    let host = host().await;
    call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    call(&host.api, Method::POST, "/scheduler/tasks/none/pause", "").await;
    let audit = get(&host.api, "/audit").await.json();
    let seen: Vec<_> = audit["data"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            format!(
                "{} {} {}",
                e["action"].as_str().unwrap(),
                e["target"].as_str().unwrap(),
                e["outcome"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(seen, ["task.pause none not_found", "task.create t done"]);
    assert_eq!(audit["data"]["entries"][0]["caller"], "developer");
}

#[tokio::test]
async fn a_client_that_leaves_finds_its_answer_under_the_key() {
    let host = host().await;
    let request = || {
        Request::post("/plugins/greeter/restart")
            .header("idempotency-key", "k")
            .body(Full::<bytes::Bytes>::default())
            .unwrap()
    };
    let before = host.manager.get("greeter").unwrap().incarnation;
    let mut first = Box::pin(host.api.handle(request(), None));
    assert!(futures_util::poll!(&mut first).is_pending());
    drop(first);
    let answer = async {
        loop {
            let answer = send(&host.api, request()).await;
            if answer.status != 409 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), answer).await.expect("in time");
    assert_eq!(
        (answer.status.as_u16(), answer.header("idempotency-replayed")),
        (200, "true"),
        "{}",
        answer.json()
    );
    assert_eq!(host.manager.get("greeter").unwrap().incarnation, before + 1, "done once");
}

#[tokio::test]
async fn a_write_whose_client_leaves_is_in_the_audit_log_too() {
    let host = host().await;
    let request = Request::post("/plugins/greeter/restart").body(Full::<bytes::Bytes>::default()).unwrap();
    let mut first = Box::pin(host.api.handle(request, None));
    assert!(futures_util::poll!(&mut first).is_pending());
    drop(first);
    let entry = get(&host.api, "/audit").await.json()["data"]["entries"][0].clone();
    assert_eq!((&entry["action"], &entry["target"]), (&json!("plugin.restart"), &json!("greeter")));
    assert_ne!(entry["outcome"], "done");
}

/// Every write of tasks can be tried: refused as it would be, answered as it would be, and nothing changed.
#[tokio::test]
async fn what_is_only_tried_changes_no_task() {
    let host = host().await;
    let body = |id: &str| json!({"id": id, "schedule": {"type": "interval", "interval": "1h"}}).to_string();
    call(&host.api, Method::POST, "/scheduler/tasks", &body("t")).await;
    let before = host.scheduler.get("t").await.unwrap();
    for (method, path, body, status) in [
        (Method::POST, "", body("new"), 201),
        (Method::POST, "", body("t"), 409),
        (Method::POST, "", body("a b"), 422),
        (Method::PUT, "/t", json!({"schedule": {"type": "once", "delay": "1h"}}).to_string(), 200),
        (Method::PUT, "/none", body("none"), 404),
        (Method::POST, "/t/pause", String::new(), 200),
        (Method::POST, "/t/resume", String::new(), 409),
        (Method::POST, "/t/cancel", String::new(), 200),
        (Method::POST, "/t/trigger", String::new(), 200),
        (Method::POST, "/none/trigger", String::new(), 404),
        (Method::DELETE, "/t", String::new(), 200),
    ] {
        let uri = format!("/scheduler/tasks{path}?dry_run=true");
        let answer = call(&host.api, method.clone(), &uri, &body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {body}: {:?}", answer.body);
    }
    assert_eq!(host.scheduler.get("t").await.unwrap(), before);
    assert_eq!(get(&host.api, "/scheduler/tasks").await.json()["data"]["total"], 1);
    assert_eq!(get(&host.api, "/audit").await.json()["data"]["total"], 1, "only what was done");
}

/// A task is read again only where its definition has changed.
#[tokio::test]
async fn a_task_that_is_known_is_not_sent_again() {
    let host = host().await;
    let body = json!({"id": "t", "schedule": {"type": "interval", "interval": "1h"}}).to_string();
    let made = call(&host.api, Method::POST, "/scheduler/tasks", &body).await;
    let known = async |tag: &str| {
        let request = http::Request::get("/scheduler/tasks/t").header("if-none-match", tag);
        send(&host.api, request.body(Default::default()).unwrap()).await
    };
    let same = known(made.header("etag")).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    assert!(!same.header("x-trace-id").is_empty());
    assert_eq!(known("\"7\"").await.status, 200);
}

/// Answers that were written before are given again only where nothing has changed.
#[tokio::test]
async fn what_is_shown_of_a_task_is_never_what_it_was_before() {
    let host = host().await;
    let shown = async || {
        let path = "/scheduler/tasks/seen";
        let (first, again) = (get(&host.api, path).await, get(&host.api, path).await);
        let task = host.scheduler.get("seen").await.unwrap();
        for answer in [&first, &again] {
            assert_eq!(answer.json()["data"]["task"], serde_json::to_value(&task).unwrap());
            assert_eq!(answer.header("etag"), format!("\"{}\"", task.version));
        }
        task
    };
    let spec = |interval: &str, message: &str| {
        format!(
            r#"{{"id": "seen", "schedule": {{"type": "interval", "interval": "{interval}"}}, "payload": {{"message": "{message}"}}}}"#
        )
    };
    call(&host.api, Method::POST, "/scheduler/tasks", &spec("1h", "a")).await;
    let created = shown().await;
    call(&host.api, Method::POST, "/scheduler/tasks/seen/pause", "").await;
    assert_ne!(shown().await.status, created.status);
    call(&host.api, Method::POST, "/scheduler/tasks/seen/resume", "").await;
    shown().await;
    call(&host.api, Method::PUT, "/scheduler/tasks/seen", &spec("2h", "b")).await;
    assert_ne!(shown().await.payload, created.payload);
    call(&host.api, Method::POST, "/scheduler/tasks/seen/trigger", "").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while host.scheduler.get("seen").await.unwrap().run_count == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the run never ended");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(shown().await.run_count, 1);
    call(&host.api, Method::DELETE, "/scheduler/tasks/seen", "").await;
    assert_eq!(get(&host.api, "/scheduler/tasks/seen").await.status, 404);
    call(&host.api, Method::POST, "/scheduler/tasks", &spec("1h", "a")).await;
    assert_ne!(shown().await.incarnation, created.incarnation);
}

#[tokio::test]
async fn missed_times_are_run_after_a_dry_run() {
    let host = host().await;
    let cron = r#"{"id": "t", "schedule": {"type": "cron", "cron": "@hourly"}}"#;
    call(&host.api, Method::POST, "/scheduler/tasks", cron).await;
    let path = "/scheduler/tasks/t/backfill";
    let backfill = async |body: Value| call(&host.api, Method::POST, path, &body.to_string()).await;
    let range = json!({"from": "2020-01-01T00:00:00Z", "until": "2020-01-01T02:30:00Z"}).to_string();
    let dry = call(&host.api, Method::POST, &format!("{path}?dry_run=true"), &range).await;
    let data = &dry.json()["data"];
    assert_eq!((dry.status.as_u16(), &data["count"]), (200, &json!(3)), "{data}");
    assert_eq!(data["times"][2], "2020-01-01T02:00:00Z");
    let range = json!({"from": "2020-01-01T00:00:00Z", "until": "2020-01-01T02:30:00Z", "limit": 2});
    let begun = backfill(range.clone()).await;
    let data = &begun.json()["data"];
    assert_eq!((begun.status.as_u16(), &data["next_from"]), (202, &json!("2020-01-01T02:00:00Z")));
    let ended = async {
        while get(&host.api, "/scheduler/tasks/t").await.json()["data"]["task"]["run_count"] != 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the runs end");
    let run = &get(&host.api, "/scheduler/runs?outcome=completed").await.json()["data"]["runs"][0];
    assert_eq!((&run["origin"], &run["scheduled_for"]), (&json!("backfill"), &json!("2020-01-01T01:00:00Z")));
    let why = get(&host.api, "/scheduler/tasks/t/why?at=2020-01-01T01:00:00Z").await.json();
    assert_eq!((&why["data"]["answer"], &why["data"]["run"]["id"]), (&json!("ran"), &run["id"]), "{why}");
    let none = backfill(json!({"from": "2020-01-01T00:00:00Z", "until": "2020-01-01T01:30:00Z"})).await;
    assert_eq!((none.status.as_u16(), &none.json()["data"]["already_run"]), (200, &json!(2)));
    for (body, field) in [
        (json!({}), ""),
        (json!({"from": "yesterday"}), "from"),
        (json!({"from": "2020-01-01T00:00:00Z", "limit": 0}), "limit"),
        (json!({"from": "2020-01-02T00:00:00Z", "until": "2020-01-01T00:00:00Z"}), "from"),
        (json!({"from": "2020-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"}), "until"),
    ] {
        let refused = error(&backfill(body.clone()).await);
        assert_eq!((refused.0, refused.1.as_str()), (422, "invalid_field"), "{body}");
        assert!(refused.2.starts_with(field), "{body}: {refused:?}");
    }
    call(&host.api, Method::POST, "/scheduler/tasks/t/pause", "").await;
    let paused = backfill(json!({"from": "2020-01-01T00:00:00Z"})).await;
    assert_eq!(error(&paused), (409, "invalid_state".into(), String::new()));
}

#[tokio::test]
async fn one_action_is_done_to_many_and_reported() {
    let host = host().await;
    for n in 0..3 {
        let body =
            json!({"id": format!("t{n}"), "group": "g", "schedule": {"type": "interval", "interval": "1h"}});
        call(&host.api, Method::POST, "/scheduler/tasks", &body.to_string()).await;
    }
    let bulk = async |body: Value| call(&host.api, Method::POST, "/scheduler/bulk", &body.to_string()).await;
    let body = json!({"action": "pause", "filter": {"group": "g"}}).to_string();
    let dry = call(&host.api, Method::POST, "/scheduler/bulk?dry_run=true", &body).await.json();
    assert_eq!((&dry["data"]["done"], &dry["data"]["dry_run"]), (&json!(3), &json!(true)), "{dry}");
    let done = bulk(json!({"action": "pause", "filter": {"group": "g"}})).await.json();
    assert_eq!((&done["data"]["done"], &done["data"]["tasks"]), (&json!(3), &json!(["t0", "t1", "t2"])));
    assert_eq!(get(&host.api, "/scheduler/tasks?group=g&status=paused").await.json()["data"]["total"], 3);
    assert_eq!(get(&host.api, "/scheduler/tasks?group=h").await.json()["data"]["total"], 0);
    let again = bulk(json!({"action": "pause", "filter": {"group": "g"}})).await.json();
    assert_eq!((&again["data"]["done"], &again["data"]["refused"]), (&json!(0), &json!(3)), "{again}");
    for (body, field) in [
        (json!({"action": "remove"}), "filter"),
        (json!({"action": "explode", "all": true}), "action"),
        (json!({"action": "remove", "filter": {"colour": "red"}}), "filter.colour"),
        (json!({"action": "remove", "all": true, "limit": 10_001}), "limit"),
    ] {
        assert_eq!(error(&bulk(body).await), (422, "invalid_field".into(), field.to_owned()));
    }
    assert_eq!(host.scheduler.status().total_tasks, 3);
    let audit = get(&host.api, "/audit").await.json();
    assert_eq!(audit["data"]["entries"][0]["action"], "task.bulk", "{audit}");
}

/// A request with JSON Lines.
fn lines(query: &str, body: String) -> Request<Full<bytes::Bytes>> {
    Request::post(format!("/scheduler/import{query}"))
        .header("content-type", "application/jsonl")
        .body(Full::from(body))
        .unwrap()
}

#[tokio::test]
async fn tasks_go_out_as_json_lines_and_come_in_again() {
    let host = host().await;
    for n in 0..600 {
        let body = json!({"id": format!("t{n:03}"), "payload": {"n": n}, "schedule": {"type": "interval", "interval": "1h"}});
        host.scheduler.create(serde_json::from_value(body).unwrap()).await.unwrap();
    }
    host.scheduler.pause("t007").await.unwrap();
    let answer = get(&host.api, "/scheduler/export").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/jsonl"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 600);
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&first["task"]["id"], &first["status"]), (&json!("t000"), &json!("pending")));

    let taken = send(&host.api, lines("", text.clone())).await;
    assert_eq!(error(&taken), (422, "invalid_field".into(), "line 1, task.id".into()));
    let skipped = send(&host.api, lines("?on_conflict=skip", text.clone())).await.json();
    assert_eq!(skipped["data"]["skipped"], 600, "{skipped}");
    let other = crate::host::host().await;
    let dry = send(&other.api, lines("?dry_run=true", text.clone())).await.json();
    assert_eq!((&dry["data"]["created"], other.scheduler.status().total_tasks), (&json!(600), 0), "{dry}");
    let report = send(&other.api, lines("", text.clone())).await.json();
    assert_eq!((&report["data"]["created"], &report["data"]["failed"]), (&json!(600), &json!(0)), "{report}");
    assert_eq!(
        get(&other.api, "/scheduler/tasks/status/paused").await.json()["data"]["tasks"][0]["id"],
        "t007"
    );

    let wrong = format!("{text}{}", json!({"task": {"id": "x", "schedule": {"type": "once"}}}));
    let wrong = send(&other.api, lines("?on_conflict=replace", wrong)).await;
    assert_eq!(error(&wrong), (422, "invalid_field".into(), "line 601, task.schedule.at".into()));
    let how = send(&other.api, lines("?on_conflict=perhaps", String::new())).await;
    assert_eq!(error(&how).2, "on_conflict");
    let json = call(&other.api, Method::POST, "/scheduler/import", "{}").await;
    assert_eq!(json.status, 415);
}

#[tokio::test]
async fn an_import_may_be_larger_than_other_bodies_and_is_bounded_too() {
    let config = HttpConfig { body_bytes_max: 1024, import_bytes_max: 8192, ..HttpConfig::default() };
    let host = host().await;
    let api = Api::new(host.management.clone(), config);
    let line = |n: usize| json!({"task": {"id": format!("t{n}"), "schedule": {"type": "interval", "interval": "1h"}}});
    let many: Vec<String> = (0..60).map(|n| line(n).to_string()).collect();
    let taken = send(&api, lines("", many.join("\n"))).await;
    assert_eq!((taken.status.as_u16(), &taken.json()["data"]["created"]), (200, &json!(60)));
    let too_many: Vec<String> = (100..300).map(|n| line(n).to_string()).collect();
    assert_eq!(send(&api, lines("", too_many.join("\n"))).await.status, 413);
    let mut keyed = lines("?on_conflict=skip", many.join("\n"));
    keyed.headers_mut().insert("idempotency-key", "k".parse().unwrap());
    assert_eq!(send(&api, keyed).await.status, 413, "with a key all of it is compared");
    assert_eq!(host.scheduler.status().total_tasks, 60);
}

#[tokio::test]
async fn the_graph_and_the_chain_of_a_run_are_shown() {
    let host = host().await;
    call(&host.api, Method::POST, "/scheduler/tasks", HOURLY).await;
    for (id, after) in [("u", "t"), ("v", "u")] {
        let body = json!({"id": id, "after": [after]}).to_string();
        call(&host.api, Method::POST, "/scheduler/tasks", &body).await;
    }
    let near = get(&host.api, "/scheduler/graph?task=t&depth=1").await.json();
    assert_eq!(near["data"]["nodes"].as_array().unwrap().len(), 2, "{near}");
    assert_eq!(error(&get(&host.api, "/scheduler/graph?task=none").await).0, 404);
    assert_eq!(error(&get(&host.api, "/scheduler/graph?depth=1").await).2, "depth");
    let run = call(&host.api, Method::POST, "/scheduler/tasks/t/trigger", "").await.json();
    let run = run["data"]["run"]["id"].as_str().unwrap().to_owned();
    let path = format!("/scheduler/runs?chain={run}&outcome=completed");
    let ended = async {
        while get(&host.api, &path).await.json()["data"]["total"] != 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the chain ends");
    let runs = get(&host.api, &path).await.json()["data"]["runs"].clone();
    assert_eq!((&runs[0]["task"], &runs[0]["chain"]), (&json!("v"), &json!(run)));
    assert_eq!(runs[0]["caused_by"], json!([runs[1]["id"]]));
    for (query, field) in [("chain=x", "chain"), ("outcome=x", "outcome"), ("limit=0", "limit"), ("x=1", "x")]
    {
        assert_eq!(error(&get(&host.api, &format!("/scheduler/runs?{query}")).await).2, field);
    }
    assert_eq!(error(&get(&host.api, "/scheduler/tasks/t/why?at=noon").await).2, "at");
    assert_eq!(error(&get(&host.api, "/scheduler/tasks/none/why").await).0, 404);
    let now = get(&host.api, "/scheduler/tasks/v/why").await.json();
    assert_eq!(now["data"]["answer"], "waits_for_tasks", "{now}");
}
