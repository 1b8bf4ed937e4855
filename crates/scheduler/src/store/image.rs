//! What a store of ours holds, and what it takes: the rules of the port, once for memory and file.
//!
//! Tasks and records are kept as they are written. A task takes its definition's bytes and little more, and
//! what a snapshot needs is a copy of pointers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use prost::Message;

use super::codec::{
    Claim, Claims, DefinitionHead, Ended, Entry, Kind, Open, OpenRecord, Put, Remove, Run, RunRecord, Side,
    State, decode_run, decode_task, encode_definition, encode_run, encode_state, id_of,
};
use super::{Change, Commit, Loaded, Records, Retention, StoreError, StoredTask};
use crate::coordinator::Grant;

/// Everything that a store holds.
#[derive(Debug, Default)]
pub(super) struct Image {
    places: Vec<Option<Held>>,
    free: Vec<u32>,
    /// Places by id, with half of its hash: growing and most comparisons do not touch the tasks.
    index: HashTable<(u32, u32)>,
    hasher: RandomState,
    epochs: HashMap<u32, u64>,
    /// The oldest first.
    records: VecDeque<Record>,
    dead: VecDeque<Record>,
    /// The number of the next record.
    next_record: u64,
    retention: Retention,
    /// What has changed since [`Image::keep`], the latest last.
    undo: Vec<Undo>,
}

/// A task.
#[derive(Debug, Clone)]
struct Held {
    /// A [`Definition`].
    definition: Arc<[u8]>,
    /// None where nothing has happened yet.
    side: Option<Arc<Side>>,
    incarnation: u64,
    shard: u32,
}

/// A record, and whose it is.
#[derive(Debug, Clone)]
struct Record {
    /// A [`RunRecord`].
    run: Arc<[u8]>,
    /// The later it was committed, the greater.
    number: u64,
    place: u32,
    incarnation: u64,
    is_dead: bool,
}

#[derive(Debug)]
enum Undo {
    /// What stood in the place before.
    Place(u32, Option<Held>),
    Epoch(u32, Option<u64>),
    /// A record was added.
    Record,
}

