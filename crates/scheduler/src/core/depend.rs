//! Tasks that run after other tasks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Core, Side, flag};
use crate::def::Def;
use crate::error::TaskError;
use crate::schedule::{Micros, Schedule};
use crate::spec::AfterCondition;
use crate::upstream::{Caused, UpstreamRun};
use crate::view::{RunOrigin, RunOutcome};

impl Core {
    /// Checks that what the task runs after exists, and does not in turn run after it.
    pub(super) fn check_edges(&self, def: &Def) -> Result<(), TaskError> {
        let mut came_from: HashMap<u32, (u32, usize)> = HashMap::new();
        let mut stack = Vec::new();
        for (at, edge) in def.after().iter().enumerate() {
            let Some(task) = self.find(&edge.task) else {
                return Err(TaskError::invalid(
                    format!("after[{at}].task"),
                    format!("no task `{}`", edge.task),
                ));
            };
            came_from.entry(task).or_insert((super::NONE, at));
            stack.push(task);
        }
        let mut seen = HashSet::new();
        while let Some(task) = stack.pop() {
            if !seen.insert(task) {
                continue;
            }
            let Some(present) = self.table.get(task).and_then(|slot| slot.def.as_ref()) else { continue };
            for edge in present.after() {
                if *edge.task == *def.id {
                    return Err(self.cycle(def, task, &came_from));
                }
                if let Some(next) = self.find(&edge.task) {
                    came_from.entry(next).or_insert((task, 0));
                    stack.push(next);
                }
            }
        }
        Ok(())
    }

    /// Names the whole cycle: the task, what it runs after, and so on back to it.
    fn cycle(&self, def: &Def, last: u32, came_from: &HashMap<u32, (u32, usize)>) -> TaskError {
        let mut names = vec![def.id.to_string()];
        let mut at = last;
        let mut edge = 0;
        while let Some((before, first_edge)) = came_from.get(&at) {
            if let Some(def) = self.table.get(at).and_then(|slot| slot.def.as_ref()) {
                names.push(def.id.to_string());
            }
            edge = *first_edge;
            at = *before;
        }
        names.push(def.id.to_string());
        names.reverse();
        TaskError::invalid(format!("after[{edge}].task"), format!("makes a cycle: {}", names.join(" -> ")))
    }

    pub(super) fn link_edges(&mut self, task: u32, def: &Def) {
        for (edge, number) in def.after().iter().zip(0_u8..) {
            if let Some(other) = self.find(&edge.task) {
                self.dependents.entry(other).or_default().push((task, number));
                if let Some(slot) = self.table.get_mut(other) {
                    slot.flags |= flag::HAS_DEPENDENTS;
                }
            }
        }
    }

    pub(super) fn unlink_edges(&mut self, task: u32, def: &Def) {
        for edge in def.after() {
            let Some(other) = self.find(&edge.task) else { continue };
            let Some(list) = self.dependents.get_mut(&other) else { continue };
            list.retain(|(dependent, _)| *dependent != task);
            if list.is_empty() {
                self.dependents.remove(&other);
                if let Some(slot) = self.table.get_mut(other) {
                    slot.flags &= !flag::HAS_DEPENDENTS;
                }
            }
        }
    }

    /// The ids of tasks that run after this one, the first few.
    pub(super) fn dependents_of(&self, task: u32) -> Vec<String> {
        self.dependents
            .get(&task)
            .into_iter()
            .flatten()
            .take(10)
            .filter_map(|(dependent, _)| {
                self.table.get(*dependent)?.def.as_ref().map(|def| def.id.to_string())
            })
            .collect()
    }

    /// A run has ended: those that waited for it take note, and run if it was the last they waited for.
    pub(super) fn tell_dependents(&mut self, task: u32, result: &Arc<UpstreamRun>, now: Micros) {
        let outcome = result.outcome;
        let edges = self.dependents.get(&task).cloned().unwrap_or_default();
        for (dependent, number) in edges {
            let Some(slot) = self.table.get_mut(dependent) else { continue };
            let Some(def) = slot.def.clone() else { continue };
            let Some(edge) = def.after().get(number as usize) else { continue };
            let is_met = match edge.on {
                AfterCondition::Success => outcome == RunOutcome::Completed,
                AfterCondition::Failure => outcome == RunOutcome::Failed,
                AfterCondition::Always => outcome.is_final() && outcome != RunOutcome::Skipped,
            };
            if is_met {
                Self::side(slot).meet(number, Arc::clone(result));
                // Before it runs, so that a host that dies in between runs it afterwards.
                self.store_state(dependent);
                self.release_if_met(dependent, now);
            }
        }
    }

    /// Runs the task if all that it runs after have run.
    pub(super) fn release_if_met(&mut self, task: u32, now: Micros) {
        let Some(slot) = self.table.get_mut(task) else { return };
        let Some(def) = slot.def.clone() else { return };
        if def.after().is_empty() || slot.flags & flag::AT_REST != 0 {
            return;
        }
        if !Self::side(slot).has_met(def.after().len()) {
            return;
        }
        if !matches!(def.schedule, Schedule::Dependent) {
            // It has a time too, which has come already or will come.
            if slot.flags & flag::WAITS_AFTER != 0 {
                slot.flags &= !flag::WAITS_AFTER;
                self.arm(task);
            }
            return;
        }
        if def.max_runs > 0 && slot.fired >= def.max_runs {
            return;
        }
        let by = Self::side(slot).take_upstream(def.after().len());
        let scheduled = now.max(slot.planned + 1);
        slot.planned = scheduled;
        let (_, is_in) = self.begin_caused(task, scheduled, now, RunOrigin::Dependency, by, now);
        if let Some(slot) = self.table.get_mut(task) {
            slot.fired = slot.fired.saturating_add(u32::from(is_in));
        }
        self.settle(task);
    }
}

impl Side {
    /// Notes that an edge is met. A later run of the same task takes the place of the one before.
    fn meet(&mut self, edge: u8, run: Arc<UpstreamRun>) {
        let upstream = &mut self.rare_mut().upstream;
        // The last one stands last, since its chain goes on.
        upstream.retain(|(met, _)| *met != edge);
        upstream.push((edge, run));
    }

    fn has_met(&self, edges: usize) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.upstream.len() == edges)
    }

    /// The runs that let a run go, once there is one for every edge; then it waits for others.
    pub(super) fn take_upstream(&mut self, edges: usize) -> Option<Arc<Caused>> {
        if !self.has_met(edges) {
            return None;
        }
        let mut met = std::mem::take(&mut self.rare_mut().upstream);
        let last = Arc::clone(&met.last()?.1);
        met.sort_by_key(|(edge, _)| *edge);
        Some(Arc::new(Caused::new(met.into_iter().map(|(_, run)| run).collect(), &last)))
    }
}
