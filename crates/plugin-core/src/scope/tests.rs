use std::sync::atomic::{AtomicUsize, Ordering};

use event_bus::{Event, SubscribeOptions, Topic, by_ref};
use runtime::SystemClock;
use serde_json::json;

use super::*;
use crate::{Endpoint, RouteRequest};

const DRAIN: Duration = Duration::from_secs(10);

fn host() -> Host {
    let clock = SystemClock::shared();
    Host {
        bus: EventBus::builder().clock(clock.clone()).build(),
        clock,
        directory: Arc::new(NoDirectory),
        listeners: Arc::default(),
        runtime: Handle::current(),
    }
}

fn scope(host: &Host, slot: &Arc<Slot>, incarnation: u64, permissions: &[&str]) -> Scope {
    let manifest = Manifest::new("p", "1.0.0").unwrap();
    let permissions = Permissions::new(permissions.iter().map(|p| p.parse().unwrap()).collect());
    let options =
        ScopeOptions { manifest: Arc::new(manifest), permissions, config: json!({"size": 3}), incarnation };
    Scope::open(host.clone(), slot.clone(), options)
}

fn slot() -> Arc<Slot> {
    Slot::new(PluginName::new("p").unwrap())
}

fn counter() -> (Arc<AtomicUsize>, impl event_bus::EventHandler) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let handler = by_ref(move |_: &Event| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    (count, handler)
}

async fn send(host: &Host) {
    let event = Event::builder(Topic::new("orders.new").unwrap()).build(&*host.clock).unwrap();
    let _report = host.bus.publish_and_wait(event, DRAIN).await.unwrap();
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_published_and_all_of_it_after() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &["service:provide:s", "event:subscribe:orders.*", "route:/p"]);
    let ctx = scope.context();
    assert!(matches!(ctx.provide("s", Arc::new(7_u32)), Err(RegisterError::NotStarting { .. })));
    scope.begin_start();
    ctx.provide("s", Arc::new(7_u32)).unwrap();
    ctx.route(Endpoint::get("/p"), |_: RouteRequest| async { Ok("p") }).unwrap();
    let (count, handler) = counter();
    ctx.subscribe("orders.*", SubscribeOptions::new(), handler).unwrap();
    send(&host).await;
    assert_eq!((count.load(Ordering::SeqCst), slot.live().is_none()), (0, true));
    scope.publish(None).await.unwrap();
    send(&host).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let live = slot.live().unwrap();
    assert_eq!((live.services().count(), live.routes().len()), (1, 1));
    assert!(matches!(ctx.provide("t", Arc::new(1_u32)), Err(RegisterError::NotPermitted(_))));
}

#[tokio::test]
async fn promise_4_after_withdrawal_nothing_reaches_the_plugin() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &["event:subscribe:**"]);
    let ctx = scope.context();
    scope.begin_start();
    let (count, handler) = counter();
    ctx.subscribe("orders.*", SubscribeOptions::new(), handler).unwrap();
    scope.publish(None).await.unwrap();
    let live = slot.live().unwrap();
    assert!(scope.withdraw(Withdrawal::Stopped, DRAIN).await.is_clean());
    send(&host).await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert!(slot.live().is_none() && live.enter().is_none());
    let (_, handler) = counter();
    let late = ctx.subscribe("orders.*", SubscribeOptions::new(), handler);
    assert!(matches!(late, Err(RegisterError::Closed)));
}

#[tokio::test]
async fn a_swap_takes_subscriptions_over_and_leaves_the_new_in_the_slot() {
    let (host, slot) = (host(), slot());
    let start = async |incarnation| {
        let scope = scope(&host, &slot, incarnation, &["event:subscribe:**"]);
        scope.begin_start();
        let (count, handler) = counter();
        scope.context().subscribe("orders.*", SubscribeOptions::new(), handler).unwrap();
        (scope, count)
    };
    let (old, old_count) = start(1).await;
    old.publish(None).await.unwrap();
    let (new, new_count) = start(2).await;
    new.publish(Some(&old)).await.unwrap();
    assert!(old.withdraw(Withdrawal::Replaced, DRAIN).await.is_clean());
    send(&host).await;
    assert_eq!((old_count.load(Ordering::SeqCst), new_count.load(Ordering::SeqCst)), (0, 1));
    assert_eq!(slot.live().unwrap().incarnation(), 2);
}

