//! Tasks and their runs.

use http::StatusCode;
use management::{PageRequest, PreviewRequest, Problem, TriggerRequest};
use runtime::Timestamp;
use scheduler::{
    BackfillReport, BackfillRequest, Description, ExecutorInfo, RunFilter, RunView, SchedulerStatus,
    TaskFilter, TaskGraph, TaskSpec, TaskView, Why,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::envelope::{Answer, Envelope, Outcome, Refusal, list_data, whole};
use crate::extract::{Ctx, IfMatch, Json, Name, OptionalJson, PageQuery, Query};
use crate::written;

/// A task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskData {
    task: TaskView,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunData {
    run: RunView,
}

/// The next times of a schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TimesData {
    /// In their order.
    times: Vec<Timestamp>,
    /// The schedule in words.
    description: Option<Description>,
}

list_data!(
    /// Tasks.
    TasksData, tasks, TaskView);
list_data!(
    /// Runs.
    RunsData, runs, RunView);
list_data!(
    /// What can run tasks.
    ExecutorsData, executors, ExecutorInfo);

/// Which tasks.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TasksQuery {
    /// In this state: one of `pending running paused completed failed canceled`.
    #[param(value_type = Option<scheduler::TaskStatus>)]
    status: Option<String>,
    /// Run by this executor.
    executor: Option<String>,
    /// With this text in their id or name.
    q: Option<String>,
    /// Registered by this plugin.
    owner: Option<String>,
    /// Of this group.
    group: Option<String>,
    /// How many entries at the most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl TasksQuery {
    fn read(self) -> Result<(TaskFilter, PageRequest), Problem> {
        let status = self.status.map(|status| read_status(&status)).transpose()?;
        let Self { executor, q, owner, group, .. } = self;
        let filter = TaskFilter { status, executor, q, owner, group };
        Ok((filter, PageRequest::new(self.limit, self.cursor)?))
    }
}

fn read_status(text: &str) -> Result<scheduler::TaskStatus, Problem> {
    text.parse()
        .map_err(|error: scheduler::ParseTaskStatusError| Problem::invalid("status", error.to_string()))
}

/// Tasks, by id.
#[utoipa::path(get, path = "/scheduler/tasks", tag = "scheduler", security(("bearer" = ["task.read"])), params(TasksQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<TasksData>)))]
pub(crate) async fn list(ctx: Ctx, Query(query): Query<TasksQuery>) -> Outcome {
    let (filter, page) = query.read()?;
    Answer::ok(&TasksData::from(ctx.management().tasks(ctx.caller(), &filter, &page).await?))
}

/// Tasks in one state.
#[utoipa::path(get, path = "/scheduler/tasks/status/{status}", tag = "scheduler", security(("bearer" = ["task.read"])),
    params(("status" = scheduler::TaskStatus, Path, description = "The state."), PageQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<TasksData>)))]
pub(crate) async fn list_by_status(ctx: Ctx, Name(status): Name, Query(query): Query<PageQuery>) -> Outcome {
    let filter = TaskFilter { status: Some(read_status(&status)?), ..TaskFilter::default() };
    Answer::ok(&TasksData::from(ctx.management().tasks(ctx.caller(), &filter, &query.page()?).await?))
}

/// Makes a task.
#[utoipa::path(post, path = "/scheduler/tasks", tag = "scheduler", security(("bearer" = ["task.create"])), request_body = TaskSpec,
    responses((status = 201, description = "It is there.", body = Envelope<TaskData>)))]
pub(crate) async fn create(ctx: Ctx, Json(spec): Json<TaskSpec>) -> Outcome {
    let task = ctx.management().create_task(ctx.caller(), spec).await?;
    let (version, location) = (task.version, format!("/scheduler/tasks/{}", task.id));
    Ok(Answer::created(location, &TaskData { task })?.etag(version))
}

/// One task.
#[utoipa::path(get, path = "/scheduler/tasks/{id}", tag = "scheduler", security(("bearer" = ["task.read"])),
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task.", body = Envelope<TaskData>)))]
pub(crate) async fn get(ctx: Ctx, Name(id): Name) -> Outcome {
    let task = ctx.management().task_snapshot(ctx.caller(), &id)?;
    let version = task.version();
    let answer = written::once(&id, task, |task| {
        Answer::ok(&TaskData { task: ctx.management().show_task(task.clone())? })
    })?;
    Ok(answer.etag(version))
}

/// Gives a task another definition.
#[utoipa::path(put, path = "/scheduler/tasks/{id}", tag = "scheduler", security(("bearer" = ["task.replace"])), request_body = TaskSpec,
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it is now.", body = Envelope<TaskData>)))]
pub(crate) async fn replace(
    ctx: Ctx,
    Name(id): Name,
    IfMatch(version): IfMatch,
    Json(spec): Json<TaskSpec>,
) -> Outcome {
    task_answer(ctx.management().replace_task(ctx.caller(), &id, spec, version).await?)
}

