//! What callers are shown. Only what must be read under the lock is read here; texts and JSON are made of
//! it outside.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use memchr::memmem::Finder;

use super::{Core, flag};
use crate::def::Def;
use crate::history::Note;
use crate::id::RunId;
use crate::schedule::{Micros, NEVER, span_micros, timestamp};
use crate::view::{RunFilter, RunOrigin, RunOutcome, RunView, TaskFilter, TaskStatus, TaskView};

/// A task as it stood at one moment: what [`Scheduler::snapshot`](crate::Scheduler::snapshot) gives.
///
/// Cheap beside a [`TaskView`], which is made of it. Two that are equal make the same view, so that whoever
/// has written one out need not do so again.
#[derive(Debug, Clone)]
pub struct TaskSnapshot {
    pub(crate) def: Arc<Def>,
    pub(crate) status: TaskStatus,
    pub(crate) flags: u16,
    pub(crate) next: Micros,
    pub(crate) created: Micros,
    pub(crate) updated: Micros,
    pub(crate) last_run: Micros,
    pub(crate) run_count: u64,
    pub(crate) failure_count: u32,
    pub(crate) version: u32,
    pub(crate) active: u32,
    pub(crate) last_error: Option<Box<str>>,
    pub(crate) after_met: u64,
    pub(crate) failures: u32,
    pub(crate) backoff_until: Micros,
    pub(crate) resting: Option<Box<str>>,
    pub(crate) backfill_left: usize,
    pub(crate) is_parked: bool,
}

impl PartialEq for TaskSnapshot {
    fn eq(&self, other: &Self) -> bool {
        // All of them, so that a field that is added is not forgotten here.
        let Self {
            def,
            status,
            flags,
            next,
            created,
            updated,
            last_run,
            run_count,
            failure_count,
            version,
            active,
            last_error,
            after_met,
            failures,
            backoff_until,
            resting,
            backfill_left,
            is_parked,
        } = self;
        // A definition never changes, and this one is alive: at its address is no other.
        Arc::ptr_eq(def, &other.def)
            && (*status, *flags, *next, *created) == (other.status, other.flags, other.next, other.created)
            && (*updated, *last_run, *run_count) == (other.updated, other.last_run, other.run_count)
            && (*failure_count, *version, *active) == (other.failure_count, other.version, other.active)
            && (*after_met, *failures, *is_parked) == (other.after_met, other.failures, other.is_parked)
            && (*backoff_until, *backfill_left) == (other.backoff_until, other.backfill_left)
            && (last_error, resting) == (&other.last_error, &other.resting)
    }
}

/// A record as it stood at one moment.
#[derive(Debug, Clone)]
pub(crate) struct RunSnapshot {
    pub(crate) id: RunId,
    pub(crate) def: Arc<Def>,
    pub(crate) incarnation: Micros,
    pub(crate) scheduled: Micros,
    pub(crate) started: Micros,
    pub(crate) ended: Micros,
    pub(crate) attempt: u16,
    pub(crate) times: u32,
    pub(crate) origin: RunOrigin,
    pub(crate) outcome: RunOutcome,
    pub(crate) note: Option<Box<Note>>,
}

/// How long code may run past its end before it counts as stuck.
const STUCK_AFTER: Micros = 1_000_000;

/// How many places are looked at before the lock is let go for a moment.
const STRETCH: u32 = 8192;

/// A search that goes on where it let the lock go.
#[derive(Debug)]
pub(crate) struct Search {
    pub(crate) place: u32,
    pub(crate) found: Vec<TaskSnapshot>,
    /// How many match before and after the page as well.
    pub(crate) total: u64,
    pub(crate) next: Option<u32>,
    from: u32,
}

impl Search {
    pub(crate) fn from(place: u32) -> Self {
        Self { place: 0, found: Vec::new(), total: 0, next: None, from: place }
    }
}

