//! What became of a time of a task, from its records, its state and its schedule.

use super::query::RunSnapshot;
use super::{Core, Slot, flag};
use crate::def::Def;
use crate::history::Record;
use crate::schedule::{Micros, NEVER, Schedule, timestamp};
use crate::view::{RunOrigin, RunOutcome};
use crate::why::WhyAnswer;

/// An answer, before it is made into one for people.
#[derive(Debug)]
pub(crate) struct WhySnapshot {
    pub(crate) answer: WhyAnswer,
    pub(crate) detail: String,
    pub(crate) run: Option<RunSnapshot>,
    pub(crate) previous: Option<Micros>,
    pub(crate) next: Option<Micros>,
}

type Answer = (WhyAnswer, String);

impl Core {
    /// What became of the first time in `[at, until)`.
    pub(crate) fn why(&self, task: u32, at: Micros, until: Micros, now: Micros) -> Option<WhySnapshot> {
        let slot = self.table.get(task)?;
        let def = slot.def.as_deref()?;
        let bounds = def.bounds(slot.anchor);
        let (previous, next) = if def.schedule.waits_for_end() {
            (None, None)
        } else {
            (
                def.schedule.latest_until(&bounds, Micros::MIN, at - 1),
                def.schedule.next_after(&bounds, until - 1),
            )
        };
        let record = self.record_of(slot, at, until, now);
        let (answer, detail) = match record {
            Some((number, record)) => self.fate(slot, def, number, record),
            None => self.why_no_record(slot, def, at, until, now),
        };
        let run = record.and_then(|(number, _)| self.run_snapshot(number));
        Some(WhySnapshot { answer, detail, run, previous, next })
    }

    /// The record of the time: of the schedule rather than of a trigger, of a run rather than of a skip.
    fn record_of(&self, slot: &Slot, at: Micros, until: Micros, now: Micros) -> Option<(u64, &Record)> {
        self.history
            .visible(slot.last_record, now)
            .filter(|(_, record)| (at..until).contains(&record.scheduled))
            .max_by_key(|(number, record)| {
                let is_own = record.origin != RunOrigin::Trigger;
                (is_own, record.outcome != RunOutcome::Skipped, record.started != NEVER, *number)
            })
    }

    fn fate(&self, slot: &Slot, def: &Def, number: u64, record: &Record) -> Answer {
        let note = record.note.as_deref();
        let reason = |text: Option<&Box<str>>| text.map(|text| format!(": {text}")).unwrap_or_default();
        match record.outcome {
            RunOutcome::Skipped => {
                let reason = note.and_then(|note| note.skip_reason.as_deref()).unwrap_or("skipped");
                (WhyAnswer::Skipped, reason.to_owned())
            }
            RunOutcome::Queued => self.why_queued(slot, def, number),
            RunOutcome::Running | RunOutcome::Retrying => {
                (WhyAnswer::Ran, format!("it started at {} and has not ended", timestamp(record.started)))
            }
            outcome => {
                let error = reason(note.and_then(|note| note.error.as_ref()));
                (
                    WhyAnswer::Ran,
                    format!("it ended as {} at {}{error}", outcome.as_str(), timestamp(record.ended)),
                )
            }
        }
    }

    fn why_queued(&self, slot: &Slot, def: &Def, number: u64) -> Answer {
        let queue = slot.side.as_ref().map(|side| &side.queue);
        if queue.is_some_and(|queue| queue.iter().any(|ready| ready.record == number)) {
            let detail = if slot.flags & flag::AT_REST == 0 {
                "it waits for the run before it to end"
            } else {
                "it was in line when the task was paused, and goes on when it is resumed"
            };
            return (WhyAnswer::Queued, detail.to_owned());
        }
        if let Some(parked) = self.parked.get(&def.executor)
            && parked.iter().any(|ready| ready.record == number)
        {
            return self.executor_absent(def);
        }
        if let Some(group) = def.group()
            && let Some(state) = self.groups.get(group.name.as_str())
            && state.waiting.iter().any(|ready| ready.record == number)
        {
            let detail = format!("it waits for a place in the group `{}`, of {}", group.name, group.limit);
            return (WhyAnswer::Queued, detail);
        }
        (WhyAnswer::Queued, self.line_text())
    }

    fn line_text(&self) -> String {
        format!(
            "it is in line: {} of {} runs are under way",
            self.active_count, self.config.max_concurrent_tasks
        )
    }

    fn executor_absent(&self, def: &Def) -> Answer {
        let executor = self.executors.name_of(def.executor);
        (WhyAnswer::ExecutorAbsent, format!("executor `{executor}` is not registered"))
    }

