//! Initialize, start, stop, fail, unload.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugin_core::{
    Action, Directory, DrainReport, Health, Plugin, PluginName, PublishError, Scope, ServiceKey, State,
    Withdrawal,
};
use registry::Refused;
use runtime::{DurationText, ShutdownReport};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{CLOSE, Failure, MARGIN, Started, StopOrder, Supervisor, chance, unmet, users};
use crate::ManagerError;
use crate::restart::Verdict;

impl Supervisor {
    pub(super) async fn on_initialize(&mut self) -> Result<(), ManagerError> {
        if self.shared.is_shutting_down() {
            return Err(ManagerError::ShuttingDown);
        }
        self.running.restart_at = None;
        self.initialize(self.shared.config.max_startup_time).await
    }

    pub(super) async fn on_start(&mut self) -> Result<Started, ManagerError> {
        let state = self.state();
        if self.shared.is_shutting_down() {
            return Err(ManagerError::ShuttingDown);
        }
        if state == State::Running {
            return Err(self.not_allowed(state, Action::Start));
        }
        // Somebody asks for it: what went wrong before does not count any more.
        self.running.failures.forget();
        self.running.restart_at = None;
        {
            let mut seen = self.status.seen();
            seen.wanted = true;
            seen.next_restart_at = None;
        }
        self.start_if_possible().await
    }

    pub(super) fn not_allowed(&self, state: State, action: Action) -> ManagerError {
        ManagerError::InvalidTransition { name: self.name.clone(), state, action }
    }

    /// After the backoff.
    pub(super) async fn start_again(&mut self) {
        self.running.restart_at = None;
        self.status.seen().next_restart_at = None;
        if self.shared.is_shutting_down() {
            return;
        }
        if self.unmet().is_empty() {
            self.status.restarts.fetch_add(1, Ordering::Relaxed);
        }
        // How it goes is in the plugin's status, and in the log.
        let _ = self.start_if_possible().await;
    }

    /// Starts the plugin if its dependencies are there, from whatever state it rests in.
    pub(super) async fn start_if_possible(&mut self) -> Result<Started, ManagerError> {
        let waiting = self.unmet();
        if !waiting.is_empty() {
            return Ok(self.wait_for(waiting));
        }
        self.status.seen().waiting_for.clear();
        let began = Instant::now();
        if matches!(self.state(), State::Registered | State::Failed) {
            self.initialize(self.shared.config.max_startup_time).await?;
        }
        self.start(began).await
    }

    fn wait_for(&mut self, waiting: Vec<PluginName>) -> Started {
        self.status.seen().waiting_for.clone_from(&waiting);
        self.shared.changed();
        Started::Waiting(waiting)
    }

    pub(super) async fn initialize(&mut self, limit: Duration) -> Result<(), ManagerError> {
        self.step(Action::Initialize, json!({}))?;
        let manifest = self.manifest.clone();
        let scope = self.open_scope(&manifest);
        self.keep_scope(Some(scope.clone()));
        let outcome = match self.check_config(&scope.config()) {
            Ok(()) => {
                self.call(limit, true, initialize(self.plugin.clone(), scope, Instant::now() + limit)).await
            }
            Err(error) => Err(Failure::new(error.to_string())),
        };
        match outcome {
            Ok(()) => self.step(Action::Done, json!({})).map(drop),
            Err(failure) => {
                self.fail(Action::Fail, &failure.reason).await;
                Err(failure.into_error(&self.name, Action::Initialize))
            }
        }
    }

    async fn start(&mut self, began: Instant) -> Result<Started, ManagerError> {
        // Looked at and stepped in one: a dependency that is about to stop sees this plugin, or is seen.
        let manifest = self.manifest.clone();
        let step = self.shared.registry.transition_if(
            self.name.as_str(),
            Action::Start,
            self.shared.now(),
            |records| match unmet(records, &manifest) {
                waiting if waiting.is_empty() => Ok(()),
                waiting => Err(waiting),
            },
        );
        match step {
            Ok(transition) => self.announce(transition, json!({})),
            Err(Refused::Condition(waiting)) => return Ok(self.wait_for(waiting)),
            Err(Refused::Registry(error)) => return Err(error.into()),
        }
        let scope = match self.running.scope.clone() {
            Some(scope) => scope,
            None => self.open_scope(&manifest),
        };
        self.keep_scope(Some(scope.clone()));
        let whole = self.shared.config.max_startup_time;
        let until = began + whole;
        let work = start(self.plugin.clone(), scope.clone(), until, None, false);
        match self.call_until(until, whole, true, work).await {
            Ok(health) => {
                self.published(&scope, &health, began)?;
                Ok(Started::Running)
            }
            Err(failure) => {
                self.fail(Action::Fail, &failure.reason).await;
                Err(failure.into_error(&self.name, Action::Start))
            }
        }
    }

