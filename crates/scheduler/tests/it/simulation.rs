//! Random lives of a scheduler on a virtual clock, checked against a model that knows nothing of how it
//! works: tasks are created, replaced, paused, resumed, canceled, removed and triggered; runs succeed, fail,
//! panic and hang; executors go and come; the clock is set forward and back; the process stops, and dies.
//!
//! A life is a runtime of its own, so that a crash takes everything along but the store. One seed is one
//! history: `GANTRY_SEED=17 cargo xtask test -p scheduler -- simulation` (or `cargo xtask test --seed 17 …`)
//! runs the one that failed again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use runtime::{Clock, Timestamp, VirtualClock};
use scheduler::{
    ExecutorGuard, MemoryTaskStore, Page, RunOrigin, RunOutcome, RunView, Scheduler, SchedulerConfig,
    TaskStore,
};

use journal::{Book, Journal};
use model::{SECOND, Task};
use observer::{Gate, Observed, lock, work};

mod calls;
mod journal;
mod model;
mod observer;

/// How many histories are run: these in every test run, and those with `GANTRY_TEST_FULL`.
const SEEDS: (u64, u64) = (100, 5000);
const STEPS: usize = 80;
const RUNS_MAX: usize = 6;
const TASKS_MAX: usize = 8;

#[test]
fn simulation_every_due_time_is_accounted_for_whatever_happens() {
    let seeds = match std::env::var("GANTRY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("GANTRY_SEED is a number");
            seed..seed + 1
        }
        Err(_) if std::env::var_os("GANTRY_TEST_FULL").is_some() => 0..SEEDS.1,
        Err(_) => 0..SEEDS.0,
    };
    let next = AtomicU64::new(seeds.start);
    let started = AtomicU64::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    match simulate(seed, Arc::new(MemoryTaskStore::new())) {
                        Ok(attempts) => started.fetch_add(attempts, Ordering::SeqCst),
                        Err(what) => return *failed.lock().unwrap() = Some(what),
                    };
                }
            });
        }
    });
    if let Some(what) = failed.into_inner().unwrap() {
        panic!("{what}");
    }
    println!("{} histories, {} attempts", seeds.count(), started.into_inner());
}

/// Runs one history. Tells how many attempts it has seen, or what was done until it went wrong.
fn simulate(seed: u64, store: Arc<dyn TaskStore>) -> Result<u64, String> {
    let mut world = World::new(seed, store);
    catch_unwind(AssertUnwindSafe(|| world.run())).map_err(|panic| {
        let what = runtime::panic_message(&*panic);
        let from = world.done.len().saturating_sub(60);
        format!("{}\nseed {seed} (`GANTRY_SEED={seed}` runs it alone): {what}", world.done[from..].join("\n"))
    })?;
    Ok(world.started)
}

/// How a life ends.
#[derive(Debug, PartialEq)]
enum End {
    Crash,
    /// The history is over.
    Quiet,
}

struct World {
    seed: u64,
    rng: fastrand::Rng,
    store: Arc<dyn TaskStore>,
    book: Arc<Mutex<Book>>,
    tasks: BTreeMap<String, Task>,
    /// Runs that had not ended when the process died, by task.
    lost: BTreeMap<String, BTreeSet<i64>>,
    wall: i64,
    /// The latest time that the clock has shown in any life.
    latest: i64,
    steps: usize,
    born: usize,
    is_crashing: bool,
    done: Vec<String>,
    started: u64,
}

/// What there is for one life.
struct Life {
    clock: Arc<VirtualClock>,
    scheduler: Scheduler,
    observed: Arc<Mutex<Observed>>,
    guard: Option<ExecutorGuard>,
}

impl Life {
    fn wall(&self) -> i64 {
        self.clock.now().as_microsecond()
    }

    /// Lets everything that is due by now happen; tells the time up to which it was.
    async fn settle(&self) -> i64 {
        let upto = self.wall();
        tokio::time::sleep(Duration::from_millis(1)).await;
        upto
    }

    async fn records(&self, task: &str) -> Vec<RunView> {
        let mut page = Page { limit: 1000, cursor: None };
        let mut all = Vec::new();
        loop {
            let Ok(runs) = self.scheduler.runs(task, &page).await else { return all };
            all.extend(runs.items);
            if runs.next_cursor.is_none() {
                return all;
            }
            page.cursor = runs.next_cursor;
        }
    }