impl Core {
    pub(crate) fn snapshot(&self, task: u32) -> Option<TaskSnapshot> {
        let slot = self.table.get(task)?;
        let def = slot.def.clone()?;
        let rare = slot.side.as_ref().and_then(|side| side.rare.as_deref());
        let is_absent = self.present.get(def.executor.0 as usize).is_none_or(Option::is_none);
        Some(TaskSnapshot {
            status: self.table.status(task)?,
            flags: slot.flags,
            next: slot.next,
            created: slot.created,
            updated: slot.updated,
            last_run: slot.last_run,
            run_count: slot.run_count,
            failure_count: slot.failure_count,
            version: slot.version,
            active: slot.active_count + slot.side.as_ref().map_or(0, |side| side.queue.len() as u32),
            last_error: slot.side.as_ref().and_then(|side| side.last_error.clone()),
            after_met: rare.map_or(0, |rare| rare.upstream.iter().fold(0, |met, (edge, _)| met | 1 << edge)),
            failures: slot.side.as_ref().map_or(0, |side| side.failures),
            backoff_until: rare.map_or(NEVER, |rare| rare.backoff_until),
            resting: rare.and_then(|rare| rare.resting()).map(Into::into),
            backfill_left: rare.map_or(0, |rare| rare.backfill.len()),
            is_parked: is_absent && slot.active_count > 0,
            def,
        })
    }

    /// Goes on with a search for a while; tells whether it is over.
    pub(crate) fn search(&mut self, filter: &Filter, limit: usize, search: &mut Search) -> bool {
        // The plain cases, a page of all tasks or of those in one state, need not look at the rest.
        if filter.is_plain() {
            let total = self.table.len() as u64;
            search.total = filter.status.map_or(total, |status| self.table.count(status));
            search.place = search.place.max(search.from);
            return self.search_plain(filter.status, limit, search);
        }
        let Some(wanted) = self.table.wanted(filter) else { return true };
        let mut places = Vec::new();
        search.place = self.table.matching(filter, &wanted, search.place, &mut places);
        search.total += places.len() as u64;
        for place in places {
            if place >= search.from && self.show(place, limit, search) {
                break;
            }
        }
        search.place >= self.table.end()
    }

    fn search_plain(&self, status: Option<TaskStatus>, limit: usize, search: &mut Search) -> bool {
        let until = search.place.saturating_add(STRETCH).min(self.table.end());
        while search.place < until {
            let place = match status {
                Some(status) => match self.table.find(status, search.place) {
                    Some(place) => place,
                    None => return true,
                },
                None => search.place,
            };
            search.place = place + 1;
            if self.show(place, limit, search) {
                return true;
            }
        }
        search.place >= self.table.end()
    }

    /// Puts a task onto the page. Tells whether the page is full, and where the next one begins.
    fn show(&self, place: u32, limit: usize, search: &mut Search) -> bool {
        if search.next.is_some() {
            return true;
        }
        if self.table.get(place).is_none_or(|slot| slot.flags & flag::HELD != 0) {
            return false;
        }
        if search.found.len() == limit {
            search.next = Some(place);
            return true;
        }
        search.found.extend(self.snapshot(place));
        false
    }

    /// The definitions and states of some tasks from a place on, and where it goes on.
    pub(crate) fn export(&self, from: u32, max: usize) -> (Vec<(Arc<Def>, TaskStatus)>, Option<u32>) {
        let mut found = Vec::with_capacity(max);
        for place in from..self.table.end() {
            if found.len() == max {
                return (found, Some(place));
            }
            let Some(slot) = self.table.get(place).filter(|slot| slot.flags & flag::HELD == 0) else {
                continue;
            };
            if let (Some(def), Some(status)) = (&slot.def, self.table.status(place)) {
                found.push((Arc::clone(def), status));
            }
        }
        (found, None)
    }

    pub(crate) fn def(&self, place: u32) -> Option<&Def> {
        self.table.get(place)?.def.as_deref()
    }

    /// The plugin that owns the task, if there is such a task and a plugin does.
    pub(crate) fn owner_if_any(&self, id: &str) -> Option<Option<String>> {
        Some(self.def(self.find(id)?)?.owner().map(str::to_owned))
    }

    /// For how many more tasks there is room.
    pub(crate) fn room(&self) -> usize {
        self.config.max_tasks.saturating_sub(self.table.len())
    }

    pub(crate) fn run_snapshot(&self, number: u64) -> Option<RunSnapshot> {
        let record = self.history.get(number)?;
        let slot = self.table.get(record.task).filter(|slot| slot.created == record.incarnation)?;
        Some(RunSnapshot {
            id: self.run_id(number),
            def: slot.def.clone()?,
            incarnation: record.incarnation,
            scheduled: record.scheduled,
            started: record.started,
            ended: record.ended,
            attempt: record.attempt,
            times: record.times,
            origin: record.origin,
            outcome: record.outcome,
            note: record.note.clone(),
        })
    }

