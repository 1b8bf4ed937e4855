//! Operations that concern several plugins: each goes through the supervisors, in the order of the graph.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plugin_core::{Action, PluginName, State, Withdrawal};
use runtime::DurationText;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::manager::not_found;
use crate::rollout::{Direction, Rollout};
use crate::shared::Shared;
use crate::supervisor::{Applied, Command, ConfigChange, Started, StopOrder, unmet};
use crate::{Change, ManagerError, PluginView};

/// How often a cascade that somebody's start got in the way of is tried again.
const ATTEMPTS: usize = 3;

/// Kept back from a shutdown's deadline, for telling what could not be finished.
const LAST_WORD: Duration = Duration::from_millis(100);

/// A plugin that did not start or stop, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unfinished {
    /// The plugin.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: PluginName,
    /// Why.
    pub reason: String,
}

/// How the start of all plugins went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StartReport {
    /// Those that run.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub running: Vec<PluginName>,
    /// Those that wait for others, and start by themselves once these are there.
    pub waiting: Vec<Unfinished>,
    /// Those that failed.
    pub failed: Vec<Unfinished>,
    /// How long it took.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "120ms"))]
    pub took: DurationText,
}

/// How the stop of all plugins went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StopReport {
    /// Those that were stopped in order.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub stopped: Vec<PluginName>,
    /// Those whose stop failed.
    pub failed: Vec<Unfinished>,
    /// Those that had not ended by the deadline. What they had registered is withdrawn; their own code may
    /// run still.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub unfinished: Vec<PluginName>,
    /// How long it took.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "120ms"))]
    pub took: DurationText,
}

impl StopReport {
    /// Whether every plugin that ran was stopped in order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.unfinished.is_empty()
    }
}

/// Asks from a place in a supervisor's line, and waits for the answer.
async fn ask_from<T>(
    place: Permit<'_, Command>,
    name: &str,
    command: impl FnOnce(oneshot::Sender<Result<T, ManagerError>>) -> Command,
) -> Result<T, ManagerError> {
    let (reply, answer) = oneshot::channel();
    place.send(command(reply));
    answer.await.unwrap_or_else(|_| Err(not_found(name)))
}

impl Shared {
    /// Has a supervisor do something, and waits for it.
    pub(crate) async fn ask<T>(
        &self,
        name: &str,
        command: impl FnOnce(oneshot::Sender<Result<T, ManagerError>>) -> Command,
    ) -> Result<T, ManagerError> {
        let entry = self.entry(name)?;
        let place = entry.mailbox.try_reserve().map_err(|error| match (error, PluginName::new(name)) {
            (TrySendError::Full(()), Ok(name)) => ManagerError::Busy(name),
            _ => not_found(name),
        })?;
        ask_from(place, name, command).await
    }

    /// The same, waiting for a place in line where others have taken them all.
    async fn ask_in_turn<T>(
        &self,
        name: &str,
        command: impl FnOnce(oneshot::Sender<Result<T, ManagerError>>) -> Command,
    ) -> Result<T, ManagerError> {
        let entry = self.entry(name)?;
        let place = entry.mailbox.reserve().await.map_err(|_| not_found(name))?;
        ask_from(place, name, command).await
    }

    pub(crate) fn known(&self, name: &str) -> Result<PluginName, ManagerError> {
        self.registry.get(name).map(|record| record.name().clone()).ok_or_else(|| not_found(name))
    }

    pub(crate) fn open_for_business(&self) -> Result<(), ManagerError> {
        if self.is_shutting_down() { Err(ManagerError::ShuttingDown) } else { Ok(()) }
    }

    pub(crate) fn seen(&self, name: &str) -> Result<PluginView, ManagerError> {
        self.view(name).ok_or_else(|| not_found(name))
    }

    pub(crate) async fn initialize(&self, name: &str) -> Result<PluginView, ManagerError> {
        self.open_for_business()?;
        self.ask(name, Command::Initialize).await?;
        self.seen(name)
    }

