//! What every answer has.

use http::{Method, Request};
use http_body_util::Full;

use crate::client::{bare, call, get, send};

#[tokio::test]
async fn an_answer_has_the_envelope_and_its_ids() {
    let answer = get(&bare(), "/health/live").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        serde_json::json!({"code": 200, "message": "success", "data": {"status": "alive"}})
    );
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("x-trace-id").len(), 32);
    assert_eq!(answer.header("x-request-id"), answer.header("x-trace-id"));
}

#[tokio::test]
async fn a_trace_goes_on_and_a_request_id_comes_back() {
    let request = Request::get("/nowhere")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("x-request-id", "r-1")
        .body(Full::default())
        .unwrap();
    let answer = send(&bare(), request).await;
    assert_eq!(answer.header("x-trace-id"), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(answer.header("x-request-id"), "r-1");
    assert_eq!(answer.json()["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    for junk in ["", "no", "00-0-0-00", &"x".repeat(5000)] {
        let request = Request::get("/health/live")
            .header("traceparent", junk)
            .header("x-request-id", "a b")
            .body(Full::default());
        let answer = send(&bare(), request.unwrap()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-request-id"), answer.header("x-trace-id"));
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_the_envelope() {
    let api = bare();
    let answer = get(&api, "/nowhere").await;
    assert_eq!((answer.status.as_u16(), answer.json()["error"]["kind"].as_str()), (404, Some("not_found")));
    let answer = call(&api, Method::DELETE, "/health/live", "").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET,HEAD"));
    assert_eq!(answer.json()["error"]["kind"], "method_not_allowed");
}

/// A method that a path does not take is refused as such, whatever key came with it.
#[tokio::test]
async fn a_method_that_is_not_there_uses_up_no_key() {
    let api = bare();
    let ask = |method: Method| {
        let request = http::Request::builder().method(method).uri("/plugins/events/test");
        send(&api, request.header("idempotency-key", "k").body(Default::default()).unwrap())
    };
    for _ in 0..2 {
        assert_eq!(ask(Method::TRACE).await.status, 405);
    }
    assert_ne!(ask(Method::POST).await.json()["error"]["field"], "Idempotency-Key");
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let api = bare();
    let (head, get) = (call(&api, Method::HEAD, "/health/live", "").await, get(&api, "/health/live").await);
    assert_eq!((head.status, head.body.len()), (get.status, 0));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

/// The bodies of refusals, to the letter: clients and their tests rely on them.
#[tokio::test]
async fn the_bodies_of_refusals() {
    let host = crate::host::host().await;
    let hourly = r#"{"id": "t", "schedule": {"type": "interval", "interval": "1h"}}"#;
    call(&host.api, Method::POST, "/scheduler/tasks", hourly).await;
    let big = "x".repeat(2 << 20);
    let mut bodies = Vec::new();
    for (what, method, path, body) in [
        ("unknown route", Method::GET, "/nowhere", ""),
        ("unknown task", Method::GET, "/scheduler/tasks/none", ""),
        ("wrong method", Method::DELETE, "/health/live", ""),
        ("malformed", Method::POST, "/scheduler/tasks", "{"),
        ("empty", Method::POST, "/scheduler/tasks", " "),
        ("unknown field", Method::POST, "/scheduler/tasks", r#"{"colour": "red"}"#),
        (
            "impossible cron",
            Method::POST,
            "/scheduler/tasks",
            r#"{"id": "c", "schedule": {"type": "cron", "cron": "0 0 31 2 *"}}"#,
        ),
        ("conflict", Method::POST, "/scheduler/tasks", hourly),
        ("state", Method::POST, "/scheduler/tasks/t/resume", ""),
        ("too large", Method::POST, "/scheduler/tasks", big.as_str()),
        ("limit", Method::GET, "/scheduler/tasks?limit=0", ""),
        ("in use", Method::POST, "/plugins/scheduler/stop", ""),
    ] {
        let mut json = call(&host.api, method, path, body).await.json();
        json["trace_id"] = "…".into();
        bodies.push(format!("{what}: {json:#}"));
    }
    insta::assert_snapshot!(bodies.join("\n"));
}

#[tokio::test]
async fn requests_are_measured_by_route_and_never_by_path() {
    let metrics = telemetry::Metrics::builder().build();
    let api = http_api::Api::new(
        management::Management::builder().metrics(metrics.clone()).build(),
        http_api::HttpConfig::default(),
    );
    metrics.install().expect("no other test of this binary installs a recorder");
    for n in 0..3 {
        get(&api, &format!("/scheduler/tasks/t{n}")).await;
        get(&api, &format!("/nowhere/{n}")).await;
    }
    let text = String::from_utf8_lossy(&get(&api, "/metrics").await.body).into_owned();
    assert!(text.contains("http_route=\"/scheduler/tasks/{id}\""), "{text}");
    assert!(!text.contains("/t0") && !text.contains("nowhere"), "{text}");
}

#[tokio::test]
async fn metrics_come_in_both_text_formats() {
    let api = http_api::Api::new(
        management::Management::builder().metrics(telemetry::Metrics::builder().build()).build(),
        http_api::HttpConfig::default(),
    );
    assert!(get(&api, "/metrics").await.header("content-type").starts_with("text/plain; version=0.0.4"));
    let open = Request::get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
    let open = send(&api, open.body(Full::default()).unwrap()).await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with(b"# EOF\n"));
}