    /// How many runs should have ended, and are in code that does not yield. Each is told once.
    pub(crate) fn stuck(&mut self, now: Micros) -> u64 {
        let mut stuck = 0;
        for active in self.active.iter_mut().flatten() {
            let since = active.cell.polled_since.load(Ordering::Relaxed);
            let def = &active.cell.def;
            let timeout = span_micros(def.timeout().unwrap_or(self.config.default_timeout));
            let is_over = active.cell.cancel.is_set() || since.saturating_add(timeout) < now;
            if since == 0 || !is_over || now.saturating_sub(since) < STUCK_AFTER {
                continue;
            }
            stuck += 1;
            if !std::mem::replace(&mut active.told_stuck, true) {
                let since = timestamp(since);
                tracing::warn!(task = &*def.id, run = %active.cell.id, %since, "run does not yield");
            }
        }
        stuck
    }

    /// A page of a task's records, newest first, from below `before` on; how many there are in all; and
    /// where the next page begins.
    pub(crate) fn run_page(
        &self,
        task: u32,
        before: Option<u64>,
        limit: usize,
        now: Micros,
    ) -> (Vec<RunSnapshot>, u64, Option<u64>) {
        let Some(slot) = self.table.get(task) else { return (Vec::new(), 0, None) };
        let mut page = Vec::new();
        let mut total = 0;
        let mut next = None;
        for (number, _) in self.history.visible(slot.last_record, now) {
            total += 1;
            if before.is_some_and(|before| number >= before) {
                continue;
            }
            if page.len() < limit {
                page.extend(self.run_snapshot(number));
            } else if next.is_none() {
                next = page.last().and_then(|run: &RunSnapshot| self.record_number(run.id));
            }
        }
        (page, total, next)
    }

    /// Goes on with a search among all records for a while; tells whether it is over.
    pub(crate) fn search_runs(&self, filter: &RunFilter, limit: usize, search: &mut RunSearch) -> bool {
        for _ in 0..STRETCH {
            let Some((number, record)) = self.history.newest_below(search.below) else { return true };
            search.below = number;
            let is_wanted = filter.outcome.is_none_or(|outcome| record.outcome == outcome)
                && filter.chain.is_none_or(|chain| {
                    let by = record.note.as_ref().and_then(|note| note.caused.as_ref());
                    by.map_or_else(|| self.run_id(number), |by| by.chain) == chain
                });
            if !is_wanted {
                continue;
            }
            let Some(run) = self.run_snapshot(number) else { continue };
            search.total += 1;
            if number >= search.from {
                continue;
            }
            if search.found.len() < limit {
                search.found.push(run);
            } else if search.next.is_none() {
                search.next = search.found.last().and_then(|run| self.record_number(run.id));
            }
        }
        false
    }
}

/// A search among all records, newest first, that goes on where it let the lock go.
#[derive(Debug)]
pub(crate) struct RunSearch {
    below: u64,
    pub(crate) found: Vec<RunSnapshot>,
    /// How many match before and after the page as well.
    pub(crate) total: u64,
    pub(crate) next: Option<u64>,
    from: u64,
}

impl RunSearch {
    pub(crate) fn before(number: Option<u64>) -> Self {
        let from = number.unwrap_or(u64::MAX);
        Self { below: u64::MAX, found: Vec::new(), total: 0, next: None, from }
    }
}

/// A filter with its parts made ready.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(super) status: Option<TaskStatus>,
    /// Nothing within for a name that nobody has ever used.
    pub(super) executor: Option<Option<crate::executor::ExecutorKey>>,
    pub(super) text: Option<Finder<'static>>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
}

impl Filter {
    pub(crate) fn new(filter: &TaskFilter, executors: &crate::executor::ExecutorRegistry) -> Self {
        let text = filter.q.as_deref().filter(|q| !q.is_empty()).map(str::to_lowercase);
        Self {
            status: filter.status,
            executor: filter.executor.as_deref().map(|name| executors.find(name)),
            text: text.map(|text| Finder::new(text.as_bytes()).into_owned()),
            owner: filter.owner.clone(),
            group: filter.group.clone(),
        }
    }

