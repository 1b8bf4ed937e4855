//! One plugin's supervisor: the task through which everything that happens to the plugin goes, one thing
//! after another.

mod configure;
mod health;
mod lifecycle;
mod swap;

use std::future::pending;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugin_core::{
    Action, Host, Layer, Manifest, Needs, Permissions, Plugin, PluginError, PluginName, Scope, ScopeOptions,
    Slot, State, Withdrawal,
};
use registry::{Records, Transition};
use runtime::{CallError, guarded};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

pub(crate) use self::configure::{section_of, show_defaults};
use self::health::{Asked, HealthCall};
pub(crate) use self::swap::SwapOrder;
use crate::restart::Failures;
use crate::shared::{Shared, Status};
use crate::{ManagerError, RestartConfig};

/// How many requests may wait for one plugin.
pub(crate) const MAILBOX: usize = 32;

/// How long the background work of a plugin that failed may take to end before it is cut off.
const CLOSE: Duration = Duration::from_secs(1);

/// What is added to a deadline of the host's own steps, so that theirs is missed first and says more.
const MARGIN: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, ManagerError>>;

/// A request to a supervisor.
pub(crate) enum Command {
    Initialize(Reply<()>),
    Start(Reply<Started>),
    Stop(StopOrder, Reply<()>),
    Unload(Reply<()>),
    Configure(ConfigChange, Reply<Applied>),
    /// Only tries; answers what would be in force.
    TryConfigure(ConfigChange, Reply<Value>),
    Swap(Box<SwapOrder>, Reply<()>),
    /// Changes what happens at a failure, from the next one on.
    SetRestart(RestartConfig),
}

/// Another configuration for a plugin.
pub(crate) enum ConfigChange {
    /// What an operator wants to be in force, whole, in place of what has that version.
    Request(Value, Option<u64>),
    /// What a definition file says.
    Definition(Map<String, Value>),
    /// What a source of that layer says, or that it says nothing any more.
    Source(Layer, Option<Value>),
}

/// How a start went that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Started {
    Running,
    /// It will start by itself once these are there.
    Waiting(Vec<PluginName>),
}

/// How a configuration came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The plugin took it while running.
    Live,
    /// The plugin was started anew with it.
    Restarted,
    /// The plugin does not run; it takes effect at its next start.
    AtNextStart,
}

/// How a plugin is to be stopped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopOrder {
    pub(crate) why: Withdrawal,
    /// Whether it is to come back by itself. An order to restart says no, and starts it later.
    pub(crate) wanted: bool,
    /// Whether it stops even though others use it.
    pub(crate) regardless: bool,
    /// How long it may take in all.
    pub(crate) budget: Duration,
}

pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: PluginName,
    pub(crate) slot: Arc<Slot>,
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) grants: Grants,
    pub(crate) restart: RestartConfig,
    pub(crate) status: Arc<Status>,
    pub(crate) mailbox: mpsc::Receiver<Command>,
    pub(crate) poke: Arc<Notify>,
    /// The host's, with the runtime that this plugin runs on.
    pub(crate) host: Host,
    pub(crate) running: Running,
}

/// What a plugin may do of what it asks for.
#[derive(Debug, Clone)]
pub(crate) enum Grants {
    /// All of it: it is the host's own code.
    Declared,
    /// This, and nothing else.
    Only(Permissions),
}

impl Grants {
    pub(crate) fn from_options(granted: Option<Vec<plugin_core::Permission>>) -> Self {
        granted.map_or(Self::Declared, |granted| Self::Only(Permissions::new(granted)))
    }

    pub(crate) fn of(&self, manifest: &Manifest) -> Permissions {
        match self {
            Self::Declared => Permissions::new(manifest.permissions.clone()),
            Self::Only(granted) => granted.clone(),
        }
    }
}

/// What a supervisor remembers between requests.
#[derive(Default)]
pub(crate) struct Running {
    scope: Option<Arc<Scope>>,
    /// The incarnation that was published last: its routes may be known still.
    published: Option<u64>,
    failures: Failures,
    restart_at: Option<Instant>,
    health_at: Option<Instant>,
    health_call: Option<HealthCall>,
    failed_checks: u32,
    /// Another attempt follows at once if this one fails: nothing is given up yet.
    coming_back: bool,
}

