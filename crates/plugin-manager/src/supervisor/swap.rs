//! Another version in a plugin's place: beside the old one where that can be, in its stead where not.

use std::sync::Arc;
use std::time::Duration;

use plugin_core::{Action, Health, Manifest, Plugin, PluginName, Scope, State, SwapMode, Withdrawal};
use registry::DependencyGraph;
use semver::Version;
use serde_json::json;
use tokio::time::Instant;

use super::lifecycle::{initialize, start};
use super::{CLOSE, Failure, Started, Supervisor, unmet};
use crate::ManagerError;

/// What is to take a plugin's place.
pub(crate) struct SwapOrder {
    pub(crate) plugin: Arc<dyn Plugin>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) type_name: Option<String>,
    /// How long to wait for the calls that are inside the old version.
    pub(crate) drain: Duration,
    /// Whether it is only tried: nothing of the new version runs then.
    pub(crate) dry_run: bool,
}

impl Supervisor {
    pub(super) async fn on_swap(&mut self, order: SwapOrder) -> Result<(), ManagerError> {
        let state = self.state();
        let checked = self.check_swap(state, &order);
        if checked.is_err() || order.dry_run {
            self.destroy(order.plugin).await;
            return checked;
        }
        let from = self.manifest.version.clone();
        let exclusive = [&self.manifest, &order.manifest].iter().any(|m| m.swap == SwapMode::Exclusive);
        match state {
            State::Running if exclusive => Box::pin(self.swap_exclusive(order)).await?,
            State::Running => Box::pin(self.swap_beside(order)).await?,
            _ => {
                let old = self.put_in_place(order);
                self.destroy(old.plugin).await;
            }
        }
        self.tell_swapped(&from, state);
        Ok(())
    }

    fn not_swapped(&self, reason: impl Into<String>) -> ManagerError {
        ManagerError::SwapFailed { name: self.name.clone(), reason: reason.into() }
    }

    fn tell_swapped(&self, from: &Version, state: State) {
        let detail = json!({ "from_version": from, "to_version": self.manifest.version, "running": state == State::Running });
        self.tell("plugin.swapped", detail, json!({}));
        self.shared.changed();
        self.shared.poke_dependents(self.name.as_str());
    }

    /// Everything that can be known before any of the new version's code runs.
    fn check_swap(&self, state: State, order: &SwapOrder) -> Result<(), ManagerError> {
        let refused = |reason: String| ManagerError::SwapRefused { name: self.name.clone(), reason };
        if !matches!(state, State::Running | State::Registered | State::Stopped | State::Failed) {
            return Err(self.not_allowed(state, Action::Start));
        }
        if state == State::Running && !self.shared.config.hot_swap {
            return Err(refused("hot swap is switched off".to_owned()));
        }
        if order.manifest.name != self.name {
            return Err(refused(format!("the new version calls itself `{}`", order.manifest.name)));
        }
        if let Some(spec) = &order.manifest.config {
            spec.check(&self.effective_config())?;
        }
        let records = self.shared.registry.list();
        let manifests: Vec<_> = records
            .iter()
            .map(|record| if *record.name() == self.name { &*order.manifest } else { &*record.manifest })
            .collect();
        let concerns = |problem: &registry::DependencyProblem| match problem {
            registry::DependencyProblem::Mismatch { plugin, dependency, .. } => {
                *plugin == self.name || *dependency == self.name
            }
            other => other.concerns(self.name.as_str()),
        };
        let problems: Vec<_> = DependencyGraph::new(manifests)
            .problems()
            .into_iter()
            .filter(concerns)
            .map(|p| p.to_string())
            .collect();
        if !problems.is_empty() {
            return Err(refused(problems.join("; ")));
        }
        let waiting = self.shared.registry.inspect(|records| unmet(records, &order.manifest));
        if state == State::Running && !waiting.is_empty() {
            let names: Vec<_> = waiting.iter().map(PluginName::as_str).collect();
            return Err(refused(format!("the new version needs what does not run: {}", names.join(", "))));
        }
        Ok(())
    }

    /// Makes another plugin this one; gives the one before, as an order to swap it back.
    fn put_in_place(&mut self, order: SwapOrder) -> SwapOrder {
        let type_name = self.shared.registry.get(self.name.as_str()).and_then(|record| record.type_name);
        let replaced =
            self.shared.registry.replace_manifest(order.manifest.clone(), order.type_name.as_deref());
        if let Err(error) = replaced {
            tracing::error!(plugin = %self.name, %error, "swapped plugin is not registered");
        }
        SwapOrder {
            plugin: std::mem::replace(&mut self.plugin, order.plugin),
            manifest: std::mem::replace(&mut self.manifest, order.manifest),
            type_name: type_name.as_deref().map(str::to_owned),
            drain: order.drain,
            dry_run: false,
        }
    }

