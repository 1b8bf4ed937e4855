//! The neighbourhood of a task in the graph of what runs after what.

use std::collections::{HashSet, VecDeque};

use super::Core;
use crate::error::TaskError;
use crate::graph::{GRAPH_NODES_MAX, TaskEdge, TaskGraph, TaskNode};

impl Core {
    /// The tasks within `depth` edges of the given one, both ways; without one, the first tasks there are.
    pub(crate) fn graph(&self, id: Option<&str>, depth: u32) -> Result<TaskGraph, TaskError> {
        let (places, more) = match id {
            Some(id) => self.near(self.place(id)?, depth),
            None => {
                let places: Vec<u32> = (0..self.table.end())
                    .filter(|place| self.table.get(*place).is_some())
                    .take(GRAPH_NODES_MAX)
                    .collect();
                let more = places.len() < self.table.len();
                (places, more)
            }
        };
        let shown: HashSet<u32> = places.iter().copied().collect();
        let mut graph = TaskGraph { total: self.table.len() as u64, more, ..TaskGraph::default() };
        for place in places {
            let Some(def) = self.table.get(place).and_then(|slot| slot.def.as_ref()) else { continue };
            let Some(status) = self.table.status(place) else { continue };
            let executor = self.executors.name_of(def.executor).to_string();
            graph.nodes.push(TaskNode { id: def.id.to_string(), status, executor });
            for edge in def.after() {
                if self.find(&edge.task).is_some_and(|from| shown.contains(&from)) {
                    let (from, to) = (edge.task.clone(), def.id.to_string());
                    graph.edges.push(TaskEdge { from, to, on: edge.on });
                }
            }
        }
        Ok(graph)
    }

    /// The places within `depth` edges, the nearest first, and whether there were too many.
    fn near(&self, start: u32, depth: u32) -> (Vec<u32>, bool) {
        let mut seen = HashSet::from([start]);
        let mut places = Vec::new();
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((place, distance)) = queue.pop_front() {
            if places.len() == GRAPH_NODES_MAX {
                return (places, true);
            }
            places.push(place);
            if distance == depth {
                continue;
            }
            let before =
                self.table.get(place).and_then(|slot| slot.def.as_ref()).map_or(&[][..], |def| def.after());
            let before = before.iter().filter_map(|edge| self.find(&edge.task));
            let after = self.dependents.get(&place).into_iter().flatten().map(|(dependent, _)| *dependent);
            for near in before.chain(after) {
                // A task that everything runs after: no more of its neighbours are looked at than are shown.
                if seen.len() > 2 * GRAPH_NODES_MAX {
                    break;
                }
                if seen.insert(near) {
                    queue.push_back((near, distance + 1));
                }
            }
        }
        (places, false)
    }
}
