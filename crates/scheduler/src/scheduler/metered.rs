//! What is counted, for the metrics facade.

use super::Scheduler;
use crate::history::SkipKind;
use crate::view::TaskStatus;

impl Scheduler {
    /// Hands what has been counted to the metrics facade; before each scrape, say.
    pub fn report_metrics(&self) {
        let inner = &self.inner;
        let now = inner.now();
        let (counts, (lateness, executors), skipped, pauses, stuck, pending) = {
            let mut core = inner.core();
            let counts = TaskStatus::ALL.map(|status| (status, core.table.count(status)));
            let skipped = SkipKind::ALL.map(|kind| (kind, core.stats.skipped_for(kind)));
            let pauses = core.stats.paused_for_failures;
            (counts, core.stats.take_report(), skipped, pauses, core.stuck(now), core.waiting_changes())
        };
        if let Some(keeper) = &inner.keeper {
            keeper.report_metrics(pending);
        }
        metrics::gauge!("scheduler_runs_stuck").set(stuck as f64);
        metrics::counter!("scheduler_task_auto_pauses_total").absolute(pauses);
        for (kind, count) in skipped {
            metrics::counter!("scheduler_task_skipped_total", "reason" => kind.as_str()).absolute(count);
        }
        for (status, count) in counts {
            metrics::gauge!("scheduler_tasks_total", "status" => status.as_str()).set(count as f64);
        }
        let late = metrics::histogram!("scheduler_task_lateness_seconds");
        for (seconds, count) in lateness {
            late.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
        }
        for report in executors {
            // As many as there are executors that have run: what plugins register, and the built-in ones.
            let executor = inner.executors.name_of(report.key).to_string();
            metrics::counter!("scheduler_task_executions_total", "executor" => executor.clone())
                .absolute(report.ended);
            metrics::counter!("scheduler_task_failures_total", "executor" => executor.clone())
                .absolute(report.failed);
            let duration = metrics::histogram!("scheduler_task_duration_seconds", "executor" => executor);
            for (seconds, count) in report.durations {
                duration.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
    }
}
