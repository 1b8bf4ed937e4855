//! How runs end.

use std::sync::Arc;

use super::{Active, Cause, Core, NONE, Ready, flag};
use crate::history::Note;
use crate::notice::{Notice, NoticeKind};
use crate::schedule::{Micros, NEVER, span_micros};
use crate::spec::Retry;
use crate::timer::{Entry, Kind};
use crate::upstream::UpstreamRun;
use crate::view::{RunOrigin, RunOutcome};

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It ended well.
    Completed(Output),
    Failed {
        error: Box<str>,
        is_permanent: bool,
    },
    Canceled(Box<str>),
}

/// What a run gave back.
#[derive(Debug)]
pub(crate) enum Output {
    None,
    /// As JSON.
    Json(Box<str>),
    /// More than is kept.
    TooLarge,
}

impl Core {
    /// An attempt has ended. Times are when it was first polled and when it was over.
    pub(crate) fn finish(&mut self, run: u32, ended: Ended, started: Micros, at: Micros) {
        let Some(active) = self.active_run(run) else { return };
        let is_told = active.told;
        if let Ended::Failed { error, is_permanent: false } = &ended
            && active.task != NONE
            && !active.cell.cancel.is_canceled()
            && let Some(wait) = next_wait(active.cell.def.retry(), active.attempt)
        {
            if !is_told {
                self.started(run, started);
            }
            let error = error.clone();
            self.retry_later(run, &error, wait, at);
            return;
        }
        self.end(run, ended, (!is_told).then_some(started), at);
    }

    fn retry_later(&mut self, run: u32, error: &str, wait: Micros, at: Micros) {
        let Some(active) = self.active_run_mut(run) else { return };
        active.retry_at = at.saturating_add(wait);
        let entry = Entry {
            at: active.retry_at,
            rank: super::rank(active.cell.def.priority),
            kind: Kind::Attempt,
            index: run,
        };
        let (task, record, attempt) = (active.task, active.record, active.attempt);
        let (origin, scheduled) = (active.cell.origin, active.cell.scheduled);
        let (cell, retry_at) = (std::sync::Arc::clone(&active.cell), active.retry_at);
        self.timer.insert(entry);
        self.store_open(task, record, attempt, retry_at, || Cause {
            origin,
            payload: cell.payload.clone(),
            by: cell.by.clone(),
            trace: cell.trace.clone(),
        });
        if let Some(record) = self.history.get_mut(record) {
            record.outcome = RunOutcome::Retrying;
            let note = record.note.get_or_insert_default();
            note.error = Some(error.into());
        }
        let error = Some(error.into());
        self.tell_run(task, NoticeKind::Retrying, record, scheduled, at, attempt, origin, error);
    }

