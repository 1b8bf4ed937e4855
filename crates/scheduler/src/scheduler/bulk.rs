//! One action on many tasks.

use futures_util::future::join_all;

use super::Scheduler;
use crate::bulk::{BulkAction, BulkRefusal, BulkReport, BulkRequest};
use crate::core::{Filter, Search};
use crate::error::TaskError;
use crate::view::TaskFilter;

/// How many tasks one request is for where the caller says nothing, and at the most.
const LIMIT: (u32, u32) = (1000, 10_000);
/// How many are done at once: their changes reach the store together.
const AT_ONCE: usize = 256;
/// How many ids and reasons a report names.
const NAMED_MAX: usize = 100;

impl Scheduler {
    /// Does one thing to all tasks that match, each on its own: one that is refused does not keep the others
    /// from it. A dry run tells what would be done.
    ///
    /// # Errors
    ///
    /// If the limit is out of bounds, or the filter is empty and `all` does not say that it is meant so.
    pub async fn bulk(&self, request: &BulkRequest, dry_run: bool) -> Result<BulkReport, TaskError> {
        let limit = request.limit.unwrap_or(LIMIT.0);
        if !(1..=LIMIT.1).contains(&limit) {
            return Err(TaskError::invalid("limit", "must be from 1 to 10000"));
        }
        if request.filter == TaskFilter::default() && !request.all {
            return Err(TaskError::invalid("filter", "is empty: say `\"all\": true` if all tasks are meant"));
        }
        let (ids, matched) = self.ids_of(&request.filter, limit as usize).await;
        let mut report = BulkReport {
            action: request.action,
            dry_run,
            matched,
            done: 0,
            refused: 0,
            tasks: Vec::new(),
            refusals: Vec::new(),
            more: matched > ids.len() as u64,
        };
        let mut left = ids;
        // A task that others run after can be removed once these have been.
        loop {
            let before = left.len();
            let mut in_use = Vec::new();
            for ids in left.chunks(AT_ONCE) {
                let answers = join_all(ids.iter().map(|id| self.bulk_one(request.action, id, dry_run))).await;
                for (id, answer) in ids.iter().zip(answers) {
                    match answer {
                        Ok(()) => {
                            report.done += 1;
                            if report.tasks.len() < NAMED_MAX {
                                report.tasks.push(id.clone());
                            }
                        }
                        Err(error @ TaskError::InUse { .. }) => in_use.push((id.clone(), error)),
                        Err(error) => report.refuse(id, &error),
                    }
                }
                tokio::task::yield_now().await;
            }
            if in_use.is_empty() || in_use.len() == before || dry_run {
                for (id, error) in in_use {
                    report.refuse(&id, &error);
                }
                return Ok(report);
            }
            left = in_use.into_iter().map(|(id, _)| id).collect();
        }
    }

    async fn bulk_one(&self, action: BulkAction, id: &str, dry_run: bool) -> Result<(), TaskError> {
        if dry_run {
            let tried = self.dry_run();
            return match action {
                BulkAction::Pause => tried.pause(id).map(drop),
                BulkAction::Resume => tried.resume(id).map(drop),
                BulkAction::Cancel => tried.cancel(id).map(drop),
                BulkAction::Remove => tried.remove(id, None).map(drop),
            };
        }
        match action {
            BulkAction::Pause => self.pause(id).await.map(drop),
            BulkAction::Resume => self.resume(id).await.map(drop),
            BulkAction::Cancel => self.cancel(id).await.map(drop),
            BulkAction::Remove => self.remove(id, None).await.map(drop),
        }
    }

    /// The ids of the first tasks that match, and how many do in all.
    async fn ids_of(&self, filter: &TaskFilter, limit: usize) -> (Vec<String>, u64) {
        let filter = Filter::new(filter, &self.inner.executors);
        let mut search = Search::from(0);
        while !self.inner.core().search(&filter, limit, &mut search) {
            tokio::task::yield_now().await;
        }
        (search.found.into_iter().map(|task| task.def.id.to_string()).collect(), search.total)
    }
}

impl BulkReport {
    fn refuse(&mut self, id: &str, error: &TaskError) {
        self.refused += 1;
        note_refusal(&mut self.refusals, id, error);
    }
}

/// Names a refusal in a report, unless that names enough of them.
pub(super) fn note_refusal(refusals: &mut Vec<BulkRefusal>, id: &str, error: &TaskError) {
    if refusals.len() < NAMED_MAX {
        refusals.push(BulkRefusal { task: id.to_owned(), reason: error.to_string() });
    }
}
