//! Tasks that are on disk before the answer, and a start with a million of them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use scheduler::{FileTaskStore, Retention, ScheduleSpec, Scheduler, TaskSpec};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{BATCH, later, workers};
use crate::harness::{Goal, Plan, Row, Sample, Unit, block_on, count, this_program};

/// Callers of `scheduler.durable.concurrent`, each with one task at a time.
const CALLERS: usize = 64;
/// About what one task takes in the log.
const TASK_BYTES: usize = 200;

const SETTING: &str = "file store, synced before the answer, one-off tasks without payload, no tracing";

pub(super) fn rows(plan: &Plan) -> Vec<Row> {
    let (one_by_one, in_batches) = (plan.pick(100_000, 20_000), plan.pick(500_000, 100_000));
    let kept = plan.pick(1_000_000, 200_000);
    let mut stored = None;
    vec![
        Row::new(
            "scheduler.durable.concurrent",
            format!("schedule {} tasks from {CALLERS} callers, one at a time each; {SETTING}", count(one_by_one)),
            Unit::PerSecond,
            Goal::AtLeast(20e3),
            move |_| concurrent(one_by_one),
        )
        .reference("synced appends of one task each, one caller", |_| raw_syncs(TASK_BYTES)),
        Row::new(
            "scheduler.durable.batch",
            format!("schedule {} tasks in batches of {BATCH}; {SETTING}, 1 caller", count(in_batches)),
            Unit::PerSecond,
            Goal::AtLeast(200e3),
            move |_| batches(in_batches),
        )
        .reference("synced appends of one batch each, counted in tasks, one caller", |_| {
            Ok(raw_syncs(TASK_BYTES * BATCH)? * BATCH as f64)
        }),
        Row::new(
            "scheduler.restart.1m",
            format!(
                "start with {} stored tasks until they are scheduled, in a new process; a third each one-off, \
                 interval and cron, with a payload; file store, files in the page cache, no tracing",
                count(kept)
            ),
            Unit::Milliseconds,
            Goal::AtMost(2000.0),
            move |_| restart(kept, &mut stored),
        )
        .without_warm_up(),
    ]
}

/// A folder on the disk that the program is on: what is meant for temporary files may be memory.
fn folder() -> anyhow::Result<TempDir> {
    let program = std::env::current_exe()?;
    let beside = program.parent().context("a folder for the store")?;
    Ok(tempfile::Builder::new().prefix("bench-tasks-").tempdir_in(beside)?)
}

async fn open(folder: &Path) -> anyhow::Result<Scheduler> {
    let store = FileTaskStore::open(folder, Retention::default())?;
    Ok(Scheduler::builder().store(Arc::new(store)).build().await?)
}

/// How often a second a file is appended to and synced.
fn raw_syncs(bytes: usize) -> anyhow::Result<f64> {
    let folder = folder()?;
    let mut file: File = OpenOptions::new().create(true).append(true).open(folder.path().join("raw"))?;
    let piece = vec![0x5a; bytes];
    let began = Instant::now();
    let mut syncs = 0;
    while began.elapsed() < Duration::from_secs(1) {
        file.write_all(&piece)?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(f64::from(syncs) / began.elapsed().as_secs_f64())
}

fn concurrent(tasks: usize) -> anyhow::Result<Sample> {
    block_on(workers(), async {
        let folder = folder()?;
        let scheduler = open(folder.path()).await?;
        let at = later(Duration::from_secs(3600))?;
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let scheduler = scheduler.clone();
            callers.spawn(async move {
                for number in (caller..tasks).step_by(CALLERS) {
                    let spec = TaskSpec::new(format!("task-{number:07}"), ScheduleSpec::once_at(at));
                    scheduler.create(spec).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        Ok(Sample::from(tasks as f64 / began.elapsed().as_secs_f64()))
    })
}

fn batches(tasks: usize) -> anyhow::Result<Sample> {
    block_on(workers(), async {
        let folder = folder()?;
        let scheduler = open(folder.path()).await?;
        let at = later(Duration::from_secs(3600))?;
        let mut spent = Duration::ZERO;
        for from in (0..tasks).step_by(BATCH) {
            let specs = (from..(from + BATCH).min(tasks))
                .map(|number| TaskSpec::new(format!("task-{number:07}"), ScheduleSpec::once_at(at)))
                .collect();
            let began = Instant::now();
            for result in scheduler.create_many(specs).await {
                result?;
            }
            spent += began.elapsed();
        }
        Ok(Sample::from(tasks as f64 / spent.as_secs_f64()))
    })
}

/// Where a process that is only to start finds the tasks.
const STORED: &str = "GANTRY_BENCH_STORED_TASKS";

/// Starts this program once more, to measure a start where nothing is warm. The first call stores the tasks.
fn restart(tasks: usize, stored: &mut Option<TempDir>) -> anyhow::Result<Sample> {
    if let Some(folder) = std::env::var_os(STORED) {
        return start(tasks, &PathBuf::from(folder));
    }
    if stored.is_none() {
        *stored = Some(store(tasks)?);
    }
    let folder = stored.as_ref().context("the stored tasks")?;
    let mut command = this_program()?;
    command.args(["--probe", "scheduler.restart.1m", "ours"]).env(STORED, folder.path());
    if tasks < 1_000_000 {
        command.arg("--quick");
    }
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the process that starts ended with {}", output.status);
    let sample: serde_json::Value = serde_json::from_slice(&output.stdout).context("read the sample")?;
    let details = sample["details"].as_array().into_iter().flatten();
    let known = Sample::from(sample["value"].as_f64().context("the sample has no value")?);
    Ok(details
        .filter_map(|detail| Some((detail[0].as_str()?.to_owned(), detail[1].as_f64()?)))
        .fold(known, |sample, (name, value)| sample.detail(name, value)))
}

fn store(tasks: usize) -> anyhow::Result<TempDir> {
    block_on(workers(), async {
        let folder = folder()?;
        let scheduler = open(folder.path()).await?;
        let at = later(Duration::from_secs(24 * 3600))?;
        for from in (0..tasks).step_by(BATCH) {
            let specs = (from..(from + BATCH).min(tasks)).map(|number| {
                let schedule = match number % 3 {
                    0 => ScheduleSpec::once_at(at + Duration::from_millis(number as u64)),
                    1 => ScheduleSpec::every(Duration::from_secs(24 * 3600)),
                    _ => ScheduleSpec::cron(format!("{} {} * * *", number / 3 % 60, number / 180 % 12)),
                };
                TaskSpec::new(format!("task-{number:07}"), schedule)
                    .payload(serde_json::json!({"order": number, "kind": "reminder"}))
            });
            for result in scheduler.create_many(specs.collect()).await {
                result?;
            }
        }
        scheduler.stop(Duration::from_secs(10)).await;
        Ok(folder)
    })
}

fn start(tasks: usize, folder: &Path) -> anyhow::Result<Sample> {
    block_on(workers(), async {
        let began = Instant::now();
        let store = FileTaskStore::open(folder, Retention::default())?;
        let opened = began.elapsed();
        let scheduler = Scheduler::builder().store(Arc::new(store)).build().await?;
        let ready = began.elapsed();
        let status = scheduler.status();
        ensure!(status.total_tasks == tasks as u64, "only {} tasks", status.total_tasks);
        Ok(Sample::from(ready.as_secs_f64() * 1e3).detail("of that the store", opened.as_secs_f64() * 1e3))
    })
}