    /// A run is over. `started` is given if its start has not been told yet.
    pub(super) fn end(&mut self, run: u32, ended: Ended, started: Option<Micros>, at: Micros) {
        let Some(active) = self.active.get_mut(run as usize).and_then(Option::take) else { return };
        self.active_free.push(run);
        self.active_count -= 1;
        self.unlink(&active);
        self.leave_group(&active);
        if let Some(started) = started {
            self.stats.start(started.saturating_sub(active.due), started);
        }
        let (outcome, kind, error, output) = match ended {
            Ended::Completed(output) => (RunOutcome::Completed, NoticeKind::Completed, None, output),
            Ended::Failed { error, .. } => {
                (RunOutcome::Failed, NoticeKind::Failed, Some(error), Output::None)
            }
            Ended::Canceled(reason) => {
                (RunOutcome::Canceled, NoticeKind::Canceled, Some(reason), Output::None)
            }
        };
        let result = self.result_for_dependents(&active, outcome, error.as_deref(), &output);
        match outcome {
            RunOutcome::Completed => self.stats.completed += 1,
            RunOutcome::Failed => self.stats.failed += 1,
            _ => self.stats.canceled += 1,
        }
        if let Some(record) = self.history.get_mut(active.record) {
            record.outcome = outcome;
            record.ended = at;
            record.attempt = active.attempt;
            if let Some(started) = started {
                record.started = started;
            }
            let span = at.saturating_sub(record.started);
            self.stats.end(active.cell.def.executor, span, outcome == RunOutcome::Failed);
            let output = match output {
                Output::None => None,
                Output::Json(text) => Some(text),
                Output::TooLarge => Some(r#""(left out: more than 4 KiB)""#.into()),
            };
            let (caused, trace) =
                record.note.take().map(|note| (note.caused, note.trace)).unwrap_or_default();
            if error.is_some() || output.is_some() || caused.is_some() || trace.is_some() {
                record.note =
                    Some(Box::new(Note { error: error.clone(), output, caused, trace, ..Note::default() }));
            }
        }
        if self.tells {
            self.notices.push_back(Notice {
                def: Arc::clone(&active.cell.def),
                kind,
                run: Some(active.cell.id),
                scheduled: active.cell.scheduled,
                at,
                started: started.unwrap_or(NEVER),
                attempt: active.attempt,
                origin: active.cell.origin,
                text: error.clone(),
                trace: active.cell.trace.as_deref().map(|trace| Box::new(trace.trace_id())),
            });
        }
        if active.task != NONE {
            self.after_end(active.task, (outcome, active.cell.origin), error, started, at);
            if let Some(result) = result {
                self.tell_dependents(active.task, &result, at);
            }
            self.store_run(active.task, active.record);
        }
    }

    /// What the end of a run means for its task.
    fn after_end(
        &mut self,
        task: u32,
        (outcome, origin): (RunOutcome, RunOrigin),
        error: Option<Box<str>>,
        started: Option<Micros>,
        at: Micros,
    ) {
        let Some(slot) = self.table.get_mut(task) else { return };
        slot.active_count -= 1;
        if origin == RunOrigin::Backfill
            && let Some(rare) = slot.side.as_mut().and_then(|side| side.rare.as_deref_mut())
        {
            rare.is_backfilling = false;
        }
        if let Some(started) = started {
            slot.last_run = started;
        }
        match outcome {
            RunOutcome::Completed => {
                slot.run_count += 1;
                slot.flags &= !flag::LAST_FAILED;
                if let Some(side) = &mut slot.side {
                    side.last_error = None;
                    side.failures = 0;
                    self.end_backoff(task, at);
                }
            }
            RunOutcome::Failed => {
                slot.run_count += 1;
                slot.failure_count = slot.failure_count.saturating_add(1);
                slot.flags |= flag::LAST_FAILED;
                let side = Self::side(slot);
                side.last_error = error;
                side.failures = side.failures.saturating_add(1);
                self.pause_failing(task, at);
            }
            _ => {}
        }
        self.start_queued(task);
        let Some(slot) = self.table.get_mut(task) else { return };
        if slot.flags & flag::AWAITS_END != 0 && slot.active_count == 0 {
            slot.flags &= !flag::AWAITS_END;
            if let Some(def) = slot.def.clone() {
                let bounds = def.bounds(slot.anchor);
                slot.next = def.schedule.next_after(&bounds, at).unwrap_or(NEVER);
                self.arm(task);
            }
        }
        if outcome == RunOutcome::Failed {
            self.back_off(task, at);
        }
        self.settle(task);
    }

    /// What those that run after the run's task are told, if there are any.
    fn result_for_dependents(
        &self,
        active: &Active,
        outcome: RunOutcome,
        error: Option<&str>,
        output: &Output,
    ) -> Option<Arc<UpstreamRun>> {
        let slot = self.table.get(active.task)?;
        if slot.flags & flag::HAS_DEPENDENTS == 0 {
            return None;
        }
        let cell = &active.cell;
        Some(Arc::new(UpstreamRun {
            task: cell.def.id.to_string(),
            run: cell.id,
            chain: cell.chain(),
            outcome,
            error: error.map(str::to_owned),
            output_json: match output {
                Output::Json(text) => Some(text.to_string()),
                Output::None | Output::TooLarge => None,
            },
            output_too_large: matches!(output, Output::TooLarge),
        }))
    }

    /// Lets the next run of a task go that waited for the one before.
    pub(super) fn start_queued(&mut self, task: u32) {
        let Some(slot) = self.table.get_mut(task) else { return };
        if slot.active_count > 0 || slot.flags & flag::AT_REST != 0 {
            return;
        }
        if slot.side.as_ref().is_some_and(|side| side.queue.is_empty()) {
            self.start_backfill(task);
            return;
        }
        if let Some(ready) = slot.side.as_mut().and_then(|side| side.queue.pop_front()) {
            slot.active_count += 1;
            self.backlog.push(ready);
        }
    }

    fn unlink(&mut self, active: &Active) {
        match self.active_run_mut(active.before) {
            Some(before) => before.after = active.after,
            None => {
                if let Some(slot) = self.table.get_mut(active.task) {
                    slot.active_first = active.after;
                }
            }
        }
        if let Some(after) = self.active_run_mut(active.after) {
            after.before = active.before;
        }
    }

    fn leave_group(&mut self, active: &Active) {
        let Some(group) = active.cell.def.group() else { return };
        let Some(state) = self.groups.get_mut(group.name.as_str()) else { return };
        state.active -= 1;
        self.call_up(&group.name);
    }

    /// Lets the next run that waits for a place in the group into the line, if there is a place.
    pub(super) fn call_up(&mut self, group: &str) {
        let Some(state) = self.groups.get_mut(group) else { return };
        if state.active < state.limit
            && let Some(ready) = state.waiting.pop()
        {
            self.called_up.insert(ready.record, group.into());
            self.backlog.push(ready);
        } else if state.active == 0 && state.waiting.is_empty() {
            self.groups.remove(group);
        }
    }

    /// Asks every run of the task that is under way to end; those that wait for an attempt end at once.
    /// Their ends come through [`Core::finish`].
    pub(super) fn cancel_active(&mut self, task: u32) {
        let mut next = self.table.get(task).map_or(NONE, |slot| slot.active_first);
        let mut resting = Vec::new();
        while let Some(active) = self.active_run(next) {
            active.cell.cancel.cancel();
            if active.retry_at != NEVER {
                resting.push((next, active.retry_at));
            }
            next = active.after;
        }
        for (run, _) in resting {
            let at = self.last_seen;
            self.end(run, Ended::Canceled("canceled".into()), None, at);
        }
    }

    /// Closes the records of the task's runs that have not started.
    pub(super) fn drop_queued(&mut self, task: u32, now: Micros, reason: &str) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let queue: Vec<Ready> =
            slot.side.as_mut().map(|side| side.queue.drain(..).collect()).unwrap_or_default();
        for ready in queue {
            self.close_queued(task, ready.record, now, reason);
        }
    }

