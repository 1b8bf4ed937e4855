use std::sync::atomic::AtomicBool;

use event_bus::EventBus;
use http_body_util::BodyExt;
use plugin_core::{
    Endpoint, Host, Listeners, Manifest, Next, PluginContext, Reply, RouteError, RouteRequest, Scope,
    ScopeOptions, ServiceError, ServiceHandle, full_body,
};
use runtime::SystemClock;

use super::*;

struct Bench {
    directory: Arc<ServiceDirectory>,
    host: Host,
    incarnations: AtomicUsize,
}

impl Bench {
    fn new() -> Self {
        let directory = ServiceDirectory::new();
        let clock = SystemClock::shared();
        let host = Host {
            bus: EventBus::builder().clock(clock.clone()).build(),
            clock,
            directory: directory.clone(),
            listeners: Arc::new(Listeners::default()),
            runtime: tokio::runtime::Handle::current(),
        };
        Self { directory, host, incarnations: AtomicUsize::new(0) }
    }

    fn slot(name: &str) -> Arc<Slot> {
        Slot::new(PluginName::new(name).unwrap())
    }

    /// An incarnation that has registered what `register` does.
    fn open(&self, slot: &Arc<Slot>, register: impl FnOnce(&PluginContext)) -> Scope {
        let mut manifest = Manifest::new(slot.name().as_str(), "1.0.0").unwrap();
        for permission in ["route:/", "service:use:*", "service:provide:*"] {
            manifest = manifest.permission(permission).unwrap();
        }
        let permissions = plugin_core::Permissions::new(manifest.permissions.clone());
        let incarnation = self.incarnations.fetch_add(1, Ordering::SeqCst) as u64;
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

    async fn publish(&self, slot: &Arc<Slot>, register: impl FnOnce(&PluginContext)) -> Scope {
        let scope = self.open(slot, register);
        scope.publish(None).await.unwrap();
        scope
    }

    async fn get(&self, path: &str) -> String {
        match self.directory.route(&Method::GET, path).await {
            Lookup::Found(found) => answer(found, path).await,
            other => format!("{other:?}"),
        }
    }
}

async fn answer(found: crate::RouteMatch, path: &str) -> String {
    let (params, next, _guard) = found.into_parts();
    let request = http::Request::get(path).body(full_body("")).unwrap();
    let response = next.run(RouteRequest::new(request, params)).await.unwrap();
    let tags = response.headers().get_all("tag").iter();
    let tags: String = tags.map(|tag| tag.to_str().unwrap()).collect();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    format!("{}{tags}", String::from_utf8_lossy(&body))
}

fn says(ctx: &PluginContext, endpoint: Endpoint, text: &'static str) {
    ctx.route(endpoint, move |request: RouteRequest| async move {
        Ok(Reply::text(format!("{text}{}", request.param("x").unwrap_or_default())))
    })
    .unwrap();
}

fn tags(ctx: &PluginContext, priority: i32, tag: &'static str) {
    ctx.middleware(priority, move |request: RouteRequest, next: Next| async move {
        let mut response = next.run(request).await?;
        response.headers_mut().append("tag", tag.parse().unwrap());
        Ok::<_, RouteError>(response)
    })
    .unwrap();
}

trait Greeter: Send + Sync {
    fn greet(&self) -> &'static str;
}

impl Greeter for &'static str {
    fn greet(&self) -> &'static str {
        self
    }
}

fn provides(ctx: &PluginContext, name: &str, says: &'static str) {
    ctx.provide::<dyn Greeter>(name, Arc::new(says)).unwrap();
}

