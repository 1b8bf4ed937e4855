//! Runs that a caller asks for.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::{Scheduler, not_found, refused};
use crate::core::Core;
use crate::def::payload_text;
use crate::error::TaskError;
use crate::schedule::timestamp;
use crate::store::StoreError;
use crate::view::RunView;

impl Scheduler {
    /// Runs a task now, beside its schedule; `payload` stands in for its own. The answer is the record of a
    /// run that is under way, or in line; it is in the store by then, and does not start before it is.
    ///
    /// # Errors
    ///
    /// If there is no such task, its state does not allow it, a run is under way and the overlap policy
    /// allows no other, or the store does not take it: it does not run then.
    pub async fn trigger(&self, id: &str, payload: Option<Value>) -> Result<RunView, TaskError> {
        let inner = &self.inner;
        let payload = payload.as_ref().map(|payload| payload_text("payload", payload)).transpose()?;
        // A null in place of a payload is a payload all the same.
        let payload = payload.map(|text| text.map_or_else(|| "null".into(), Arc::from));
        // Each caller's run has a time of its own, so that no two share a key; calls within one microsecond
        // wait for theirs, so that none runs before it.
        let at = inner.core().trigger_time(inner.now());
        inner.clock.sleep_until(timestamp(at)).await;
        let now = inner.now();
        let answer = {
            let mut core = inner.core();
            let (record, is_in) = core.trigger(id, payload, at, now)?;
            let (sender, answer) = oneshot::channel();
            if inner.keeper.is_some() && is_in {
                let then = move |core: &mut Core, answer: Result<(), StoreError>| {
                    match &answer {
                        Ok(()) => core.let_go(record),
                        Err(_) => core.call_off(record, now),
                    }
                    let _ = sender.send((answer, core.run_snapshot(record)));
                };
                core.hold_run(record, Box::new(then));
            } else {
                let _ = sender.send((Ok(()), core.run_snapshot(record)));
                inner.nudge(core.wanted_at(now));
            }
            answer
        };
        inner.tell();
        let (taken, snapshot) = answer.await.map_err(|_| not_found(id))?;
        taken.map_err(|error| refused(id, error))?;
        snapshot.map(|run| run.view(&inner.node)).ok_or_else(|| TaskError::NotFound(id.to_owned()))
    }
}