    pub(super) fn close_queued(&mut self, task: u32, record: u64, now: Micros, reason: &str) {
        let Some(entry) = self.history.get_mut(record) else { return };
        if entry.outcome != RunOutcome::Queued {
            return;
        }
        entry.outcome = RunOutcome::Canceled;
        entry.ended = now;
        entry.note.get_or_insert_default().error = Some(reason.into());
        let (origin, scheduled) = (entry.origin, entry.scheduled);
        self.stats.canceled += 1;
        self.store_run(task, record);
        self.tell_run(task, NoticeKind::Canceled, record, scheduled, now, 0, origin, Some(reason.into()));
    }
}

/// How long to wait before the attempt after `attempt`, if there is to be one.
fn next_wait(retry: Option<&Retry>, attempt: u16) -> Option<Micros> {
    let retry = retry?;
    if u32::from(attempt) >= retry.attempts {
        return None;
    }
    let grown = retry.backoff.0.as_secs_f64() * retry.factor.powi(i32::from(attempt) - 1);
    let wait = grown.min(retry.max_backoff.0.as_secs_f64());
    Some(span_micros(std::time::Duration::try_from_secs_f64(wait).unwrap_or(retry.max_backoff.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_their_bound() {
        let retry: Retry =
            serde_json::from_str(r#"{"attempts": 5, "backoff": "1s", "factor": 3, "max_backoff": "5s"}"#)
                .unwrap();
        let waits: Vec<_> = (1..=5).map(|attempt| next_wait(Some(&retry), attempt)).collect();
        assert_eq!(waits, [Some(1_000_000), Some(3_000_000), Some(5_000_000), Some(5_000_000), None]);
        assert_eq!(next_wait(None, 1), None);
    }
}
