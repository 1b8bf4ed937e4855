//! Random lives of a store on a disk that forgets, checked against an image that is told only what was
//! acknowledged. One seed is one history: `GANTRY_SEED=17 cargo test -p scheduler --lib forgetful_disk` runs
//! that of seed 17 alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use runtime::Timestamp;

use super::forgetful::{Forgetful, Sync};
use crate::coordinator::Grant;
use crate::id::RunId;
use crate::spec::TaskSpec;
use crate::store::codec::{Kind, Side, id_of};
use crate::store::file::{FileStoreError, FileTaskStore};
use crate::store::image::Image;
use crate::store::{Change, Commit, OpenRun, Retention, StoreError, StoredTask, TaskState};
use crate::view::{RunOrigin, RunOutcome, RunView};

/// How many histories are run: these in every test run, and those with `GANTRY_TEST_FULL`.
const SEEDS: (u64, u64) = (400, 40_000);
/// Among how many histories one must show that a sync is missing.
const SEEDS_TO_MISS_IT: u64 = 4000;
const STEPS: usize = 60;
const KEEPS_ALL: Retention = Retention { records: 100_000, dead_runs: 10_000 };

#[test]
fn promise_1_a_forgetful_disk_has_what_was_acknowledged_whenever_it_loses_power() {
    let seeds = match std::env::var("GANTRY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("GANTRY_SEED is a number");
            seed..seed + 1
        }
        Err(_) if std::env::var_os("GANTRY_TEST_FULL").is_some() => 0..SEEDS.1,
        Err(_) => 0..SEEDS.0,
    };
    let mut told = Told::default();
    for seed in seeds.clone() {
        let disk = Forgetful::new(seed, None);
        if let Err(what) = live(seed, &disk, &mut told) {
            panic!("seed {seed} (`GANTRY_SEED={seed}` runs it alone): {what}");
        }
    }
    println!("{} histories: {told:?}", seeds.count());
}

/// That a sync is needed is seen when it is left out. One that no history misses is none.
#[test]
fn each_sync_that_is_left_out_is_missed_on_a_forgetful_disk() {
    let mut seen = BTreeSet::new();
    for left_out in Sync::ALL {
        let mut goes_well = |seed, left_out| {
            let disk = Forgetful::new(seed, left_out);
            let ended = live(seed, &disk, &mut Told::default());
            seen.extend(disk.seen());
            ended.is_ok()
        };
        // The rarest is looked for where it was found.
        let from = if left_out == Sync::SegmentTaken { 990 } else { 0 };
        let missed = (from..from + SEEDS_TO_MISS_IT).find(|seed| !goes_well(*seed, Some(left_out)));
        let seed = missed.unwrap_or_else(|| panic!("nothing is lost without {left_out:?}"));
        assert!(goes_well(seed, None), "seed {seed} loses something with all of them");
        println!("without {left_out:?}: seed {seed} loses something");
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), Sync::ALL, "all that the store syncs is among them");
}

/// What histories were made of.
#[derive(Debug, Default)]
struct Told {
    acknowledged: u64,
    refused_by_the_disk: u64,
    power_lost: u64,
    killed: u64,
    /// Batches that were on their way when it ended, and were there after it.
    found: u64,
}

/// Changes that are made together.
#[derive(Debug, Clone)]
enum Batch {
    Claim(Vec<Grant>),
    Commit(Vec<Commit>),
}