#[tokio::test]
async fn a_swap_has_the_old_incarnation_handle_what_it_had_accepted() {
    let (host, slot) = (host(), slot());
    let start = |incarnation| {
        let scope = scope(&host, &slot, incarnation, &["event:subscribe:**"]);
        scope.begin_start();
        scope
    };
    let (open, gate) = tokio::sync::watch::channel(false);
    let (count, handled) = (Arc::new(AtomicUsize::new(0)), SubscribeOptions::new());
    let counted = count.clone();
    let slow = move |_: Event| {
        let (mut gate, counted) = (gate.clone(), counted.clone());
        async move {
            let _ = gate.wait_for(|open| *open).await;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let old = start(1);
    old.context().subscribe("orders.*", handled, slow).unwrap();
    old.publish(None).await.unwrap();
    for _ in 0..3 {
        let _ = host.bus.emit(&Topic::new("orders.new").unwrap(), json!(1)).unwrap();
    }
    let new = start(2);
    new.publish(Some(&old)).await.unwrap();
    open.send(true).unwrap();
    let report = old.withdraw(Withdrawal::Replaced, DRAIN).await;
    assert_eq!((count.load(Ordering::SeqCst), report.undelivered), (3, 0));
}

#[tokio::test]
async fn promise_6_a_swap_that_the_bus_refuses_leaves_the_old_in_place() {
    let (host, slot) = (host(), slot());
    let old = scope(&host, &slot, 1, &["event:subscribe:**"]);
    old.begin_start();
    old.publish(None).await.unwrap();
    let new = scope(&host, &slot, 2, &["event:subscribe:**"]);
    new.begin_start();
    let (_, handler) = counter();
    new.context().subscribe("orders.*", SubscribeOptions::new(), handler).unwrap();
    let _ = host.bus.shutdown(DRAIN).await;
    assert!(matches!(new.publish(Some(&old)).await, Err(PublishError::Subscribe(_))));
    let live = slot.live().unwrap();
    assert!(live.incarnation() == 1 && live.enter().is_some());
}

#[tokio::test]
async fn a_subscription_that_cannot_be_is_refused_where_it_is_asked_for() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &["event:subscribe:**"]);
    scope.begin_start();
    let (_, handler) = counter();
    let error = scope.context().subscribe("a.*", SubscribeOptions::new().capacity(0), handler).unwrap_err();
    assert!(error.to_string().starts_with("`subscription a.*`: capacity: 0 "), "{error}");
}

/// A plugin's handlers hold its context as a rule, and the context holds them until they are published.
#[tokio::test]
async fn what_was_staged_and_not_published_is_let_go() {
    let (host, slot) = (host(), slot());
    for withdrawn in [true, false] {
        let scope = scope(&host, &slot, 1, &["service:provide:s", "route:/p", "event:subscribe:**"]);
        scope.begin_start();
        let (ctx, alive) = (scope.context(), Arc::new(()));
        let held = (ctx.clone(), alive.clone());
        ctx.provide("s", Arc::new(held.clone())).unwrap();
        let (routed, wrapping) = (held.clone(), held);
        let route = move |_: RouteRequest| {
            let _ = &routed;
            async { Ok("p") }
        };
        ctx.route(Endpoint::get("/p"), route).unwrap();
        let wrap = move |request: RouteRequest, next: crate::Next| {
            let _ = &wrapping;
            next.run(request)
        };
        ctx.middleware(1, wrap).unwrap();
        if withdrawn {
            scope.withdraw(Withdrawal::Stopped, DRAIN).await;
        } else {
            scope.close(DRAIN).await;
        }
        assert_eq!(Arc::strong_count(&alive), 1, "withdrawn: {withdrawn}");
    }
}

/// Calls the context when it is dropped, as a plugin's value may.
struct CallsBack(PluginContext);

