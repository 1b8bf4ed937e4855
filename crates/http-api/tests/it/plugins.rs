//! Plugins over the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use plugin_core::{PluginBuilder, PluginError, RoundTrip};
use plugin_manager::{Change, PluginOptions};
use serde_json::{Map, Value, json};

use crate::client::{call, get, send};
use crate::host::host;

const POST: Method = Method::POST;

#[tokio::test]
async fn plugins_are_shown_with_their_state_graph_and_types() {
    let host = host().await;
    let statuses = get(&host.api, "/plugins/status").await.json();
    assert_eq!(statuses["data"]["total"], 4);
    let scheduler = &statuses["data"]["plugins"]["scheduler"];
    assert_eq!((&scheduler["status"], &scheduler["health"]["healthy"]), (&json!("running"), &json!(true)));
    assert!(scheduler["health"]["timestamp"].is_string() && scheduler["health"]["message"].is_string());

    let one = get(&host.api, "/plugins/greeter").await.json();
    let plugin = &one["data"]["plugin"];
    assert_eq!(
        (&plugin["status"], &plugin["version"], &plugin["kind"]),
        (&json!("running"), &json!("1.0.0"), &json!("plain"))
    );
    assert_eq!(
        (&plugin["dependencies"][0]["name"], &plugin["endpoints"][0]["path"]),
        (&json!("scheduler"), &json!("/greeter"))
    );

    let list = get(&host.api, "/plugins?limit=2").await.json();
    let names = |list: &Value| -> Vec<String> {
        list["data"]["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!((names(&list), &list["data"]["total"]), (vec!["broken".into(), "greeter".into()], &json!(4)));
    let cursor = list["data"]["next_cursor"].as_str().unwrap();
    let rest = get(&host.api, &format!("/plugins?limit=2&cursor={cursor}")).await.json();
    assert_eq!(
        (names(&rest), &rest["data"]["next_cursor"]),
        (vec!["http".into(), "scheduler".into()], &Value::Null)
    );

    let graph = get(&host.api, "/plugins/graph").await.json();
    assert_eq!(graph["data"]["edges"][0]["from"], "greeter");
    let types = get(&host.api, "/plugins/types").await.json();
    assert_eq!(types["data"]["types"][0]["config_schema"]["properties"]["key"]["writeOnly"], true);
    assert_eq!(
        get(&host.api, "/services/scheduler").await.json()["data"]["service"]["instances"][0]["provider"],
        "scheduler"
    );
    assert_eq!(get(&host.api, "/services/scheduler/test").await.status, 200);
}

/// Goes to its server and back while that is there.
struct Server(Arc<AtomicBool>);

#[async_trait]
impl RoundTrip for Server {
    async fn round_trip(&self) -> Result<Map<String, Value>, PluginError> {
        if !self.0.load(Ordering::SeqCst) {
            return Err(PluginError::new("nobody answers at 127.0.0.1:1"));
        }
        Ok(Map::from_iter([("version".to_owned(), json!("7.0"))]))
    }
}

#[tokio::test]
async fn a_service_with_a_server_behind_it_is_tried_out() {
    let host = host().await;
    let up = Arc::new(AtomicBool::new(true));
    let server = up.clone();
    let plugin = PluginBuilder::new("store", "1.0.0").unwrap().permission("service:provide:store").unwrap();
    let plugin = plugin.on_start(move |ctx| {
        let server = server.clone();
        async move {
            ctx.provide::<AtomicBool>("store", server.clone())?;
            ctx.provide::<dyn RoundTrip>("store", Arc::new(Server(server)))?;
            Ok(())
        }
    });
    host.manager.register(Arc::new(plugin.build()), PluginOptions::default()).unwrap();
    host.manager.start("store", Change::default()).await.unwrap();
    let shown = get(&host.api, "/services/store").await.json();
    assert_eq!(shown["data"]["service"]["instances"].as_array().unwrap().len(), 1, "{shown}");
    let tried = get(&host.api, "/services/store/test").await;
    assert_eq!((tried.status.as_u16(), &tried.json()["data"]["detail"]["version"]), (200, &json!("7.0")));

    up.store(false, Ordering::SeqCst);
    let refused = get(&host.api, "/services/store/test").await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["detail"], "nobody answers at 127.0.0.1:1");
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_plugin_is_stopped_and_started_with_those_who_use_it() {
    let host = host().await;
    assert_eq!(get(&host.api, "/greeter").await.body, "hi from 1.0.0");
    let refused = call(&host.api, POST, "/plugins/scheduler/stop", "").await;
    assert_eq!((refused.status.as_u16(), &refused.json()["error"]["kind"]), (409, &json!("in_use")));
    assert_eq!(refused.json()["error"]["detail"], "greeter");
    assert_eq!(get(&host.api, "/greeter").await.status, 200, "nothing has changed");

    let stopped = call(&host.api, POST, "/plugins/scheduler/stop?cascade=true", "").await.json();
    assert_eq!(stopped["data"]["plugin"]["status"], "stopped");
    assert_eq!(get(&host.api, "/greeter").await.status, 404);
    let again = call(&host.api, POST, "/plugins/scheduler/stop", "").await;
    assert_eq!((again.status.as_u16(), &again.json()["error"]["kind"]), (409, &json!("invalid_state")));
    let started = call(&host.api, POST, "/plugins/greeter/start?cascade=true", "").await.json();
    assert_eq!(started["data"]["plugin"]["status"], "running", "{started}");
    assert_eq!(get(&host.api, "/greeter").await.status, 200);

    let begun = call(&host.api, POST, "/plugins/greeter/restart?wait=false", "").await;
    assert_eq!(begun.status, 202);
    let incarnation = begun.json()["data"]["plugin"]["incarnation"].clone();
    let ready = || host.manager.get("greeter").is_ok_and(|p| p.ready && json!(p.incarnation) != incarnation);
    assert!(host.manager.wait_until(Duration::from_secs(10), ready).await);
}

#[tokio::test]
async fn a_plugin_that_fails_says_why_and_what_is_unknown_is_404() {
    let host = host().await;
    let failed = call(&host.api, POST, "/plugins/broken/initialize", "").await;
    assert_eq!(failed.status, 200);
    let failed = call(&host.api, POST, "/plugins/broken/start", "").await;
    assert_eq!((failed.status.as_u16(), &failed.json()["error"]["kind"]), (500, &json!("plugin_failed")));
    assert!(failed.json()["error"]["detail"].as_str().unwrap().contains("on purpose"), "{}", failed.json());
    assert_eq!(get(&host.api, "/plugins/broken").await.json()["data"]["plugin"]["status"], "failed");
    let ready = get(&host.api, "/health/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["error"]["detail"].as_str().unwrap().contains("broken"));
    let health = get(&host.api, "/health").await;
    assert_eq!((health.status.as_u16(), &health.json()["data"]["status"]), (503, &json!("degraded")));
    assert_eq!(health.json()["data"]["plugins"]["broken"]["healthy"], false);
    assert_eq!(get(&host.api, "/greeter").await.status, 200, "nothing else notices");

    for (method, path, status) in [
        (Method::GET, "/plugins/none", 404),
        (POST, "/plugins/none/start", 404),
        (Method::DELETE, "/plugins/none", 404),
        (POST, "/plugins/none/swap", 404),
        (Method::GET, "/plugins/none/config", 404),
        (POST, "/plugins/greeter/dance", 404),
        (POST, "/plugins/greeter/stop?cascade=maybe", 422),
        (POST, "/plugins/greeter/stop?casacde=true", 422),
        (POST, "/plugins/greeter/start", 409),
    ] {
        let answer = call(&host.api, method, path, "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.json());
    }
}

#[tokio::test]
async fn a_plugin_is_loaded_swapped_and_unloaded() {
    let host = host().await;
    let swapped = call(&host.api, POST, "/plugins/greeter/swap", r#"{"version": "^2"}"#).await.json();
    assert_eq!(swapped["data"]["plugin"]["version"], "2.0.0", "{swapped}");
    assert_eq!(get(&host.api, "/greeter").await.body, "hi from 2.0.0");
    assert_eq!(call(&host.api, Method::DELETE, "/plugins/greeter", "").await.status, 200);
    assert_eq!(get(&host.api, "/greeter").await.status, 404);
    assert_eq!(get(&host.api, "/plugins/greeter").await.status, 404);
    let loaded =
        call(&host.api, POST, "/plugins/load", r#"{"type": "greeter", "version": "^1"}"#).await.json();
    assert_eq!(loaded["data"]["plugin"]["version"], "1.0.0");
    for (body, status, field) in [
        (r#"{"type": "greeter"}"#, 409, ""),
        (r#"{"type": "none"}"#, 404, ""),
        (r#"{"type": "greeter", "name": "other", "version": "^9"}"#, 422, "version"),
        (r#"{"type": "greeter", "name": "Not A Name"}"#, 422, "name"),
        (r#"{"type": "greeter", "name": "other", "config": {"greeting": 7}}"#, 422, ""),
        (r#"{"typ": "greeter"}"#, 422, "typ"),
        ("{}", 422, "type"),
    ] {
        let answer = call(&host.api, POST, "/plugins/load", body).await;
        let json = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{body}: {json}");
        assert!(field.is_empty() || json["error"]["field"] == field, "{body}: {json}");
    }
    assert_eq!(host.manager.list().len(), 4, "what was refused left nothing behind");
}

/// Promise 6 and promise 9: a configuration that fails leaves the one before, and a secret is never shown.
#[tokio::test]
async fn configuration_is_shown_masked_and_replaced_or_left_as_it_was() {
    let host = host().await;
    let shown = get(&host.api, "/plugins/greeter/config").await.json();
    assert_eq!(shown["data"]["config"]["greeting"], "hi");
    assert_ne!(shown["data"]["config"]["key"], "hunter2");
    let mask = shown["data"]["config"]["key"].clone();
    let put =
        async |body: Value| call(&host.api, Method::PUT, "/plugins/greeter/config", &body.to_string()).await;
    let set = put(json!({"greeting": "hey", "key": mask})).await;
    assert_eq!(
        (set.status.as_u16(), &set.json()["data"]["applied"]),
        (200, &json!("restarted")),
        "{}",
        set.json()
    );
    assert_eq!(get(&host.api, "/greeter").await.body, "hey from 1.0.0");

    for (body, field) in [
        (json!({"greeting": 7}), "greeting"),
        (json!({"greeting": "x".repeat(21)}), "greeting"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let refused = put(body.clone()).await;
        let json = refused.json();
        assert_eq!(refused.status, 422, "{body}: {json}");
        assert!(json["error"]["field"].as_str().unwrap().ends_with(field), "{body}: {json}");
    }
    let crashed = put(json!({"greeting": "crash"})).await;
    assert_eq!(crashed.status, 422, "{}", crashed.json());
    assert_eq!(get(&host.api, "/greeter").await.body, "hey from 1.0.0", "promise 6");

    let all = get(&host.api, "/config").await;
    let text = String::from_utf8_lossy(&all.body).into_owned();
    assert!(!text.contains("hunter2") && !text.contains("hunter3"), "promise 9: {text}");
    let values = all.json()["data"]["values"].clone();
    let greeting =
        values.as_array().unwrap().iter().find(|v| v["path"] == "plugins.greeter.greeting").unwrap().clone();
    assert_eq!((&greeting["value"], &greeting["layer"]), (&json!("hey"), &json!("api")));
}

/// A configuration is guarded by its version, and read only where it has changed.
#[tokio::test]
async fn configuration_is_not_written_over_what_others_have_written() {
    let host = host().await;
    let path = "/plugins/greeter/config";
    let with = async |method: Method, header: &str, tag: &str, body: &str| {
        let request = http::Request::builder().method(method).uri(path).header(header, tag);
        let request = request.header("content-type", "application/json");
        send(&host.api, request.body(body.to_owned().into()).unwrap()).await
    };
    let seen = get(&host.api, path).await;
    let tag = seen.header("etag").to_owned();
    let values = &seen.json()["data"]["values"];
    assert_eq!(
        (&values[0]["path"], &values[0]["layer"]),
        (&json!("plugins.greeter.greeting"), &json!("file"))
    );
    let same = with(Method::GET, "if-none-match", &tag, "").await;
    assert_eq!((same.status.as_u16(), same.body.len(), same.header("etag")), (304, 0, tag.as_str()));
    let set = with(Method::PUT, "if-match", &tag, r#"{"greeting": "hey"}"#).await;
    assert_eq!(set.status, 200, "{:?}", set.body);
    assert_ne!(set.header("etag"), tag);
    let late = with(Method::PUT, "if-match", &tag, r#"{"greeting": "ho"}"#).await;
    assert_eq!((late.status.as_u16(), &late.json()["error"]["kind"]), (412, &json!("precondition_failed")));
    assert_eq!(with(Method::GET, "if-none-match", &tag, "").await.status, 200);
    assert_eq!(get(&host.api, "/greeter").await.body, "hey from 1.0.0");
    assert_eq!(with(Method::PUT, "if-match", "*", r#"{"greeting": "ho"}"#).await.status, 200);

    let document = get(&host.api, "/openapi.json").await;
    let request = http::Request::get("/openapi.json").header("if-none-match", document.header("etag"));
    assert_eq!(send(&host.api, request.body(Default::default()).unwrap()).await.status, 304);
}

/// Every write of plugins can be tried: refused as it would be, answered as it would be, and nothing changed.
#[tokio::test]
async fn what_is_only_tried_changes_nothing() {
    let host = host().await;
    let before = host.manager.list();
    let published = host.bus.stats().published;
    for (method, path, body, status) in [
        (Method::POST, "/plugins/greeter/stop", "", 200),
        (Method::POST, "/plugins/greeter/restart", "", 200),
        (Method::POST, "/plugins/greeter/start", "", 409),
        (Method::POST, "/plugins/greeter/initialize", "", 409),
        (Method::POST, "/plugins/scheduler/stop", "", 409),
        (Method::POST, "/plugins/scheduler/stop?cascade=true", "", 200),
        (Method::POST, "/plugins/none/stop", "", 404),
        (Method::DELETE, "/plugins/greeter", "", 200),
        (Method::DELETE, "/plugins/scheduler", "", 409),
        (Method::DELETE, "/plugins/none", "", 404),
        (Method::POST, "/plugins/load", r#"{"type": "greeter", "name": "other"}"#, 200),
        (Method::POST, "/plugins/load", r#"{"type": "greeter"}"#, 409),
        (Method::POST, "/plugins/load", r#"{"type": "none"}"#, 404),
        (
            Method::POST,
            "/plugins/load",
            r#"{"type": "greeter", "name": "other", "config": {"greeting": 7}}"#,
            422,
        ),
        (
            Method::POST,
            "/plugins/load",
            r#"{"type": "greeter", "name": "other", "restart": {"limit": 0}}"#,
            422,
        ),
        (Method::POST, "/plugins/greeter/swap", r#"{"type": "greeter", "version": "2.0.0"}"#, 200),
        (Method::POST, "/plugins/greeter/swap", r#"{"type": "greeter", "version": "9.0.0"}"#, 422),
        (Method::PUT, "/plugins/greeter/config", r#"{"greeting": "hey"}"#, 200),
        (Method::PUT, "/plugins/greeter/config", r#"{"greeting": 7}"#, 422),
    ] {
        let join = if path.contains('?') { '&' } else { '?' };
        let answer = call(&host.api, method.clone(), &format!("{path}{join}dry_run=true"), body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {body}: {:?}", answer.body);
        if path.ends_with("config") && status == 200 {
            assert_eq!(answer.json()["data"]["config"]["greeting"], "hey");
        }
    }
    assert_eq!(host.manager.list(), before);
    assert_eq!(host.bus.stats().published, published, "nothing has happened");
    assert_eq!(get(&host.api, "/greeter").await.body, "hi from 1.0.0");
    assert_eq!(get(&host.api, "/audit").await.json()["data"]["total"], 0);
}

#[tokio::test]
async fn readiness_fails_first_at_shutdown() {
    let host = host().await;
    assert_eq!(get(&host.api, "/health/ready").await.status, 200);
    assert_eq!(get(&host.api, "/health").await.json()["data"]["status"], "healthy");
    host.management.begin_shutdown();
    assert_eq!(get(&host.api, "/health/ready").await.status, 503);
    assert_eq!(get(&host.api, "/health/live").await.status, 200);
    assert_eq!(get(&host.api, "/greeter").await.status, 200, "what is asked is still answered");
}

#[tokio::test]
async fn the_tour_shows_what_is_there_in_html_and_json() {
    let host = host().await;
    for path in ["/", "/demo", "/demo/scheduler", "/demo/config", "/demo/factory", "/demo/events"] {
        let json = get(&host.api, path).await;
        assert_eq!(json.status, 200, "{path}");
        assert!(json.json()["data"]["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{path}");
        assert!(!json.json()["data"]["live"].to_string().contains("unavailable"), "{path}: {}", json.json());
        let request = http::Request::get(path)
            .header("accept", "text/html,*/*;q=0.8")
            .body(Default::default())
            .unwrap();
        let html = crate::client::send(&host.api, request).await;
        assert_eq!(html.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(html.header("content-security-policy").contains("default-src 'none'"));
        let text = String::from_utf8_lossy(&html.body).into_owned();
        assert!(text.starts_with("<!doctype html>") && !text.contains("hunter"), "{path}");
    }
}
