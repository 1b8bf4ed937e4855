//! From what is due to runs that start.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use super::{Active, Cause, Core, Ended, NONE, Ready, flag};
use crate::def::Def;
use crate::executor::{CancelFlag, Registration, RunCell};
use crate::history::SkipKind;
use crate::notice::NoticeKind;
use crate::planner::{Missed, count_missed, plan};
use crate::schedule::{Micros, NEVER};
use crate::spec::Overlap;
use crate::timer::{Entry, Kind};
use crate::upstream::Caused;
use crate::view::{RunOrigin, RunOutcome};

/// A run that is to be started by whoever took it.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) run: u32,
    pub(crate) cell: Arc<RunCell>,
    pub(crate) registration: Arc<Registration>,
    pub(crate) timeout: Duration,
}

/// How many due entries one look moves into line while there is no room for a run.
const LINE_UP_MAX: usize = 4096;

impl Core {
    /// Takes up to `max` runs that are to start now. Tells whether there may be more.
    pub(crate) fn take(&mut self, now: Micros, max: usize, out: &mut Vec<Launch>) -> bool {
        if !self.running {
            return false;
        }
        if self.is_held_up() {
            self.crowded_since = self.crowded_since.min(now);
            return false;
        }
        self.last_seen = now;
        self.refresh_executors(now);
        self.timer.turn(now);
        let mut lined_up = 0;
        while out.len() < max {
            let has_room = self.active_count < self.config.max_concurrent_tasks;
            if has_room && let Some(ready) = self.backlog.pop() {
                self.launch(ready, now, out);
                continue;
            }
            if !has_room {
                self.crowded_since = self.crowded_since.min(now);
                // What is due stands in line by its priority until there is room.
                lined_up += 1;
                if lined_up > LINE_UP_MAX {
                    return false;
                }
            }
            let Some(entry) = self.timer.pop_due(now) else {
                if has_room {
                    self.crowded_since = NEVER;
                }
                return false;
            };
            match entry.kind {
                Kind::Task => self.fire(entry, now),
                Kind::Attempt => self.attempt_again(entry, now, out),
            }
        }
        true
    }

