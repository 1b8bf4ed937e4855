//! The scheduler as a plugin, and what it adds to the context of other plugins.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use event_bus::{Event, SubscribeOptions, by_ref};
use plugin_core::{
    ConfigError, ConfigSpec, Health, InvalidManifest, Manifest, Permission, Plugin, PluginContext,
    PluginError, PluginKind, Reconfigured, RegisterError, Registration, SwapMode, Withdraw, Withdrawal,
};
use serde_json::{Map, Value};
use tracing::warn;

use crate::builder::{BuildError, SchedulerConfig};
use crate::executor::{Executor, ExecutorGuard, RunContext, RunError, RunOutput, executor_fn};
use crate::scheduler::Scheduler;
use crate::spec::TaskSpec;

/// The name of the plugin, and of the service that it provides.
pub const SCHEDULER: &str = "scheduler";

/// What the host says when a plugin has been removed. A plugin that was stopped before has withdrawn its
/// registrations at the stop, and its tasks wait for it as suspended.
const UNLOADED: &str = "plugin.unloaded";

/// How long a stop may take where the host sets no deadline.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The scheduler as a plugin of kind `service`: it runs due tasks while it is started, and provides the
/// [`Scheduler`] under the name `scheduler`.
///
/// Build the scheduler with [`start_later`](crate::SchedulerBuilder::start_later), so that nothing runs
/// before the plugin does.
#[derive(Debug)]
pub struct SchedulerPlugin {
    scheduler: Scheduler,
    built_with: SchedulerConfig,
    manifest: Manifest,
}

impl SchedulerPlugin {
    /// A plugin around a scheduler, whose handle others may hold too.
    ///
    /// # Errors
    ///
    /// If this crate's version were no semantic version.
    pub fn new(scheduler: Scheduler) -> Result<Self, InvalidManifest> {
        let mut manifest = Manifest::new(SCHEDULER, env!("CARGO_PKG_VERSION"))?
            .description("runs tasks by cron expression, at intervals and once")
            .kind(PluginKind::Service)
            .config(Self::config());
        manifest.permissions.push(Permission::ServiceProvide(SCHEDULER.to_owned()));
        manifest.permissions.push(format!("event:subscribe:{UNLOADED}").parse()?);
        // Two of it would run each task twice.
        manifest.swap = SwapMode::Exclusive;
        Ok(Self { built_with: scheduler.config(), scheduler, manifest })
    }
}

impl SchedulerPlugin {
    /// What the section `[plugins.scheduler]` may say, for whoever checks it before there is a scheduler.
    #[must_use]
    pub fn config() -> ConfigSpec {
        ConfigSpec::checked(|config: &SchedulerConfig| config.check().map_err(wrong))
    }

    /// Puts the plugin's section in force, above what the scheduler was built with.
    fn configure(&self, ctx: &PluginContext) -> Result<(), PluginError> {
        let mut config = serde_json::to_value(&self.built_with)?;
        if let Value::Object(config) = &mut config {
            config.extend(ctx.config::<Map<String, Value>>()?);
        }
        self.scheduler.reconfigure(plugin_core::decode(&config)?)?;
        Ok(())
    }
}

fn wrong(error: BuildError) -> ConfigError {
    match error {
        BuildError::Invalid { field, detail } => ConfigError::invalid(field, detail),
        other => ConfigError::invalid("", other.to_string()),
    }
}

#[async_trait]
impl Plugin for SchedulerPlugin {
    fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.configure(&ctx)?;
        ctx.provide::<Scheduler>(SCHEDULER, Arc::new(self.scheduler.clone()))?;
        let scheduler = self.scheduler.clone();
        let on_unload = by_ref(move |event: &Event| {
            if let Some(plugin) = event.data().get("plugin").and_then(|name| name.as_str()) {
                scheduler.remove_left_by(plugin);
            }
            Ok(())
        });
        ctx.subscribe(UNLOADED, SubscribeOptions::default(), on_unload)?;
        if self.scheduler.config().auto_start {
            self.scheduler.start();
        }
        Ok(())
    }

    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        self.configure(&ctx)?;
        Ok(Reconfigured::Applied)
    }

    async fn stop(&self, ctx: PluginContext) -> Result<(), PluginError> {
        // The rest is for what the store has not taken yet, and for telling.
        let within = ctx.time_left().map_or(STOP_WITHIN, |left| left * 4 / 5);
        let report = self.scheduler.stop(within).await;
        if report.stuck_runs > 0 {
            return Err(PluginError::new(format!("{} runs do not yield", report.stuck_runs)));
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        if !self.scheduler.is_running() && self.scheduler.config().auto_start {
            return Health::unhealthy("the timer loop does not run");
        }
        let store = self.scheduler.status().store;
        if store.healthy {
            Health::healthy()
        } else {
            // A restart would not mend the disk, and planned runs go on meanwhile.
            Health::not_ready(format!("the task store fails: {}", store.last_error.unwrap_or_default()))
        }
    }
}