    /// The plugin runs: says so to whoever waits for it.
    fn published(&mut self, scope: &Scope, health: &Health, began: Instant) -> Result<(), ManagerError> {
        let took = began.elapsed();
        self.running.published = Some(scope.incarnation());
        self.running.failed_checks = 0;
        self.note_health(health);
        {
            let mut seen = self.status.seen();
            seen.startup = Some(took);
            seen.waiting_for.clear();
        }
        ::metrics::histogram!("plugin_startup_duration_seconds").record(took.as_secs_f64());
        let detail = json!({ "incarnation": scope.incarnation(), "duration": DurationText::measured(took), "ready": health.ready });
        self.step(Action::Done, detail)?;
        self.shared.registry.set_ready(self.name.as_str(), health.ready);
        self.schedule_health();
        if let Some(live) = scope.live() {
            live.services().for_each(|key| self.tell_service("service.registered", key));
        }
        self.shared.changed();
        self.shared.poke_dependents(self.name.as_str());
        Ok(())
    }

    pub(super) fn tell_service(&self, topic: &'static str, key: &ServiceKey) {
        self.tell(topic, json!({ "service": key.name(), "type": key.type_name() }), json!({}));
    }

    pub(super) async fn on_stop(&mut self, order: &StopOrder) -> Result<(), ManagerError> {
        let state = self.state();
        if state == State::Running {
            return self.stop(order).await;
        }
        if state == State::Initialized
            && order.regardless
            && let Some(scope) = self.running.scope.take()
        {
            // The host ends: what the plugin began in `initialize` ends as well.
            scope.cancel();
            self.keep_scope(None);
            self.close(scope, CLOSE.min(order.budget / 2))
                .await
                .map_err(|f| f.into_error(&self.name, Action::Stop))?;
        }
        // What waits for a dependency or for its next attempt is told not to.
        let waited = self.running.restart_at.take().is_some() || {
            let seen = self.status.seen();
            seen.wanted && !seen.waiting_for.is_empty()
        };
        {
            let mut seen = self.status.seen();
            seen.wanted = order.wanted;
            seen.next_restart_at = None;
            seen.waiting_for.clear();
        }
        if order.why != Withdrawal::Restarting {
            self.forget_routes(order.why);
        }
        self.shared.changed();
        if waited || order.regardless { Ok(()) } else { Err(self.not_allowed(state, Action::Stop)) }
    }

    pub(super) async fn stop(&mut self, order: &StopOrder) -> Result<(), ManagerError> {
        let name = self.name.clone();
        let step =
            self.shared.registry.transition_if(name.as_str(), Action::Stop, self.shared.now(), |records| {
                let users = users(records, &name);
                if users.is_empty() || order.regardless { Ok(()) } else { Err(users) }
            });
        match step {
            Ok(transition) => self.announce(transition, json!({})),
            Err(Refused::Condition(dependents)) => {
                return Err(ManagerError::HasDependents { name, dependents });
            }
            Err(Refused::Registry(error)) => return Err(error.into()),
        }
        self.status.seen().wanted = order.wanted;
        let outcome = self.wind_down(order).await;
        self.keep_scope(None);
        match outcome {
            Ok(report) => {
                self.warn_of_holders(&report);
                let detail = json!({
                    "calls_left": report.in_flight,
                    "holders": report.holders,
                    "events_undelivered": report.undelivered,
                });
                self.step(Action::Done, detail).map(drop)
            }
            Err(failure) => {
                // Stopped by order: it does not come back by itself.
                self.status.seen().wanted = order.wanted;
                self.record_failure(&failure.reason);
                self.step(Action::Fail, json!({ "reason": failure.reason }))?;
                Err(failure.into_error(&self.name, Action::Stop))
            }
        }
    }

