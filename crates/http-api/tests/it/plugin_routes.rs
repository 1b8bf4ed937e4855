//! The routes that plugins mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use event_bus::EventBus;
use http::{HeaderValue, Method, Request, StatusCode};
use http_api::{Api, HttpConfig};
use http_body_util::{BodyExt, Full, StreamBody};
use management::{Management, ManagementBuilder};
use plugin_core::{
    Endpoint, Host, Listeners, Manifest, Next, Permission, Permissions, PluginContext, PluginName, Reply,
    RouteError, RouteRequest, Scope, ScopeOptions, Slot, Withdrawal,
};
use registry::ServiceDirectory;
use runtime::SystemClock;

use crate::client::{call, get, send};

pub(crate) struct Mounts {
    pub(crate) api: Api,
    directory: Arc<ServiceDirectory>,
    host: Host,
    incarnations: AtomicU64,
}

fn mounts(config: HttpConfig) -> Mounts {
    mounts_of(config, Management::builder())
}

/// Where plugins can mount routes, on a host that is put together otherwise.
pub(crate) fn mounts_of(config: HttpConfig, management: ManagementBuilder) -> Mounts {
    let directory = ServiceDirectory::new();
    let host = Host {
        bus: EventBus::builder().build(),
        clock: SystemClock::shared(),
        directory: directory.clone(),
        listeners: Arc::new(Listeners::default()),
        runtime: tokio::runtime::Handle::current(),
    };
    let management = management.directory(directory.clone()).build();
    Mounts { api: Api::new(management, config), directory, host, incarnations: AtomicU64::new(0) }
}

impl Mounts {
    pub(crate) async fn mount(
        &self,
        name: &str,
        register: impl FnOnce(&PluginContext),
    ) -> (Scope, Arc<Slot>) {
        let slot = Slot::new(PluginName::new(name).unwrap());
        let scope = self.stage(&slot, register);
        scope.publish(None).await.unwrap();
        (scope, slot)
    }

    fn stage(&self, slot: &Arc<Slot>, register: impl FnOnce(&PluginContext)) -> Scope {
        let mut manifest = Manifest::new(slot.name().as_str(), "1.0.0").unwrap();
        manifest.permissions = vec!["route:/".parse::<Permission>().unwrap()];
        let permissions = Permissions::new(manifest.permissions.clone());
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed) + 1;
        let options = ScopeOptions {
            manifest: Arc::new(manifest),
            permissions,
            config: serde_json::json!({}),
            incarnation,
        };
        let scope = Scope::open(self.host.clone(), slot.clone(), options);
        scope.begin_start();
        register(&scope.context());
        scope
    }
}

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_route_answers_with_its_parameters_and_the_common_headers() {
    let mounts = mounts(HttpConfig::default());
    let _kept = mounts
        .mount("greeter", |ctx| {
            let hello = |request: RouteRequest| async move {
                Ok(Reply::text(format!("hello, {}", request.param("name").unwrap_or_default())))
            };
            ctx.route(Endpoint::get("/greeter/{name}"), hello).unwrap();
            ctx.route(Endpoint::post("/greeter/echo"), |r: RouteRequest| async {
                Ok(Reply::with(StatusCode::OK, "text/plain", r.bytes().await?))
            })
            .unwrap();
            // Below a path of the management API a plugin gets what the API leaves.
            ctx.route(Endpoint::get("/plugins/greeter/extra"), |_: RouteRequest| async { Ok("extra") })
                .unwrap();
            ctx.route(Endpoint::get("/health/live"), |_: RouteRequest| async { Ok("mine") }).unwrap();
        })
        .await;
    let answer = get(&mounts.api, "/greeter/ad%C3%A4").await;
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, "hello, adä".as_bytes()));
    assert_eq!((answer.header("x-trace-id").len(), answer.header("x-content-type-options")), (32, "nosniff"));
    let answer = call(&mounts.api, Method::DELETE, "/greeter/ada", "").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET,HEAD"));
    assert_eq!(get(&mounts.api, "/greeter/%FF").await.status, 400);
    assert_eq!(get(&mounts.api, "/elsewhere").await.status, 404);
    assert_eq!(call(&mounts.api, Method::POST, "/greeter/echo", "abc").await.body, "abc");
    assert_eq!(get(&mounts.api, "/plugins/greeter/extra").await.body, "extra");
    assert_eq!(get(&mounts.api, "/health/live").await.json()["data"]["status"], "alive");
}

