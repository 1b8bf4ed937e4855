//! What is asked of the scheduler: lists, records, previews, its state.

use runtime::Timestamp;

use super::{Scheduler, not_found};
use crate::core::{Filter, RunSearch, Search, TaskSnapshot};
use crate::error::TaskError;
use crate::graph::TaskGraph;
use crate::id::RunId;
use crate::schedule::admit::admit;
use crate::schedule::{Bounds, Micros, NEVER, ceil_micros, floor_micros, timestamp};
use crate::spec::ScheduleSpec;
use crate::view::{
    ClusterStatus, Page, Paged, RunFilter, RunView, SchedulerStatus, StoreStatus, TaskFilter, TaskStatus,
    TaskView,
};
use crate::why::Why;

impl Scheduler {
    /// One task.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn get(&self, id: &str) -> Result<TaskView, TaskError> {
        Ok(self.show(self.snapshot(id)?))
    }

    /// One task as it stands, for whoever may not need a view of it.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn snapshot(&self, id: &str) -> Result<TaskSnapshot, TaskError> {
        let core = self.inner.core();
        let found = core.find(id).and_then(|task| core.snapshot(task));
        drop(core);
        found.ok_or_else(|| not_found(id))
    }

    /// The view of a task of this scheduler.
    #[must_use]
    pub fn show(&self, snapshot: TaskSnapshot) -> TaskView {
        let executor = self.inner.executors.name_of(snapshot.def.executor);
        snapshot.view(&executor)
    }

    /// A page of the tasks that match, in the order of their creation as a rule: a task may take the place
    /// of one that was removed. A task that is there throughout stands on exactly one page.
    ///
    /// # Errors
    ///
    /// If the limit or the cursor is wrong.
    pub async fn list(&self, filter: &TaskFilter, page: &Page) -> Result<Paged<TaskView>, TaskError> {
        let inner = &self.inner;
        let limit = checked_limit(page)?;
        let from = cursor(page)?.unwrap_or(0);
        let from =
            u32::try_from(from).map_err(|_| TaskError::invalid("cursor", "is not one of this list"))?;
        let filter = Filter::new(filter, &inner.executors);
        let mut search = Search::from(from);
        // The lock is let go between stretches, so that looking through a million tasks delays no run.
        while !inner.core().search(&filter, limit, &mut search) {
            tokio::task::yield_now().await;
        }
        let items = search.found.into_iter().map(|task| {
            let executor = inner.executors.name_of(task.def.executor);
            task.view(&executor)
        });
        Ok(Paged {
            items: items.collect(),
            total: search.total,
            next_cursor: search.next.map(|place| place.to_string()),
        })
    }

    /// A page of a task's records, newest first.
    ///
    /// # Errors
    ///
    /// If there is no such task, or the limit or the cursor is wrong.
    pub async fn runs(&self, id: &str, page: &Page) -> Result<Paged<RunView>, TaskError> {
        let limit = checked_limit(page)?;
        let before = cursor(page)?;
        let (runs, total, next) = {
            let core = self.inner.core();
            let task = core.find(id).ok_or_else(|| TaskError::NotFound(id.to_owned()))?;
            core.run_page(task, before, limit, self.inner.now())
        };
        Ok(Paged {
            items: runs.into_iter().map(|run| run.view(&self.inner.node)).collect(),
            total,
            next_cursor: next.map(|number| number.to_string()),
        })
    }

    /// A page of all records, newest first.
    ///
    /// # Errors
    ///
    /// If the limit or the cursor is wrong.
    pub async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<Paged<RunView>, TaskError> {
        let limit = checked_limit(page)?;
        let mut search = RunSearch::before(cursor(page)?);
        while !self.inner.core().search_runs(filter, limit, &mut search) {
            tokio::task::yield_now().await;
        }
        Ok(Paged {
            items: search.found.into_iter().map(|run| run.view(&self.inner.node)).collect(),
            total: search.total,
            next_cursor: search.next.map(|number| number.to_string()),
        })
    }

    /// Why a task did or did not run at a time; where `at` is a whole second, in that second.
    ///
    /// # Errors
    ///
    /// If there is no such task, or the time is out of the calendar's range.
    pub async fn why(&self, id: &str, at: Timestamp) -> Result<Why, TaskError> {
        // Down, so that the present moment does not lie ahead of the present microsecond.
        let from = floor_micros(at);
        let until = if at.subsec_nanosecond() == 0 { from.saturating_add(1_000_000) } else { from + 1 };
        let now = self.inner.now();
        let found = {
            let core = self.inner.core();
            core.find(id).and_then(|task| core.why(task, from, until, now))
        };
        let found = found.ok_or_else(|| TaskError::NotFound(id.chars().take(128).collect()))?;
        Ok(Why {
            task: id.to_owned(),
            at,
            answer: found.answer,
            detail: found.detail,
            run: found.run.map(|run| run.view(&self.inner.node)),
            previous: found.previous.map(timestamp),
            next: found.next.map(timestamp),
        })
    }

    /// The record of one run.
    ///
    /// # Errors
    ///
    /// If there is none, or none any more.
    pub async fn run(&self, id: RunId) -> Result<RunView, TaskError> {
        let snapshot = {
            let core = self.inner.core();
            core.record_number(id).and_then(|number| core.run_snapshot(number))
        };
        snapshot.map(|run| run.view(&self.inner.node)).ok_or_else(|| TaskError::RunNotFound(id.to_string()))
    }

    /// The tasks within `depth` edges of a task, both ways; without one, the first tasks there are.
    ///
    /// # Errors
    ///
    /// If there is no such task.
    pub fn graph(&self, task: Option<&str>, depth: u32) -> Result<TaskGraph, TaskError> {
        self.inner.core().graph(task, depth)
    }

    /// The next times of a schedule that would be given now, without creating anything; `from` looks from a
    /// later time on. 1 to 1000 times.
    ///
    /// # Errors
    ///
    /// If a field is wrong.
    pub fn preview(
        &self,
        schedule: &ScheduleSpec,
        times: usize,
        from: Option<Timestamp>,
    ) -> Result<Vec<Timestamp>, TaskError> {
        if !(1..=1000).contains(&times) {
            return Err(TaskError::invalid("times", "must be from 1 to 1000"));
        }
        let now = self.inner.now();
        let admitted = admit(schedule, &self.inner.calendars, now)?;
        let bounds = Bounds { anchor: now, start: admitted.start, end: admitted.end };
        let mut after = from.map_or(now, |from| ceil_micros(from).saturating_sub(1)).max(now);
        if admitted.schedule.is_once() && from.is_none() {
            after = Micros::MIN;
        }
        let times = if admitted.max_runs == 0 { times } else { times.min(admitted.max_runs as usize) };
        let mut found = Vec::new();
        while found.len() < times
            && let Some(next) = admitted.schedule.next_after(&bounds, after)
        {
            found.push(timestamp(next));
            after = next;
        }
        Ok(found)
    }

    /// The scheduler as it stands.
    #[must_use]
    pub fn status(&self) -> SchedulerStatus {
        let inner = &self.inner;
        let now = inner.now();
        let mut core = inner.core();
        let (lateness, due_rate) = core.stats.recent(now);
        let counts = TaskStatus::ALL.into_iter().map(|status| (status, core.table.count(status)));
        SchedulerStatus {
            running: core.running,
            total_tasks: core.table.len() as u64,
            status_counts: counts.filter(|(_, count)| *count > 0).collect(),
            active_runs: core.active_count as u64,
            stuck_runs: core.stuck(now),
            queued_runs: core.queued() as u64,
            waiting_tasks: core.waiting_tasks() as u64,
            due_rate,
            lateness,
            runs: core.stats.totals(),
            store: inner
                .keeper
                .as_ref()
                .map_or_else(in_memory, |keeper| keeper.status(core.waiting_changes())),
            cluster: inner.keeper.as_ref().map_or_else(
                || ClusterStatus {
                    node: inner.node.clone(),
                    members: vec![inner.node.clone()],
                    shards: 1,
                    owned: 1,
                },
                |keeper| keeper.cluster(&inner.node, &core),
            ),
            next_run_at: Some(core.earliest(now)).filter(|next| *next != NEVER).map(timestamp),
        }
    }
}

fn in_memory() -> StoreStatus {
    StoreStatus { kind: "memory".to_owned(), healthy: true, ..StoreStatus::default() }
}

fn checked_limit(page: &Page) -> Result<usize, TaskError> {
    if (1..=1000).contains(&page.limit) {
        Ok(page.limit)
    } else {
        Err(TaskError::invalid("limit", "must be from 1 to 1000"))
    }
}

fn cursor(page: &Page) -> Result<Option<u64>, TaskError> {
    page.cursor
        .as_deref()
        .map(|text| text.parse().map_err(|_| TaskError::invalid("cursor", "is not one of this list")))
        .transpose()
}
