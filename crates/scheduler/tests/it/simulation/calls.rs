//! What callers do to tasks, and what the model makes of it.

use scheduler::{RunOrigin, TaskError};

use super::model::{Grid, Task, Wanted, text};
use super::observer::{Gate, lock};
use super::{Life, TASKS_MAX, World};

impl World {
    pub(super) async fn create(&mut self, life: &Life) {
        if self.tasks.len() >= TASKS_MAX {
            return;
        }
        // A name may be used again, for another task.
        self.born += 1;
        let id = format!("task-{}", self.born % 12);
        if self.tasks.contains_key(&id) {
            return;
        }
        let now = life.wall();
        let wanted = Wanted::random(&mut self.rng, now);
        self.note(format!("{} create {}", text(now), wanted.body(&id)));
        {
            let mut observed = lock(&life.observed);
            observed.forget(&id);
            observed.gates.insert(id.clone(), Gate::Open);
            observed.rules.insert(id.clone(), wanted.rules.clone());
        }
        self.lost.remove(&id);
        let spec = serde_json::from_value(wanted.body(&id)).unwrap();
        let view = life.scheduler.create(spec).await.unwrap();
        // The first time of an interval without a delay is the time of its creation itself.
        let from = if matches!(wanted.grid, Grid::Seconds(_)) { now } else { now - 1 };
        let task = Task {
            wanted,
            incarnation: view.incarnation,
            paused: false,
            canceled: false,
            from,
            seen: now - 1,
            void: Vec::new(),
            dead: Vec::new(),
            rests_since: 0,
            is_loose: false,
            triggered: 0,
        };
        self.tasks.insert(id, task);
    }

    pub(super) async fn control(&mut self, life: &Life) {
        let Some(id) = self.pick() else { return };
        let before = life.wall();
        match self.rng.u8(..10) {
            0..4 => {
                let answer = life.scheduler.pause(&id).await;
                self.note(format!("{} pause {id}: {}", text(before), said(&answer)));
                if expected(answer) {
                    let latest = self.latest.max(life.wall());
                    self.task(&id).rests(latest);
                    self.task(&id).paused = true;
                    life.gate(&id, Gate::Paused);
                }
            }
            4..8 => {
                life.gate(&id, Gate::Open);
                let answer = life.scheduler.resume(&id).await;
                self.note(format!("{} resume {id}: {}", text(before), said(&answer)));
                if expected(answer) {
                    let after = life.wall();
                    self.task(&id).resumed(before, after);
                } else {
                    let task = self.task(&id);
                    let gate = if task.canceled { Gate::Closed } else { Gate::Open };
                    life.gate(&id, gate);
                }
            }
            8 => {
                let answer = life.scheduler.cancel(&id).await;
                self.note(format!("{} cancel {id}: {}", text(before), said(&answer)));
                if expected(answer) {
                    let latest = self.latest.max(life.wall());
                    self.task(&id).rests(latest);
                    self.task(&id).canceled = true;
                    life.gate(&id, Gate::Closed);
                    life.settle().await;
                    assert_eq!(lock(&life.observed).executing(&id), 0, "{id} runs after its cancel");
                }
            }
            _ => {
                self.note(format!("{} remove {id}", text(before)));
                life.settle().await;
                let records = life.records(&id).await;
                self.check_task(&id, &records);
                life.scheduler.remove(&id, None).await.unwrap();
                life.gate(&id, Gate::Closed);
                self.tasks.remove(&id);
                life.settle().await;
                assert_eq!(lock(&life.observed).executing(&id), 0, "{id} runs after its removal");
            }
        }
    }

    pub(super) async fn replace(&mut self, life: &Life) {
        let Some(id) = self.pick() else { return };
        life.settle().await;
        let before = life.wall();
        let old = self.tasks[&id].wanted.clone();
        let mut new = if self.rng.bool() {
            old.with_other_policies(&mut self.rng)
        } else {
            Wanted::random(&mut self.rng, before)
        };
        let is_same = new.schedule == old.schedule;
        if is_same {
            new.grid = old.grid.clone();
        }
        self.note(format!("{} replace {}", text(before), new.body(&id)));
        let records = life.records(&id).await;
        if !is_same {
            // The old schedule ends here: what it owed is looked at now.
            self.check_task(&id, &records);
        }
        // Runs under way go on as they began, and those in line begin by the new rules.
        lock(&life.observed).rules.remove(&id);
        life.gate(&id, if self.tasks[&id].paused { Gate::Paused } else { Gate::Open });
        let spec = serde_json::from_value(new.body(&id)).unwrap();
        let answer = life.scheduler.replace(&id, spec, None).await;
        if let Err(error) = answer {
            // Its only time has passed since it was asked for, or what is left before its end is too short.
            let is_past = old.end < i64::MAX || matches!(old.grid, Grid::Once(at) if at < before);
            assert!(is_same && is_past, "{error}");
            if self.tasks[&id].canceled {
                life.gate(&id, Gate::Closed);
            }
            return;
        }
        let after = life.wall();
        let is_idle = lock(&life.observed).executing(&id) == 0;
        let incarnation = self.tasks[&id].incarnation;
        let all = self.all_records(&id, &records);
        let task = self.task(&id);
        if std::mem::take(&mut task.canceled) {
            task.void.push((task.seen + 1, after));
            task.dead.push((task.rests_since + 1, before - 1));
        }
        if !is_same {
            // No time is planned again that has been planned by the schedule before.
            let planned = all
                .values()
                .filter(|run| run.origin == RunOrigin::Schedule && run.incarnation == incarnation)
                .map(|run| run.scheduled_for.as_microsecond())
                .max();
            let from = if matches!(new.grid, Grid::Seconds(_)) { before } else { before - 1 };
            task.from = from.max(planned.unwrap_or(i64::MIN));
            task.seen = task.from;
            task.void.clear();
            task.dead.clear();
        }
        task.wanted = new;
        if is_idle && records.iter().all(|run| run.outcome.is_final()) {
            let rules = task.wanted.rules.clone();
            lock(&life.observed).rules.insert(id, rules);
        }
    }

    pub(super) async fn trigger(&mut self, life: &Life) {
        let Some(id) = self.pick() else { return };
        let answer = life.scheduler.trigger(&id, None).await;
        self.note(format!("{} trigger {id}: {}", text(life.wall()), said(&answer)));
        if expected(answer) {
            self.task(&id).triggered += 1;
        }
    }
}

/// Whether a call was taken; a refusal that the task's state explains is none of our business.
fn expected<T>(answer: Result<T, TaskError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(TaskError::Conflict { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

fn said<T>(answer: &Result<T, TaskError>) -> String {
    answer.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned())
}