/// Why a step of the plugin's own code gave nothing.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// Set where a deadline was missed.
    late: Option<Duration>,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), late: None }
    }

    fn into_error(self, name: &PluginName, action: Action) -> ManagerError {
        match self.late {
            Some(limit) => ManagerError::DeadlineExceeded { name: name.clone(), action, limit },
            None => ManagerError::Failed { name: name.clone(), action, reason: self.reason },
        }
    }
}

impl Supervisor {
    /// Serves requests until the plugin is unloaded or the manager ends.
    pub(crate) async fn run(mut self) {
        let ended = self.shared.tasks.token();
        loop {
            let panicked = self.running.scope.clone().filter(|_| self.state() == State::Running);
            tokio::select! {
                biased;
                () = ended.cancelled() => return,
                command = self.mailbox.recv() => match command {
                    Some(command) => if Box::pin(self.handle(command)).await.is_break() { return },
                    None => return,
                },
                reason = panic_of(panicked) => Box::pin(self.give_up(reason)).await,
                answer = answer_of(&mut self.running.health_call) => Box::pin(self.checked(answer)).await,
                () = time_of(self.running.restart_at) => Box::pin(self.start_again()).await,
                () = time_of(self.running.health_at) => self.check_health(),
                () = self.poke.notified() => Box::pin(self.poked()).await,
            }
        }
    }

    async fn handle(&mut self, command: Command) -> ControlFlow<()> {
        match command {
            Command::Initialize(reply) => {
                let outcome = self.on_initialize().await;
                let _ = reply.send(outcome);
            }
            Command::Start(reply) => {
                let outcome = self.on_start().await;
                let _ = reply.send(outcome);
            }
            Command::Stop(order, reply) => {
                let outcome = self.on_stop(&order).await;
                let _ = reply.send(outcome);
            }
            Command::Configure(value, reply) => {
                let outcome = self.on_configure(value).await;
                let _ = reply.send(outcome);
            }
            Command::TryConfigure(value, reply) => {
                let _ = reply.send(self.plan(value).map(|plan| plan.effective));
            }
            Command::Swap(order, reply) => {
                let outcome = self.on_swap(*order).await;
                let _ = reply.send(outcome);
            }
            Command::SetRestart(restart) => {
                self.status.seen().policy = restart.policy;
                self.restart = restart;
            }
            Command::Unload(reply) => {
                let outcome = self.on_unload().await;
                let done = outcome.is_ok();
                let _ = reply.send(outcome);
                if done {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// A dependency may have become what this plugin waits for.
    async fn poked(&mut self) {
        let waits = self.status.seen().wanted
            && self.running.restart_at.is_none()
            && matches!(
                self.state(),
                State::Registered | State::Initialized | State::Stopped | State::Failed
            );
        if waits && !self.shared.is_shutting_down() {
            // How it goes is in the plugin's status, and in the log.
            let _ = self.start_if_possible().await;
        }
    }

    fn state(&self) -> State {
        self.shared.registry.state(self.name.as_str())
    }

    /// Takes a step in the lifecycle and tells of it.
    fn step(&self, action: Action, detail: Value) -> Result<Transition, ManagerError> {
        let transition = self.shared.registry.transition(self.name.as_str(), action, self.shared.now())?;
        self.announce(transition, detail);
        Ok(transition)
    }

    fn announce(&self, transition: Transition, detail: Value) {
        let topic = match transition.to {
            State::Initializing => "plugin.initializing",
            State::Initialized => "plugin.initialized",
            State::Starting => "plugin.starting",
            State::Running => "plugin.started",
            State::Stopping => "plugin.stopping",
            State::Stopped => "plugin.stopped",
            State::Failed => "plugin.failed",
            State::Destroyed => "plugin.unloaded",
            State::Registered | State::Unknown => "plugin.registered",
        };
        let Transition { from, to } = transition;
        if to.is_transient() || to == State::Initialized {
            tracing::debug!(plugin = %self.name, %from, %to, "plugin changed state");
        } else {
            tracing::info!(plugin = %self.name, version = %self.manifest.version, %from, %to, "plugin changed state");
        }
        self.tell(topic, json!({ "from": transition.from, "to": transition.to }), detail);
        self.shared.changed();
    }

    /// Publishes an event about this plugin.
    fn tell(&self, topic: &'static str, mut data: Value, detail: Value) {
        if let (Value::Object(data), Value::Object(detail)) = (&mut data, detail) {
            data.insert("plugin".to_owned(), json!(self.name));
            data.insert("version".to_owned(), json!(self.manifest.version));
            data.extend(detail);
        }
        self.shared.emit(topic, Some(&self.name), data);
    }

    /// The dependencies that are not yet what this plugin needs.
    fn unmet(&self) -> Vec<PluginName> {
        self.shared.registry.inspect(|records| unmet(records, &self.manifest))
    }

    fn open_scope(&mut self, manifest: &Arc<Manifest>) -> Arc<Scope> {
        let incarnation = self.shared.next_incarnation();
        self.status.seen().incarnation = incarnation;
        let options = ScopeOptions {
            manifest: manifest.clone(),
            permissions: self.grants.of(manifest),
            config: self.effective_config(),
            incarnation,
        };
        Arc::new(Scope::open(self.host.clone(), self.slot.clone(), options))
    }

    fn keep_scope(&mut self, scope: Option<Arc<Scope>>) {
        self.status.set_scope(scope.clone());
        self.running.scope = scope;
    }

    /// Runs plugin code on the plugin's runtime, with a deadline. `hurried` code is cut off when the host
    /// shuts down.
    async fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        hurried: bool,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.call_until(Instant::now() + limit, limit, hurried, work).await
    }

    /// The same for one of several steps that have `whole` together: that is what is said to be exceeded.
    async fn call_until<T: Send + 'static>(
        &self,
        until: Instant,
        whole: Duration,
        hurried: bool,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let hurry = self.shared.hurry.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = hurry.cancelled(), if hurried => Err(Failure::new("the host is shutting down")),
                outcome = work => outcome,
            }
        };
        let left = until.saturating_duration_since(Instant::now());
        match guarded(&self.host.runtime, left, work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(self.failed_call(error, whole)),
        }
    }