#[tokio::test]
async fn routes_come_wait_out_a_restart_and_go() {
    let bench = Bench::new();
    let slot = Bench::slot("p");
    assert_eq!(bench.get("/p/1").await, "NotFound");
    let scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p/{x}"), "one ")).await;
    assert_eq!(bench.get("/p/a%20b").await, "one a b");
    assert!(bench.get("/p/%ff").await.starts_with("Malformed"), "{}", bench.get("/p/%ff").await);
    scope.withdraw(Withdrawal::Restarting, Duration::from_secs(1)).await;
    let away = bench.get("/p/1").await;
    assert!(away.starts_with("Unavailable"), "{away}");
    // What a restarting plugin serves is still its own.
    let other = Bench::slot("q");
    let taken = bench.open(&other, |ctx| says(ctx, Endpoint::get("/p/{y}"), "q")).publish(None).await;
    assert!(matches!(taken, Err(PublishError::Conflict { by, .. }) if by == "p"));
    let scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p/{x}"), "two ")).await;
    assert_eq!(bench.get("/p/1").await, "two 1");
    scope.withdraw(Withdrawal::Stopped, Duration::from_secs(1)).await;
    assert_eq!(bench.get("/p/1").await, "NotFound");
    bench.publish(&other, |ctx| says(ctx, Endpoint::get("/p/{y}"), "q")).await;
    assert_eq!(bench.get("/p/1").await, "q");
}

#[tokio::test]
async fn a_restart_that_does_not_end_well_can_be_withdrawn_again() {
    let bench = Bench::new();
    let slot = Bench::slot("p");
    let scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "one")).await;
    scope.withdraw(Withdrawal::Restarting, Duration::ZERO).await;
    bench.directory.withdraw(&slot, scope.incarnation() + 7, Withdrawal::Stopped);
    assert!(bench.get("/p").await.starts_with("Unavailable"), "another incarnation's withdrawal is not its");
    bench.directory.withdraw(&slot, scope.incarnation(), Withdrawal::Stopped);
    assert_eq!(bench.get("/p").await, "NotFound");
}