    /// Whether it asks for a state at the most.
    const fn is_plain(&self) -> bool {
        self.executor.is_none() && self.text.is_none() && self.owner.is_none() && self.group.is_none()
    }
}

impl TaskSnapshot {
    /// The version of the definition: one more with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        u64::from(self.version)
    }

    /// The task for people; `executor` is the name of its executor.
    pub(crate) fn view(self, executor: &str) -> TaskView {
        let is_resting = self.flags & flag::AT_REST != 0;
        let next = if is_resting || self.next == NEVER {
            None
        } else {
            Some(timestamp(self.next.saturating_add(self.def.jitter())))
        };
        let waiting_for = self.waiting_for(executor);
        let spec = self.def.to_spec(executor);
        TaskView {
            id: spec.id,
            name: self.def.name().to_owned(),
            description: spec.description,
            schedule: spec.schedule,
            executor: spec.executor,
            payload: spec.payload,
            status: self.status,
            waiting_for,
            created_at: timestamp(self.created),
            updated_at: timestamp(self.updated),
            last_run_at: (self.last_run != NEVER).then(|| timestamp(self.last_run)),
            next_run_at: next,
            run_count: self.run_count,
            failure_count: u64::from(self.failure_count),
            last_error: self.last_error.map(Into::into),
            metadata: spec.metadata,
            overlap: spec.overlap,
            misfire: spec.misfire,
            retry: spec.retry,
            timeout: spec.timeout,
            priority: spec.priority,
            group: spec.group,
            after: spec.after,
            pause_after_failures: spec.pause_after_failures,
            failure_backoff: spec.failure_backoff,
            consecutive_failures: self.failures,
            backoff_until: (self.backoff_until != NEVER).then(|| timestamp(self.backoff_until)),
            backfill_runs_left: self.backfill_left as u32,
            pause_reason: self.resting.filter(|_| self.status == TaskStatus::Paused).map(Into::into),
            owner: self.def.owner().map(str::to_owned),
            version: u64::from(self.version),
            incarnation: self.created.unsigned_abs(),
            active_runs: self.active,
        }
    }

    fn waiting_for(&self, executor: &str) -> Option<String> {
        if self.flags & flag::CANCELED != 0 {
            return None;
        }
        if self.flags & flag::SUSPENDED != 0 && self.def.owner().is_some() {
            return Some(format!("plugin `{}` has stopped", self.def.owner().unwrap_or_default()));
        }
        if self.flags & flag::WAITS_EXECUTOR != 0 || self.is_parked {
            return Some(format!("executor `{executor}` is not registered"));
        }
        let is_dependent = matches!(self.def.schedule, crate::schedule::Schedule::Dependent);
        if self.flags & flag::WAITS_AFTER != 0 || (is_dependent && self.status == TaskStatus::Pending) {
            let waited: Vec<_> = self
                .def
                .after()
                .iter()
                .enumerate()
                .filter(|(edge, _)| self.after_met & (1 << edge) == 0)
                .map(|(_, edge)| format!("`{}`", edge.task))
                .collect();
            return Some(format!("runs of {}", waited.join(", ")));
        }
        None
    }
}

impl RunSnapshot {
    pub(crate) fn view(self, node: &str) -> RunView {
        let time = |at: Micros| (at != NEVER).then(|| timestamp(at));
        let note = self.note.map(|note| *note).unwrap_or_default();
        RunView {
            id: self.id,
            task: self.def.id.to_string(),
            incarnation: self.incarnation.unsigned_abs(),
            scheduled_for: timestamp(self.scheduled),
            started_at: time(self.started),
            ended_at: time(self.ended),
            node: note.node.as_deref().unwrap_or(node).to_owned(),
            attempt: u32::from(self.attempt),
            origin: self.origin,
            outcome: self.outcome,
            error: note.error.map(Into::into),
            skip_reason: note.skip_reason.map(Into::into),
            times: u64::from(self.times),
            output: note.output.and_then(|text| serde_json::from_str(&text).ok()),
            trace_id: note.trace.map_or_else(|| self.id.trace_id(), |trace| trace.to_string()),
            chain: note.caused.as_ref().map(|by| by.chain),
            caused_by: note.caused.map(|by| by.by.iter().map(|run| run.run).collect()).unwrap_or_default(),
        }
    }
}
