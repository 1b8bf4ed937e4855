//! The suite `scheduler`: scheduling, firing and what a task costs, with state, records and events kept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use event_bus::EventBus;
use runtime::{Clock, SystemClock, Timestamp};
use scheduler::{
    Group, Page, RunContext, RunOutput, ScheduleSpec, Scheduler, SchedulerConfig, TaskFilter, TaskSpec,
    TaskStatus, executor_fn,
};
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::harness::{Goal, Plan, Row, Sample, Unit, block_on, count, growth, resident_bytes};

mod durable;

/// What `tokio-cron-scheduler` is run at: more takes it minutes.
const PEER_TASKS: usize = 10_000;
/// How many tasks a caller hands over at once.
const BATCH: usize = 1000;

const SETTING: &str =
    "memory store, no-op executor, no payload, records and events kept, no tracing, 1 caller";

pub(crate) fn rows(plan: &Plan) -> Vec<Row> {
    // Sizes stand in what a row says, so that the figures of a quick run are not taken for the others.
    let (added, kept) = (plan.pick(1_000_000, 100_000), plan.pick(1_000_000, 200_000));
    let (burst_of, span) = (plan.pick(1_000_000, 200_000), plan.pick(5, 2));
    let sizes: &[usize] = plan.pick(&[1_000, 10_000, 100_000, 1_000_000], &[1_000, 10_000, 100_000]);
    let mut rows = vec![
        Row::new(
            "scheduler.add.1m",
            format!("schedule {} one-off tasks in batches of {BATCH}; {SETTING}", count(added)),
            Unit::PerSecond,
            Goal::AtLeast(1e6),
            move |_| add(added),
        )
        .reference("tokio-cron-scheduler at 10 k tasks", |_| peer_add()),
        Row::new(
            "scheduler.bytes.1m",
            format!(
                "memory a scheduled one-off task takes, without the 12 bytes of its id, at {} tasks; {SETTING}",
                count(kept)
            ),
            Unit::Bytes,
            Goal::AtMost(400.0),
            move |_| bytes(kept),
        )
        .reference("tokio-cron-scheduler at 10 k tasks", |_| peer_bytes())
        .isolated(),
        Row::new(
            "scheduler.burst.100k.p99",
            format!("lateness of 100 k tasks due together, p99; {SETTING}"),
            Unit::Milliseconds,
            Goal::AtMost(60.0),
            |_| burst(100_000, |late| (late.at(0.99), late)),
        )
        .reference("raw timer queue", |_| raw_burst(100_000, 0.99)),
        Row::new(
            "scheduler.burst.1m.max",
            format!("lateness of {} tasks due together, the last one; {SETTING}", count(burst_of)),
            Unit::Milliseconds,
            Goal::AtMost(500.0),
            move |_| burst(burst_of, |late| (late.at(1.0), late)),
        )
        .reference("raw timer queue", move |_| raw_burst(burst_of, 1.0))
        .without_warm_up(),
        Row::new(
            "scheduler.steady.p99",
            format!(
                "lateness at 10 k runs a second from 10 k tasks of 1 s each, for {span} s, p99; {SETTING}"
            ),
            Unit::Milliseconds,
            Goal::AtMost(2.0),
            move |_| steady(Duration::from_secs(span)),
        )
        .without_warm_up(),
        Row::new(
            "scheduler.growth",
            format!(
                "slope of the cost of a run over the number of tasks, 1 k to {} due together; {SETTING}",
                count(sizes.last().copied().unwrap_or_default())
            ),
            Unit::Slope,
            Goal::AtMost(0.1),
            move |_| slope(sizes),
        )
        .without_warm_up(),
        Row::new(
            "scheduler.list.1m",
            format!(
                "a page of 100 tasks out of 1 M with its total, by the slowest of the filters; {SETTING}"
            ),
            Unit::Milliseconds,
            Goal::AtMost(5.0),
            |plan| list(plan.pick(1_000_000, 200_000)),
        )
        .without_warm_up(),
    ];
    rows.extend(durable::rows(plan));
    rows
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// How late runs were, in microseconds.
struct Late(Vec<u32>);

impl Late {
    fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1).min(last)).map_or(0.0, |late| f64::from(*late) / 1000.0)
    }

    fn sample(self, value: f64) -> Sample {
        Sample::from(value)
            .detail("p50", self.at(0.5))
            .detail("p99", self.at(0.99))
            .detail("max", self.at(1.0))
    }
}

