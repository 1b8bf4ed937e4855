//! Runs for times that were missed.

use std::sync::Arc;

use super::Scheduler;
use crate::core::{BackfillGround, BackfillPlan};
use crate::error::TaskError;
use crate::schedule::{ceil_micros, floor_micros, timestamp};
use crate::view::{BackfillReport, BackfillRequest};

/// How many runs a backfill makes where the caller says nothing, and at the most.
const LIMIT: (u32, u32) = (100, 1000);

impl Scheduler {
    /// Runs a task for the times of its schedule in a range for which it has not run: one after the other,
    /// in their order, whatever its overlap policy says. Scheduled runs go before them. No time is run twice.
    ///
    /// A dry run tells the times and changes nothing. The runs are acknowledged together: they go on after a restart, and end when the task is cancelled. A
    /// pause holds them up.
    ///
    /// # Errors
    ///
    /// If a field is wrong, there is no such task, its schedule has no times of its own, or its state does
    /// not allow it.
    pub async fn backfill(
        &self,
        id: &str,
        request: &BackfillRequest,
        dry_run: bool,
    ) -> Result<BackfillReport, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let limit = request.limit.unwrap_or(LIMIT.0);
        if !(1..=LIMIT.1).contains(&limit) {
            return Err(TaskError::invalid("limit", "must be from 1 to 1000"));
        }
        let from = ceil_micros(request.from);
        let until = request.until.map_or(now, floor_micros);
        if until > now {
            return Err(TaskError::invalid("until", "must not lie ahead"));
        }
        if from > until {
            return Err(TaskError::invalid("from", "must not be later than `until`"));
        }
        let ground = inner.core().backfill_ground(id)?;
        if ground.def.schedule.has_no_times() {
            let detail = format!("the schedule of `{id}` has no times of its own to be missed");
            return Err(TaskError::invalid("from", detail));
        }
        let plan = ground.plan(from, until, limit as usize);
        let report = report(id, dry_run, &plan);
        if dry_run || plan.times.is_empty() {
            return Ok(report);
        }
        let ground: Arc<BackfillGround> = Arc::new(ground);
        let (planned, times) = (Arc::clone(&ground), plan.times.clone());
        let wanted = self
            .kept(
                id,
                move |core| core.preview_backfill(&planned, &times),
                move |core| {
                    core.backfill(&ground, &plan.times)?;
                    Ok(core.wanted_at(now))
                },
            )
            .await?;
        inner.nudge(wanted);
        inner.tell();
        Ok(report)
    }
}

fn report(id: &str, dry_run: bool, plan: &BackfillPlan) -> BackfillReport {
    BackfillReport {
        task: id.to_owned(),
        dry_run,
        count: plan.times.len() as u64,
        times: plan.times.iter().copied().map(timestamp).collect(),
        already_run: plan.ran,
        not_known: plan.unknown,
        next_from: plan.more_from.map(timestamp),
    }
}