    pub(crate) async fn start(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        self.open_for_business()?;
        let name = self.known(name)?;
        if self.registry.state(name.as_str()) == State::Running {
            return Err(ManagerError::InvalidTransition {
                name,
                state: State::Running,
                action: Action::Start,
            });
        }
        if change.cascade {
            let needed = self.registry.graph().all_dependencies(name.as_str());
            for dependency in needed {
                if self.registry.state(dependency.as_str()) != State::Running {
                    self.start_one(dependency.as_str()).await?;
                }
            }
        }
        if let Started::Waiting(waiting_for) = self.start_one(name.as_str()).await? {
            let down: Vec<_> = waiting_for.into_iter().filter(|name| !self.will_come(name)).collect();
            if !down.is_empty() {
                // It does not wait for what does not come.
                let _ = self
                    .ask(name.as_str(), |reply| Command::Stop(self.order(Withdrawal::Stopped, false), reply))
                    .await;
                return Err(ManagerError::DependenciesDown { name, waiting_for: down });
            }
        }
        self.seen(name.as_str())
    }

    /// Starts one that did not run a moment ago: that it has come by itself since is as good.
    async fn start_one(&self, name: &str) -> Result<Started, ManagerError> {
        match self.ask(name, Command::Start).await {
            Err(ManagerError::InvalidTransition { state: State::Running, .. }) => Ok(Started::Running),
            outcome => outcome,
        }
    }

    /// Whether a plugin runs, or is on its way, or will try again by itself.
    pub(crate) fn will_come(&self, name: &PluginName) -> bool {
        let state = self.registry.state(name.as_str());
        if matches!(state, State::Running | State::Initializing | State::Starting) {
            return true;
        }
        self.entry(name.as_str()).is_ok_and(|entry| entry.status.seen().wanted)
    }

    pub(crate) fn order(&self, why: Withdrawal, wanted: bool) -> StopOrder {
        let budget = (self.config.drain_deadline + self.config.stop_deadline) * 3;
        StopOrder { why, wanted, regardless: false, budget }
    }

