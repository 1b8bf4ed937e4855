use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use event_bus::EventBus;
use plugin_core::{
    Directory, Host, Live, Manifest, Permissions, Plugin, PluginContext, PluginError, PluginName,
    PublishError, Reconfigured, RegisterError, Scope, ScopeOptions, ServiceKey, Slot, Withdrawal,
};
use runtime::VirtualClock;
use scheduler::{
    PluginTasks, RunContext, RunError, RunOutput, Scheduler, SchedulerConfig, SchedulerPlugin, Task,
    TaskError, TaskStatus, executor_fn,
};
use serde_json::json;
use tokio::runtime::Handle;

use crate::support::{NOON, at, secs};

/// Finds services by key, as the registry does.
#[derive(Default)]
struct Services(Mutex<HashMap<ServiceKey, Arc<Slot>>>);

impl Directory for Services {
    fn find(&self, key: &ServiceKey) -> Option<Arc<Slot>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn publish(&self, slot: &Arc<Slot>, live: Arc<Live>) -> Result<Option<Arc<Live>>, PublishError> {
        let mut services = self.0.lock().unwrap();
        services.extend(live.services().map(|key| (key.clone(), slot.clone())));
        Ok(slot.replace(Some(live)))
    }

    fn withdraw(&self, slot: &Arc<Slot>, _: u64, _: Withdrawal) {
        slot.replace(None);
    }
}

/// A plugin with an executor and a task, whose version says which tasks it has.
struct Greeter {
    tasks: Vec<Task>,
    ran: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Plugin for Greeter {
    fn manifest(&self) -> Manifest {
        Manifest::new("greeter", "1.0.0").unwrap()
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        let ran = self.ran.clone();
        ctx.executor("report", move |run| {
            ran.lock().unwrap().push(run.task_id().to_owned());
            async { Ok(RunOutput::none()) }
        })?;
        for task in &self.tasks {
            ctx.task(task.clone())?;
        }
        Ok(())
    }
}

struct World {
    host: Host,
    scheduler: Scheduler,
    ran: Arc<Mutex<Vec<String>>>,
    slot: Arc<Slot>,
    next: std::sync::atomic::AtomicU64,
    _scheduler_scope: Scope,
}

impl World {
    async fn new() -> Self {
        let clock = VirtualClock::starting_at(at(NOON));
        let bus = EventBus::builder().clock(clock.clone()).build();
        let host = Host {
            bus: bus.clone(),
            clock: clock.clone(),
            directory: Arc::new(Services::default()),
            listeners: Arc::default(),
            runtime: Handle::current(),
        };
        let scheduler = Scheduler::builder().clock(clock).bus(bus).start_later().build().await.unwrap();
        assert!(!scheduler.is_running());
        let plugin = SchedulerPlugin::new(scheduler.clone()).unwrap();
        let slot = Slot::new(PluginName::new("scheduler").unwrap());
        let options = ScopeOptions {
            permissions: Permissions::new(plugin.manifest().permissions),
            manifest: Arc::new(plugin.manifest()),
            config: json!({}),
            incarnation: 1,
        };
        let scope = Scope::open(host.clone(), slot, options);
        scope.begin_start();
        plugin.start(scope.context()).await.unwrap();
        scope.publish(None).await.unwrap();
        assert!(plugin.health().await.healthy);
        Self {
            host,
            scheduler,
            ran: Arc::default(),
            slot: Slot::new(PluginName::new("greeter").unwrap()),
            next: 2.into(),
            _scheduler_scope: scope,
        }
    }

    fn open(&self, permissions: &[&str]) -> Scope {
        let options = ScopeOptions {
            permissions: Permissions::new(permissions.iter().map(|p| p.parse().unwrap()).collect()),
            manifest: Arc::new(Manifest::new("greeter", "1.0.0").unwrap()),
            config: json!({}),
            incarnation: self.next.fetch_add(1, Ordering::SeqCst),
        };
        Scope::open(self.host.clone(), self.slot.clone(), options)
    }

    async fn start(&self, tasks: &[Task], replacing: Option<&Scope>) -> Scope {
        let scope = self.open(&["task"]);
        scope.begin_start();
        let plugin = Greeter { tasks: tasks.to_vec(), ran: self.ran.clone() };
        plugin.start(scope.context()).await.unwrap();
        scope.publish(replacing).await.unwrap();
        scope
    }