impl Drop for CallsBack {
    fn drop(&mut self) {
        self.0.own(());
    }
}

#[test]
fn what_is_dropped_may_use_the_context() {
    let (done, wait) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (host, slot) = (host(), slot());
            for close in [true, false] {
                let scope = scope(&host, &slot, 1, &["service:provide:s", "event:subscribe:a"]);
                scope.begin_start();
                let ctx = scope.context();
                ctx.provide("s", Arc::new(CallsBack(ctx.clone()))).unwrap();
                let held = CallsBack(ctx.clone());
                let handler = by_ref(move |_: &Event| {
                    let _ = &held;
                    Ok(())
                });
                ctx.subscribe("a", SubscribeOptions::new(), handler).unwrap();
                if close {
                    scope.close(DRAIN).await;
                } else {
                    scope.withdraw(Withdrawal::Stopped, DRAIN).await;
                }
            }
        });
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[tokio::test]
async fn middleware_wraps_what_its_plugin_may_serve_and_nothing_else() {
    let wraps = async |permission: &str, path: &'static str| {
        let (host, slot) = (host(), slot());
        let scope = scope(&host, &slot, 1, &[permission]);
        scope.begin_start();
        let answers =
            |_: RouteRequest, _: crate::Next| async { Ok(crate::Reply::text("own").into_response()) };
        scope.context().middleware(1, answers).unwrap();
        scope.publish(None).await.unwrap();
        let live = slot.live().unwrap();
        let chain: Vec<_> = live.middleware().map(|(_, middleware)| middleware.clone()).collect();
        let route: Arc<dyn crate::RouteHandler> =
            Arc::new(|_: RouteRequest| async { Ok(http::StatusCode::CREATED) });
        let request = http::Request::get(path).body(crate::full_body("")).unwrap();
        let request = RouteRequest::new(request, crate::PathParams::default());
        crate::Next::new(chain.into(), route).run(request).await.unwrap().status() == http::StatusCode::OK
    };
    assert!(wraps("route:/p", "/p/x").await && wraps("route:/p", "/p").await);
    assert!(!wraps("route:/p", "/other").await && !wraps("route:/p", "/pp").await);
    assert!(wraps("route:/", "/other").await);
}

struct Recorded {
    log: Arc<Mutex<Vec<String>>>,
    name: &'static str,
    fails: bool,
}

#[async_trait]
impl Registration for Recorded {
    fn describe(&self) -> String {
        self.name.to_owned()
    }

    async fn prepare(&mut self) -> Result<(), PluginError> {
        if self.fails { Err(PluginError::new("no room")) } else { Ok(()) }
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        self.log.lock().unwrap().push(format!("commit {}", self.name));
        self
    }
}

impl Withdraw for Recorded {
    fn withdraw(&mut self, why: Withdrawal) {
        self.log.lock().unwrap().push(format!("withdraw {} {why:?}", self.name));
    }
}

#[tokio::test]
async fn promise_6_a_registration_that_is_refused_leaves_nothing_behind() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &[]);
    scope.begin_start();
    let log = Arc::new(Mutex::new(Vec::new()));
    for (name, fails) in [("first", false), ("second", true)] {
        scope.context().register(Recorded { log: log.clone(), name, fails }).unwrap();
    }
    let error = scope.publish(None).await.unwrap_err();
    assert_eq!(error.to_string(), "register second");
    assert!(slot.live().is_none());
    assert!(log.lock().unwrap().is_empty(), "nothing was committed");
}

#[tokio::test]
async fn registrations_are_committed_and_taken_back_with_the_reason() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &[]);
    scope.begin_start();
    let log = Arc::new(Mutex::new(Vec::new()));
    scope.context().register(Recorded { log: log.clone(), name: "task", fails: false }).unwrap();
    scope.publish(None).await.unwrap();
    scope.withdraw(Withdrawal::Restarting, DRAIN).await;
    assert_eq!(*log.lock().unwrap(), ["commit task", "withdraw task Restarting"]);
}