    async fn swap_beside(&mut self, order: SwapOrder) -> Result<(), ManagerError> {
        let Some(old_scope) = self.running.scope.clone() else {
            return Err(self.not_swapped("nothing runs"));
        };
        let incarnation = old_scope.incarnation();
        let was_ready = self.shared.registry.get(self.name.as_str()).is_some_and(|record| record.ready);
        let scope = self.open_scope(&order.manifest);
        let (plugin, new, old) = (order.plugin.clone(), scope.clone(), old_scope.clone());
        let (began, limit) = (Instant::now(), self.shared.config.max_startup_time);
        let until = began + limit;
        let work = async move {
            initialize(plugin.clone(), new.clone(), until).await?;
            start(plugin, new, until, Some(old), was_ready).await
        };
        match self.call_until(until, limit, true, work).await {
            Ok(health) => {
                self.status.seen().startup = Some(began.elapsed());
                self.take_over(order, scope, old_scope, &health).await;
                Ok(())
            }
            Err(failure) => {
                self.status.seen().incarnation = incarnation;
                scope.cancel();
                let withdrawn = self.withdraw(scope.clone(), Withdrawal::Stopped, Duration::ZERO).await;
                let closed = self.close(scope, CLOSE).await;
                if let Err(left) = withdrawn.map(drop).and(closed) {
                    tracing::warn!(plugin = %self.name, reason = left.reason, "refused version left something behind");
                }
                self.destroy(order.plugin).await;
                Err(self.not_swapped(failure.reason))
            }
        }
    }

    /// The new version is published; what is left is to see the old one out.
    async fn take_over(
        &mut self,
        order: SwapOrder,
        scope: Arc<Scope>,
        old_scope: Arc<Scope>,
        health: &Health,
    ) {
        let old_services: Vec<_> =
            old_scope.live().map(|live| live.services().cloned().collect()).unwrap_or_default();
        let drain = order.drain;
        let old = self.put_in_place(order).plugin;
        self.shared.registry.renew(self.name.as_str(), self.shared.now());
        self.running.published = Some(scope.incarnation());
        self.running.failed_checks = 0;
        self.running.health_call = None;
        self.running.failures.forget();
        if let Some(live) = scope.live() {
            let gone = old_services.iter().filter(|key| !live.services().any(|there| there == *key));
            gone.for_each(|key| self.tell_service("service.unregistered", key));
            let come = live.services().filter(|key| !old_services.contains(key));
            come.for_each(|key| self.tell_service("service.registered", key));
        }
        self.keep_scope(Some(scope));
        self.note_health(health);
        self.shared.registry.set_ready(self.name.as_str(), health.ready);
        self.schedule_health();

        let withdrawn = self.withdraw(old_scope.clone(), Withdrawal::Replaced, drain).await;
        if let Ok(report) = &withdrawn {
            self.warn_of_holders(report);
        }
        old_scope.cancel();
        let stopped = self.stop_call(self.shared.config.stop_deadline, old.clone(), old_scope.clone()).await;
        let closed = self.close(old_scope, CLOSE).await;
        if let Err(Failure { reason, .. }) = withdrawn.map(drop).and(stopped).and(closed) {
            tracing::warn!(plugin = %self.name, reason, "replaced version did not end in order");
        }
        self.destroy(old).await;
    }

    async fn swap_exclusive(&mut self, order: SwapOrder) -> Result<(), ManagerError> {
        let config = &self.shared.config;
        // Long enough for the new version to fail and the old one to come back.
        let limit = (config.max_startup_time + config.stop_deadline) * 2 + order.drain;
        let _hold = self.shared.directory.hold(&self.name, config.swap_queue, limit);
        let mut stop = self.restart_order();
        stop.budget = stop.budget.max(order.drain * 3);
        self.running.coming_back = true;
        let outcome = async {
            if let Err(error) = self.stop(&stop).await {
                self.destroy(order.plugin).await;
                return Err((error, None));
            }
            let old = self.put_in_place(order);
            match self.start_anew().await {
                Ok(()) => Ok(old.plugin),
                Err(error) => Err((error, Some(old))),
            }
        };
        let outcome = Box::pin(outcome).await;
        self.running.coming_back = false;
        match outcome {
            Ok(old) => {
                self.destroy(old).await;
                Ok(())
            }
            Err((error, old)) => {
                if let Some(old) = old {
                    let refused = self.put_in_place(old);
                    self.destroy(refused.plugin).await;
                }
                self.running.failures.forget();
                self.status.seen().wanted = true;
                let reason = match Box::pin(self.start_if_possible()).await {
                    Ok(_) => error.to_string(),
                    Err(again) => format!("{error}; and the old version did not come back: {again}"),
                };
                Err(self.not_swapped(reason))
            }
        }
    }

    async fn start_anew(&mut self) -> Result<(), ManagerError> {
        self.initialize(self.shared.config.max_startup_time).await?;
        match self.start_if_possible().await? {
            Started::Running => Ok(()),
            Started::Waiting(waiting_for) => {
                Err(ManagerError::DependenciesDown { name: self.name.clone(), waiting_for })
            }
        }
    }
}