/// A scheduler whose executor `noop` writes down how late it was first polled.
struct Rig {
    scheduler: Scheduler,
    late: Arc<[AtomicU32]>,
    ran: Arc<AtomicUsize>,
}

impl Rig {
    async fn new(runs: usize) -> anyhow::Result<Self> {
        let config = SchedulerConfig { max_records: runs.max(1), ..SchedulerConfig::default() };
        let bus = EventBus::builder().history(1000).build();
        let scheduler = Scheduler::builder().bus(bus).config(config).build().await?;
        let late: Arc<[AtomicU32]> = std::iter::repeat_with(AtomicU32::default).take(runs).collect();
        let ran = Arc::new(AtomicUsize::new(0));
        let (slots, count) = (late.clone(), ran.clone());
        let noop = executor_fn(move |run: RunContext| {
            let spent = SystemClock.now().duration_since(run.scheduled_for()).as_micros();
            if let Some(slot) = slots.get(count.fetch_add(1, Ordering::Relaxed)) {
                // A run that comes early shows as one that is very late.
                slot.store(u32::try_from(spent).unwrap_or(u32::MAX), Ordering::Relaxed);
            }
            std::future::ready(Ok(RunOutput::none()))
        });
        // Registered for as long as the process lives.
        std::mem::forget(scheduler.registry().register("noop", None, noop)?);
        Ok(Self { scheduler, late, ran })
    }

    async fn add(&self, tasks: usize, at: impl Fn(usize) -> ScheduleSpec) -> anyhow::Result<()> {
        let mut number = 0;
        while number < tasks {
            let until = (number + BATCH).min(tasks);
            let specs = (number..until)
                .map(|number| TaskSpec::new(format!("task-{number:07}"), at(number)).executor("noop"))
                .collect();
            for result in self.scheduler.create_many(specs).await {
                result?;
            }
            number = until;
        }
        Ok(())
    }

