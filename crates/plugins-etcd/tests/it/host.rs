//! The plugin in a host: routes, health, and servers that are late.

use std::sync::Arc;
use std::time::Duration;

use event_bus::EventBus;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use plugin_core::{Layer, PluginBuilder, RouteRequest, Settings, State, full_body};
use plugin_manager::{Change, ManagerConfig, PluginManager, PluginOptions, RestartConfig, RestartPolicy};
use plugins_etcd::{ETCD, Etcd, EtcdPlugin};
use registry::Lookup;
use serde_json::{Value, json};
use testkit::{need, until};

use crate::PATIENCE;

/// A host with the plugin, whose health is asked for often.
pub(crate) fn host(section: Value) -> PluginManager {
    let mut settings = Settings::new();
    let values = json!({ "plugins": { "etcd": section } });
    settings.set_layer(Layer::File, "test", values.as_object().cloned().unwrap_or_default());
    // Calls are waited for longer than tests wait for anything.
    let config = ManagerConfig {
        health_check_interval: Duration::from_millis(200),
        drain_deadline: Duration::from_secs(600),
        ..ManagerConfig::default()
    };
    let manager =
        PluginManager::builder(EventBus::builder().build()).config(config).settings(settings).build();
    let restart = Some(RestartConfig::default().with_policy(RestartPolicy::Never));
    let plugin = EtcdPlugin::new().unwrap().configures(manager.clone());
    manager.register(Arc::new(plugin), PluginOptions { restart, ..PluginOptions::default() }).unwrap();
    manager
}

/// What the plugin says of itself, once it says what is wanted.
pub(crate) async fn says(manager: &PluginManager, healthy: bool, ready: bool, words: &str) -> String {
    let said = until("the plugin's word", PATIENCE, async || {
        let plugin = manager.get(ETCD).map_err(|error| error.to_string())?;
        let health = plugin.health;
        let as_wanted = plugin.status == State::Running
            && (health.healthy, plugin.ready) == (healthy, ready)
            && health.message.contains(words);
        if as_wanted { Ok(health.message) } else { Err(format!("{}: {health:?}", plugin.status)) }
    });
    said.await.unwrap()
}

/// The answer of a plugin's route.
async fn ask(manager: &PluginManager, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
    let Lookup::Found(found) = manager.directory().lookup(&method, path) else {
        panic!("{method} {path} is nobody's")
    };
    let request = Request::builder().method(method).uri(path).body(full_body(body.to_owned())).unwrap();
    match found.route().handler.call(RouteRequest::new(request, found.params().clone())).await {
        Ok(response) => {
            let status = response.status();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&bytes).unwrap())
        }
        Err(refusal) => (refusal.status(), json!(refusal.message())),
    }
}