impl Image {
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, ..Self::default() }
    }

    /// Claims shards, and writes that down.
    pub(super) fn claim(&mut self, grants: &[Grant], log: &mut Vec<u8>) -> Result<(), StoreError> {
        for Grant { shard, epoch } in grants {
            self.check_epoch(*shard, *epoch)?;
        }
        let claims = grants.iter().map(|grant| Claim { shard: grant.shard, epoch: grant.epoch }).collect();
        self.take(Kind::Claims(Claims { claims }), log)
    }

    /// Makes a change if it fits, and writes down what it was.
    pub(super) fn commit(&mut self, commit: &Commit, log: &mut Vec<u8>) -> Result<(), StoreError> {
        let Commit { shard, epoch, change } = commit;
        self.check_epoch(*shard, *epoch)?;
        let kind = match change {
            Change::Insert(task) => {
                if self.find(&task.spec.id).is_some() {
                    // The same one that comes again was taken the first time.
                    let is_same = self.held(&task.spec.id, task.incarnation).is_ok();
                    return if is_same { Ok(()) } else { Err(StoreError::Exists(task.spec.id.clone())) };
                }
                let open = task.open.iter().map(OpenRecord::new).collect();
                Kind::Put(put(*shard, task, Side { open, ..Side::default() }))
            }
            Change::Replace(task) => {
                let (_, held) = self.held(&task.spec.id, task.incarnation)?;
                let side = held.side.as_deref().cloned().unwrap_or_default();
                Kind::Put(put(*shard, task, side))
            }
            Change::State { id, incarnation, state } => {
                self.held(id, *incarnation)?;
                let state = encode_state(state);
                Kind::State(State { id: id.clone(), incarnation: *incarnation, state })
            }
            Change::Remove { id, incarnation } => {
                self.held(id, *incarnation)?;
                Kind::Remove(Remove { id: id.clone(), incarnation: *incarnation })
            }
            Change::Open { id, incarnation, run } => {
                self.held(id, *incarnation)?;
                let run = OpenRecord::new(run);
                Kind::Open(Open { id: id.clone(), incarnation: *incarnation, run })
            }
            Change::Run { run, state } => {
                let (_, held) = self.held(&run.task, run.incarnation)?;
                let record = RunRecord::new(run);
                if held.has_ended(&record) {
                    return Err(StoreError::Duplicate(run.task.clone()));
                }
                let state = state.as_deref().map(encode_state);
                Kind::Run(Run { run: record.encode_to_vec(), state })
            }
        };
        self.take(kind, log)
    }

    fn take(&mut self, kind: Kind, log: &mut Vec<u8>) -> Result<(), StoreError> {
        let entry = Entry { kind: Some(kind) };
        // A vector has room for whatever the memory has.
        let _ = entry.encode_length_delimited(log);
        match entry.kind {
            Some(kind) => self.apply(kind),
            None => Ok(()),
        }
    }

    /// Makes a change that has been checked, or that was when it was written.
    pub(super) fn apply(&mut self, kind: Kind) -> Result<(), StoreError> {
        match kind {
            Kind::Begin(_) | Kind::End(_) => {}
            Kind::Claims(Claims { claims }) => {
                for Claim { shard, epoch } in claims {
                    let before = self.epochs.insert(shard, epoch);
                    self.undo.push(Undo::Epoch(shard, before));
                }
            }
            Kind::Put(put) => self.put(put)?,
            Kind::State(State { id, incarnation, state }) => {
                self.change(&id, incarnation, |side| side.state = state)?;
            }
            Kind::Remove(Remove { id, incarnation }) => {
                let (place, _) = self.held(&id, incarnation)?;
                self.set(place, None);
            }
            Kind::Open(Open { id, incarnation, run }) => {
                self.change(&id, incarnation, |side| {
                    match side.open.iter_mut().find(|open| open.key() == run.key()) {
                        Some(open) => *open = run,
                        None => side.open.push(run),
                    }
                })?
            }
            Kind::Run(Run { run: bytes, state }) => {
                let run = decode_record(&bytes)?;
                let key = (run.origin, run.scheduled_for);
                self.change(&run.task, run.incarnation, |side| {
                    side.open.retain(|open| open.key() != key);
                    match side.ended.iter_mut().find(|ended| ended.origin == run.origin) {
                        Some(ended) => ended.until = ended.until.max(run.scheduled_for),
                        None => side.ended.push(Ended { origin: run.origin, until: run.scheduled_for }),
                    }
                    if let Some(state) = state {
                        side.state = state;
                    }
                })?;
                self.record(&run);
            }
            Kind::Record(bytes) => self.record(&decode_record(&bytes)?),
        }
        Ok(())
    }

    fn put(&mut self, put: Put) -> Result<(), StoreError> {
        let unreadable = || StoreError::Engine("the store has a task that cannot be read".to_owned());
        let head = DefinitionHead::decode(&*put.definition).map_err(|_| unreadable())?;
        let id = id_of(&put.definition);
        if id.is_empty() {
            return Err(unreadable());
        }
        let place = self.find_bytes(id);
        let side = put.side.filter(|side| *side != Side::default()).map(Arc::new);
        let held = Held {
            definition: put.definition.into(),
            side,
            incarnation: head.incarnation,
            shard: head.shard,
        };
        let place = place.unwrap_or_else(|| {
            self.free.pop().unwrap_or_else(|| {
                self.places.push(None);
                self.places.len() as u32 - 1
            })
        });
        self.set(place, Some(held));
        Ok(())
    }

    /// Puts a task into a place or out of it; whether its id is found there follows from that.
    fn set(&mut self, place: u32, held: Option<Held>) {
        let (is_there, id) = (held.is_some(), held.as_ref().map(|held| held.definition.clone()));
        let Some(at) = self.places.get_mut(place as usize) else { return };
        let before = std::mem::replace(at, held);
        let was_there = before.is_some();
        let id = id.or_else(|| before.as_ref().map(|held| held.definition.clone())).unwrap_or_default();
        self.undo.push(Undo::Place(place, before));
        if was_there == is_there {
            return;
        }
        let hash = self.hash(id_of(&id));
        if is_there {
            self.index.insert_unique(spread(hash), (hash, place), |(hash, _)| spread(*hash));
        } else {
            if let Ok(found) = self.index.find_entry(spread(hash), |(_, found)| *found == place) {
                found.remove();
            }
            self.free.push(place);
        }
    }

    fn change(
        &mut self,
        id: &str,
        incarnation: u64,
        change: impl FnOnce(&mut Side),
    ) -> Result<(), StoreError> {
        let (place, held) = self.held(id, incarnation)?;
        let mut held = held.clone();
        change(Arc::make_mut(held.side.get_or_insert_default()));
        self.set(place, Some(held));
        Ok(())
    }

    fn record(&mut self, run: &RunRecord) {
        if let Ok((place, _)) = self.held(&run.task, run.incarnation) {
            let incarnation = run.incarnation;
            self.records.push_back(Record {
                run: encode_run(run),
                number: self.next_record,
                place,
                incarnation,
                is_dead: run.is_dead(),
            });
            self.next_record += 1;
            self.undo.push(Undo::Record);
        }
    }

    /// What has changed stays so: old records may go.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
        while self.records.len() > self.retention.records
            && let Some(oldest) = self.records.pop_front()
        {
            if oldest.is_dead && self.is_live(&oldest) {
                self.dead.push_back(oldest);
            }
        }
        while self.dead.len() > self.retention.dead_runs {
            self.dead.pop_front();
        }
    }

    /// Nothing has changed since the last [`Image::keep`].
    pub(super) fn revert(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Epoch(shard, Some(epoch)) => {
                    self.epochs.insert(shard, epoch);
                }
                Undo::Epoch(shard, None) => {
                    self.epochs.remove(&shard);
                }
                Undo::Record => {
                    self.records.pop_back();
                }
                Undo::Place(place, before) => {
                    if before.is_some() && self.held_at(place).is_none() {
                        // The last place that was given up is the first that is taken back.
                        self.free.pop();
                    }
                    self.set(place, before);
                    self.undo.pop();
                }
            }
        }
    }

    fn check_epoch(&self, shard: u32, ours: u64) -> Result<(), StoreError> {
        match self.epochs.get(&shard) {
            Some(theirs) if *theirs > ours => Err(StoreError::Fenced { shard, ours, theirs: *theirs }),
            _ => Ok(()),
        }
    }

    fn find(&self, id: &str) -> Option<u32> {
        self.find_bytes(id.as_bytes())
    }

    fn find_bytes(&self, id: &[u8]) -> Option<u32> {
        let hash = self.hash(id);
        let is_it = |known: u32, place: u32| known == hash && id_at(&self.places, place) == id;
        let found = self.index.find(spread(hash), |(known, place)| is_it(*known, *place));
        found.map(|(_, place)| *place)
    }

    fn hash(&self, id: &[u8]) -> u32 {
        self.hasher.hash_one(id) as u32
    }

    fn held_at(&self, place: u32) -> Option<&Held> {
        self.places.get(place as usize).and_then(Option::as_ref)
    }

    fn held(&self, id: &str, incarnation: u64) -> Result<(u32, &Held), StoreError> {
        let found = self.find(id).and_then(|place| Some((place, self.held_at(place)?)));
        found
            .filter(|(_, held)| held.incarnation == incarnation)
            .ok_or_else(|| StoreError::NotFound(id.to_owned()))
    }

    fn is_live(&self, record: &Record) -> bool {
        self.held_at(record.place).is_some_and(|held| held.incarnation == record.incarnation)
    }

    /// How many tasks there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// A page of the tasks of these shards, still as bytes.
    pub(super) fn page(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> RawPage {
        let is_wanted = wanted(shards);
        let from = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let mut page = RawPage::default();
        for (place, held) in self.places.iter().enumerate().skip(from) {
            let Some(held) = held.as_ref().filter(|held| is_wanted(held.shard)) else { continue };
            if page.tasks.len() == limit {
                page.next = Some(place.to_string());
                break;
            }
            page.tasks.push((held.definition.clone(), held.side.clone()));
        }
        page
    }

    /// A page of the records of these shards, newest first, still as bytes.
    pub(super) fn history(&self, shards: &[u32], cursor: Option<&str>, limit: usize) -> RawRecords {
        let shards: HashSet<u32> = shards.iter().copied().collect();
        let below = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(u64::MAX);
        let mut page = RawRecords::default();
        for records in [&self.records, &self.dead] {
            let until = records.partition_point(|record| record.number < below);
            let of_shards = records.range(..until).rev().filter(|record| {
                self.held_at(record.place).is_some_and(|held| {
                    held.incarnation == record.incarnation && shards.contains(&held.shard)
                })
            });
            for record in of_shards {
                if page.runs.len() == limit {
                    page.next = Some((record.number + 1).to_string());
                    return page;
                }
                page.runs.push(Arc::clone(&record.run));
            }
        }
        page
    }

    /// All of it as it is now, to be written down by somebody else.
    pub(super) fn freeze(&self) -> Frozen {
        Frozen {
            epochs: self.epochs.clone(),
            tasks: self.places.iter().flatten().cloned().collect(),
            records: self
                .dead
                .iter()
                .chain(&self.records)
                .filter(|record| self.is_live(record))
                .map(|record| record.run.clone())
                .collect(),
        }
    }
}

