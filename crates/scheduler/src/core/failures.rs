//! What failures in a row mean for a task: its scheduled runs move apart, and in the end it is paused.

use super::{Cause, Core, flag};
use crate::history::SkipKind;
use crate::notice::NoticeKind;
use crate::planner::count_missed;
use crate::schedule::{Micros, NEVER, span_micros};
use crate::spec::FailureBackoff;
use crate::view::RunOrigin;

impl Core {
    /// Pauses the task if as many runs in a row have failed as it allows.
    pub(super) fn pause_failing(&mut self, task: u32, at: Micros) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(limit) = slot.def.as_ref().and_then(|def| def.pause_after_failures()) else { return };
        let side = slot.side.get_or_insert_default();
        if side.failures < limit || slot.flags & (flag::PAUSED | flag::CANCELED) != 0 {
            return;
        }
        let reason = in_a_row(side.failures);
        slot.flags |= flag::PAUSED;
        side.rare_mut().rest(at, reason.clone());
        self.stats.paused_for_failures += 1;
        self.tell_task(task, NoticeKind::Paused, at, Some(reason.into()));
    }

    /// Moves the task's next time back after a failure, as far as its definition says.
    pub(super) fn back_off(&mut self, task: u32, at: Micros) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        let Some(backoff) = def.failure_backoff() else { return };
        // What is due and waits for something else already is not moved.
        if slot.next == NEVER || slot.flags & (flag::WAITS_EXECUTOR | flag::WAITS_AFTER) != 0 {
            return;
        }
        let bounds = def.bounds(slot.anchor);
        let side = slot.side.get_or_insert_default();
        let until = at.saturating_add(delay(backoff, side.failures));
        if slot.next >= until {
            return;
        }
        let rare = side.rare_mut();
        rare.backoff_until = until;
        if def.schedule.waits_for_end() {
            slot.next = until;
        } else {
            rare.backoff_from = rare.backoff_from.min(slot.next);
            slot.next = def.schedule.next_after(&bounds, until - 1).unwrap_or(NEVER);
        }
        self.arm(task);
    }

    /// Records the times that a back-off has left out, which is over: the task's next time has come.
    pub(super) fn backed_off(&mut self, task: u32, now: Micros) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let next = slot.next;
        let Some(side) = slot.side.as_mut() else { return };
        let failures = side.failures;
        let Some(rare) = side.rare.as_deref_mut() else { return };
        if rare.backoff_until == NEVER {
            return;
        }
        let from = std::mem::replace(&mut rare.backoff_from, NEVER);
        rare.backoff_until = NEVER;
        let Some(def) = slot.def.clone() else { return };
        if from == NEVER || from >= next {
            return;
        }
        let bounds = def.bounds(slot.anchor);
        if let Some(missed) = count_missed(&def.schedule, &bounds, from, next.min(now.saturating_add(1)) - 1)
        {
            let cause = Cause::of(RunOrigin::Schedule);
            let detail = format!("{} left out after {}", missed.times_text(), in_a_row(failures));
            self.skip(task, &cause, missed.from, now, missed.times, SkipKind::Backoff.because(detail));
        }
    }

    /// Ends a back-off before its time: the next time is what the schedule says.
    pub(super) fn end_backoff(&mut self, task: u32, now: Micros) {
        let is_on = self
            .table
            .get(task)
            .and_then(|slot| slot.side.as_ref()?.rare.as_ref())
            .is_some_and(|rare| rare.backoff_until != NEVER);
        if !is_on {
            return;
        }
        self.backed_off(task, now);
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        if slot.next > now && !def.schedule.waits_for_end() {
            let bounds = def.bounds(slot.anchor);
            slot.next = def.schedule.next_after(&bounds, now.max(slot.planned)).unwrap_or(NEVER);
            self.arm(task);
        }
    }
}

fn in_a_row(failures: u32) -> String {
    if failures == 1 { "a failure".to_owned() } else { format!("{failures} failures in a row") }
}

/// How long no scheduled run starts after so many failures in a row.
fn delay(backoff: &FailureBackoff, failures: u32) -> Micros {
    let steps = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = backoff.delay.0.as_secs_f64() * backoff.factor.powi(steps);
    let delay = grown.min(backoff.max_delay.0.as_secs_f64());
    span_micros(std::time::Duration::try_from_secs_f64(delay).unwrap_or(backoff.max_delay.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_their_bound() {
        let backoff: FailureBackoff =
            serde_json::from_str(r#"{"delay": "10s", "factor": 3, "max_delay": "1m"}"#).unwrap();
        let delays: Vec<_> = [1, 2, 3, u32::MAX].map(|failures| delay(&backoff, failures) / 1_000_000).into();
        assert_eq!(delays, [10, 30, 60, 60]);
    }
}