impl Batch {
    fn text(&self) -> String {
        match self {
            Self::Claim(grants) => format!("{grants:?}"),
            Self::Commit(commits) => {
                let one = |commit: &Commit| match &commit.change {
                    Change::Insert(task) => format!("insert {} {}", task.spec.id, task.incarnation),
                    Change::Replace(task) => format!("replace {} {}", task.spec.id, task.incarnation),
                    Change::State { id, incarnation, .. } => format!("state {id} {incarnation}"),
                    Change::Remove { id, incarnation } => format!("remove {id} {incarnation}"),
                    Change::Open { id, incarnation, .. } => format!("open {id} {incarnation}"),
                    Change::Run { run, .. } => format!("run {} {}", run.task, run.incarnation),
                };
                commits.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

struct World<'a> {
    rng: fastrand::Rng,
    disk: &'a Forgetful,
    log_bytes_min: u64,
    /// What was acknowledged.
    expected: Image,
    /// What was not since the last that was: of these one may be there after a crash.
    unknown: Vec<Batch>,
    born: u64,
    epoch: u64,
    /// The incarnation of each task, as far as it is known.
    there: BTreeMap<String, u64>,
    done: Vec<String>,
}

fn live(seed: u64, disk: &Forgetful, told: &mut Told) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    // With the shorter ones there is a new segment with nearly every batch.
    let log_bytes_min = if rng.bool() { rng.u64(150..400) } else { rng.u64(400..2000) };
    let mut world = World {
        rng,
        disk,
        log_bytes_min,
        expected: Image::new(KEEPS_ALL),
        unknown: Vec::new(),
        born: 0,
        epoch: 0,
        there: BTreeMap::new(),
        done: Vec::new(),
    };
    world.live(told).map_err(|what| format!("{}\n{what}", world.done.join("\n")))
}

impl World<'_> {
    fn live(&mut self, told: &mut Told) -> Result<(), String> {
        let world = self;
        let disk = world.disk;
        let mut store = world.open()?;
        for _ in 0..STEPS {
            match world.rng.u8(..100) {
                0..76 => world.change(&store, told)?,
                76..84 => {
                    let one_in = if world.rng.bool() { 0 } else { world.rng.u32(2..20) };
                    world.note(format!("one call in {one_in} fails"));
                    disk.fail_one_in(one_in);
                }
                _ => {
                    if world.rng.bool() {
                        // In the middle of what is under way.
                        let calls = world.rng.u32(..20);
                        world.note(format!("the end comes after {calls} calls"));
                        disk.power_fails_after(calls);
                        for _ in 0..world.rng.u8(..5) {
                            world.change(&store, told)?;
                        }
                    }
                    drop(store);
                    if world.rng.u8(..3) == 0 {
                        world.note("killed".to_owned());
                        told.killed += 1;
                        disk.answer_again();
                    } else {
                        world.note("power lost".to_owned());
                        told.power_lost += 1;
                        disk.lose_power();
                    }
                    store = world.open()?;
                    told.found += u64::from(world.check(&store)?);
                }
            }
        }
        disk.fail_one_in(0);
        drop(store);
        disk.lose_power();
        let store = world.open()?;
        world.check(&store).map(drop)
    }
    fn note(&mut self, what: String) {
        self.done.push(format!("{what}; {}", self.disk.names().join(" ")));
    }

    /// Opens the store, as often as it takes while the disk refuses.
    fn open(&self) -> Result<FileTaskStore, String> {
        for _ in 0..4 {
            match FileTaskStore::on(Arc::new(self.disk.clone()), KEEPS_ALL, self.log_bytes_min, true) {
                Ok(store) => return Ok(store),
                Err(FileStoreError::Io { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.disk.fail_one_in(0);
        let store = FileTaskStore::on(Arc::new(self.disk.clone()), KEEPS_ALL, self.log_bytes_min, true);
        store.map_err(|error| error.to_string())
    }

    fn change(&mut self, store: &FileTaskStore, told: &mut Told) -> Result<(), String> {
        let batch = self.batch();
        let answers = match &batch {
            Batch::Claim(grants) => vec![store.shared.claim(grants)],
            Batch::Commit(commits) => store.shared.commit(commits),
        };
        if answers.iter().any(|answer| matches!(answer, Err(StoreError::Engine(_)))) {
            told.refused_by_the_disk += 1;
            self.note(format!("refused by the disk: {}", batch.text()));
            self.unknown.push(batch);
            return Ok(());
        }
        told.acknowledged += 1;
        self.note(format!("{}: {answers:?}", batch.text()));
        // Where nothing was taken nothing was written.
        if answers.iter().any(Result::is_ok) {
            self.unknown.clear();
        }
        self.note_there(&batch);
        let expected = apply(&mut self.expected, &batch);
        self.expected.keep();
        if answers == expected { Ok(()) } else { Err(format!("answered {answers:?}, and not {expected:?}")) }
    }

    /// What is there must be what was acknowledged, with one batch more at the most of those that were not.
    /// Tells whether there is one.
    fn check(&mut self, store: &FileTaskStore) -> Result<bool, String> {
        let found = contents(&store.shared.state().image);
        let unknown = std::mem::take(&mut self.unknown);
        if found == contents(&self.expected) {
            return Ok(false);
        }
        for batch in &unknown {
            apply(&mut self.expected, batch);
            if found == contents(&self.expected) {
                self.expected.keep();
                self.note_there(batch);
                return Ok(true);
            }
            self.expected.revert();
        }
        let expected = contents(&self.expected);
        let differs = |these: &[Kind], those: &[Kind]| {
            these.iter().filter(|kind| !those.contains(kind)).map(text).collect::<Vec<_>>().join(", ")
        };
        let (more, less) = (differs(&found, &expected), differs(&expected, &found));
        Err(format!("found [{more}] in place of [{less}]"))
    }

    fn note_there(&mut self, batch: &Batch) {
        let Batch::Commit(commits) = batch else { return };
        for commit in commits {
            match &commit.change {
                Change::Insert(task) => {
                    self.there.entry(task.spec.id.clone()).or_insert(task.incarnation);
                }
                Change::Remove { id, .. } => drop(self.there.remove(id)),
                _ => {}
            }
        }
    }

    fn batch(&mut self) -> Batch {
        if self.rng.u8(..12) == 0 {
            self.epoch += u64::from(self.rng.bool());
            return Batch::Claim(vec![Grant { shard: self.rng.u32(..2), epoch: self.epoch }]);
        }
        let count = 1 + self.rng.usize(..4);
        Batch::Commit((0..count).map(|_| self.commit()).collect())
    }

    fn commit(&mut self) -> Commit {
        let id = ["a", "b", "c", "d"][self.rng.usize(..4)].to_owned();
        let there = self.there.get(&id).copied();
        let incarnation = there.filter(|_| self.rng.u8(..20) > 0).unwrap_or_else(|| self.rng.u64(..9));
        let change = match self.rng.u8(..10) {
            _ if there.is_none() && self.rng.u8(..10) > 0 => {
                self.born += 1;
                Change::Insert(Box::new(self.task(id, self.born)))
            }
            0 => {
                self.born += 1;
                Change::Insert(Box::new(self.task(id, self.born)))
            }
            1..3 => Change::Replace(Box::new(self.task(id, incarnation))),
            3..5 => Change::State { id, incarnation, state: self.state() },
            5 => Change::Remove { id, incarnation },
            6 => Change::Open { id, incarnation, run: Box::new(self.open_run()) },
            _ => {
                let state = self.rng.bool().then(|| Box::new(self.state()));
                Change::Run { run: Box::new(self.run(id, incarnation)), state }
            }
        };
        let epoch = self.epoch.saturating_sub(u64::from(self.rng.u8(..10) == 0));
        Commit { shard: self.rng.u32(..2), epoch, change }
    }

    fn task(&mut self, id: String, incarnation: u64) -> StoredTask {
        let mut spec = TaskSpec::cron(id, "@daily");
        spec.description = "x".repeat(self.rng.usize(..200));
        StoredTask {
            spec,
            payload: Some("[1]".into()),
            owner: None,
            incarnation,
            version: self.rng.u64(1..9),
            anchor: at(0),
            updated_at: at(1),
            state: self.state(),
            open: Vec::new(),
        }
    }

    fn state(&mut self) -> TaskState {
        TaskState { fired: self.rng.u32(..9), paused: self.rng.bool(), ..TaskState::default() }
    }

    fn open_run(&mut self) -> OpenRun {
        OpenRun {
            id: RunId::from_u128(self.rng.u128(..)),
            scheduled_for: at(self.rng.i64(0..20)),
            origin: self.origin(),
            attempt: self.rng.u32(1..3),
            retry_at: None,
            payload: None,
            upstream: Vec::new(),
            chain: None,
            trace: None,
        }
    }

    fn origin(&mut self) -> RunOrigin {
        if self.rng.bool() { RunOrigin::Schedule } else { RunOrigin::Trigger }
    }

    fn run(&mut self, task: String, incarnation: u64) -> RunView {
        let id = RunId::from_u128(self.rng.u128(..));
        RunView {
            id,
            task,
            incarnation,
            scheduled_for: at(self.rng.i64(0..40)),
            started_at: None,
            ended_at: Some(at(50)),
            node: "n1".to_owned(),
            attempt: 1,
            origin: self.origin(),
            outcome: if self.rng.bool() { RunOutcome::Completed } else { RunOutcome::Failed },
            error: None,
            skip_reason: None,
            times: 1,
            output: None,
            trace_id: id.trace_id(),
            chain: None,
            caused_by: Vec::new(),
        }
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn apply(image: &mut Image, batch: &Batch) -> Vec<Result<(), StoreError>> {
    match batch {
        Batch::Claim(grants) => vec![image.claim(grants, &mut Vec::new())],
        Batch::Commit(commits) => {
            commits.iter().map(|commit| image.commit(commit, &mut Vec::new())).collect()
        }
    }
}

fn text(kind: &Kind) -> String {
    match kind {
        Kind::Put(put) => {
            let id = String::from_utf8_lossy(id_of(&put.definition)).into_owned();
            format!("task {id} of {} bytes, {:?}", put.definition.len(), put.side)
        }
        other => format!("{other:?}"),
    }
}

/// All that an image holds, whatever way it came there: epochs and tasks in an order of their own, then the
/// records.
pub(super) fn contents(image: &Image) -> Vec<Kind> {
    let (mut tasks, mut rest) = (Vec::new(), Vec::new());
    for kind in image.freeze().entries() {
        match kind {
            Kind::Claims(mut claims) => {
                claims.claims.sort_by_key(|claim| claim.shard);
                rest.push(Kind::Claims(claims));
            }
            Kind::Put(mut put) => {
                put.side = put.side.filter(|side| *side != Side::default());
                tasks.push(put);
            }
            other => rest.push(other),
        }
    }
    tasks.sort_by_key(Message::encode_to_vec);
    tasks.into_iter().map(Kind::Put).chain(rest).collect()
}