    pub(crate) fn check_carrier(
        &self,
        taken_down: &[PluginName],
        change: &Change,
    ) -> Result<(), ManagerError> {
        match &change.carried_by {
            Some(carrier) if !change.force && taken_down.contains(carrier) => {
                Err(ManagerError::CarriesRequest(carrier.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Those that run and need `name`, in the order in which they can be stopped.
    pub(crate) fn running_dependents(&self, name: &PluginName) -> Vec<PluginName> {
        let mut dependents = self.registry.graph().all_dependents(name.as_str());
        dependents.retain(|dependent| {
            matches!(
                self.registry.state(dependent.as_str()),
                State::Running | State::Starting | State::Initializing
            )
        });
        dependents
    }

    pub(crate) async fn stop(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        self.open_for_business()?;
        let name = self.known(name)?;
        self.stop_with_dependents(&name, change, Withdrawal::Stopped, change.cascade).await?;
        self.seen(name.as_str())
    }

    /// Stops a plugin, and before it those who use it, if `cascade`. Gives those that were stopped for it.
    async fn stop_with_dependents(
        &self,
        name: &PluginName,
        change: &Change,
        why: Withdrawal,
        cascade: bool,
    ) -> Result<Vec<PluginName>, ManagerError> {
        let mut stopped = Vec::new();
        for attempt in 1.. {
            let dependents = self.running_dependents(name);
            let mut taken_down = dependents.clone();
            taken_down.push(name.clone());
            self.check_carrier(&taken_down, change)?;
            if cascade {
                let why = if why == Withdrawal::Unloaded { Withdrawal::Stopped } else { why };
                self.stop_each(&dependents, why, &mut stopped).await?;
            }
            match self.ask(name.as_str(), |reply| Command::Stop(self.order(why, false), reply)).await {
                // One of them was started in between.
                Err(ManagerError::HasDependents { .. }) if cascade && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(stopped)
    }

    /// Stops several, each after those who use it, side by side where nothing is against it.
    async fn stop_each(
        &self,
        names: &[PluginName],
        why: Withdrawal,
        stopped: &mut Vec<PluginName>,
    ) -> Result<(), ManagerError> {
        let graph = self.registry.graph();
        let names: BTreeSet<_> = names.iter().cloned().collect();
        let mut rollout = Rollout::new(&graph, &names, Direction::Down);
        let mut under_way = FuturesUnordered::new();
        let stop = |name: PluginName| async move {
            let outcome = self.ask(name.as_str(), |reply| Command::Stop(self.order(why, false), reply)).await;
            (name, outcome)
        };
        under_way.extend(rollout.begin().into_iter().map(stop));
        while let Some((name, outcome)) = under_way.next().await {
            match outcome {
                // Its failure is its own: it is down, and does not keep the others up.
                Ok(()) | Err(ManagerError::Failed { .. } | ManagerError::DeadlineExceeded { .. }) => {
                    stopped.push(name.clone());
                }
                // Stopped or gone by itself in between.
                Err(ManagerError::InvalidTransition { .. } | ManagerError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
            under_way.extend(rollout.done(&name).into_iter().map(stop));
        }
        Ok(())
    }

    pub(crate) async fn restart(&self, name: &str, change: &Change) -> Result<PluginView, ManagerError> {
        self.open_for_business()?;
        let name = self.known(name)?;
        let mut taken_down = Vec::new();
        if self.registry.state(name.as_str()) == State::Running {
            taken_down = self.stop_with_dependents(&name, change, Withdrawal::Restarting, true).await?;
        }
        let own = match self.registry.state(name.as_str()) {
            // A restart is stop, initialize, start.
            State::Stopped => match self.ask(name.as_str(), Command::Initialize).await {
                Ok(()) => self.start_one(name.as_str()).await,
                Err(error) => Err(error),
            },
            _ => self.start_one(name.as_str()).await,
        };
        // Also where it failed: they wait for it then, and come back with it.
        self.start_each(taken_down.into_iter().collect()).await;
        own?;
        self.seen(name.as_str())
    }

    /// Starts several, each after those it needs; gives how each went.
    async fn start_each(
        &self,
        names: BTreeSet<PluginName>,
    ) -> Vec<(PluginName, Result<Started, ManagerError>)> {
        let graph = self.registry.graph();
        let mut rollout = Rollout::new(&graph, &names, Direction::Up);
        let mut under_way = FuturesUnordered::new();
        let start = |name: PluginName| async move {
            let outcome = self.start_one(name.as_str()).await;
            (name, outcome)
        };
        under_way.extend(rollout.begin().into_iter().map(start));
        let mut outcomes = Vec::with_capacity(names.len());
        while let Some((name, outcome)) = under_way.next().await {
            under_way.extend(rollout.done(&name).into_iter().map(start));
            outcomes.push((name, outcome));
        }
        outcomes
    }

    pub(crate) async fn start_all(&self) -> Result<StartReport, ManagerError> {
        self.open_for_business()?;
        let began = Instant::now();
        let graph = self.registry.graph();
        if self.config.dependency_check {
            let problems = graph.problems();
            if !problems.is_empty() {
                return Err(ManagerError::DependencyProblem(problems));
            }
        }
        let names: BTreeSet<_> = {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            let registered =
                self.registry.list().into_iter().filter(|record| record.state == State::Registered);
            registered
                .map(|record| record.name().clone())
                .filter(|name| entries.get(name).is_some_and(|entry| !entry.manual))
                .collect()
        };
        let mut report = StartReport::default();
        for (name, outcome) in self.start_each(names).await {
            match outcome {
                Ok(Started::Running) => report.running.push(name),
                // Some may have come since.
                Ok(Started::Waiting(_)) => match self.registry.get(name.as_str()) {
                    Some(record) if record.state == State::Running => report.running.push(name),
                    Some(record) => {
                        let waiting = self.registry.inspect(|records| unmet(records, &record.manifest));
                        let names: Vec<_> = waiting.iter().map(|name| format!("`{name}`")).collect();
                        report
                            .waiting
                            .push(Unfinished { name, reason: format!("waits for {}", names.join(", ")) });
                    }
                    None => {}
                },
                Err(ManagerError::InvalidTransition { state: State::Running, .. }) => {
                    report.running.push(name)
                }
                Err(error) => report.failed.push(Unfinished { name, reason: error.to_string() }),
            }
        }
        report.running.sort_unstable();
        report.took = DurationText::measured(began.elapsed());
        let detail = json!({
            "running": report.running.len(),
            "waiting": report.waiting.len(),
            "failed": report.failed.len(),
            "duration": report.took,
        });
        // Once: another call only starts what has been registered since.
        if !self.started.swap(true, Ordering::AcqRel) {
            self.emit("system.started", None, detail);
        }
        Ok(report)
    }

    pub(crate) async fn stop_all(&self, deadline: Duration) -> StopReport {
        let began = Instant::now();
        let until = began + deadline.saturating_sub(LAST_WORD.min(deadline / 10));
        self.shutting_down.store(true, Ordering::Release);
        self.hurry.cancel();
        self.changed();
        let graph = self.registry.graph();
        let names: BTreeSet<_> = self.registry.list().iter().map(|record| record.name().clone()).collect();
        let mut report = StopReport::default();
        let mut left = names.clone();
        let mut rollout = Rollout::new(&graph, &names, Direction::Down);
        let mut under_way = FuturesUnordered::new();
        // Each level gets its share of what is left, so that one that hangs does not take it all.
        let stop = |name: PluginName, levels: u32| async move {
            let budget = until.saturating_duration_since(Instant::now()) / levels.max(1);
            let order = StopOrder { regardless: true, budget, ..self.order(Withdrawal::Stopped, false) };
            let outcome = self.ask_in_turn(name.as_str(), |reply| Command::Stop(order, reply)).await;
            (name, outcome)
        };
        let mut begun = rollout.begin();
        loop {
            under_way.extend(begun.drain(..).map(|name| {
                let levels = rollout.levels_left(&name);
                stop(name, levels)
            }));
            let Ok(Some((name, outcome))) = tokio::time::timeout_at(until, under_way.next()).await else {
                break;
            };
            left.remove(&name);
            begun = rollout.done(&name);
            match outcome {
                Ok(()) => {
                    if self.registry.state(name.as_str()) == State::Stopped {
                        report.stopped.push(name);
                    }
                }
                Err(ManagerError::NotFound(_) | ManagerError::InvalidTransition { .. }) => {}
                Err(error) => report.failed.push(Unfinished { name, reason: error.to_string() }),
            }
        }
        drop(under_way);
        self.abandon(&left, &mut report);
        report.stopped.sort_unstable();
        report.took = DurationText::measured(began.elapsed());
        let detail = json!({
            "stopped": report.stopped.len(),
            "failed": report.failed,
            "unfinished": report.unfinished,
            "duration": report.took,
        });
        self.emit("system.stopped", None, detail);
        report
    }

    /// Cuts off what has not ended: no new call reaches it, and its background work is told to end.
    fn abandon(&self, left: &BTreeSet<PluginName>, report: &mut StopReport) {
        for name in left {
            let Ok(entry) = self.entry(name.as_str()) else { continue };
            let state = self.registry.state(name.as_str());
            if let Some(scope) = entry.status.scope() {
                scope.shut_out(Withdrawal::Stopped);
                scope.cancel();
            }
            if state.is_transient() || state == State::Running {
                tracing::warn!(plugin = %name, %state, "plugin did not stop within the deadline");
                report.unfinished.push(name.clone());
            }
        }
    }

    /// Those that declare to need a plugin.
    pub(crate) fn needed_by(&self, name: &PluginName) -> Vec<PluginName> {
        let graph = self.registry.graph();
        let needs_it = |dependent: &&PluginName| {
            graph.dependencies(dependent.as_str()).iter().any(|d| d.name == *name && !d.optional)
        };
        graph.dependents(name.as_str()).iter().filter(needs_it).cloned().collect()
    }

    /// Refuses to unload what others declare to need, unless with the cascade.
    pub(crate) fn check_not_needed(&self, name: &PluginName, change: &Change) -> Result<(), ManagerError> {
        let dependents = self.needed_by(name);
        if change.cascade || dependents.is_empty() {
            Ok(())
        } else {
            Err(ManagerError::HasDependents { name: name.clone(), dependents })
        }
    }

    pub(crate) async fn unload(&self, name: &str, change: &Change) -> Result<(), ManagerError> {
        self.open_for_business()?;
        let name = self.known(name)?;
        self.check_not_needed(&name, change)?;
        if self.registry.state(name.as_str()) == State::Running {
            self.stop_with_dependents(&name, change, Withdrawal::Unloaded, change.cascade).await?;
        }
        self.ask(name.as_str(), Command::Unload).await
    }

    pub(crate) async fn set_config(
        &self,
        name: &str,
        config: Value,
        if_version: Option<u64>,
    ) -> Result<Applied, ManagerError> {
        self.open_for_business()?;
        self.ask(name, |reply| Command::Configure(ConfigChange::Request(config, if_version), reply)).await
    }
}