    /// Withdraws, cancels, stops and closes the present incarnation. Does all of it even if a part fails,
    /// and tells of the first part that did.
    async fn wind_down(&mut self, order: &StopOrder) -> Result<DrainReport, Failure> {
        self.running.health_call = None;
        self.running.health_at = None;
        let Some(scope) = self.running.scope.clone() else { return Ok(DrainReport::default()) };
        let services: Vec<_> =
            scope.live().map(|live| live.services().cloned().collect()).unwrap_or_default();
        let drain = self.shared.config.drain_deadline.min(order.budget * 2 / 5);
        let withdrawn = self.withdraw(scope.clone(), order.why, drain).await;
        services.iter().for_each(|key| self.tell_service("service.unregistered", key));
        scope.cancel();
        let limit = self.shared.config.stop_deadline.min(order.budget * 2 / 5);
        let stopped = self.stop_call(limit, self.plugin.clone(), scope.clone()).await;
        let closed = self.close(scope, CLOSE.min(order.budget / 10)).await;
        let report = withdrawn?;
        stopped?;
        closed?;
        Ok(report)
    }

    /// Has the plugin end its work.
    pub(super) async fn stop_call(
        &self,
        limit: Duration,
        plugin: Arc<dyn Plugin>,
        scope: Arc<Scope>,
    ) -> Result<(), Failure> {
        let ctx = scope.context_until(Instant::now() + limit);
        self.call(limit, false, async move { Ok(plugin.stop(ctx).await?) }).await
    }

    pub(super) async fn withdraw(
        &self,
        scope: Arc<Scope>,
        why: Withdrawal,
        drain: Duration,
    ) -> Result<DrainReport, Failure> {
        // At once, even where no thread is left for the plugin's own code.
        scope.shut_out(why);
        let work = async move { Ok(scope.withdraw(why, drain).await) };
        self.call(drain + MARGIN, false, work).await.map_err(|failure| Failure {
            reason: format!("withdraw its registrations: {}", failure.reason),
            ..failure
        })
    }

    pub(super) async fn close(&self, scope: Arc<Scope>, limit: Duration) -> Result<(), Failure> {
        let work = async move { Ok(scope.close(limit).await) };
        // Cutting off takes a moment of its own.
        let closed = self.call(limit + MARGIN * 2, false, work).await;
        let ShutdownReport { aborted, stuck } = closed.map_err(|failure| Failure {
            reason: format!("end its background work: {}", failure.reason),
            ..failure
        })?;
        if !aborted.is_empty() {
            tracing::warn!(plugin = %self.name, tasks = ?aborted, "background tasks were cut off");
        }
        if stuck.is_empty() {
            Ok(())
        } else {
            Err(Failure::new(format!("stuck background tasks: {}", stuck.join(", "))))
        }
    }

    pub(super) fn warn_of_holders(&self, report: &DrainReport) {
        if report.in_flight > 0 {
            let holders = &report.holders;
            tracing::warn!(plugin = %self.name, calls = report.in_flight, ?holders, "calls outlived the drain deadline");
        }
    }

    /// The supervisor gives up on a plugin that runs.
    pub(super) async fn give_up(&mut self, reason: String) {
        if self.state() == State::Running {
            self.fail(Action::GiveUp, &reason).await;
        }
    }