    /// A task has come due.
    fn fire(&mut self, entry: Entry, now: Micros) {
        let task = entry.index;
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        let jitter = def.jitter();
        let is_stale = slot.next == NEVER || slot.next.saturating_add(jitter) != entry.at;
        if is_stale || slot.flags & (flag::AT_REST | flag::WAITS_EXECUTOR | flag::WAITS_AFTER) != 0 {
            return;
        }
        if self.present.get(def.executor.0 as usize).is_none_or(Option::is_none) {
            slot.flags |= flag::WAITS_EXECUTOR | flag::WAITED_EXECUTOR;
            self.waiting.entry(def.executor).or_default().insert(task);
            return;
        }
        let mut by = None;
        if !def.after().is_empty() {
            by = Self::side(slot).take_upstream(def.after().len());
            if by.is_none() {
                slot.flags |= flag::WAITS_AFTER;
                return;
            }
        }
        self.backed_off(task, now);
        let Some(slot) = self.table.get_mut(task) else { return };
        let runs_left = if def.max_runs == 0 { u32::MAX } else { def.max_runs.saturating_sub(slot.fired) };
        let bounds = def.bounds(slot.anchor);
        let misfire = if entry.at >= self.crowded_since && slot.flags & flag::WAITED_EXECUTOR == 0 {
            // It has come in time, and has waited for room ever since.
            def.misfire().when_crowded()
        } else {
            def.misfire()
        };
        let plan = plan(&def.schedule, &bounds, &misfire, runs_left, slot.next, now.saturating_sub(jitter));
        slot.planned = plan.until.max(slot.planned);
        slot.next = NEVER;
        if let Some(missed) = plan.missed {
            self.skip_missed(task, missed, now);
        }
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags &= !flag::WAITED_EXECUTOR;
        }
        let mut admitted = 0;
        for scheduled in plan.run.into_iter().chain(plan.more) {
            let due = scheduled.saturating_add(jitter);
            let (_, is_in) = self.begin_caused(task, scheduled, due, RunOrigin::Schedule, by.clone(), now);
            admitted += u32::from(is_in);
        }
        let Some(slot) = self.table.get_mut(task) else { return };
        slot.fired = slot.fired.saturating_add(admitted);
        let is_done = def.max_runs > 0 && slot.fired >= def.max_runs;
        if is_done {
            // Nothing further is set.
        } else if def.schedule.waits_for_end() && plan.next == NEVER {
            if slot.active_count > 0 {
                slot.flags |= flag::AWAITS_END;
            } else {
                slot.next = def.schedule.next_after(&bounds, now).unwrap_or(NEVER);
            }
        } else {
            slot.next = plan.next;
        }
        self.arm(task);
        self.settle(task);
    }

    fn skip_missed(&mut self, task: u32, missed: Missed, now: Micros) {
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = &slot.def else { return };
        let cause = if slot.flags & flag::WAITS_AFTER != 0 {
            ": the tasks that it runs after had not run".to_owned()
        } else if slot.flags & flag::WAITED_EXECUTOR != 0 {
            format!(": executor `{}` was absent", self.executors.name_of(def.executor))
        } else if slot.created < self.begun && missed.from < self.begun {
            ": the host was down".to_owned()
        } else {
            String::new()
        };
        let times = if missed.times == 1 { String::new() } else { format!("{} ", missed.times_text()) };
        let reason = SkipKind::Misfire.because(format_args!("{times}could not be run in time{cause}"));
        self.skip(task, &Cause::of(RunOrigin::Schedule), missed.from, now, missed.times, reason);
    }

    /// Records times that had come before the task rested, and were waiting for something: they do not run.
    pub(super) fn skip_due_before(&mut self, task: u32, rested_from: Micros, now: Micros) {
        let Some(slot) = self.table.get(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        if slot.next >= rested_from || slot.next >= now || def.schedule.waits_for_end() {
            return;
        }
        let bounds = def.bounds(slot.anchor);
        if let Some(missed) = count_missed(&def.schedule, &bounds, slot.next, rested_from - 1) {
            self.skip_missed(task, missed, now);
        }
        if let Some(slot) = self.table.get_mut(task) {
            slot.flags &= !flag::WAITED_EXECUTOR;
        }
    }

    /// Begins a run that other runs have let go, with what they pass on to it.
    pub(super) fn begin_caused(
        &mut self,
        task: u32,
        scheduled: Micros,
        due: Micros,
        origin: RunOrigin,
        by: Option<Arc<Caused>>,
        now: Micros,
    ) -> (u64, bool) {
        let mut cause = Cause { by, ..Cause::of(origin) };
        if let Some(def) = self.table.get(task).and_then(|slot| slot.def.as_ref()) {
            cause.trace = def.run_trace();
        }
        if let Some(by) = &cause.by
            && let Some(def) = self.table.get(task).and_then(|slot| slot.def.as_ref())
        {
            match by.payload(def) {
                Ok(payload) => cause.payload = payload,
                Err(detail) => {
                    let reason = SkipKind::Dependency.because(detail);
                    return (self.skip(task, &cause, scheduled, now, 1, reason), false);
                }
            }
        }
        self.begin(task, scheduled, due, cause, now)
    }

    /// Begins a run: it is put in line, behind others of its task, or left out. Tells the number of its
    /// record, and whether it will be run.
    pub(super) fn begin(
        &mut self,
        task: u32,
        scheduled: Micros,
        due: Micros,
        cause: Cause,
        now: Micros,
    ) -> (u64, bool) {
        let Some(slot) = self.table.get_mut(task) else { return (0, false) };
        let Some(def) = slot.def.clone() else { return (0, false) };
        let queued = slot.side.as_ref().map_or(0, |side| side.queue.len());
        let incarnation = slot.created;
        let is_busy = slot.active_count > 0 || queued > 0;
        let overlap = def.overlap();
        let is_full = match overlap {
            _ if !is_busy => false,
            Overlap::CancelPrevious => false,
            Overlap::Allow => slot.active_count as usize >= self.allowed_max(&def),
            // A backfill goes on for long: what the schedule says is not left out for it, but waits.
            Overlap::Skip if Self::is_backfilling(slot) => queued >= 1,
            Overlap::Skip => {
                let reason = SkipKind::Overlap.because("the run before has not ended");
                return (self.skip(task, &cause, scheduled, now, 1, reason), false);
            }
            Overlap::QueueOne => queued >= 1,
            Overlap::QueueAll => queued >= self.config.max_queued_runs,
        };
        if is_full {
            let reason = SkipKind::Overlap.because("the queue is full");
            return (self.skip(task, &cause, scheduled, now, 1, reason), false);
        }
        let note = cause.note();
        let record = self.open_record(task, cause.origin, RunOutcome::Queued, scheduled, NEVER, 1, note);
        self.store_open(task, record, 1, NEVER, || cause.clone());
        let priority = def.priority;
        let ready = Ready { priority, task, incarnation, record, scheduled, due, attempts: 0, cause };
        if is_busy && overlap != Overlap::Allow {
            if overlap == Overlap::CancelPrevious {
                self.drop_queued(task, now, "replaced by a later run");
                self.cancel_active(task);
            }
            // Cancelling what only waited for its next attempt has ended it at once.
            if let Some(slot) = self.table.get_mut(task)
                && slot.active_count > 0
            {
                Self::side(slot).queue.push_back(ready);
                return (record, true);
            }
        }
        if let Some(slot) = self.table.get_mut(task) {
            slot.active_count += 1;
        }
        self.backlog.push(ready);
        (record, true)
    }

    /// How many runs of one task there may be, under way or in line, where each is allowed.
    pub(super) fn allowed_max(&self, def: &Def) -> usize {
        let at_once = def.group().map_or(usize::MAX, |group| group.limit as usize);
        at_once.min(self.config.max_concurrent_tasks).saturating_add(self.config.max_queued_runs)
    }

    /// Starts a run, unless something is missing still.
    fn launch(&mut self, ready: Ready, now: Micros, out: &mut Vec<Launch>) {
        let called_up = if self.called_up.is_empty() { None } else { self.called_up.remove(&ready.record) };
        self.launch_ready(ready, now, out);
        if let Some(group) = called_up {
            self.call_up(&group);
        }
    }

    fn launch_ready(&mut self, ready: Ready, now: Micros, out: &mut Vec<Launch>) {
        let still_queued =
            self.history.get(ready.record).is_some_and(|record| record.outcome == RunOutcome::Queued);
        let Some(slot) = self.table.get_mut(ready.task) else { return };
        if slot.created != ready.incarnation || !still_queued {
            return;
        }
        let Some(def) = slot.def.clone() else { return };
        let ready = match self.is_held(ready) {
            Ok(()) => return,
            Err(ready) => ready,
        };
        let Some(slot) = self.table.get_mut(ready.task) else { return };
        if slot.flags & flag::PAUSED != 0 && ready.cause.origin != RunOrigin::Trigger {
            // It has been paused since; the run waits for the end of that with others of the task.
            slot.active_count -= 1;
            if ready.cause.origin == RunOrigin::Backfill {
                Self::side(slot).rare_mut().is_backfilling = false;
            }
            let queue = &mut Self::side(slot).queue;
            let at = queue.partition_point(|other| other.record < ready.record);
            queue.insert(at, ready);
            return;
        }
        let Some(registration) = self.present.get(def.executor.0 as usize).and_then(Clone::clone) else {
            self.parked_count += 1;
            self.parked.entry(def.executor).or_default().push(ready);
            return;
        };
        if let Some(group) = def.group() {
            let state = match self.groups.get_mut(group.name.as_str()) {
                Some(state) => state,
                None => self.groups.entry(group.name.as_str().into()).or_default(),
            };
            state.limit = group.limit;
            if state.active >= group.limit {
                state.waiting.push(ready);
                return;
            }
            state.active += 1;
        }
        let task = ready.task;
        let record = ready.record;
        if ready.scheduled > now {
            // It had begun before a restart, and the clock has been set back since.
            let (at, rank, attempts) = (ready.scheduled, super::rank(def.priority), ready.attempts);
            let (run, _) = self.activate(ready, def, attempts, at);
            self.timer.insert(Entry { at, rank, kind: Kind::Attempt, index: run });
            if let Some(record) = self.history.get_mut(record) {
                record.outcome = RunOutcome::Retrying;
            }
            return;
        }
        let attempt = ready.attempts.saturating_add(1);
        let (run, cell) = self.activate(ready, def.clone(), attempt, NEVER);
        if let Some(record) = self.history.get_mut(record) {
            record.outcome = RunOutcome::Running;
            record.started = now;
        }
        self.settle(task);
        let timeout = def.timeout().unwrap_or(self.config.default_timeout);
        out.push(Launch { run, cell, registration, timeout });
    }

    /// Gives a run its place among those that are under way. It waits there if `retry_at` says so.
    pub(super) fn activate(
        &mut self,
        ready: Ready,
        def: Arc<Def>,
        attempt: u16,
        retry_at: Micros,
    ) -> (u32, Arc<RunCell>) {
        let cell = Arc::new(RunCell {
            id: self.run_id(ready.record),
            def,
            payload: ready.cause.payload,
            scheduled: ready.scheduled,
            attempt,
            origin: ready.cause.origin,
            by: ready.cause.by,
            trace: ready.cause.trace,
            cancel: CancelFlag::default(),
            polled_since: AtomicI64::new(0),
        });
        let first = self.table.get(ready.task).map_or(NONE, |slot| slot.active_first);
        let active = Active {
            cell: Arc::clone(&cell),
            task: ready.task,
            before: NONE,
            after: first,
            record: ready.record,
            due: ready.due,
            retry_at,
            attempt,
            told: false,
            told_stuck: false,
        };
        let run = match self.active_free.pop() {
            Some(run) => {
                if let Some(place) = self.active.get_mut(run as usize) {
                    *place = Some(active);
                }
                run
            }
            None => {
                self.active.push(Some(active));
                self.active.len() as u32 - 1
            }
        };
        if let Some(slot) = self.table.get_mut(ready.task) {
            slot.active_first = run;
        }
        if let Some(next) = self.active_run_mut(first) {
            next.before = run;
        }
        self.active_count += 1;
        (run, cell)
    }

    /// The time for a run's next attempt has come.
    fn attempt_again(&mut self, entry: Entry, now: Micros, out: &mut Vec<Launch>) {
        let Some(run) = self.active_run(entry.index).filter(|run| run.retry_at == entry.at) else { return };
        let def = Arc::clone(&run.cell.def);
        let Some(registration) = self.present.get(def.executor.0 as usize).and_then(Clone::clone) else {
            // It is looked at again when the executor comes back.
            self.waiting.entry(def.executor).or_default();
            self.retries_waiting.push(entry.index);
            return;
        };
        let Some(run) = self.active_run_mut(entry.index) else { return };
        run.attempt += 1;
        run.retry_at = NEVER;
        let cell = Arc::new(RunCell {
            id: run.cell.id,
            def: Arc::clone(&def),
            payload: run.cell.payload.clone(),
            scheduled: run.cell.scheduled,
            attempt: run.attempt,
            origin: run.cell.origin,
            by: run.cell.by.clone(),
            trace: run.cell.trace.clone(),
            cancel: CancelFlag::default(),
            polled_since: AtomicI64::new(0),
        });
        run.cell = Arc::clone(&cell);
        let (record, attempt) = (run.record, run.attempt);
        if let Some(record) = self.history.get_mut(record) {
            record.outcome = RunOutcome::Running;
            record.attempt = attempt;
        }
        self.stats.retried += 1;
        let _ = now;
        let timeout = def.timeout().unwrap_or(self.config.default_timeout);
        out.push(Launch { run: entry.index, cell, registration, timeout });
    }

    /// Gives a run back that could not be started, since its executor has just been withdrawn.
    pub(crate) fn give_back(&mut self, run: u32, now: Micros) {
        let Some(active) = self.active_run_mut(run) else { return };
        if active.cell.cancel.is_set() {
            // The next attempt would have a flag of its own, and know nothing of that.
            self.end(run, Ended::Canceled("canceled".into()), None, now);
            return;
        }
        // It stands in line for its next attempt at once; an absent executor makes it wait there.
        active.retry_at = now;
        active.attempt = active.attempt.saturating_sub(1);
        let rank = super::rank(active.cell.def.priority);
        self.timer.insert(Entry { at: now, rank, kind: Kind::Attempt, index: run });
    }

    /// Looks at the executors again if any has come or gone, and lets go what waited for one.
    pub(crate) fn refresh_executors(&mut self, now: Micros) {
        if self.executors.generation() == self.generation {
            return;
        }
        let (generation, present) = self.executors.snapshot();
        self.generation = generation;
        self.gone.extend(std::mem::replace(&mut self.present, present));
        let is_there = |present: &[Option<_>], key: crate::executor::ExecutorKey| {
            present.get(key.0 as usize).is_some_and(Option::is_some)
        };
        let back: Vec<_> = self.waiting.keys().copied().filter(|key| is_there(&self.present, *key)).collect();
        for key in back {
            for task in self.waiting.remove(&key).unwrap_or_default() {
                if let Some(slot) = self.table.get_mut(task)
                    && slot.flags & flag::WAITS_EXECUTOR != 0
                {
                    slot.flags &= !flag::WAITS_EXECUTOR;
                    self.arm(task);
                }
            }
        }
        let back: Vec<_> = self.parked.keys().copied().filter(|key| is_there(&self.present, *key)).collect();
        for key in back {
            let ready = self.parked.remove(&key).unwrap_or_default();
            self.parked_count -= ready.len();
            self.backlog.extend(ready);
        }
        for run in std::mem::take(&mut self.retries_waiting) {
            if let Some(active) = self.active_run_mut(run)
                && active.retry_at != NEVER
            {
                let rank = super::rank(active.cell.def.priority);
                let at = active.retry_at;
                self.timer.insert(Entry { at, rank, kind: Kind::Attempt, index: run });
            }
        }
        let _ = now;
    }

    /// Notes when a run that has not ended at its first poll did start, and tells it.
    pub(crate) fn started(&mut self, run: u32, at: Micros) {
        let tells = self.tells;
        let Some(active) = self.active_run_mut(run) else { return };
        let is_first = !active.told;
        active.told = true;
        let (task, record, due) = (active.task, active.record, active.due);
        let (attempt, origin, scheduled) = (active.attempt, active.cell.origin, active.cell.scheduled);
        if !is_first {
            return;
        }
        self.stats.start(at.saturating_sub(due), at);
        if let Some(record) = self.history.get_mut(record) {
            record.started = at;
        }
        if let Some(slot) = self.table.get_mut(task) {
            slot.last_run = at;
        }
        if tells {
            self.tell_run(task, NoticeKind::Started, record, scheduled, at, attempt, origin, None);
        }
    }
}