/// Whether a shard is one of these.
fn wanted(shards: &[u32]) -> impl Fn(u32) -> bool {
    // As an array, since a look at each of a million tasks is many.
    let end = shards.iter().max().map_or(0, |last| *last as usize + 1);
    let mut is_wanted = vec![false; end];
    for shard in shards {
        if let Some(wanted) = is_wanted.get_mut(*shard as usize) {
            *wanted = true;
        }
    }
    move |shard| is_wanted.get(shard as usize).copied().unwrap_or(false)
}

/// The table takes its bucket from the low bits and its tag from the high ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn id_at(places: &[Option<Held>], place: u32) -> &[u8] {
    places.get(place as usize).and_then(Option::as_ref).map_or(&[], |held| id_of(&held.definition))
}

impl Held {
    /// Whether the run has ended before, as far as is known.
    fn has_ended(&self, run: &RunRecord) -> bool {
        let Some(side) = &self.side else { return false };
        let is_open = side.open.iter().any(|open| open.key() == (run.origin, run.scheduled_for));
        let is_past =
            side.ended.iter().any(|ended| ended.origin == run.origin && run.scheduled_for <= ended.until);
        is_past && !is_open
    }
}

fn put(shard: u32, task: &StoredTask, side: Side) -> Put {
    let side = Side { state: encode_state(&task.state), ..side };
    Put { definition: encode_definition(shard, task), side: Some(side) }
}