    fn why_no_record(&self, slot: &Slot, def: &Def, at: Micros, until: Micros, now: Micros) -> Answer {
        let is_dependent = matches!(def.schedule, Schedule::Dependent);
        if until <= slot.created {
            let detail = format!("the task was created at {}", timestamp(slot.created));
            return (WhyAnswer::NotCreated, detail);
        }
        if is_dependent {
            return self.why_not_released(slot, def, at, now);
        }
        if let Schedule::Unusable(_) = def.schedule {
            let reason = slot.side.as_ref().and_then(|side| side.rare.as_deref()?.resting());
            let detail = reason.unwrap_or("its schedule cannot be used");
            return (WhyAnswer::Paused, detail.to_owned());
        }
        let Some(time) = self.time_of(slot, def, at, until) else {
            if until <= slot.anchor {
                let detail = format!("the schedule was given at {}", timestamp(slot.anchor));
                return (WhyAnswer::Redefined, detail);
            }
            let bounds = def.bounds(slot.anchor);
            let left_out_by = def.schedule.excluded().and_then(|days| {
                let time = def.schedule.whole().next_after(&bounds, at - 1)?;
                if time < until { days.named(time) } else { None }
            });
            let detail = match left_out_by {
                Some(entry) => format!("its day is one that `exclude` leaves out, {entry}"),
                None => "the schedule does not have this time".to_owned(),
            };
            return (WhyAnswer::NotScheduled, detail);
        };
        if let Some(rare) = slot.side.as_ref().and_then(|side| side.rare.as_deref()) {
            if rare.backfill.contains(&time) {
                return (WhyAnswer::Queued, "it is in line with others of a backfill".to_owned());
            }
            let rest = rare.rests.iter().rev().find(|rest| rest.from <= time && time < rest.until);
            if let Some(rest) = rest {
                let until = match rest.until {
                    NEVER => String::new(),
                    until => format!(" until {}", timestamp(until)),
                };
                let detail = format!("paused since {}{until}: {}", timestamp(rest.from), rest.reason);
                return (WhyAnswer::Paused, detail);
            }
            if rare.backoff_from <= time && time < slot.next {
                let until = timestamp(rare.backoff_until);
                return (WhyAnswer::BackedOff, format!("runs have failed: none is started before {until}"));
            }
        }
        let is_done = def.max_runs > 0 && slot.fired >= def.max_runs && time > slot.planned;
        if is_done {
            return (WhyAnswer::Done, format!("it had run {} times, which is all it should", def.max_runs));
        }
        if time.saturating_add(def.jitter()) > now {
            let due = time.saturating_add(def.jitter());
            return (WhyAnswer::NotYet, format!("it is due at {}", timestamp(due)));
        }
        if slot.next != NEVER && time >= slot.next {
            return self.why_due(slot, def, now);
        }
        self.why_past(slot, time, now)
    }

    /// Why what has come due has not begun.
    fn why_due(&self, slot: &Slot, def: &Def, now: Micros) -> Answer {
        if slot.flags & flag::WAITS_EXECUTOR != 0 {
            return self.executor_absent(def);
        }
        if slot.flags & flag::WAITS_AFTER != 0 {
            return self.why_not_released(slot, def, now, now);
        }
        if !self.running {
            return (WhyAnswer::HostDown, "the scheduler is stopped".to_owned());
        }
        (WhyAnswer::Due, self.line_text())
    }

    /// Why a time that lies behind has no record of its own.
    fn why_past(&self, slot: &Slot, time: Micros, now: Micros) -> Answer {
        // Times that were missed together have one record, from the first of them to when it was written.
        let together = self.history.visible(slot.last_record, now).find(|(_, record)| {
            record.outcome == RunOutcome::Skipped
                && record.times > 1
                && (record.scheduled..record.ended).contains(&time)
        });
        if let Some((_, record)) = together {
            let reason = record.note.as_ref().and_then(|note| note.skip_reason.as_deref());
            return (WhyAnswer::Skipped, reason.unwrap_or("skipped").to_owned());
        }
        if time <= slot.planned {
            let detail = "it has been dealt with, and its record is not kept any more";
            return (WhyAnswer::NotKept, detail.to_owned());
        }
        if slot.created < self.begun && time < self.begun {
            return (WhyAnswer::HostDown, format!("the scheduler began at {}", timestamp(self.begun)));
        }
        if time < slot.updated {
            let detail = format!("the definition was changed at {}", timestamp(slot.updated));
            return (WhyAnswer::Redefined, detail);
        }
        (WhyAnswer::Unknown, "there is no record of it".to_owned())
    }

    fn why_not_released(&self, slot: &Slot, def: &Def, at: Micros, now: Micros) -> Answer {
        let rare = slot.side.as_ref().and_then(|side| side.rare.as_deref());
        if let Some(rest) =
            rare.and_then(|rare| rare.rests.iter().rev().find(|rest| rest.from <= at && at < rest.until))
        {
            return (WhyAnswer::Paused, format!("paused since {}: {}", timestamp(rest.from), rest.reason));
        }
        let is_met = |edge: usize| {
            rare.is_some_and(|rare| rare.upstream.iter().any(|(met, _)| usize::from(*met) == edge))
        };
        let waited: Vec<_> = def
            .after()
            .iter()
            .enumerate()
            .filter(|(edge, _)| !is_met(*edge))
            .map(|(_, edge)| format!("`{}` ({})", edge.task, edge.on.as_str()))
            .collect();
        if at > now {
            return (
                WhyAnswer::NotYet,
                format!("it runs after other tasks, and waits for {}", waited.join(", ")),
            );
        }
        (WhyAnswer::WaitsForTasks, format!("it runs after other tasks, and waits for {}", waited.join(", ")))
    }

    /// The schedule's first time in `[at, until)`.
    fn time_of(&self, slot: &Slot, def: &Def, at: Micros, until: Micros) -> Option<Micros> {
        let time = if def.schedule.waits_for_end() {
            // Only the next one is known: the others depended on when runs ended.
            (slot.next != NEVER).then_some(slot.next)
        } else {
            def.schedule.next_after(&def.bounds(slot.anchor), at - 1)
        };
        time.filter(|time| (at..until).contains(time))
    }
}