    /// Waits until so many runs have begun.
    async fn wait(&self, runs: usize, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while self.ran.load(Ordering::Relaxed) < runs {
            ensure!(Instant::now() < deadline, "{} of {runs} runs", self.ran.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn lateness(&self) -> Late {
        let ran = self.ran.load(Ordering::Relaxed).min(self.late.len());
        let mut late: Vec<u32> =
            self.late.iter().take(ran).map(|late| late.load(Ordering::Relaxed)).collect();
        late.sort_unstable();
        Late(late)
    }
}

/// A time far enough ahead that nothing falls due while tasks are added.
fn later(span: Duration) -> anyhow::Result<Timestamp> {
    SystemClock.now().checked_add(span).context("a time this far ahead")
}

fn add(tasks: usize) -> anyhow::Result<Sample> {
    block_on(workers(), async {
        let rig = Rig::new(1).await?;
        let at = later(Duration::from_secs(3600))?;
        let specs: Vec<Vec<TaskSpec>> = (0..tasks)
            .step_by(BATCH)
            .map(|from| {
                (from..(from + BATCH).min(tasks))
                    .map(|number| {
                        let at = at + Duration::from_micros(number as u64 * 7919 % 1_000_000_007);
                        TaskSpec::new(format!("task-{number:07}"), ScheduleSpec::once_at(at)).executor("noop")
                    })
                    .collect()
            })
            .collect();
        let began = Instant::now();
        for batch in specs {
            for result in rig.scheduler.create_many(batch).await {
                result?;
            }
        }
        let rate = tasks as f64 / began.elapsed().as_secs_f64();

        // The same, one call for each task, with its view as the answer.
        let rig = Rig::new(1).await?;
        let each = tasks / 10;
        let specs: Vec<TaskSpec> = (0..each)
            .map(|number| {
                TaskSpec::new(format!("task-{number:07}"), ScheduleSpec::once_at(at)).executor("noop")
            })
            .collect();
        let began = Instant::now();
        for spec in specs {
            rig.scheduler.create(spec).await?;
        }
        Ok(Sample::from(rate).detail("one by one", each as f64 / began.elapsed().as_secs_f64()))
    })
}

fn bytes(tasks: usize) -> anyhow::Result<f64> {
    block_on(workers(), async {
        let rig = Rig::new(1).await?;
        let at = later(Duration::from_secs(3600))?;
        let before = resident_bytes(std::process::id())?;
        rig.add(tasks, |number| {
            ScheduleSpec::once_at(at + Duration::from_millis(number as u64 * 7919 % 3_600_000))
        })
        .await?;
        let after = resident_bytes(std::process::id())?;
        Ok((after - before) / tasks as f64 - 12.0)
    })
}

fn burst(tasks: usize, judge: impl FnOnce(Late) -> (f64, Late)) -> anyhow::Result<Sample> {
    block_on(workers(), async {
        let rig = Rig::new(tasks).await?;
        let at = later(Duration::from_millis(500 + tasks as u64 / 200))?;
        rig.add(tasks, |_| ScheduleSpec::once_at(at)).await?;
        ensure!(SystemClock.now() < at, "adding took too long for the burst to be one");
        rig.wait(tasks, Duration::from_secs(60)).await?;
        let (value, late) = judge(rig.lateness());
        ensure!(rig.scheduler.stop(Duration::from_secs(10)).await.stuck_runs == 0, "runs are stuck");
        Ok(late.sample(value))
    })
}

fn steady(span: Duration) -> anyhow::Result<Sample> {
    const TASKS: usize = 10_000;
    block_on(workers(), async {
        let rig = Rig::new(TASKS * (span.as_secs() as usize + 1)).await?;
        let start = later(Duration::from_secs(1))?;
        rig.add(TASKS, |number| ScheduleSpec {
            start_at: Some(start + Duration::from_micros(number as u64 * 100)),
            ..ScheduleSpec::every(Duration::from_secs(1))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(1) + span).await;
        let late = rig.lateness();
        let runs = rig.ran.load(Ordering::Relaxed);
        ensure!(runs >= TASKS * (span.as_secs() as usize - 1), "only {runs} runs");
        rig.scheduler.stop(Duration::from_secs(10)).await;
        Ok(late.sample_p99())
    })
}

/// How long a page takes by each filter, the median of several; the texts that are looked for are made at the
/// first look, which is shown apart.
fn list(tasks: usize) -> anyhow::Result<Sample> {
    let by = |name: &'static str, filter: TaskFilter| (name, filter);
    let none = TaskFilter::default;
    let text = |text: String| TaskFilter { q: Some(text), ..none() };
    let filters = [
        by("no filter", none()),
        by("status", TaskFilter { status: Some(TaskStatus::Pending), ..none() }),
        by("executor", TaskFilter { executor: Some("noop".to_owned()), ..none() }),
        by("group", TaskFilter { group: Some("group-7".to_owned()), ..none() }),
        by(
            "group and executor",
            TaskFilter { group: Some("group-7".to_owned()), executor: Some("noop".to_owned()), ..none() },
        ),
        by("text of one", text(format!("task-{:07}", tasks / 2))),
        by("text of a thousand", text("-0001".to_owned())),
    ];
    block_on(workers(), async {
        let rig = Rig::new(1).await?;
        let at = later(Duration::from_secs(3600))?;
        for from in (0..tasks).step_by(BATCH) {
            let specs = (from..from + BATCH).map(|number| TaskSpec {
                group: Some(Group { name: format!("group-{}", number % 100), limit: 10 }),
                ..TaskSpec::new(format!("task-{number:07}"), ScheduleSpec::once_at(at)).executor("noop")
            });
            for result in rig.scheduler.create_many(specs.collect()).await {
                result?;
            }
        }
        let look = async |filter: &TaskFilter| {
            let began = Instant::now();
            let page = rig.scheduler.list(filter, &Page::default()).await?;
            ensure!(page.total > 0, "{filter:?} finds nothing");
            anyhow::Ok(began.elapsed().as_secs_f64() * 1e3)
        };
        let first = look(&text("task-0000001".to_owned())).await?;
        let mut medians = Vec::new();
        for (name, filter) in &filters {
            let mut times = Vec::new();
            for _ in 0..21 {
                times.push(look(filter).await?);
            }
            times.sort_unstable_by(f64::total_cmp);
            medians.push((*name, times.get(10).copied().unwrap_or_default()));
        }
        let slowest = medians.iter().map(|(_, time)| *time).fold(0.0, f64::max);
        let mut sample = Sample::from(slowest).detail("first look for a text", first);
        for (name, time) in medians {
            sample = sample.detail(name, time);
        }
        Ok(sample.detail("text of all", look(&text("task".to_owned())).await?))
    })
}

impl Late {
    fn sample_p99(self) -> Sample {
        let p99 = self.at(0.99);
        self.sample(p99)
    }
}

fn slope(sizes: &[usize]) -> anyhow::Result<Sample> {
    let mut points = Vec::new();
    let mut sample = Vec::new();
    for size in sizes {
        // Small bursts are repeated: one is over in a millisecond.
        let repeats = (100_000 / size).clamp(1, 10);
        let mut spent = 0.0;
        for _ in 0..repeats {
            spent += burst(*size, |late| (late.at(1.0) - late.at(0.0), late))?.value;
        }
        let each_us = spent * 1000.0 / (size * repeats) as f64;
        points.push((*size as f64, each_us));
        sample.push((format!("µs a run at {size}"), each_us));
    }
    let slope = Sample::from(growth(&points));
    Ok(sample.into_iter().fold(slope, |slope, (name, value)| slope.detail(name, value)))
}

/// A heap, a sleep, and a call for each entry that is due: what any scheduler costs at least.
fn raw_burst(tasks: usize, share: f64) -> anyhow::Result<Sample> {
    block_on(workers(), async move {
        let at = Instant::now() + Duration::from_millis(500 + tasks as u64 / 1000);
        let mut queue = BinaryHeap::new();
        for number in 0..tasks {
            queue.push(Reverse((at, number)));
        }
        tokio::time::sleep_until(at.into()).await;
        let mut late = Vec::with_capacity(tasks);
        while let Some(Reverse((at, number))) = queue.pop() {
            std::hint::black_box(number);
            late.push(u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        late.sort_unstable();
        let late = Late(late);
        let value = late.at(share);
        Ok(late.sample(value))
    })
}

async fn peer(tasks: usize) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await?;
    for _ in 0..tasks {
        let job = Job::new_one_shot(Duration::from_secs(3600), |_, _| {})?;
        scheduler.add(job).await?;
    }
    Ok(scheduler)
}

fn peer_add() -> anyhow::Result<f64> {
    block_on(workers(), async {
        let began = Instant::now();
        let _scheduler = peer(PEER_TASKS).await?;
        Ok(PEER_TASKS as f64 / began.elapsed().as_secs_f64())
    })
}

fn peer_bytes() -> anyhow::Result<f64> {
    block_on(workers(), async {
        let before = resident_bytes(std::process::id())?;
        let _scheduler = peer(PEER_TASKS).await?;
        Ok((resident_bytes(std::process::id())? - before) / PEER_TASKS as f64)
    })
}