#[tokio::test]
async fn keys_are_written_read_and_removed_over_its_routes() {
    let servers = need!(testkit::Etcd::start());
    let manager = host(json!({ "endpoints": servers.addresses() }));
    manager.start_all().await.unwrap();
    says(&manager, true, true, "ok").await;

    let put = r#"{"key": "/a/b", "value": "grün"}"#;
    let (status, answer) = ask(&manager, Method::POST, "/etcd/put", put).await;
    assert_eq!((status, &answer["data"]["key"]), (StatusCode::OK, &json!("/a/b")), "{answer}");
    let (_, answer) = ask(&manager, Method::GET, "/etcd/get/%2Fa%2Fb", "").await;
    assert_eq!((&answer["data"]["value"], &answer["data"]["version"]), (&json!("grün"), &json!(1)));
    assert_eq!(servers.get(0, "/a/b").await.unwrap().as_deref(), Some("grün"));
    let (_, answer) = ask(&manager, Method::DELETE, "/etcd/delete/%2Fa%2Fb", "").await;
    assert_eq!(answer["data"]["deleted"], true);
    let (status, answer) = ask(&manager, Method::GET, "/etcd/get/%2Fa%2Fb", "").await;
    assert_eq!((status, answer), (StatusCode::NOT_FOUND, json!("no key `/a/b`")));
    for (body, status) in [
        (r#"{"key": "", "value": "x"}"#, 422),
        (r#"{"key": "x"}"#, 422),
        (r#"{"key": "x", "value": "y", "lease": 1}"#, 422),
        ("{", 400),
    ] {
        assert_eq!(ask(&manager, Method::POST, "/etcd/put", body).await.0.as_u16(), status, "{body}");
    }
    // Past what etcd takes in one request.
    let large = json!({ "key": "large", "value": "x".repeat(2_000_000) }).to_string();
    let (status, answer) = ask(&manager, Method::POST, "/etcd/put", &large).await;
    assert_eq!(status.as_u16(), 422, "{answer}");
    assert!(answer.as_str().unwrap().contains("too large"), "{answer}");

    let detail = manager.round_trip(ETCD).await.unwrap().unwrap();
    assert!(detail["version"].as_str().unwrap().starts_with('3') && detail["revision"].is_number());
    assert!(servers.get(0, "/gantry/round-trips").await.unwrap().is_none());
    manager.stop_all(PATIENCE).await;
}

#[tokio::test]
async fn a_watch_over_http_tells_and_goes_on_where_it_was() {
    let servers = need!(testkit::Etcd::start());
    let manager = host(json!({ "endpoints": servers.addresses() }));
    manager.start_all().await.unwrap();
    let open = async |query: &str, last: Option<&str>| {
        let path = format!("/etcd/watch/w/{query}");
        let mut request = Request::builder().uri(&path);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let only = path.split('?').next().unwrap();
        let Lookup::Found(found) = manager.directory().lookup(&Method::GET, only) else { panic!("nobody's") };
        let request = request.body(full_body("")).unwrap();
        let answer = found.route().handler.call(RouteRequest::new(request, found.params().clone())).await;
        // Held while the answer is under way, as a transport holds it.
        answer.map(|response| (response.into_body(), found))
    };
    let (mut body, held) = open("?prefix=true", None).await.unwrap();
    for (key, value) in [("w/1", "a"), ("x", "x"), ("w/2", "b")] {
        servers.put(0, key, value).await.unwrap();
    }
    let mut text = String::new();
    while text.matches("\n\n").count() < 2 {
        let frame = crate::soon("an event", body.frame()).await.unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    assert!(text.starts_with("event: put\nid: ") && text.contains("\"value\":\"a\""), "{text}");
    let first = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop((body, held));
    // A client that was cut off after the first comes with its id, and gets the second.
    let (mut body, held) = open("?prefix=true", Some(&first)).await.unwrap();
    let frame = crate::soon("an event", body.frame()).await.unwrap().unwrap();
    let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
    assert!(text.contains("\"w/2\"") && !text.contains("\"w/1\""), "{text}");
    for (query, last, status) in [("?revision=0", None, 422), ("?prefix=x", None, 400), ("", Some("x"), 400)]
    {
        assert_eq!(open(query, last).await.err().unwrap().status().as_u16(), status, "{query}");
    }
    // A stop ends it, and does not wait for its client to go, as it would for any other call.
    let reader = tokio::spawn(async move {
        while body.frame().await.is_some() {}
        drop(held);
    });
    crate::soon("the stop", manager.stop(ETCD, Change::default())).await.unwrap();
    crate::soon("the end", reader).await.unwrap();
}

#[tokio::test]
async fn a_late_server_is_waited_for_and_so_are_the_dependents() {
    let servers = need!(testkit::Etcd::start());
    let member = &servers.members()[0];
    member.kill().await.unwrap();
    let manager = host(json!({ "endpoints": servers.addresses() }));
    let user = PluginBuilder::new("user", "1.0.0").unwrap().depends_on(ETCD, "*").unwrap();
    let user = user.permission("service:use:etcd").unwrap().on_start(|ctx| async move {
        let etcd = ctx.service::<Etcd>(ETCD)?;
        etcd.get()?.put("used", "yes").await?;
        Ok(())
    });
    manager.register(Arc::new(user.build()), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    let said = says(&manager, true, false, "cannot be reached").await;
    assert!(said.contains(&servers.addresses()[0]), "{said}");
    let user = manager.get("user").unwrap();
    assert_eq!((user.status, user.waiting_for.len()), (State::Registered, 1));
    let (status, _) = {
        let manager = manager.clone();
        let asked = tokio::spawn(async move { ask(&manager, Method::GET, "/etcd/get/used", "").await });
        crate::soon("an answer", asked).await.unwrap()
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);

    member.restart().await.unwrap();
    says(&manager, true, true, "ok").await;
    let started = until("the dependent", PATIENCE, async || match manager.get("user").unwrap().status {
        State::Running => Ok(()),
        other => Err(other.to_string()),
    });
    started.await.unwrap();
    assert_eq!(servers.get(0, "used").await.unwrap().as_deref(), Some("yes"));
    // Gone again, and back again, with the same incarnation.
    member.kill().await.unwrap();
    says(&manager, true, false, "cannot be reached").await;
    member.restart().await.unwrap();
    says(&manager, true, true, "ok").await;
    assert_eq!(manager.get(ETCD).unwrap().restarts, 0);
    manager.stop_all(PATIENCE).await;
}

#[tokio::test]
async fn settings_in_etcd_are_those_of_plugins() {
    let servers = need!(testkit::Etcd::start());
    servers.put(0, "/gantry/config/plugins/pool/size", "3").await.unwrap();
    let manager = host(json!({ "endpoints": servers.addresses() }));
    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Pool {
        #[serde(default)]
        #[expect(dead_code, reason = "only its check is looked at")]
        size: u8,
    }
    let pool = PluginBuilder::new("pool", "1.0.0").unwrap().config(plugin_core::ConfigSpec::of::<Pool>());
    manager.register(Arc::new(pool.build()), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    let until_size = async |size: Value| {
        let reached = until("the setting", PATIENCE, async || {
            let now = manager.config_of("pool").unwrap();
            if now["size"] == size { Ok(()) } else { Err(now.to_string()) }
        });
        reached.await.unwrap();
    };
    until_size(json!(3)).await;
    // What the plugin refuses is not in force, and neither is its neighbour of the same change lost.
    servers.put(0, "/gantry/config/plugins/pool/size", "300").await.unwrap();
    servers.put(0, "/gantry/config/plugins/pool/size", "4").await.unwrap();
    until_size(json!(4)).await;
    // Across an etcd that is away for a while.
    servers.members()[0].kill().await.unwrap();
    says(&manager, true, false, "cannot be reached").await;
    until_size(json!(4)).await;
    servers.members()[0].restart().await.unwrap();
    servers.put(0, "/gantry/config/plugins/pool", r#"{"size": 5}"#).await.unwrap();
    servers.put(0, "/gantry/config/plugins/pool/size", "6").await.unwrap();
    until_size(json!(6)).await;
    let origin = manager.settings().origin(&["plugins", "pool", "size"]).unwrap();
    assert_eq!(origin.layer, Layer::Fleet);
    manager.stop_all(PATIENCE).await;
}