    /// The operation under way failed, or a running plugin did: cleans up, and decides what comes next.
    pub(super) async fn fail(&mut self, action: Action, reason: &str) {
        let wanted = self.status.seen().wanted && !self.shared.is_shutting_down();
        let coming_back = self.running.coming_back && wanted;
        let verdict = if wanted && !coming_back {
            self.running.failures.add(&self.restart, Instant::now(), chance())
        } else {
            Verdict::LeaveIt
        };
        let (why, again_in) = match verdict {
            Verdict::RestartIn(wait) => (Withdrawal::Restarting, Some(wait)),
            Verdict::LeaveIt if coming_back => (Withdrawal::Restarting, None),
            Verdict::LeaveIt | Verdict::CrashLoop => (Withdrawal::Failed, None),
        };
        self.running.health_call = None;
        self.running.health_at = None;
        if let Some(scope) = self.running.scope.clone() {
            let services: Vec<_> =
                scope.live().map(|live| live.services().cloned().collect()).unwrap_or_default();
            scope.cancel();
            let withdrawn = self.withdraw(scope.clone(), why, Duration::ZERO).await;
            let closed = self.close(scope, CLOSE).await;
            if let Err(failure) = withdrawn.map(drop).and(closed) {
                tracing::warn!(plugin = %self.name, reason = failure.reason, "failed plugin left something behind");
            }
            services.iter().for_each(|key| self.tell_service("service.unregistered", key));
        }
        self.keep_scope(None);
        if why == Withdrawal::Failed
            && let Some(incarnation) = self.running.published
        {
            self.shared.directory.withdraw(&self.slot, incarnation, why);
        }
        self.record_failure(reason);
        self.running.restart_at = again_in.map(|wait| Instant::now() + wait);
        {
            let mut seen = self.status.seen();
            seen.wanted = why == Withdrawal::Restarting;
            seen.next_restart_at = again_in.and_then(|wait| self.shared.now().checked_add(wait).ok());
        }
        let mut detail = json!({ "reason": reason });
        if let (Value::Object(detail), Some(wait)) = (&mut detail, again_in) {
            detail.insert("restart_in".to_owned(), json!(DurationText::measured(wait)));
        }
        if let (Value::Object(detail), Verdict::CrashLoop) = (&mut detail, verdict) {
            detail.insert("crash_loop".to_owned(), json!(true));
        }
        if let Err(error) = self.step(action, detail) {
            tracing::error!(plugin = %self.name, %error, "failure outside the lifecycle");
        }
    }

    pub(super) fn record_failure(&self, reason: &str) {
        tracing::warn!(plugin = %self.name, reason, "plugin failed");
        self.status.seen().last_error = Some((reason.to_owned(), self.shared.now()));
    }

    /// Routes that were kept for a restart are answered 404 from now on.
    pub(super) fn forget_routes(&mut self, why: Withdrawal) {
        if let Some(incarnation) = self.running.published.take() {
            self.shared.directory.withdraw(&self.slot, incarnation, why);
        }
    }

    pub(super) async fn on_unload(&mut self) -> Result<(), ManagerError> {
        let state = self.state();
        if state.on(Action::Unload).is_none() {
            return Err(self.not_allowed(state, Action::Unload));
        }
        self.running.restart_at = None;
        self.status.seen().wanted = false;
        if let Some(scope) = self.running.scope.take() {
            scope.cancel();
            if let Err(failure) = self.close(scope, CLOSE).await {
                self.record_failure(&failure.reason);
            }
        }
        self.keep_scope(None);
        self.destroy(self.plugin.clone()).await;
        self.forget_routes(Withdrawal::Unloaded);
        self.shared.host.listeners.release(&self.name);
        let transition = {
            // Together, so that the name is free for another plugin at once and altogether.
            let mut entries = self.shared.entries.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let transition =
                self.shared.registry.transition(self.name.as_str(), Action::Unload, self.shared.now())?;
            entries.remove(&self.name);
            transition
        };
        self.announce(transition, json!({}));
        Ok(())
    }

    /// Reported, and otherwise without consequence.
    pub(super) async fn destroy(&self, plugin: Arc<dyn Plugin>) {
        let work = async move { plugin.destroy().await.map_err(Failure::from) };
        if let Err(failure) = self.call(self.shared.config.stop_deadline, false, work).await {
            tracing::warn!(plugin = %self.name, reason = failure.reason, "plugin was not destroyed in order");
        }
    }
}

pub(super) async fn initialize(
    plugin: Arc<dyn Plugin>,
    scope: Arc<Scope>,
    until: Instant,
) -> Result<(), Failure> {
    Ok(plugin.initialize(scope.context_until(until)).await?)
}

/// Start, first health check and publication, in one go on the plugins' runtime.
pub(super) async fn start(
    plugin: Arc<dyn Plugin>,
    scope: Arc<Scope>,
    until: Instant,
    replacing: Option<Arc<Scope>>,
    has_to_be_ready: bool,
) -> Result<Health, Failure> {
    scope.begin_start();
    plugin.start(scope.context_until(until)).await?;
    let health = plugin.health().await;
    if !health.healthy {
        return Err(Failure::new(format!("unhealthy after start: {}", health.message)));
    }
    if has_to_be_ready && !health.ready {
        return Err(Failure::new(format!("not ready after start: {}", health.message)));
    }
    scope
        .publish(replacing.as_deref())
        .await
        .map_err(|error: PublishError| Failure::from(plugin_core::PluginError::from(error)))?;
    Ok(health)
}