/// Takes a task away.
#[utoipa::path(delete, path = "/scheduler/tasks/{id}", tag = "scheduler", security(("bearer" = ["task.remove"])),
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it was.", body = Envelope<TaskData>)))]
pub(crate) async fn remove(ctx: Ctx, Name(id): Name, IfMatch(version): IfMatch) -> Outcome {
    Answer::ok(&TaskData { task: ctx.management().remove_task(ctx.caller(), &id, version).await? })
}

/// Keeps a task from running until it is resumed.
#[utoipa::path(post, path = "/scheduler/tasks/{id}/pause", tag = "scheduler", security(("bearer" = ["task.pause"])),
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it is now.", body = Envelope<TaskData>)))]
pub(crate) async fn pause(ctx: Ctx, Name(id): Name) -> Outcome {
    task_answer(ctx.management().pause_task(ctx.caller(), &id).await?)
}

/// Lets a paused task run again.
#[utoipa::path(post, path = "/scheduler/tasks/{id}/resume", tag = "scheduler", security(("bearer" = ["task.resume"])),
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it is now.", body = Envelope<TaskData>)))]
pub(crate) async fn resume(ctx: Ctx, Name(id): Name) -> Outcome {
    task_answer(ctx.management().resume_task(ctx.caller(), &id).await?)
}

/// Ends a task and its active runs.
#[utoipa::path(post, path = "/scheduler/tasks/{id}/cancel", tag = "scheduler", security(("bearer" = ["task.cancel"])),
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The task as it is now.", body = Envelope<TaskData>)))]
pub(crate) async fn cancel(ctx: Ctx, Name(id): Name) -> Outcome {
    task_answer(ctx.management().cancel_task(ctx.caller(), &id).await?)
}

/// Runs a task now, out of its turn.
#[utoipa::path(post, path = "/scheduler/tasks/{id}/trigger", tag = "scheduler", security(("bearer" = ["task.trigger"])),
    request_body = Option<TriggerRequest>,
    params(("id" = String, Path, description = "The task's id.")),
    responses((status = 200, description = "The run that began.", body = Envelope<RunData>)))]
pub(crate) async fn trigger(
    ctx: Ctx,
    Name(id): Name,
    OptionalJson(body): OptionalJson<TriggerRequest>,
) -> Outcome {
    Answer::ok(&RunData { run: ctx.management().trigger_task(ctx.caller(), &id, body).await? })
}

/// A task's runs, the newest first.
#[utoipa::path(get, path = "/scheduler/tasks/{id}/runs", tag = "scheduler", security(("bearer" = ["task.read"])),
    params(("id" = String, Path, description = "The task's id."), PageQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<RunsData>)))]
pub(crate) async fn runs(ctx: Ctx, Name(id): Name, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&RunsData::from(ctx.management().task_runs(ctx.caller(), &id, &query.page()?).await?))
}

/// One run.
#[utoipa::path(get, path = "/scheduler/runs/{run}", tag = "scheduler", security(("bearer" = ["task.read"])),
    params(("run" = String, Path, description = "The run's id.")),
    responses((status = 200, description = "The run.", body = Envelope<RunData>)))]
pub(crate) async fn run(ctx: Ctx, Name(id): Name) -> Outcome {
    Answer::ok(&RunData { run: ctx.management().run(ctx.caller(), &id).await? })
}

/// The scheduler as it stands.
#[utoipa::path(get, path = "/scheduler/status", tag = "scheduler", security(("bearer" = ["task.read"])),
    responses((status = 200, description = "The scheduler.", body = Envelope<SchedulerStatus>)))]
pub(crate) async fn status(ctx: Ctx) -> Outcome {
    Answer::ok(&ctx.management().scheduler_status(ctx.caller())?)
}

/// The next times of a schedule; nothing is created.
#[utoipa::path(post, path = "/scheduler/preview", tag = "scheduler", security(("bearer" = ["task.read"])), request_body = PreviewRequest,
    responses((status = 200, description = "The times.", body = Envelope<TimesData>)))]
pub(crate) async fn preview(ctx: Ctx, Json(request): Json<PreviewRequest>) -> Outcome {
    let times = ctx.management().preview(ctx.caller(), &request)?;
    Answer::ok(&TimesData { times, description: request.schedule.description() })
}

/// What can run tasks.
#[utoipa::path(get, path = "/scheduler/executors", tag = "scheduler", security(("bearer" = ["task.read"])),
    responses((status = 200, description = "All of them.", body = Envelope<ExecutorsData>)))]
pub(crate) async fn executors(ctx: Ctx) -> Outcome {
    Answer::ok(&ExecutorsData::from(whole(ctx.management().executors(ctx.caller())?)))
}

/// Which part of the graph.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GraphQuery {
    /// The task whose neighbourhood is shown; without it, the first 1000 tasks are.
    task: Option<String>,
    /// How many edges away from it, both ways; all that hangs together where it is left out.
    depth: Option<u32>,
}