/// What the scheduler adds to the context of a plugin. The plugin needs the permission `task` and declares a
/// dependency on `scheduler`.
///
/// What is registered belongs to the context: a stop withdraws the executors and suspends the tasks, an
/// unload removes the tasks.
pub trait PluginTasks {
    /// Registers a handler as the executor `<plugin>.<name>`.
    ///
    /// # Errors
    ///
    /// Without the permission `task`, outside `start`, where no scheduler is, or if the name is none.
    fn executor<F, Fut, O>(&self, name: &str, handler: F) -> Result<(), RegisterError>
    where
        F: Fn(RunContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, RunError>> + Send + 'static,
        O: Into<RunOutput> + Send + 'static;

    /// Registers an executor as `<plugin>.<name>`.
    ///
    /// # Errors
    ///
    /// As [`PluginTasks::executor`].
    fn executor_object(&self, name: &str, executor: Arc<dyn Executor>) -> Result<(), RegisterError>;

    /// Inserts a task, or updates it: by plugin and id. It begins to run once the plugin's start has
    /// succeeded. What an operator has paused stays paused.
    ///
    /// # Errors
    ///
    /// Without the permission `task`, outside `start`, where no scheduler is, or if a field is wrong. That
    /// the id is somebody else's task makes the start fail.
    fn task(&self, task: TaskSpec) -> Result<(), RegisterError>;
}

impl PluginTasks for PluginContext {
    fn executor<F, Fut, O>(&self, name: &str, handler: F) -> Result<(), RegisterError>
    where
        F: Fn(RunContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, RunError>> + Send + 'static,
        O: Into<RunOutput> + Send + 'static,
    {
        let executor = executor_fn(move |run| {
            let work = handler(run);
            async move { work.await.map(Into::into) }
        });
        self.executor_object(name, executor)
    }

    fn executor_object(&self, name: &str, executor: Arc<dyn Executor>) -> Result<(), RegisterError> {
        let scheduler = scheduler_of(self)?;
        let name = format!("{}.{name}", self.name());
        scheduler.registry().key_of(&name).map_err(|error| RegisterError::Invalid {
            field: "executor".to_owned(),
            detail: error.to_string(),
        })?;
        self.register(ExecutorRegistration { plugin: self.name().to_string(), name, executor, scheduler })
    }

    fn task(&self, task: TaskSpec) -> Result<(), RegisterError> {
        let scheduler = scheduler_of(self)?;
        let plugin = self.name().to_string();
        scheduler.check_owned(&plugin, &task).map_err(|error| match error {
            crate::TaskError::Invalid { field, detail } => RegisterError::Invalid { field, detail },
            other => RegisterError::Invalid { field: "id".to_owned(), detail: other.to_string() },
        })?;
        self.register(TaskRegistration { plugin, task, scheduler, incarnation: self.incarnation() })
    }
}

/// The host's scheduler.
fn scheduler_of(ctx: &PluginContext) -> Result<Scheduler, RegisterError> {
    ctx.require_task_permission()?;
    let absent = |error: plugin_core::ServiceError| RegisterError::Invalid {
        field: "dependencies".to_owned(),
        detail: format!("tasks need a dependency on the plugin `{SCHEDULER}`: {error}"),
    };
    let handle = ctx.find_service::<Scheduler>(SCHEDULER).map_err(absent)?;
    Ok(handle.get().map_err(absent)?.clone())
}

struct ExecutorRegistration {
    plugin: String,
    name: String,
    executor: Arc<dyn Executor>,
    scheduler: Scheduler,
}

#[async_trait]
impl Registration for ExecutorRegistration {
    fn describe(&self) -> String {
        format!("executor `{}`", self.name)
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        let guard = self.scheduler.registry().register(&self.name, Some(&self.plugin), self.executor);
        // The name was checked before, and is kept from then on.
        Box::new(ExecutorWithdraw(
            guard.inspect_err(|error| warn!(executor = self.name, %error, "executor not registered")).ok(),
        ))
    }
}

struct ExecutorWithdraw(Option<ExecutorGuard>);

#[async_trait]
impl Withdraw for ExecutorWithdraw {
    fn withdraw(&mut self, _: Withdrawal) {
        // Closing it lets no new call in; a successor of the same name is left alone.
        if let Some(guard) = &self.0 {
            guard.close();
        }
    }

    async fn drained(&mut self, deadline: Duration) -> usize {
        match &self.0 {
            Some(guard) => usize::try_from(guard.drain(deadline).await).unwrap_or(usize::MAX),
            None => 0,
        }
    }
}

struct TaskRegistration {
    plugin: String,
    task: TaskSpec,
    scheduler: Scheduler,
    incarnation: u64,
}

#[async_trait]
impl Registration for TaskRegistration {
    fn describe(&self) -> String {
        format!("task `{}`", self.task.id)
    }

    async fn prepare(&mut self) -> Result<(), PluginError> {
        self.scheduler
            .check_owned(&self.plugin, &self.task)
            .map_err(|error| PluginError::new(error.to_string()))
    }

    fn commit(self: Box<Self>) -> Box<dyn Withdraw> {
        let Self { plugin, task, scheduler, incarnation } = *self;
        let id = task.id.clone();
        if let Err(error) = scheduler.apply_owned(&plugin, task, incarnation) {
            // Checked a moment ago: somebody has taken the id or the last place since.
            warn!(plugin, task = id, %error, "task not registered");
        }
        Box::new(TaskWithdraw { plugin, id, scheduler, incarnation })
    }
}

struct TaskWithdraw {
    plugin: String,
    id: String,
    scheduler: Scheduler,
    incarnation: u64,
}

impl Withdraw for TaskWithdraw {
    fn withdraw(&mut self, why: Withdrawal) {
        let Self { plugin, id, scheduler, incarnation } = self;
        let incarnation = *incarnation;
        match why {
            Withdrawal::Stopped | Withdrawal::Failed | Withdrawal::Restarting => {
                scheduler.suspend_registered(plugin, id, incarnation);
            }
            // A successor that has the task has made it its own by now.
            Withdrawal::Replaced | Withdrawal::Unloaded => {
                scheduler.remove_registered(plugin, id, incarnation);
            }
        }
    }
}