#[tokio::test]
async fn what_is_owned_goes_last_in_first_out_once_background_work_has_ended() {
    struct Tells(&'static str, Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &[]);
    let ctx = scope.context();
    let log = Arc::new(Mutex::new(Vec::new()));
    ctx.own(Tells("first", log.clone()));
    ctx.own(Tells("second", log.clone()));
    let (token, background) = (ctx.cancelled(), Tells("background", log.clone()));
    ctx.spawn("work", async move {
        token.cancelled().await;
        drop(background);
    });
    assert!(scope.close(DRAIN).await.is_clean());
    ctx.own(Tells("late", log.clone()));
    assert_eq!(*log.lock().unwrap(), ["background", "second", "first", "late"]);
}

#[tokio::test]
async fn an_owned_value_that_panics_when_dropped_keeps_none_of_the_others() {
    struct Panics(Arc<AtomicUsize>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("dropped badly");
        }
    }
    let (host, slot, dropped) = (host(), slot(), Arc::new(AtomicUsize::new(0)));
    let scope = scope(&host, &slot, 1, &[]);
    for _ in 0..3 {
        scope.context().own(Panics(dropped.clone()));
    }
    scope.close(DRAIN).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

/// Registers something more while what was staged is being prepared.
struct Late(PluginContext, Arc<Mutex<Vec<RegisterError>>>);

#[async_trait]
impl Registration for Late {
    fn describe(&self) -> String {
        "late".to_owned()
    }

    async fn prepare(&mut self) -> Result<(), PluginError> {
        let refused = self.0.provide("s", Arc::new(1_u8)).unwrap_err();
        self.1.lock().unwrap().push(refused);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        self
    }
}

impl Withdraw for Late {
    fn withdraw(&mut self, _: Withdrawal) {}
}

/// Calls under way that end when a gate opens.
struct Gated(Arc<AtomicUsize>, tokio::sync::watch::Receiver<bool>);

impl Registration for Gated {
    fn describe(&self) -> String {
        "gated".to_owned()
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        self
    }
}

#[async_trait]
impl Withdraw for Gated {
    fn withdraw(&mut self, _: Withdrawal) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    async fn drained(&mut self, deadline: Duration) -> usize {
        usize::from(tokio::time::timeout(deadline, self.1.wait_for(|open| *open)).await.is_err())
    }
}

#[tokio::test(start_paused = true)]
async fn promise_4_registrations_are_withdrawn_at_once_and_drained_after() {
    let (host, slot) = (host(), slot());
    let (open, gate) = tokio::sync::watch::channel(false);
    let start = async |incarnation| {
        let withdrawn = Arc::default();
        let scope = scope(&host, &slot, incarnation, &[]);
        scope.begin_start();
        scope.context().register(Gated(Arc::clone(&withdrawn), gate.clone())).unwrap();
        scope.publish(None).await.unwrap();
        (scope, withdrawn)
    };
    let (scope, withdrawn) = start(1).await;
    scope.shut_out(Withdrawal::Stopped);
    assert_eq!(withdrawn.load(Ordering::SeqCst), 1, "without waiting for anything");
    assert!(slot.live().is_none());
    let report = scope.withdraw(Withdrawal::Stopped, DRAIN).await;
    assert_eq!((report.in_flight, withdrawn.load(Ordering::SeqCst)), (1, 1), "once, and then waited for");
    let (scope, _) = start(2).await;
    let draining = scope.withdraw(Withdrawal::Stopped, DRAIN);
    tokio::pin!(draining);
    assert!(futures_util::poll!(&mut draining).is_pending());
    open.send_replace(true);
    assert!(draining.await.is_clean());
}

#[tokio::test]
async fn a_start_that_fails_gives_back_the_sockets_that_it_opened() {
    let (host, slot) = (host(), slot());
    let transport = |incarnation| {
        let manifest = Manifest::new("p", "1.0.0").unwrap().kind(crate::PluginKind::Transport);
        let options = ScopeOptions {
            manifest: Arc::new(manifest),
            permissions: Permissions::new(Vec::new()),
            config: json!({}),
            incarnation,
        };
        let scope = Scope::open(host.clone(), slot.clone(), options);
        scope.begin_start();
        scope
    };
    let addresses =
        || host.listeners.addresses().into_iter().map(|(_, _, address)| address).collect::<Vec<_>>();
    let any = |host: &str| format!("{host}:0").parse().unwrap();
    let fails = transport(1);
    let opened = fails.context().listen("http", any("127.0.0.1")).await.unwrap();
    assert_eq!(addresses(), [opened.address()]);
    fails.close(DRAIN).await;
    assert!(addresses().is_empty());

    let old = transport(2);
    let served = old.context().listen("http", any("127.0.0.1")).await.unwrap();
    old.publish(None).await.unwrap();
    let refused = transport(3);
    refused.context().listen("http", any("0.0.0.0")).await.unwrap();
    refused.context().listen("http", any("127.0.0.1")).await.unwrap();
    refused.close(DRAIN).await;
    assert_eq!(addresses(), [served.address()], "what serves is still what is known");
    let takes_over = transport(4);
    let moved = takes_over.context().listen("http", any("0.0.0.0")).await.unwrap();
    takes_over.publish(Some(&old)).await.unwrap();
    takes_over.close(DRAIN).await;
    assert_eq!(addresses(), [moved.address()]);
}

#[tokio::test(start_paused = true)]
async fn a_context_tells_what_is_left_of_its_methods_time() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &[]);
    assert_eq!(scope.context().time_left(), None);
    let ctx = scope.context_until(Instant::now() + DRAIN);
    tokio::time::advance(DRAIN / 4).await;
    assert_eq!(ctx.time_left(), Some(DRAIN * 3 / 4));
    tokio::time::advance(DRAIN).await;
    assert_eq!(ctx.time_left(), Some(Duration::ZERO));
}