/// Which tasks run after which.
#[utoipa::path(get, path = "/scheduler/graph", tag = "scheduler", security(("bearer" = ["task.read"])), params(GraphQuery),
    responses((status = 200, description = "The graph.", body = Envelope<TaskGraph>),
        (status = 404, description = "There is no such task.", body = crate::envelope::ErrorEnvelope)))]
pub(crate) async fn graph(ctx: Ctx, Query(query): Query<GraphQuery>) -> Outcome {
    if query.depth.is_some() && query.task.is_none() {
        return Err(Problem::invalid("depth", "goes with `task`").into());
    }
    let depth = query.depth.unwrap_or(u32::MAX);
    Answer::ok(&ctx.management().task_graph(ctx.caller(), query.task.as_deref(), depth)?)
}

/// Runs a task for the times of its schedule that were missed in a range, none of them twice.
///
/// The runs follow each other in the order of their times, whatever the overlap policy; scheduled runs go before
/// them. A dry run tells the times. Times whose records are not kept any more are left alone.
#[utoipa::path(post, path = "/scheduler/tasks/{id}/backfill", tag = "scheduler", security(("bearer" = ["task.backfill"])),
    request_body(content = BackfillRequest, example = json!(
        {"from": "2030-01-01T00:00:00Z", "until": "2030-01-02T00:00:00Z", "limit": 24})),
    params(("id" = String, Path, description = "The task's id.")),
    responses(
        (status = 200, description = "Nothing is to be run, or it was a dry run.", body = Envelope<BackfillReport>,
            example = json!({"code": 200, "message": "success", "data": {"task": "report", "dry_run": true,
                "count": 2, "times": ["2030-01-01T02:00:00Z", "2030-01-01T03:00:00Z"], "already_run": 22,
                "not_known": 0, "next_from": null}})),
        (status = 202, description = "The runs are in line.", body = Envelope<BackfillReport>)))]
pub(crate) async fn backfill(ctx: Ctx, Name(id): Name, Json(request): Json<BackfillRequest>) -> Outcome {
    let report = ctx.management().backfill_task(ctx.caller(), &id, &request).await?;
    let begun = !report.dry_run && report.count > 0;
    Answer::with(if begun { StatusCode::ACCEPTED } else { StatusCode::OK }, &report)
}

/// Which time.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WhyQuery {
    /// The time; a whole second stands for all of it. Now where it is left out.
    at: Option<Timestamp>,
}

/// Why a task did or did not run at a time.
#[utoipa::path(get, path = "/scheduler/tasks/{id}/why", tag = "scheduler", security(("bearer" = ["task.read"])),
    params(("id" = String, Path, description = "The task's id."), WhyQuery),
    responses((status = 200, description = "The answer: there always is one.", body = Envelope<Why>,
        example = json!({"code": 200, "message": "success", "data": {"task": "report",
            "at": "2030-01-01T02:00:00Z", "answer": "paused",
            "detail": "paused since 2030-01-01T01:10:00Z until 2030-01-01T04:00:00Z: by an operator",
            "run": null, "previous": "2030-01-01T01:00:00Z", "next": "2030-01-01T03:00:00Z"}}))))]
pub(crate) async fn why(ctx: Ctx, Name(id): Name, Query(query): Query<WhyQuery>) -> Outcome {
    Answer::ok(&ctx.management().why_task(ctx.caller(), &id, query.at).await?)
}

/// Which runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunsQuery {
    /// Of the chain that began with this run: it, those that it let go, and so on.
    chain: Option<String>,
    /// That have got so far, or ended so: one of `queued running retrying completed failed canceled skipped`.
    #[param(value_type = Option<scheduler::RunOutcome>)]
    outcome: Option<String>,
    /// How many entries at the most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The runs of all tasks, the newest first.
#[utoipa::path(get, path = "/scheduler/runs", tag = "scheduler", security(("bearer" = ["task.read"])), params(RunsQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<RunsData>)))]
pub(crate) async fn all_runs(ctx: Ctx, Query(query): Query<RunsQuery>) -> Outcome {
    let chain = query.chain.map(|chain| chain.parse()).transpose();
    let chain =
        chain.map_err(|error: scheduler::ParseRunIdError| Problem::invalid("chain", error.to_string()))?;
    let outcome = query.outcome.map(|outcome| outcome.parse()).transpose();
    let outcome = outcome
        .map_err(|error: scheduler::ParseRunOutcomeError| Problem::invalid("outcome", error.to_string()))?;
    let page = PageRequest::new(query.limit, query.cursor)?;
    let filter = RunFilter { chain, outcome };
    Answer::ok(&RunsData::from(ctx.management().runs(ctx.caller(), &filter, &page).await?))
}

fn task_answer(task: TaskView) -> Result<Answer, Refusal> {
    let version = task.version;
    Ok(Answer::ok(&TaskData { task })?.etag(version))
}