    /// Notes that the clock has shown this time: what was due then stays due if it is set back.
    fn show(&self) {
        lock(&self.observed).shown(self.wall());
    }

    fn gate(&self, task: &str, gate: Gate) {
        lock(&self.observed).gates.insert(task.to_owned(), gate);
    }
}

impl World {
    fn new(seed: u64, store: Arc<dyn TaskStore>) -> Self {
        Self {
            seed,
            rng: fastrand::Rng::with_seed(seed),
            store,
            book: Arc::default(),
            tasks: BTreeMap::new(),
            lost: BTreeMap::new(),
            wall: "2026-03-01T12:00:00.000137Z".parse::<Timestamp>().unwrap().as_microsecond(),
            latest: 0,
            steps: 0,
            born: 0,
            is_crashing: !seed.is_multiple_of(4),
            done: Vec::new(),
            started: 0,
        }
    }

    fn run(&mut self) {
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let end = runtime.block_on(self.live());
            drop(runtime);
            if end == End::Quiet {
                return;
            }
            // The clock may have been set back while nothing ran.
            let down = if self.rng.u8(..5) == 0 { -self.rng.i64(0..30) } else { self.rng.i64(0..120) };
            self.wall += down * SECOND + 7;
            self.note(format!("back after {down} s"));
        }
    }

    fn note(&mut self, what: String) {
        self.done.push(format!("{:4} {what}", self.steps));
    }

    async fn begin(&mut self) -> Life {
        let clock = VirtualClock::starting_at(Timestamp::from_microsecond(self.wall).unwrap());
        let latency =
            if self.rng.u8(..3) == 0 { Duration::from_millis(self.rng.u64(1..15)) } else { Duration::ZERO };
        let journal = Journal { store: self.store.clone(), book: self.book.clone(), latency };
        let observed = Arc::new(Mutex::new(Observed::new(RUNS_MAX)));
        for (id, task) in &self.tasks {
            let mut observed = lock(&observed);
            let gate = match (task.is_loose, task.canceled, task.paused) {
                (true, ..) | (false, false, false) => Gate::Open,
                (false, true, _) => Gate::Closed,
                (false, false, true) => Gate::Paused,
            };
            observed.gates.insert(id.clone(), gate);
            if !task.is_loose {
                observed.rules.insert(id.clone(), task.wanted.rules.clone());
            }
        }
        let config = SchedulerConfig {
            max_concurrent_tasks: RUNS_MAX,
            max_queued_runs: 4,
            default_timeout: Duration::from_secs(20),
            max_records: 1 << 20,
            ..SchedulerConfig::default()
        };
        let scheduler = Scheduler::builder()
            .clock(clock.clone())
            .config(config)
            .store(Arc::new(journal))
            .start_later()
            .build()
            .await
            .unwrap();
        let guard = scheduler
            .registry()
            .register("work", None, work(self.seed, clock.clone(), observed.clone()))
            .unwrap();
        scheduler.start();
        Life { clock, scheduler, observed, guard: Some(guard) }
    }

    async fn live(&mut self) -> End {
        let mut life = self.begin().await;
        self.check_kept(&life).await;
        while self.steps < STEPS {
            self.steps += 1;
            if self.is_crashing && self.rng.u8(..30) == 0 {
                self.crash(&life).await;
                return End::Crash;
            }
            self.step(&mut life).await;
            self.observe(&life).await;
        }
        self.finish(&mut life).await;
        End::Quiet
    }

    /// What was acknowledged before a crash is there after it.
    async fn check_kept(&mut self, life: &Life) {
        let mut gone = Vec::new();
        for (id, task) in &mut self.tasks {
            let view = life.scheduler.get(id).await;
            if task.is_loose {
                match view {
                    Ok(view) => task.incarnation = view.incarnation,
                    Err(_) => gone.push(id.clone()),
                }
                continue;
            }
            let view = view.unwrap_or_else(|error| panic!("promise 1: {error}"));
            let status = view.status.as_str();
            assert_eq!(view.incarnation, task.incarnation, "{id}");
            assert_eq!(status == "canceled", task.canceled, "promise 1: {id} is {status}");
            assert!(!task.paused || matches!(status, "paused" | "canceled"), "promise 1: {id} is {status}");
        }
        for id in gone {
            self.tasks.remove(&id);
        }
    }

    /// Checks what has been seen so far, and notes up to where times have had their chance.
    async fn observe(&mut self, life: &Life) {
        let upto = life.settle().await;
        self.latest = self.latest.max(life.wall());
        let violations = std::mem::take(&mut lock(&life.observed).violations);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        // While there is no room for a run, nobody looks at what is due.
        let has_room = life.scheduler.status().active_runs < RUNS_MAX as u64;
        let is_working = has_room && life.guard.is_some() && !lock(&life.observed).stopped;
        for task in self.tasks.values_mut() {
            if is_working && !task.paused && !task.canceled {
                task.seen = task.seen.max(upto);
            }
        }
    }

    async fn step(&mut self, life: &mut Life) {
        match self.rng.u8(..100) {
            0..14 => self.create(life).await,
            14..22 => self.control(life).await,
            22..27 => self.replace(life).await,
            27..34 => self.trigger(life).await,
            34..38 => {
                let by = self.rng.i64(1..400) * SECOND + self.rng.i64(0..SECOND);
                let by = if self.rng.bool() { by } else { -by / 4 };
                self.note(format!("the clock is set by {by} us"));
                self.latest = self.latest.max(life.wall());
                life.show();
                life.clock.jump(SignedDuration::from_micros(by));
            }
            38..40 => match life.guard.take() {
                Some(guard) => {
                    self.note("the executor goes".to_owned());
                    drop(guard);
                }
                None => self.executor_returns(life),
            },
            40..43 => {
                if lock(&life.observed).stopped {
                    self.start(life);
                } else {
                    self.note("stop".to_owned());
                    life.scheduler.stop(Duration::from_secs(self.rng.u64(1..10))).await;
                    let mut observed = lock(&life.observed);
                    observed.stopped = true;
                    assert_eq!(observed.total(), 0, "promise 4: runs after the stop");
                }
            }
            _ => {
                let span = match self.rng.u8(..10) {
                    0..5 => Duration::from_millis(self.rng.u64(1..2000)),
                    5..9 => Duration::from_millis(self.rng.u64(1..20_000)),
                    _ => Duration::from_secs(self.rng.u64(1..100)),
                };
                self.note(format!("{span:?} pass"));
                tokio::time::sleep(span).await;
            }
        }
    }

    fn executor_returns(&mut self, life: &mut Life) {
        self.note("the executor returns".to_owned());
        let executor = work(self.seed, life.clock.clone(), life.observed.clone());
        life.guard = Some(life.scheduler.registry().register("work", None, executor).unwrap());
    }

    fn start(&mut self, life: &Life) {
        self.note("start".to_owned());
        lock(&life.observed).stopped = false;
        life.scheduler.start();
    }

    fn pick(&mut self) -> Option<String> {
        let number = self.tasks.len();
        if number == 0 { None } else { self.tasks.keys().nth(self.rng.usize(..number)).cloned() }
    }

    fn task(&mut self, id: &str) -> &mut Task {
        self.tasks.get_mut(id).unwrap()
    }

    /// The process dies, at a random moment of whatever it is doing.
    async fn crash(&mut self, life: &Life) {
        let pause = Duration::from_millis(self.rng.u64(..40));
        if let Some(id) = self.pick().filter(|_| self.rng.bool()) {
            self.task(&id).is_loose = true;
            let task = &self.tasks[&id];
            let spec = serde_json::from_value(task.wanted.body(&id)).unwrap();
            {
                let mut observed = lock(&life.observed);
                observed.rules.remove(&id);
                observed.gates.insert(id.clone(), Gate::Open);
            }
            let change = async {
                match self.rng.u8(..4) {
                    0 => drop(life.scheduler.pause(&id).await),
                    1 => drop(life.scheduler.cancel(&id).await),
                    2 => drop(life.scheduler.remove(&id, None).await),
                    _ => drop(life.scheduler.replace(&id, spec, None).await),
                }
            };
            let _ = tokio::time::timeout(pause, change).await;
            self.note(format!("crash while {id} is changed"));
        } else {
            tokio::time::sleep(pause).await;
            self.note("crash".to_owned());
        }
        let violations = std::mem::take(&mut lock(&life.observed).violations);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        for id in self.tasks.keys() {
            let open = life.records(id).await.into_iter().filter(|run| {
                // What has ended is not lost once it is in the book, which it may not be yet.
                run.origin == RunOrigin::Schedule
                    && !self.book.lock().unwrap().runs.iter().any(|other| other.id == run.id)
            });
            let times = open.map(|run| run.scheduled_for.as_microsecond());
            self.lost.entry(id.clone()).or_default().extend(times);
        }
        self.started += lock(&life.observed).started;
        self.wall = life.wall();
    }

    /// Brings everything to its end, and looks at it once more.
    async fn finish(&mut self, life: &mut Life) {
        self.note("finish".to_owned());
        if life.guard.is_none() {
            self.executor_returns(life);
        }
        if lock(&life.observed).stopped {
            self.start(life);
        }
        for id in self.tasks.keys().cloned().collect::<Vec<_>>() {
            life.gate(&id, Gate::Open);
            let before = life.wall();
            if life.scheduler.resume(&id).await.is_ok() {
                let after = life.wall();
                self.task(&id).resumed(before, after);
            } else if self.task(&id).canceled {
                life.gate(&id, Gate::Closed);
            }
        }
        tokio::time::sleep(Duration::from_secs(45)).await;
        self.observe(life).await;
        for (id, task) in &mut self.tasks {
            task.paused |= life.scheduler.pause(id).await.is_ok();
        }
        // A queue of runs that hang, each up to its timeout and its last attempt, takes a while; one that is
        // paused in line waits until it is dropped.
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        self.observe(life).await;
        for id in self.tasks.keys().cloned().collect::<Vec<_>>() {
            let records = life.records(&id).await;
            self.check_task(&id, &records);
            self.check_counts(life, &id).await;
        }
        let book = self.book.lock().unwrap();
        assert!(book.doubles().is_empty(), "promise 3: {:?}", book.doubles());
        self.started += lock(&life.observed).started;
    }

    /// The records of a task from all lives, by the ids of their runs.
    fn all_records(&self, id: &str, present: &[RunView]) -> BTreeMap<String, RunView> {
        let book = self.book.lock().unwrap();
        let all = book.runs.iter().filter(|run| run.task == id).chain(present);
        all.map(|run| (run.id.to_string(), run.clone())).collect()
    }

    /// The records of all lives against the times of the task's schedule.
    fn check_task(&self, id: &str, present: &[RunView]) {
        let task = &self.tasks[id];
        let records = self.all_records(id, present);
        let lost = self.lost.get(id).cloned().unwrap_or_default();
        // A run that was cut off may have been made again: it is one time.
        if let Err(what) = task.check(&records, &lost) {
            let runs: Vec<String> = records
                .values()
                .map(|run| {
                    format!(
                        "  {} {:?} {:?} {:?} x{}",
                        run.scheduled_for, run.origin, run.outcome, run.skip_reason, run.times
                    )
                })
                .collect();
            panic!("{}\n{task:?}\nlost: {lost:?}\n{id}: {what}", runs.join("\n"));
        }
    }

    /// What the task says about itself against what was committed.
    async fn check_counts(&self, life: &Life, id: &str) {
        let view = life.scheduler.get(id).await.unwrap();
        let book = self.book.lock().unwrap();
        let count = |runs: &[RunView], outcome: RunOutcome| {
            let of_it = |run: &&RunView| run.task == id && run.incarnation == view.incarnation;
            runs.iter().filter(of_it).filter(|run| run.outcome == outcome).count() as u64
        };
        let failed = count(&book.runs, RunOutcome::Failed);
        let ended = failed + count(&book.runs, RunOutcome::Completed);
        // The memory store takes what ends long after its turn for a duplicate, and so for counted.
        let more_failed = count(&book.refused, RunOutcome::Failed);
        let more = more_failed + count(&book.refused, RunOutcome::Completed);
        let (ended, failed) = (ended..=ended + more, failed..=failed + more_failed);
        assert!(
            ended.contains(&view.run_count) && failed.contains(&view.failure_count),
            "{id} has {} runs and {} failures, and not {ended:?} and {failed:?}",
            view.run_count,
            view.failure_count
        );
    }
}
