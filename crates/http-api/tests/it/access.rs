//! Credentials: tokens made and taken back, and what nobody gets to see.

use http::{Method, Request, StatusCode};
use http_api::{Api, HttpConfig};
use http_body_util::Full;
use management::Management;
use serde_json::{Value, json};

use crate::access_matrix::Gate;
use crate::client::{Answered, bare, call, get, send};

/// A request with this token and a body.
async fn ask(api: &Api, token: &str, method: Method, path: &str, body: Option<Value>) -> Answered {
    ask_with(api, token, method, path, body, &[]).await
}

async fn ask_with(
    api: &Api,
    token: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
    headers: &[(&str, &str)],
) -> Answered {
    let mut request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = body.map(|body| {
        request.headers_mut().unwrap().insert("content-type", "application/json".parse().unwrap());
        body.to_string()
    });
    send(api, request.body(Full::from(body.unwrap_or_default())).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_token_is_made_shown_once_listed_and_taken_back() {
    let gate = Gate::new();
    let (api, admin) = (&gate.api, gate.admin.as_str());
    let wanted = json!({"name": "deploy", "role": "operator", "expires_in": "24h"});
    let made = ask(api, admin, Method::POST, "/access/tokens", Some(wanted.clone())).await;
    assert_eq!(made.status, StatusCode::CREATED, "{:?}", made.body);
    let data = made.json()["data"].clone();
    let secret = data["secret"].as_str().unwrap().to_owned();
    let id = data["token"]["id"].as_str().unwrap().to_owned();
    assert_eq!(made.header("location"), format!("/access/tokens/{id}"));
    assert_eq!(data["token"]["created_by"], "token:admin");

    let me = ask(api, &secret, Method::GET, "/access/me", None).await.json();
    assert_eq!(
        me["data"],
        json!({"name": "token:deploy", "role": "operator", "authentication_required": true})
    );
    for path in ["/access/tokens".to_owned(), format!("/access/tokens/{id}"), "/audit".to_owned()] {
        let shown = ask(api, admin, Method::GET, &path, None).await;
        let text = String::from_utf8(shown.body.to_vec()).unwrap();
        assert!(text.contains("deploy"), "{text}");
        assert!(!text.contains(&secret) && !text.contains(&secret[24..]), "promise 9: {path}: {text}");
    }
    let again = ask(api, admin, Method::POST, "/access/tokens", Some(wanted)).await;
    assert_eq!(again.status, StatusCode::CONFLICT);

    let gone = ask(api, admin, Method::DELETE, &format!("/access/tokens/{id}"), None).await;
    assert_eq!(gone.json()["data"]["token"]["name"], "deploy");
    assert_eq!(ask(api, &secret, Method::GET, "/access/me", None).await.status, StatusCode::UNAUTHORIZED);
    let twice = ask(api, admin, Method::DELETE, &format!("/access/tokens/{id}"), None).await;
    assert_eq!(twice.status, StatusCode::NOT_FOUND);
}

/// Promise 9: the answer with the token is not kept for whoever repeats the request.
#[tokio::test(start_paused = true)]
async fn promise_9_a_key_does_not_show_a_token_twice() {
    let gate = Gate::new();
    let key = [("idempotency-key", "k1")];
    let make = || {
        let body = json!({"name": "once", "role": "viewer"});
        ask_with(&gate.api, &gate.admin, Method::POST, "/access/tokens", Some(body), &key)
    };
    let first = make().await;
    let secret = first.json()["data"]["secret"].as_str().unwrap().to_owned();
    let second = make().await;
    assert_eq!(second.status, StatusCode::CONFLICT);
    assert!(!String::from_utf8_lossy(&second.body).contains(&secret));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_makes_and_revokes_nothing() {
    let gate = Gate::new();
    let body = json!({"name": "tried", "role": "viewer"});
    let tried =
        ask(&gate.api, &gate.admin, Method::POST, "/access/tokens?dry_run=true", Some(body)).await.json();
    assert_eq!(tried["data"]["secret"], Value::Null);
    let taken = json!({"name": "admin", "role": "viewer"});
    let taken = ask(&gate.api, &gate.admin, Method::POST, "/access/tokens?dry_run=true", Some(taken)).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    let list = || ask(&gate.api, &gate.admin, Method::GET, "/access/tokens", None);
    let before = list().await.json();
    let id = before["data"]["tokens"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/access/tokens/{id}?dry_run=true");
    assert_eq!(ask(&gate.api, &gate.admin, Method::DELETE, &path, None).await.status, StatusCode::OK);
    assert_eq!(list().await.json(), before);
}

/// Promise 10: bad input gets a clear error that names the field.
#[tokio::test(start_paused = true)]
async fn promise_10_what_is_wrong_with_a_token_is_named() {
    let gate = Gate::new();
    for (body, field) in [
        (json!({"name": "", "role": "viewer"}), "name"),
        (json!({"name": "a b", "role": "viewer"}), "name"),
        (json!({"name": "a"}), "role"),
        (json!({"name": "a", "role": "king"}), "role"),
        (json!({"name": "a", "role": "viewer", "expires_in": "1s"}), "expires_in"),
        (json!({"name": "a", "role": "viewer", "expires": "1h"}), "expires"),
    ] {
        let refused = ask(&gate.api, &gate.admin, Method::POST, "/access/tokens", Some(body.clone())).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(refused.json()["error"]["field"], field, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_no_credentials_are_refused() {
    let gate = Gate::new();
    for value in ["", "Bearer", "Basic YWRtaW46YWRtaW4=", "Bearer a b", &format!("Token {}", gate.admin)] {
        let request = Request::get("/plugins").header("authorization", value).body(Full::default()).unwrap();
        let refused = send(&gate.api, request).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{value:?}");
        assert_eq!(refused.header("www-authenticate"), "Bearer");
        assert_eq!(refused.json()["error"]["kind"], "unauthenticated");
    }
    let twice = Request::get("/plugins")
        .header("authorization", format!("Bearer {}", gate.admin))
        .header("authorization", "Bearer x")
        .body(Full::default())
        .unwrap();
    assert_eq!(send(&gate.api, twice).await.status, StatusCode::BAD_REQUEST);
}

/// What a caller may not write is in the audit log, though nothing of the request was read; what strangers
/// try is not.
#[tokio::test(start_paused = true)]
async fn a_refused_write_is_in_the_audit_log() {
    let gate = Gate::new();
    let viewer = gate.token("viewer");
    let refused = ask(&gate.api, &viewer, Method::DELETE, "/scheduler/tasks/beat", None).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(call(&gate.api, Method::DELETE, "/scheduler/tasks/beat", "").await.status.as_u16(), 401);
    let audit = ask(&gate.api, &gate.admin, Method::GET, "/audit", None).await.json();
    let entry = &audit["data"]["entries"][0];
    let seen = ["caller", "role", "action", "target", "outcome"].map(|key| entry[key].as_str().unwrap());
    assert_eq!(seen, ["token:viewer", "viewer", "task.remove", "/scheduler/tasks/beat", "forbidden"]);
    assert_eq!(audit["data"]["total"], 1);
}

/// On a host that asks nobody, whoever shows credentials all the same is who they say, or nobody.
#[tokio::test(start_paused = true)]
async fn without_authentication_everybody_is_a_developer() {
    let api = bare();
    let me = get(&api, "/access/me").await.json();
    assert_eq!(me["data"], json!({"name": "developer", "role": "admin", "authentication_required": false}));
    let made = call(&api, Method::POST, "/access/tokens", r#"{"name": "v", "role": "viewer"}"#).await.json();
    let token = made["data"]["secret"].as_str().unwrap();
    assert_eq!(ask(&api, token, Method::GET, "/access/me", None).await.json()["data"]["role"], "viewer");
    assert_eq!(ask(&api, token, Method::GET, "/access/tokens", None).await.status, StatusCode::FORBIDDEN);
    assert_eq!(ask(&api, "wrong", Method::GET, "/access/me", None).await.status, StatusCode::UNAUTHORIZED);
    let open = Api::new(Management::builder().build(), HttpConfig::default());
    assert_eq!(get(&open, "/plugins").await.status, StatusCode::NOT_IMPLEMENTED);
}
