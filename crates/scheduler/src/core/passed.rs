//! Where a schedule begins, and up to where its times have passed.

use super::Slot;
use crate::def::Def;
use crate::schedule::{Micros, NEVER, Schedule};

/// Up to where times have passed while the task rested, if any has: they were meant to pass. A one-off task
/// is run late instead.
pub(super) fn passed_at_rest(slot: &Slot, def: &Def, now: Micros) -> Option<Micros> {
    let has_passed = slot.next != NEVER && slot.next < now && !def.schedule.is_once();
    has_passed.then(|| slot.planned.max(now - 1))
}

/// Up to where times have passed by `now` for a task that was over, and is given its schedule again.
pub(super) fn passed_while_over(slot: &Slot, def: &Def, now: Micros) -> Micros {
    let bounds = def.bounds(slot.anchor);
    if def.schedule.is_once() {
        // Only what has passed: a time to come is still to be run.
        let passed = def.schedule.latest_until(&bounds, Micros::MIN, now).unwrap_or(Micros::MIN);
        slot.planned.max(passed)
    } else {
        slot.planned.max(now)
    }
}

/// After which time the first one of a schedule comes that is given at `now`. An expression's present second
/// has begun already; a delay of nothing means now.
pub(super) fn given_at(schedule: &Schedule, now: Micros) -> Micros {
    if matches!(schedule.whole(), Schedule::Cron(_)) { now } else { now - 1 }
}

/// The first time of a new schedule. A one-off time may lie a little in the past, and is due at once then.
pub(super) fn first_time(def: &Def, now: Micros) -> Micros {
    if let Schedule::OnceAt(at) = def.schedule {
        return at.max(def.bounds(now).start);
    }
    def.schedule.next_after(&def.bounds(now), given_at(&def.schedule, now)).unwrap_or(NEVER)
}
