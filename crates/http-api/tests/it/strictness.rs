//! What is sent is taken as it is documented, or refused by name.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::client::{Answered, bare, call, get, send};
use crate::document::DOCUMENT;
use crate::host::{Host, host};

/// The documented operations, with something in place of their parameters.
fn operations() -> Vec<(Method, String)> {
    let mut all = Vec::new();
    for (path, item) in DOCUMENT.json["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{status}", "pending").replace(['{', '}', '*'], "");
            all.push((method.to_uppercase().parse().unwrap(), path));
        }
    }
    all
}

#[tokio::test]
async fn an_unknown_parameter_is_refused_on_every_path() {
    let api = bare();
    for (method, path) in operations() {
        for query in ["zzz=1", "zzz", "limit=5&zzz=1", "%7A%7Azz"] {
            let answer = call(&api, method.clone(), &format!("{path}?{query}"), "").await;
            let json = answer.json();
            assert_eq!(
                (answer.status.as_u16(), json["error"]["kind"].as_str()),
                (422, Some("invalid_field")),
                "{method} {path}?{query}: {json}"
            );
            let field = json["error"]["field"].as_str().unwrap();
            assert!(["zzz", "zzzz", "limit"].contains(&field), "{method} {path}?{query}: {json}");
        }
        let answer = call(&api, method.clone(), &format!("{path}?q=%ff"), "").await;
        assert_eq!(answer.status, 400, "{method} {path}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn head_is_there_wherever_get_is() {
    let host = host().await;
    for (_, path) in operations().into_iter().filter(|(method, _)| *method == Method::GET) {
        let head = call(&host.api, Method::HEAD, &path, "").await;
        // The bodies of refusals are left out where they are sent.
        assert!(head.body.is_empty() || !head.status.is_success(), "{path}");
        // The body of a stream does not end.
        if path != "/events/stream" {
            assert_eq!(head.status, get(&host.api, &path).await.status, "{path}");
        }
    }
    let head = call(&host.api, Method::HEAD, "/greeter", "").await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn options_says_which_methods_there_are_and_nothing_of_other_origins() {
    let host = host().await;
    let mut paths = operations();
    paths.push((Method::GET, "/greeter".to_owned()));
    paths.push((Method::GET, "/docs/docs.js".to_owned()));
    for (method, path) in paths {
        let request = Request::options(&path)
            .header("origin", "https://elsewhere.example")
            .header("access-control-request-method", method.as_str());
        let answer = send(&host.api, request.body(Full::default()).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (204, 0), "{path}");
        let allowed: Vec<_> = answer.header("allow").split(',').collect();
        assert!(allowed.contains(&method.as_str()), "{method} {path}: {allowed:?}");
        assert!(method != Method::GET || allowed.contains(&"HEAD"), "{path}: {allowed:?}");
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{path}");
    }
    assert_eq!(call(&host.api, Method::OPTIONS, "/nowhere", "").await.status, 404);
}

async fn refused(host: &Host, method: Method, path: &str, body: &str) -> (u16, String, String) {
    let Answered { status, body: answered, .. } = call(&host.api, method, path, body).await;
    let json: Value = serde_json::from_slice(&answered).unwrap();
    let field = json["error"]["field"].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), field, json["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_list_is_no_object_at_any_depth() {
    let host = host().await;
    for (method, path, body, field) in [
        (Method::POST, "/scheduler/tasks", r#"{"id": "a", "schedule": ["interval"]}"#, "schedule"),
        (
            Method::POST,
            "/scheduler/tasks",
            r#"{"id": "a", "schedule": {"type": "interval", "interval": "1h"}, "retry": [3, "1s"]}"#,
            "retry",
        ),
        (
            Method::POST,
            "/scheduler/tasks",
            r#"{"id": "a", "schedule": {"type": "interval", "interval": "1h"}, "misfire": ["skip"]}"#,
            "misfire",
        ),
        (Method::POST, "/scheduler/tasks", r#"{"id": "a", "after": [["b", "success"]]}"#, "after[0]"),
        (Method::POST, "/scheduler/preview", r#"{"schedule": ["cron", "@daily"]}"#, "schedule"),
        (Method::POST, "/scheduler/tasks", r#"{"id": "a", "metadata": ["b"]}"#, "metadata"),
    ] {
        let (status, at, message) = refused(&host, method, path, body).await;
        assert_eq!((status, at.as_str()), (422, field), "{body}: {message}");
        assert!(message.contains("object"), "{body}: {message}");
    }
    assert!(host.scheduler.get("a").await.is_err(), "nothing was created");
}

#[tokio::test]
async fn a_key_stands_once() {
    let host = host().await;
    for (method, path, body, field) in [
        (Method::POST, "/scheduler/tasks", r#"{"id": "a", "id": "b"}"#, "id"),
        (
            Method::POST,
            "/scheduler/tasks",
            r#"{"id": "a", "schedule": {"type": "once", "delay": "1h", "type": "once"}}"#,
            "schedule.type",
        ),
        (
            Method::POST,
            "/scheduler/tasks",
            r#"{"id": "a", "payload": {"x": [{"y": 1, "y": 2}]}}"#,
            "payload.x[0].y",
        ),
        (Method::POST, "/scheduler/tasks", r#"{"id": "a", "metadata": {"x": 1, "\u0078": 2}}"#, "metadata.x"),
        (Method::POST, "/events", r#"{"type": "custom.a", "type": "custom.b"}"#, "type"),
        (Method::PUT, "/plugins/greeter/config", r#"{"greeting": "a", "greeting": "b"}"#, "greeting"),
    ] {
        let (status, at, message) = refused(&host, method, path, body).await;
        assert_eq!((status, at.as_str()), (422, field), "{body}: {message}");
        assert!(message.ends_with("is there twice"), "{body}: {message}");
    }
}

#[tokio::test]
async fn nesting_and_numbers_have_bounds() {
    let host = host().await;
    let task = |payload: &str| {
        format!(r#"{{"id": "a", "schedule": {{"type": "once", "delay": "1h"}}, "payload": {payload}}}"#)
    };
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    // The body itself is one level.
    let (status, at, message) = refused(&host, Method::POST, "/scheduler/tasks", &task(&nested(64))).await;
    assert_eq!((status, at.starts_with("payload[0]")), (422, true), "{message}");
    assert!(message.ends_with("nested deeper than 64 levels"), "{message}");
    assert_eq!(call(&host.api, Method::POST, "/scheduler/tasks", &task(&nested(100_000))).await.status, 422);
    assert_eq!(call(&host.api, Method::POST, "/scheduler/tasks", &task(&nested(63))).await.status, 201);

    for (body, field) in [
        (r#"{"id": "n", "priority": 1e999}"#, "priority"),
        (r#"{"id": "n", "payload": {"n": -1e999}}"#, "payload.n"),
        (r#"{"id": "n", "priority": 99999}"#, "priority"),
        (r#"{"id": "n", "priority": 1.5}"#, "priority"),
        (r#"{"id": "n", "retry": {"attempts": -1}}"#, "retry.attempts"),
        (r#"{"id": "n", "retry": {"attempts": 4294967296}}"#, "retry.attempts"),
        (r#"{"id": "n", "retry": {"attempts": 18446744073709551616}}"#, "retry.attempts"),
    ] {
        let (status, at, message) = refused(&host, Method::POST, "/scheduler/tasks", body).await;
        assert_eq!((status, at.as_str()), (422, field), "{body}: {message}");
    }
}

#[tokio::test]
async fn text_is_utf_8_and_ids_have_no_nul() {
    let host = host().await;
    for body in
        [&b"{\"id\": \"a\xff\"}"[..], b"{\"id\": \"\\ud800\"}", b"\xef\xbb\xbf{}", b"{\"id\": \"a\0\"}"]
    {
        let request = Request::post("/scheduler/tasks").header("content-type", "application/json");
        let answer = send(&host.api, request.body(Full::new(body.to_vec().into())).unwrap()).await;
        assert_eq!(answer.json()["error"]["kind"], "malformed", "{answer:?}");
    }
    for path in ["/scheduler/tasks/%ff", "/plugins/%ff", "/scheduler/tasks/%ff/runs", "/services/%ff"] {
        assert_eq!(get(&host.api, path).await.json()["error"]["kind"], "malformed", "{path}");
        assert_eq!(call(&host.api, Method::HEAD, path, "").await.status, 400, "{path}");
    }
    for (path, body, field) in [
        ("/scheduler/tasks", r#"{"id": "a\u0000", "schedule": {"type": "once", "delay": "1h"}}"#, "id"),
        ("/scheduler/tasks", r#"{"id": "a", "after": ["b\u0000"]}"#, "after[0].task"),
        ("/events", r#"{"type": "custom\u0000.a"}"#, "type"),
    ] {
        let (status, at, message) = refused(&host, Method::POST, path, body).await;
        assert_eq!((status, at.as_str()), (422, field), "{body}: {message}");
    }
    for path in ["/scheduler/tasks/a%00b", "/plugins/a%00b", "/scheduler/runs/%00"] {
        let answer = get(&host.api, path).await;
        assert_eq!(answer.json()["error"]["kind"], "not_found", "{path}");
    }
}
