//! Asking a running plugin how it fares, and what follows from the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plugin_core::{Health, State};
use runtime::{CallError, guarded};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Supervisor, chance};
use crate::RestartPolicy;
use crate::shared::SeenHealth;

/// A question that is under way: beside the supervisor's other work, since an answer may take long.
pub(super) type HealthCall = oneshot::Receiver<Asked>;

/// What came of a question.
#[derive(Debug)]
pub(super) enum Asked {
    Answer(Result<Health, CallError>),
    /// No thread was free to put it, which says nothing about the plugin.
    NotPut,
}

impl Supervisor {
    /// Asks again after the interval, give or take a tenth, so that plugins are not all asked at once.
    pub(super) fn schedule_health(&mut self) {
        let interval = self.shared.config.health_check_interval.mul_f64(0.9 + chance() / 5.0);
        self.running.health_at = Some(Instant::now() + interval);
    }

    pub(super) fn check_health(&mut self) {
        self.running.health_at = None;
        if self.state() != State::Running {
            return;
        }
        let (plugin, handle) = (self.plugin.clone(), self.host.runtime.clone());
        let limit = self.shared.config.health_check_timeout;
        let (sender, answer) = oneshot::channel();
        self.shared.tasks.spawn(format!("health of {}", self.name), async move {
            let put = Arc::new(AtomicBool::new(false));
            let puts = put.clone();
            let question = async move {
                puts.store(true, Ordering::Release);
                plugin.health().await
            };
            let asked = match guarded(&handle, limit, question).await {
                Err(CallError::TimedOut(_)) if !put.load(Ordering::Acquire) => Asked::NotPut,
                answer => Asked::Answer(answer),
            };
            let _ = sender.send(asked);
        });
        self.running.health_call = Some(answer);
    }

    pub(super) async fn checked(&mut self, asked: Asked) {
        if self.state() != State::Running {
            return;
        }
        let limit = self.shared.config.health_check_timeout;
        let Asked::Answer(answer) = asked else {
            // Somebody else's code holds all threads. A restart would only take down one that works, and the
            // transport is one of them.
            tracing::warn!(plugin = %self.name, "no thread was free to ask for its health: plugins block theirs");
            self.schedule_health();
            return;
        };
        let health = answer.unwrap_or_else(|error| Health::unhealthy(self.failed_call(error, limit).reason));
        let changed = self.note_health(&health);
        let ready = health.healthy && health.ready;
        if self.shared.registry.set_ready(self.name.as_str(), ready) {
            self.shared.changed();
            if ready {
                self.shared.poke_dependents(self.name.as_str());
            }
        }
        if health.healthy {
            self.running.failed_checks = 0;
        } else {
            self.running.failed_checks = self.running.failed_checks.saturating_add(1);
        }
        let (failed, threshold) = (self.running.failed_checks, self.shared.config.health_failure_threshold);
        if changed || failed == threshold {
            let detail = json!({
                "healthy": health.healthy,
                "ready": ready,
                "message": health.message,
                "failures": self.running.failed_checks,
            });
            self.tell("plugin.health_check", detail, json!({}));
        }
        // Or above it: the policy may have been another one when the threshold was met.
        if failed >= threshold && self.restart.policy != RestartPolicy::Never {
            let checks = self.running.failed_checks;
            Box::pin(self.give_up(format!("unhealthy in {checks} checks: {}", health.message))).await;
        } else {
            self.schedule_health();
        }
    }

    /// Keeps the answer for whoever looks; says whether it is another one than before.
    pub(super) fn note_health(&self, health: &Health) -> bool {
        let Health { healthy, ready, message } = health.clone();
        let seen = SeenHealth { healthy, ready, message, at: self.shared.now() };
        let before = self.status.seen().health.replace(seen);
        before.is_none_or(|before| (before.healthy, before.ready) != (healthy, ready))
    }
}
