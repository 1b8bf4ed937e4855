//! Tasks and their runs.

use runtime::Timestamp;
use scheduler::{
    BackfillReport, BackfillRequest, ExecutorInfo, RunFilter, RunId, RunView, ScheduleSpec, Scheduler,
    SchedulerStatus, TaskFilter, TaskGraph, TaskSnapshot, TaskSpec, TaskView, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::management::not_available;
use crate::{Caller, Management, Page, PageRequest, Permission, Problem};

mod many;

pub use many::TaskExport;

/// How many times a preview shows where the caller says nothing.
const PREVIEW_DEFAULT: u32 = 5;
/// How many times a preview shows at the most.
const PREVIEW_MAX: u32 = 100;

/// Which times to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The schedule.
    pub schedule: ScheduleSpec,
    /// How many times; 5 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100, default = 5)]
    pub count: Option<u32>,
    /// Times after this one; now where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
}

/// What a task is run with, out of its turn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriggerRequest {
    /// What the executor gets, in place of the task's own payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
}

impl Management {
    pub(crate) fn scheduler(&self) -> Result<&Scheduler, Problem> {
        self.inner.scheduler.as_ref().ok_or_else(|| not_available("scheduler"))
    }

    /// The scheduler as it stands.
    ///
    /// # Errors
    ///
    /// For callers without a role, and where the host has no scheduler.
    pub fn scheduler_status(&self, caller: &Caller) -> Result<SchedulerStatus, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.status())
    }

    /// Tasks, by id.
    ///
    /// # Errors
    ///
    /// For callers without a role, and for a cursor that is none.
    pub async fn tasks(
        &self,
        caller: &Caller,
        filter: &TaskFilter,
        page: &PageRequest,
    ) -> Result<Page<TaskView>, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.list(filter, &page.into()).await?.into())
    }

    /// One task.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub async fn task(&self, caller: &Caller, id: &str) -> Result<TaskView, Problem> {
        let task = self.task_snapshot(caller, id)?;
        self.show_task(task)
    }

    /// One task as it stands, for a transport that may have written it out before.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub fn task_snapshot(&self, caller: &Caller, id: &str) -> Result<TaskSnapshot, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.snapshot(id)?)
    }

    /// The view of what [`task_snapshot`](Self::task_snapshot) gave.
    ///
    /// # Errors
    ///
    /// Where the host has no scheduler.
    pub fn show_task(&self, task: TaskSnapshot) -> Result<TaskView, Problem> {
        Ok(self.scheduler()?.show(task))
    }

    /// Makes a task.
    ///
    /// # Errors
    ///
    /// `invalid_field`, or `already_exists`; no task is left behind then.
    pub async fn create_task(&self, caller: &Caller, spec: TaskSpec) -> Result<TaskView, Problem> {
        let target = spec.id.clone();
        self.write(caller, Permission::TaskCreate, &target, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(if dry_run { scheduler.dry_run().create(&spec)? } else { scheduler.create(spec).await? })
        })
        .await
    }

    /// Gives a task another definition; its counters and its records stay.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_field`, or `precondition_failed` where its version is not `if_version`.
    pub async fn replace_task(
        &self,
        caller: &Caller,
        id: &str,
        spec: TaskSpec,
        if_version: Option<u64>,
    ) -> Result<TaskView, Problem> {
        self.write(caller, Permission::TaskReplace, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(match dry_run {
                true => scheduler.dry_run().replace(id, spec, if_version)?,
                false => scheduler.replace(id, spec, if_version).await?,
            })
        })
        .await
    }

    /// Takes a task away, and ends its runs.
    ///
    /// # Errors
    ///
    /// `not_found`, `in_use`, or `precondition_failed`.
    pub async fn remove_task(
        &self,
        caller: &Caller,
        id: &str,
        if_version: Option<u64>,
    ) -> Result<TaskView, Problem> {
        self.write(caller, Permission::TaskRemove, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(if dry_run {
                scheduler.dry_run().remove(id, if_version)?
            } else {
                scheduler.remove(id, if_version).await?
            })
        })
        .await
    }

    /// Keeps a task from running until it is resumed.
    ///
    /// # Errors
    ///
    /// `not_found`, or `invalid_state`.
    pub async fn pause_task(&self, caller: &Caller, id: &str) -> Result<TaskView, Problem> {
        self.write(caller, Permission::TaskPause, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(if dry_run { scheduler.dry_run().pause(id)? } else { scheduler.pause(id).await? })
        })
        .await
    }

    /// Lets a paused task run again.
    ///
    /// # Errors
    ///
    /// `not_found`, or `invalid_state`.
    pub async fn resume_task(&self, caller: &Caller, id: &str) -> Result<TaskView, Problem> {
        self.write(caller, Permission::TaskResume, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(if dry_run { scheduler.dry_run().resume(id)? } else { scheduler.resume(id).await? })
        })
        .await
    }

    /// Ends a task and its active runs; it stays to be looked at.
    ///
    /// # Errors
    ///
    /// `not_found`, or `invalid_state`.
    pub async fn cancel_task(&self, caller: &Caller, id: &str) -> Result<TaskView, Problem> {
        self.write(caller, Permission::TaskCancel, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(if dry_run { scheduler.dry_run().cancel(id)? } else { scheduler.cancel(id).await? })
        })
        .await
    }

    /// Runs a task now, out of its turn.
    ///
    /// # Errors
    ///
    /// `not_found`, or `invalid_state`.
    pub async fn trigger_task(
        &self,
        caller: &Caller,
        id: &str,
        request: TriggerRequest,
    ) -> Result<RunView, Problem> {
        self.write(caller, Permission::TaskTrigger, id, async |dry_run| {
            let scheduler = self.scheduler()?;
            Ok(match dry_run {
                true => scheduler.dry_run().trigger(id, request.payload.as_ref())?,
                false => scheduler.trigger(id, request.payload).await?,
            })
        })
        .await
    }

    /// A task's runs, the newest first.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub async fn task_runs(
        &self,
        caller: &Caller,
        id: &str,
        page: &PageRequest,
    ) -> Result<Page<RunView>, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.runs(id, &page.into()).await?.into())
    }

    /// One run.
    ///
    /// # Errors
    ///
    /// `not_found`, also for what cannot be the id of a run.
    pub async fn run(&self, caller: &Caller, id: &str) -> Result<RunView, Problem> {
        caller.require(Permission::TaskRead)?;
        let run: RunId = id.parse().map_err(|_| Problem::not_found("run", id))?;
        Ok(self.scheduler()?.run(run).await?)
    }

    /// The next times of a schedule; nothing is created.
    ///
    /// # Errors
    ///
    /// `invalid_field`.
    pub fn preview(&self, caller: &Caller, request: &PreviewRequest) -> Result<Vec<Timestamp>, Problem> {
        caller.require(Permission::TaskRead)?;
        let count = request.count.unwrap_or(PREVIEW_DEFAULT);
        if !(1..=PREVIEW_MAX).contains(&count) {
            return Err(Problem::invalid("count", format!("must be between 1 and {PREVIEW_MAX}")));
        }
        let from = request.from.unwrap_or_else(|| self.inner.clock.now());
        Ok(self.scheduler()?.preview(&request.schedule, count as usize, Some(from))?)
    }

    /// What can run tasks.
    ///
    /// # Errors
    ///
    /// For callers without a role, and where the host has no scheduler.
    pub fn executors(&self, caller: &Caller) -> Result<Vec<ExecutorInfo>, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.executors())
    }

    /// The tasks within `depth` edges of a task, both ways; without one, the first 1000 that there are.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub fn task_graph(&self, caller: &Caller, task: Option<&str>, depth: u32) -> Result<TaskGraph, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.graph(task, depth)?)
    }

    /// Runs a task for times of its schedule that were missed.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_field`, or `invalid_state`.
    pub async fn backfill_task(
        &self,
        caller: &Caller,
        id: &str,
        request: &BackfillRequest,
    ) -> Result<BackfillReport, Problem> {
        self.write(caller, Permission::TaskBackfill, id, async |dry_run| {
            Ok(self.scheduler()?.backfill(id, request, dry_run).await?)
        })
        .await
    }

    /// Why a task did or did not run at a time, or does not now.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub async fn why_task(&self, caller: &Caller, id: &str, at: Option<Timestamp>) -> Result<Why, Problem> {
        caller.require(Permission::TaskRead)?;
        let at = at.unwrap_or_else(|| self.inner.clock.now());
        Ok(self.scheduler()?.why(id, at).await?)
    }

    /// The runs of all tasks, the newest first.
    ///
    /// # Errors
    ///
    /// For callers without a role, and for a cursor that is none.
    pub async fn runs(
        &self,
        caller: &Caller,
        filter: &RunFilter,
        page: &PageRequest,
    ) -> Result<Page<RunView>, Problem> {
        caller.require(Permission::TaskRead)?;
        Ok(self.scheduler()?.list_runs(filter, &page.into()).await?.into())
    }
}