#[tokio::test]
async fn middleware_wraps_routes_by_priority_across_plugins() {
    let mounts = mounts(HttpConfig::default());
    let tag = |tag: &'static str| {
        move |request: RouteRequest, next: Next| async move {
            let mut response = next.run(request).await?;
            response.headers_mut().append("seen", HeaderValue::from_static(tag));
            Ok(response)
        }
    };
    let _inner = mounts.mount("a", |ctx| ctx.middleware(20, tag("inner")).unwrap()).await;
    let _outer = mounts.mount("b", |ctx| ctx.middleware(-5, tag("outer")).unwrap()).await;
    let _route = mounts
        .mount("c", |ctx| ctx.route(Endpoint::get("/c"), |_: RouteRequest| async { Ok("c") }).unwrap())
        .await;
    let answer = get(&mounts.api, "/c").await;
    let seen: Vec<_> = answer.headers.get_all("seen").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(seen, ["inner", "outer"]);
    assert!(get(&mounts.api, "/health/live").await.headers.get("seen").is_none());
}

#[tokio::test]
async fn errors_and_panics_of_a_route_become_the_envelope() {
    let mounts = mounts(HttpConfig::default());
    let _kept = mounts
        .mount("bad", |ctx| {
            ctx.route(Endpoint::get("/bad/teapot"), |_: RouteRequest| async {
                Err::<&str, _>(RouteError::new(StatusCode::IM_A_TEAPOT, "short and stout"))
            })
            .unwrap();
            ctx.route(Endpoint::get("/bad/error"), |_: RouteRequest| async {
                Err::<&str, _>(plugin_core::PluginError::new("password is hunter2").into())
            })
            .unwrap();
            ctx.route(Endpoint::get("/bad/panic"), |r: RouteRequest| async move {
                assert!(r.param("x").is_some(), "on purpose");
                Ok("")
            })
            .unwrap();
            ctx.route(Endpoint::get("/bad/early"), |r: RouteRequest| {
                assert!(r.param("x").is_some(), "before the first await");
                async { Ok("") }
            })
            .unwrap();
        })
        .await;
    let teapot = get(&mounts.api, "/bad/teapot").await;
    assert_eq!((teapot.status.as_u16(), &teapot.json()["message"]), (418, &"short and stout".into()));
    assert_eq!(teapot.json()["code"], 418);
    let error = get(&mounts.api, "/bad/error").await;
    assert_eq!((error.status.as_u16(), &error.json()["error"]["kind"]), (500, &"internal".into()));
    assert!(!String::from_utf8_lossy(&error.body).contains("hunter2"), "promise 9");
    for path in ["/bad/panic", "/bad/early"] {
        let answer = get(&mounts.api, path).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["kind"]),
            (500, &"internal".into()),
            "{path}"
        );
    }
    let live = mounts.directory.lookup(&Method::GET, "/bad/teapot");
    let registry::Lookup::Found(found) = live else { panic!("{live:?}") };
    assert_eq!(found.live().in_flight(), 1, "only this look is inside: a panic leaves nothing counted");
}

