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

#[tokio::test]
async fn head_is_get_without_a_body() {
    let api = bare();
    let (head, get) = (call(&api, Method::HEAD, "/health/live", "").await, get(&api, "/health/live").await);
    assert_eq!((head.status, head.body.len()), (get.status, 0));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}