#[tokio::test]
async fn methods_are_told_apart_from_paths() {
    let bench = Bench::new();
    let (p, q) = (Bench::slot("p"), Bench::slot("q"));
    let _p = bench.publish(&p, |ctx| says(ctx, Endpoint::get("/x/{id}"), "get")).await;
    let _q = bench.publish(&q, |ctx| says(ctx, Endpoint::delete("/x/{name}"), "delete")).await;
    assert!(matches!(bench.directory.lookup(&Method::HEAD, "/x/1"), Lookup::Found(_)));
    match bench.directory.lookup(&Method::POST, "/x/1") {
        Lookup::MethodNotAllowed { allow } => assert_eq!(allow, [Method::DELETE, Method::GET, Method::HEAD]),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_told_apart_or_matched_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    let (p, q) = (Bench::slot("p"), Bench::slot("q"));
    let _p = bench.publish(&p, |ctx| says(ctx, Endpoint::get("/x/{id}"), "p")).await;
    for path in ["/x/{", "/x/{a}/{a}", "/x/{}", "/{*rest}/x", "/x/{a}{b}"] {
        let refused = bench.open(&q, |ctx| says(ctx, Endpoint::get(path), "q")).publish(None).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{path}: {refused:?}");
        assert_eq!(bench.get("/x/1").await, "p");
    }
    let ambiguous = bench
        .open(&q, |ctx| {
            says(ctx, Endpoint::get("/fine"), "q");
            says(ctx, Endpoint::get("/x/{y}"), "q");
        })
        .publish(None)
        .await;
    assert!(matches!(ambiguous, Err(PublishError::Conflict { by, .. }) if by == "p"));
    assert_eq!(bench.get("/fine").await, "NotFound");
    assert!(q.live().is_none());
    let _q = bench.publish(&q, |ctx| says(ctx, Endpoint::get("/fine"), "q")).await;
    assert_eq!(bench.get("/fine").await, "q");
}

#[tokio::test]
async fn middleware_stands_by_priority_and_then_by_name() {
    let bench = Bench::new();
    let (b, a, routed) = (Bench::slot("b"), Bench::slot("a"), Bench::slot("routed"));
    let _b = bench.publish(&b, |ctx| tags(ctx, 5, "b")).await;
    let a = bench
        .publish(&a, |ctx| {
            tags(ctx, 5, "a");
            tags(ctx, 5, "A");
            tags(ctx, 9, "i");
        })
        .await;
    let _routed = bench.publish(&routed, |ctx| says(ctx, Endpoint::get("/r"), "")).await;
    // The innermost tags the answer first.
    assert_eq!(bench.get("/r").await, "ibAa");
    a.withdraw(Withdrawal::Stopped, Duration::ZERO).await;
    assert_eq!(bench.get("/r").await, "b");
}

/// Promise 4, for what stands in the way of a request: middleware is in use like a route is.
#[tokio::test]
async fn promise_4_middleware_of_a_stopped_plugin_is_not_called() {
    let bench = Bench::new();
    let (m, routed) = (Bench::slot("m"), Bench::slot("routed"));
    let m = bench.publish(&m, |ctx| tags(ctx, 0, "m")).await;
    let _routed = bench.publish(&routed, |ctx| says(ctx, Endpoint::get("/r"), "")).await;
    let Lookup::Found(held) = bench.directory.lookup(&Method::GET, "/r") else { panic!("no route") };
    let report = m.withdraw(Withdrawal::Stopped, Duration::from_millis(5)).await;
    assert_eq!(report.in_flight, 1, "the stop waited for the request that is on its way");
    drop(held);
    assert_eq!(bench.get("/r").await, "");
}

#[tokio::test]
async fn a_service_belongs_to_one_plugin_and_survives_its_restart() {
    let bench = Bench::new();
    let (p, q, user) = (Bench::slot("p"), Bench::slot("q"), Bench::slot("user"));
    let scope = bench.publish(&p, |ctx| provides(ctx, "greeter", "hello")).await;
    let conflict = bench.open(&q, |ctx| provides(ctx, "greeter", "hi")).publish(None).await;
    assert!(matches!(conflict, Err(PublishError::Conflict { by, .. }) if by == "p"));
    let context = bench.open(&user, |_| {}).context();
    let handle: ServiceHandle<dyn Greeter> = context.service("greeter").unwrap();
    assert_eq!(handle.get().unwrap().greet(), "hello");
    let listed = bench.directory.services();
    assert_eq!((listed[0].key.name(), listed[0].available, listed[0].users.len()), ("greeter", true, 1));
    scope.withdraw(Withdrawal::Restarting, Duration::ZERO).await;
    assert!(matches!(handle.get(), Err(ServiceError::Unavailable { .. })));
    assert!(context.service::<dyn Greeter>("greeter").is_ok(), "known while its plugin restarts");
    let scope = bench.publish(&p, |ctx| provides(ctx, "greeter", "again")).await;
    assert_eq!(handle.get().unwrap().greet(), "again");
    scope.withdraw(Withdrawal::Stopped, Duration::ZERO).await;
    assert!(context.service::<dyn Greeter>("greeter").is_err());
}

#[tokio::test]
async fn a_swap_that_takes_away_a_service_in_use_is_refused() {
    let bench = Bench::new();
    let (p, user) = (Bench::slot("p"), Bench::slot("user"));
    let old = bench.publish(&p, |ctx| provides(ctx, "greeter", "hello")).await;
    let handle: ServiceHandle<dyn Greeter> = bench.open(&user, |_| {}).context().service("greeter").unwrap();
    let refused = bench.open(&p, |_| {}).publish(Some(&old)).await;
    assert!(matches!(&refused, Err(PublishError::InUse { users, .. }) if users[0] == "user"), "{refused:?}");
    assert_eq!(handle.get().unwrap().greet(), "hello");
    drop(handle);
    bench.open(&p, |_| {}).publish(Some(&old)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_for_a_held_plugin_wait_in_a_bounded_queue() {
    let bench = Arc::new(Bench::new());
    let slot = Bench::slot("p");
    let scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "old")).await;
    let hold = bench.directory.hold(slot.name(), 2, Duration::from_secs(5));
    assert_eq!(bench.get("/p").await, "old", "a hold changes nothing while the plugin answers");
    scope.withdraw(Withdrawal::Restarting, Duration::ZERO).await;
    let (one, two) = (bench.get("/p"), bench.get("/p"));
    tokio::pin!(one, two);
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    assert_eq!(hold.waiting(), 2);
    assert!(bench.get("/p").await.starts_with("Unavailable"), "the queue is full");
    let _new = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "new")).await;
    drop(hold);
    assert_eq!((one.await, two.await), ("new".to_owned(), "new".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_held_request_waits_no_longer_than_the_limit() {
    let bench = Bench::new();
    let slot = Bench::slot("p");
    let scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "old")).await;
    let hold = bench.directory.hold(slot.name(), 2, Duration::from_secs(5));
    scope.withdraw(Withdrawal::Restarting, Duration::ZERO).await;
    let began = Instant::now();
    assert!(bench.get("/p").await.starts_with("Unavailable"));
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(hold.waiting(), 0);
}