#[tokio::test]
async fn a_restart_answers_503_and_a_stop_404() {
    let mounts = mounts(HttpConfig::default());
    let route =
        |ctx: &PluginContext| ctx.route(Endpoint::get("/r"), |_: RouteRequest| async { Ok("here") }).unwrap();
    let (scope, slot) = mounts.mount("r", route).await;
    assert_eq!(get(&mounts.api, "/r").await.status, 200);
    scope.withdraw(Withdrawal::Restarting, DRAIN).await;
    let answer = get(&mounts.api, "/r").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.json()["error"]["kind"], "unavailable");
    let again = mounts.stage(&slot, route);
    again.publish(None).await.unwrap();
    assert_eq!(get(&mounts.api, "/r").await.status, 200);
    again.withdraw(Withdrawal::Stopped, DRAIN).await;
    assert_eq!(get(&mounts.api, "/r").await.status, 404);
}

/// Promise 4: after `stop` returns no new call reaches the plugin, and what was inside has been waited for.
#[tokio::test]
async fn promise_4_a_stop_waits_until_the_answer_has_been_sent() {
    let mounts = mounts(HttpConfig::default());
    let (chunks, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let receiver = std::sync::Mutex::new(Some(receiver));
    let (scope, _slot) = mounts
        .mount("slow", move |ctx| {
            let handler = move |_: RouteRequest| {
                let receiver = receiver.lock().unwrap().take().unwrap();
                async move {
                    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async {
                        let chunk = receiver.recv().await?;
                        Some((Ok::<_, plugin_core::BoxError>(http_body::Frame::data(chunk)), receiver))
                    });
                    Ok(http::Response::new(StreamBody::new(chunks).boxed_unsync()))
                }
            };
            ctx.route(Endpoint::get("/slow"), handler).unwrap();
        })
        .await;
    let request = Request::get("/slow").body(Full::<Bytes>::default()).unwrap();
    let response = mounts.api.handle(request, None).await;
    let withdrawing = scope.withdraw(Withdrawal::Stopped, Duration::from_secs(30));
    tokio::pin!(withdrawing);
    assert!(
        tokio::time::timeout(Duration::from_millis(30), &mut withdrawing).await.is_err(),
        "a body is on its way"
    );
    assert_eq!(get(&mounts.api, "/slow").await.status, 404, "no new call gets in");
    chunks.send(Bytes::from_static(b"all of it")).await.unwrap();
    drop(chunks);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all of it");
    assert!(withdrawing.await.is_clean());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_also_where_a_plugin_reads_it() {
    let mounts = mounts(HttpConfig { body_bytes_max: 1024, ..HttpConfig::default() });
    let _kept = mounts
        .mount("echo", |ctx| {
            ctx.route(Endpoint::post("/echo"), |r: RouteRequest| async {
                Ok(r.bytes().await?.len().to_string())
            })
            .unwrap();
        })
        .await;
    assert_eq!(call(&mounts.api, Method::POST, "/echo", &"x".repeat(1024)).await.body, "1024");
    let known = call(&mounts.api, Method::POST, "/echo", &"x".repeat(1025)).await;
    assert_eq!((known.status.as_u16(), &known.json()["error"]["kind"]), (413, &"too_large".into()));
    let chunk = || Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(vec![b'x'; 700])));
    let chunks = futures_util::stream::iter([chunk(), chunk()]);
    let response =
        mounts.api.handle(Request::post("/echo").body(StreamBody::new(chunks)).unwrap(), None).await;
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn a_page_of_another_site_can_write_only_to_what_is_public() {
    let mounts = mounts(HttpConfig::default());
    let _kept = mounts
        .mount("w", |ctx| {
            ctx.route(Endpoint::post("/w/own"), |_: RouteRequest| async { Ok("") }).unwrap();
            ctx.route(Endpoint::post("/w/public").public(), |_: RouteRequest| async { Ok("") }).unwrap();
        })
        .await;
    for (path, status) in [("/w/own", 403), ("/w/public", 200)] {
        let request = Request::post(path)
            .header("host", "localhost:8080")
            .header("origin", "https://evil.example")
            .body(Full::default())
            .unwrap();
        assert_eq!(send(&mounts.api, request).await.status, status, "{path}");
    }
    let request = Request::get("/w/own").header("host", "evil.example").body(Full::default()).unwrap();
    assert_eq!(send(&mounts.api, request).await.status, 421);
}