    async fn ran_within(&self, span: Duration) -> Vec<String> {
        self.ran.lock().unwrap().clear();
        tokio::time::sleep(span).await;
        tokio::time::sleep(Duration::from_micros(1)).await;
        std::mem::take(&mut self.ran.lock().unwrap())
    }
}

/// What the section says goes above what the scheduler was built with, live, and what is wrong changes nothing.
#[tokio::test(start_paused = true)]
async fn its_bounds_are_configured_while_it_runs() {
    let scheduler_config =
        SchedulerConfig { max_tasks: 5, max_concurrent_tasks: 1, ..SchedulerConfig::default() };
    let scheduler = Scheduler::builder().config(scheduler_config).start_later().build().await.unwrap();
    let plugin = SchedulerPlugin::new(scheduler.clone()).unwrap();
    let spec = plugin.manifest().config.unwrap();
    for (section, path) in [
        (json!({"max_tasks": 0}), "max_tasks"),
        (json!({"max_task": 1}), "max_task"),
        (json!({"default_timeout": "soon"}), "default_timeout"),
    ] {
        assert_eq!(spec.check(&section).unwrap_err().path(), path);
    }
    let world = World::new().await;
    let ctx = |config| {
        let options = ScopeOptions {
            permissions: Permissions::new(plugin.manifest().permissions),
            manifest: Arc::new(plugin.manifest()),
            config,
            incarnation: 1,
        };
        Scope::open(world.host.clone(), Slot::new(PluginName::new("scheduler").unwrap()), options).context()
    };
    assert!(plugin.reconfigure(ctx(json!({"max_records": 0}))).await.is_err());
    assert_eq!(scheduler.config().max_records, SchedulerConfig::default().max_records);
    let applied = plugin.reconfigure(ctx(json!({"max_records": 7}))).await.unwrap();
    assert_eq!(applied, Reconfigured::Applied);
    assert_eq!((scheduler.config().max_records, scheduler.config().max_tasks), (7, 5));
}

/// Runs that wait for room get it as soon as there is more.
#[tokio::test(start_paused = true)]
async fn more_room_is_used_at_once() {
    let config = SchedulerConfig { max_concurrent_tasks: 1, ..SchedulerConfig::default() };
    let scheduler = Scheduler::builder()
        .clock(VirtualClock::starting_at(at(NOON)))
        .config(config.clone())
        .build()
        .await
        .unwrap();
    let started = Arc::new(AtomicU64::new(0));
    let count = started.clone();
    let endless = executor_fn(move |_: RunContext| {
        count.fetch_add(1, Ordering::SeqCst);
        async { std::future::pending::<Result<RunOutput, RunError>>().await }
    });
    let _guard = scheduler.registry().register("endless", None, endless).unwrap();
    for id in ["a", "b", "c"] {
        scheduler.create(Task::once(id, secs(1)).executor("endless")).await.unwrap();
    }
    tokio::time::sleep(secs(10)).await;
    assert_eq!(started.load(Ordering::SeqCst), 1);
    scheduler.reconfigure(SchedulerConfig { max_concurrent_tasks: 3, ..config }).unwrap();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(started.load(Ordering::SeqCst), 3);
}

fn task(id: &str) -> Task {
    Task::every(id, secs(10)).executor("greeter.report")
}

#[tokio::test(start_paused = true)]
async fn promise_4_after_a_stop_no_call_reaches_the_plugin() {
    let world = World::new().await;
    let scope = world.start(&[task("nightly")], None).await;
    assert_eq!(world.ran_within(secs(25)).await, ["nightly", "nightly"]);
    let view = world.scheduler.get("nightly").await.unwrap();
    assert_eq!(view.owner.as_deref(), Some("greeter"));
    let _ = world.scheduler.create(task("users")).await.unwrap();
    scope.withdraw(Withdrawal::Stopped, secs(5)).await;
    assert!(world.ran_within(secs(60)).await.is_empty());
    assert_eq!(world.scheduler.get("nightly").await.unwrap().status, TaskStatus::Paused);
    let users = world.scheduler.get("users").await.unwrap();
    assert_eq!(users.waiting_for.as_deref(), Some("executor `greeter.report` is not registered"));
    let scope = world.start(&[task("nightly")], None).await;
    let ran = world.ran_within(secs(11)).await;
    assert!(ran.contains(&"nightly".to_owned()) && ran.contains(&"users".to_owned()), "{ran:?}");
    scope.withdraw(Withdrawal::Unloaded, secs(5)).await;
    assert!(matches!(world.scheduler.get("nightly").await, Err(TaskError::NotFound(_))));
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_paused_stays_paused_over_a_restart() {
    let world = World::new().await;
    let scope = world.start(&[task("nightly")], None).await;
    world.scheduler.pause("nightly").await.unwrap();
    scope.withdraw(Withdrawal::Restarting, secs(5)).await;
    let _scope = world.start(&[task("nightly")], None).await;
    assert!(world.ran_within(secs(60)).await.is_empty());
    world.scheduler.resume("nightly").await.unwrap();
    assert_eq!(world.ran_within(secs(10)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_swap_keeps_what_both_have_and_removes_what_only_the_old_one_had() {
    let world = World::new().await;
    let old = world.start(&[task("both"), task("old")], None).await;
    let before = world.scheduler.get("both").await.unwrap();
    let _new = world.start(&[task("both"), task("new")], Some(&old)).await;
    old.withdraw(Withdrawal::Replaced, secs(5)).await;
    assert_eq!(world.scheduler.get("both").await.unwrap().incarnation, before.incarnation);
    assert!(world.scheduler.get("old").await.is_err());
    let mut ran = world.ran_within(secs(10)).await;
    ran.sort();
    assert_eq!(ran, ["both", "new"]);
}

#[tokio::test(start_paused = true)]
async fn promise_6_a_start_that_fails_leaves_no_task() {
    let world = World::new().await;
    world.scheduler.create(task("mine")).await.unwrap();
    let scope = world.open(&["task"]);
    scope.begin_start();
    let ctx = scope.context();
    ctx.task(task("fresh")).unwrap();
    let taken = ctx.task(task("mine")).unwrap_err();
    assert!(taken.to_string().contains("exists already"), "{taken}");
    let wrong = ctx.task(Task::cron("x", "0 0 31 2 *")).unwrap_err();
    assert!(wrong.to_string().contains("schedule.cron"), "{wrong}");
    drop(scope);
    assert!(world.scheduler.get("fresh").await.is_err());

    let scope = world.open(&[]);
    scope.begin_start();
    let refused = scope.context().task(task("t")).unwrap_err();
    assert!(matches!(refused, RegisterError::NotPermitted(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_stopped_plugin_go_when_it_is_unloaded() {
    let world = World::new().await;
    let scope = world.start(&[task("nightly")], None).await;
    world.scheduler.create(task("users")).await.unwrap();
    scope.withdraw(Withdrawal::Stopped, secs(5)).await;
    let unloaded = event_bus::Topic::new("plugin.unloaded").unwrap();
    world.host.bus.emit(&unloaded, json!({"plugin": "greeter"})).unwrap();
    tokio::time::sleep(secs(1)).await;
    assert!(world.scheduler.get("nightly").await.is_err());
    assert!(world.scheduler.get("users").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn promise_4_runs_under_way_are_drained_within_the_deadline() {
    let world = World::new().await;
    for (takes, in_time) in [(secs(3), true), (secs(30), false)] {
        let scope = world.open(&["task"]);
        scope.begin_start();
        let executor = move |_| async move {
            tokio::time::sleep(takes).await;
            Ok(RunOutput::none())
        };
        scope.context().executor("report", executor).unwrap();
        scope.publish(None).await.unwrap();
        let id = format!("t{}", takes.as_secs());
        let _ = world
            .scheduler
            .create(Task::every(id.as_str(), secs(10)).executor("greeter.report"))
            .await
            .unwrap();
        tokio::time::sleep(secs(11)).await;
        let began = tokio::time::Instant::now();
        let report = scope.withdraw(Withdrawal::Stopped, secs(5)).await;
        assert_eq!(report.is_clean(), in_time, "{report:?}");
        let took = began.elapsed();
        assert!(took > secs(1) && took <= secs(6), "{took:?}");
        world.scheduler.remove(&id, None).await.unwrap();
    }
}