    fn failed_call(&self, error: CallError, whole: Duration) -> Failure {
        let reason = match &error {
            CallError::TimedOut(_) => CallError::TimedOut(whole).to_string(),
            other => other.to_string(),
        };
        let late = match error {
            CallError::TimedOut(_) => Some(whole),
            CallError::Stuck { watched, .. } => {
                let stuck = self.status.stuck.clone();
                stuck.fetch_add(1, Ordering::Relaxed);
                self.shared.tasks.spawn(format!("stuck call of {}", self.name), async move {
                    watched.ended().await;
                    stuck.fetch_sub(1, Ordering::Relaxed);
                });
                Some(whole)
            }
            CallError::Panicked(_) | CallError::Cancelled => None,
        };
        Failure { reason, late }
    }
}

impl From<PluginError> for Failure {
    fn from(error: PluginError) -> Self {
        Self::new(error.chain())
    }
}

/// The dependencies of `manifest` that are not yet what it needs.
pub(crate) fn unmet(records: &Records, manifest: &Manifest) -> Vec<PluginName> {
    let is_unmet = |dependency: &&plugin_core::Dependency| {
        let Some(record) = records.get(dependency.name.as_str()) else { return !dependency.optional };
        if dependency.optional && !record.state.is_transient() && record.state != State::Running {
            // It may do without, and nothing says that it will come.
            return false;
        }
        let far_enough = match dependency.needs {
            Needs::Ready => record.ready,
            Needs::Running => record.state == State::Running,
        };
        !far_enough || !dependency.version.matches(&record.manifest.version)
    };
    manifest.dependencies.iter().filter(is_unmet).map(|dependency| dependency.name.clone()).collect()
}

/// Those that run, or are about to, and need `name`.
pub(crate) fn users(records: &Records, name: &PluginName) -> Vec<PluginName> {
    let needs = |record: &&registry::PluginRecord| {
        matches!(record.state, State::Starting | State::Running)
            && record.manifest.dependencies.iter().any(|dependency| dependency.name == *name)
    };
    records.iter().filter(needs).map(|record| record.name().clone()).collect()
}

async fn time_of(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

async fn panic_of(scope: Option<Arc<Scope>>) -> String {
    match scope {
        Some(scope) => scope.panicked().await,
        None => pending().await,
    }
}

async fn answer_of(call: &mut Option<HealthCall>) -> Asked {
    match call {
        Some(under_way) => {
            let answer = under_way.await.unwrap_or(Asked::Answer(Err(CallError::Cancelled)));
            *call = None;
            answer
        }
        None => pending().await,
    }
}

/// A number between 0 and 1 that differs from call to call. Good enough to spread timers.
fn chance() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    f64::from(u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