fn decode_record(bytes: &[u8]) -> Result<RunRecord, StoreError> {
    RunRecord::decode(bytes)
        .map_err(|_| StoreError::Engine("the store has a record that cannot be read".to_owned()))
}

/// A task's definition, and what has become of it.
type RawTask = (Arc<[u8]>, Option<Arc<Side>>);

/// A page of tasks that nobody has taken apart yet: that needs no lock.
#[derive(Debug, Default)]
pub(super) struct RawPage {
    tasks: Vec<RawTask>,
    next: Option<String>,
}

impl RawPage {
    pub(super) fn decode(self) -> Result<Loaded, StoreError> {
        let tasks = self.tasks.iter().map(|(definition, side)| match side {
            Some(side) => decode_task(definition, &side.state, &side.open),
            None => decode_task(definition, &[], &[]),
        });
        Ok(Loaded { tasks: tasks.collect::<Result<_, _>>()?, next: self.next })
    }
}

/// A page of records that nobody has taken apart yet.
#[derive(Debug, Default)]
pub(super) struct RawRecords {
    runs: Vec<Arc<[u8]>>,
    next: Option<String>,
}

impl RawRecords {
    pub(super) fn decode(self) -> Result<Records, StoreError> {
        let runs = self.runs.iter().map(|run| decode_run(run)).collect::<Result<_, _>>()?;
        Ok(Records { runs, next: self.next })
    }
}

/// What an image held at one moment.
#[derive(Debug)]
pub(super) struct Frozen {
    epochs: HashMap<u32, u64>,
    tasks: Vec<Held>,
    records: Vec<Arc<[u8]>>,
}

impl Frozen {
    /// Everything as entries, of which one after the other makes the image again.
    pub(super) fn entries(self) -> impl Iterator<Item = Kind> {
        let claims = self.epochs.into_iter().map(|(shard, epoch)| Claim { shard, epoch }).collect();
        let tasks = self.tasks.into_iter().map(|held| {
            let side = held.side.as_deref().cloned();
            Kind::Put(Put { definition: held.definition.to_vec(), side })
        });
        let records = self.records.into_iter().map(|run| Kind::Record(run.to_vec()));
        std::iter::once(Kind::Claims(Claims { claims })).chain(tasks).chain(records)
    }
}