#[tokio::test]
async fn what_comes_while_publishing_is_refused_and_not_lost() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &["service:provide:s"]);
    scope.begin_start();
    let refused = Arc::default();
    scope.context().register(Late(scope.context(), Arc::clone(&refused))).unwrap();
    scope.publish(None).await.unwrap();
    assert!(matches!(refused.lock().unwrap()[..], [RegisterError::NotStarting { .. }]));
}

#[tokio::test]
async fn events_of_the_host_and_without_permission_are_refused() {
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &["event:publish:**"]);
    let ctx = scope.context();
    for topic in ["plugin.started", "system.started", "scheduler.task.started", "plugin"] {
        assert!(matches!(ctx.publish(topic, &1).await, Err(RegisterError::NotPermitted(_))), "{topic}");
    }
    ctx.publish("orders.new", &json!({"n": 1})).await.unwrap();
    assert!(matches!(ctx.publish("orders..new", &1).await, Err(RegisterError::Invalid { .. })));
}

#[tokio::test]
async fn the_bus_itself_is_for_those_who_may_do_all_on_it() {
    let (host, slot) = (host(), slot());
    for (permissions, expected) in [
        (&["event:subscribe:**"][..], false),
        (&["event:subscribe:**", "event:publish:orders.**"], false),
        (&["event:publish:**"], false),
        (&["event:subscribe:**", "event:publish:**"], true),
    ] {
        assert_eq!(scope(&host, &slot, 1, permissions).context().bus().is_ok(), expected, "{permissions:?}");
    }
}

#[tokio::test]
async fn configuration_is_typed_and_its_errors_name_the_whole_path() {
    #[derive(Debug, serde::Deserialize)]
    struct Config {
        size: u8,
    }
    let (host, slot) = (host(), slot());
    let scope = scope(&host, &slot, 1, &[]);
    assert_eq!(scope.context().config::<Config>().unwrap().size, 3);
    let tried = scope.context_with(json!({"size": "x"}));
    assert_eq!(tried.config::<Config>().unwrap_err().path(), "plugins.p.size");
    assert_eq!(scope.context().config::<Config>().unwrap().size, 3, "what was tried is not in force");
    let ctx = scope.context();
    scope.set_config(json!({"size": 4}));
    assert_eq!(ctx.config::<Config>().unwrap().size, 4);
}