/// A hold that ends between a request's look at the routes and its look at the holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_slips_past_a_hold_that_ends() {
    let bench = Arc::new(Bench::new());
    let slot = Bench::slot("p");
    let mut scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "there")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (bench, stop) = (bench.clone(), stop.clone());
            tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Handle::current();
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(runtime.block_on(bench.get("/p")), "there");
                }
            })
        })
        .collect();
    for _ in 0..20_000 {
        let hold = bench.directory.hold(slot.name(), 10, Duration::from_secs(60));
        scope.withdraw(Withdrawal::Restarting, Duration::from_secs(60)).await;
        scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "there")).await;
        drop(hold);
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Promise 4 and promise 6 at once: while one incarnation follows another no request fails, and after a
/// stop none gets in.
#[test]
fn promise_4_lookups_while_incarnations_follow_each_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Arc::new(Bench::new());
        let slot = Bench::slot("p");
        let mut scope = bench.publish(&slot, |ctx| says(ctx, Endpoint::get("/p"), "")).await;
        let stop = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (bench, stop, calls) = (bench.clone(), stop.clone(), calls.clone());
                tokio::task::spawn_blocking(move || {
                    while !stop.load(Ordering::SeqCst) {
                        match bench.directory.lookup(&Method::GET, "/p") {
                            Lookup::Found(_) => calls.fetch_add(1, Ordering::SeqCst),
                            other => panic!("{other:?}"),
                        };
                    }
                })
            })
            .collect();
        let mut swaps = 0;
        while swaps < 300 || calls.load(Ordering::SeqCst) < 1_000 {
            let next = bench.open(&slot, |ctx| says(ctx, Endpoint::get("/p"), ""));
            next.publish(Some(&scope)).await.unwrap();
            let report = scope.withdraw(Withdrawal::Replaced, Duration::from_secs(5)).await;
            assert!(report.is_clean());
            scope = next;
            swaps += 1;
            if callers.iter().any(tokio::task::JoinHandle::is_finished) {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
    });
}

#[tokio::test]
async fn nobody_gets_past_middleware_that_is_away() {
    let bench = Bench::new();
    let guards = Bench::slot("guards");
    let _served = bench.publish(&Bench::slot("shop"), |ctx| says(ctx, Endpoint::get("/shop"), "shop")).await;
    let start = async || bench.publish(&guards, |ctx| tags(ctx, 0, "!")).await;
    let away = async || bench.get("/shop").await.starts_with("Unavailable");
    for why in [Withdrawal::Restarting, Withdrawal::Failed] {
        let scope = start().await;
        assert_eq!(bench.get("/shop").await, "shop!");
        scope.withdraw(why, Duration::ZERO).await;
        assert!(away().await, "{why:?}");
        assert!(bench.get("/other").await.starts_with("NotFound"), "what is not there is not there");
    }
    let scope = start().await;
    assert_eq!(bench.get("/shop").await, "shop!");
    scope.withdraw(Withdrawal::Stopped, Duration::ZERO).await;
    assert_eq!(bench.get("/shop").await, "shop", "somebody has said so");
}
