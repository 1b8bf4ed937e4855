//! All tasks as JSON Lines, out and in.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Scheduler;
use super::bulk::note_refusal;
use super::create::{Answers, NewTask};
use crate::core::Core;
use crate::def::Def;
use crate::error::TaskError;
use crate::transfer::{ImportReport, OnConflict, TaskLine};
use crate::view::TaskStatus;

/// How many tasks are taken at once.
const AT_ONCE: usize = 256;
/// How long a line may be: twice what the largest definition takes.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024;

impl Scheduler {
    /// A part of all tasks, from a place on, and the place where it goes on. A task that is there throughout
    /// is in exactly one part.
    #[must_use]
    pub fn export(&self, from: u32) -> (Vec<TaskLine>, Option<u32>) {
        let (found, next) = self.inner.core().export(from, AT_ONCE);
        let lines = found.into_iter().map(|(def, status)| TaskLine {
            task: def.to_spec(&self.inner.executors.name_of(def.executor)),
            status: Some(status),
            owner: def.owner().map(str::to_owned),
        });
        (lines.collect(), next)
    }

    /// Begins an import. Nothing changes before [`Import::commit`].
    #[must_use]
    pub fn import(&self, on_conflict: OnConflict) -> Import {
        Import {
            scheduler: self.clone(),
            on_conflict,
            tasks_max: self.inner.core().config.max_tasks,
            staged: Vec::new(),
            by_id: HashMap::new(),
            rest: Vec::new(),
            lines: 0,
            report: ImportReport::default(),
        }
    }
}

/// Tasks that are being read, to be taken all or none. It holds them in the form in which the scheduler does,
/// and no more of them than it may have.
#[derive(Debug)]
pub struct Import {
    scheduler: Scheduler,
    on_conflict: OnConflict,
    tasks_max: usize,
    staged: Vec<Staged>,
    /// By id, the place among the staged.
    by_id: HashMap<Box<str>, u32>,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    lines: u64,
    report: ImportReport,
}

#[derive(Debug)]
struct Staged {
    line: u64,
    def: Arc<Def>,
    is_paused: bool,
}

impl Import {
    /// Reads a part of the text, wherever it was cut.
    ///
    /// # Errors
    ///
    /// For the first line that is wrong, with its number and the path of the field within it.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TaskError> {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, after) = bytes.split_at(end);
            bytes = after.get(1..).unwrap_or_default();
            if self.rest.is_empty() {
                self.line(line)?;
            } else {
                self.rest.extend_from_slice(line);
                let line = std::mem::take(&mut self.rest);
                self.line(&line)?;
            }
        }
        if self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(self.wrong("", "is longer than 256 KiB"));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    fn wrong(&self, field: &str, detail: impl Into<String>) -> TaskError {
        wrong_at(self.lines + 1, field, detail)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), TaskError> {
        let read = self.read(line);
        self.lines += 1;
        read
    }

    fn read(&mut self, line: &[u8]) -> Result<(), TaskError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(self.wrong("", "is longer than 256 KiB"));
        }
        let mut decoder = serde_json::Deserializer::from_slice(line);
        let TaskLine { task, status, owner } = serde_path_to_error::deserialize(&mut decoder)
            .map_err(|error| self.wrong(&error.path().to_string(), in_line(error.inner())))?;
        decoder.end().map_err(|error| self.wrong("", in_line(&error)))?;
        self.report.read += 1;
        let is_done =
            matches!(status, Some(TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Canceled));
        if is_done || owner.is_some() {
            self.report.left_out += 1;
            return Ok(());
        }
        let inner = &self.scheduler.inner;
        let def =
            Def::admit(&task, None, &inner.executors, &inner.calendars, inner.now()).map_err(|error| {
                match error {
                    TaskError::Invalid { field, detail } => self.wrong(&format!("task.{field}"), detail),
                    other => other,
                }
            })?;
        if self.staged.len() >= self.tasks_max {
            return Err(TaskError::Full(format!("the import has more than {} tasks", self.tasks_max)));
        }
        let place = self.staged.len() as u32;
        if let Some(first) = self.by_id.insert(def.id.clone(), place) {
            let first = self.staged.get(first as usize).map_or(0, |staged| staged.line);
            return Err(self.wrong("task.id", format!("`{}` is the id of line {first} too", def.id)));
        }
        let is_paused = status == Some(TaskStatus::Paused);
        self.staged.push(Staged { line: self.lines + 1, def: Arc::new(def), is_paused });
        Ok(())
    }

    /// Checks the whole, and takes it unless `dry_run`.
    ///
    /// # Errors
    ///
    /// If anything of it is wrong: a task runs after one that is nowhere, in a cycle, has an id that is taken,
    /// or there is no room. Nothing has changed then.
    pub async fn commit(mut self, dry_run: bool) -> Result<ImportReport, TaskError> {
        let rest = std::mem::take(&mut self.rest);
        self.line(&rest)?;
        self.report.dry_run = dry_run;
        let order = self.check()?;
        if dry_run {
            return Ok(self.report);
        }
        (self.report.created, self.report.replaced) = (0, 0);
        for places in order.chunks(AT_ONCE) {
            let staged: Vec<&Staged> =
                places.iter().filter_map(|place| self.staged.get(*place as usize)).collect();
            let (new, present): (Vec<&Staged>, Vec<&Staged>) = {
                let core = self.scheduler.inner.core();
                staged.into_iter().partition(|staged| core.find(&staged.def.id).is_none())
            };
            let (created, replaced) = (self.create_all(&new).await, self.replace_all(&present).await);
            let mut report = std::mem::take(&mut self.report);
            let (created, replaced) =
                (note(&mut report, &new, created), note(&mut report, &present, replaced));
            report.created += created;
            report.replaced += replaced;
            self.report = report;
            tokio::task::yield_now().await;
        }
        Ok(self.report)
    }
    async fn create_all(&self, new: &[&Staged]) -> Vec<Result<(), TaskError>> {
        let (answers, answered) = Answers::new(new.len());
        let tasks = new.iter().enumerate().map(|(at, staged)| NewTask {
            at,
            def: Arc::clone(&staged.def),
            spec: None,
            is_paused: staged.is_paused,
        });
        self.scheduler.create_all(tasks.collect(), &answers, self.scheduler.inner.now());
        self.scheduler.inner.tell();
        drop(answers);
        answered.await.unwrap_or_default()
    }

    async fn replace_all(&self, present: &[&Staged]) -> Vec<Result<(), TaskError>> {
        let is_plain = |staged: &Staged| staged.def.after().is_empty();
        let plain = present.iter().filter(|staged| is_plain(staged));
        let mut plain = join_all(plain.map(|staged| self.replace(staged))).await.into_iter();
        let mut answers = Vec::with_capacity(present.len());
        for staged in present {
            let answer = if is_plain(staged) { plain.next() } else { None };
            answers.push(match answer {
                Some(answer) => answer,
                // One after the other: whether an edge makes a cycle is told from those before it.
                None => self.replace(staged).await,
            });
        }
        answers
    }

    async fn replace(&self, staged: &Staged) -> Result<(), TaskError> {
        let (scheduler, id) = (&self.scheduler, &*staged.def.id);
        scheduler.replace_def(id, Arc::clone(&staged.def), None).await?;
        if staged.is_paused {
            match scheduler.pause(id).await {
                // It is paused already, or done.
                Ok(_) | Err(TaskError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks what can only be checked for all of them together. Tells their order: what others run after
    /// comes before these.
    fn check(&mut self) -> Result<Vec<u32>, TaskError> {
        let scheduler = self.scheduler.clone();
        let core = scheduler.inner.core();
        let mut is_wanted = vec![true; self.staged.len()];
        for (staged, is_wanted) in self.staged.iter().zip(&mut is_wanted) {
            let Some(owner) = core.owner_if_any(&staged.def.id) else {
                self.report.created += 1;
                continue;
            };
            match self.on_conflict {
                OnConflict::Fail => {
                    let detail = format!("`{}` is the id of a task already", staged.def.id);
                    return Err(wrong_at(staged.line, "task.id", detail));
                }
                OnConflict::Skip => {
                    *is_wanted = false;
                    self.report.skipped += 1;
                }
                OnConflict::Replace => {
                    if let Some(owner) = owner {
                        let detail = format!("`{}` is a task of the plugin `{owner}`", staged.def.id);
                        return Err(wrong_at(staged.line, "task.id", detail));
                    }
                    self.report.replaced += 1;
                }
            }
        }
        let room = core.room();
        if self.report.created > room as u64 {
            return Err(TaskError::Full(format!("there is room for {room} more tasks")));
        }
        self.order(&core, &is_wanted)
    }

    /// An order in which each comes after what it runs after, by depth-first search; without recursion, since
    /// chains may be long.
    fn order(&self, core: &Core, is_wanted: &[bool]) -> Result<Vec<u32>, TaskError> {
        let is_wanted = |place: u32| is_wanted.get(place as usize).copied().unwrap_or(false);
        let all = (0_u32..).zip(&self.staged).filter(|(place, _)| is_wanted(*place));
        // What runs after nothing goes first.
        let mut order: Vec<u32> =
            all.clone().filter(|(_, staged)| staged.def.after().is_empty()).map(|(place, _)| place).collect();
        // Whether a task is on the path (false) or has been put in order (true).
        let mut seen: HashMap<&str, bool> = HashMap::new();
        for (place, staged) in all {
            if staged.def.after().is_empty() || seen.contains_key(&*staged.def.id) {
                continue;
            }
            seen.insert(&staged.def.id, false);
            let mut path = vec![(Node::Staged(place), 0)];
            while let Some((node, at)) = path.last_mut() {
                let def = self.def_of(core, *node);
                let Some(edge) = def.and_then(|def| def.after().get(*at)) else {
                    if let Node::Staged(place) = *node {
                        order.push(place);
                    }
                    if let Some(def) = def {
                        seen.insert(&def.id, true);
                    }
                    path.pop();
                    continue;
                };
                let edge_at = *at;
                *at += 1;
                let next = match self.by_id.get(edge.task.as_str()) {
                    Some(next) if is_wanted(*next) => Node::Staged(*next),
                    _ => match core.find(&edge.task) {
                        Some(place) => Node::Present(place),
                        None => {
                            let (field, detail) =
                                (format!("task.after[{edge_at}].task"), format!("no task `{}`", edge.task));
                            return Err(wrong_at(staged.line, &field, detail));
                        }
                    },
                };
                let Some(next_def) = self.def_of(core, next) else { continue };
                match seen.get(&*next_def.id) {
                    Some(true) => {}
                    Some(false) => return Err(self.cycle(core, &path, &next_def.id)),
                    None if next_def.after().is_empty() => {}
                    None => {
                        seen.insert(&next_def.id, false);
                        path.push((next, 0));
                    }
                }
            }
        }
        Ok(order)
    }

    fn def_of<'a>(&'a self, core: &'a Core, node: Node) -> Option<&'a Def> {
        match node {
            Node::Staged(place) => self.staged.get(place as usize).map(|staged| &*staged.def),
            Node::Present(place) => core.def(place),
        }
    }

    fn cycle(&self, core: &Core, path: &[(Node, usize)], end: &str) -> TaskError {
        let names: Vec<&str> =
            path.iter().filter_map(|(node, _)| self.def_of(core, *node)).map(|def| &*def.id).collect();
        let begin = names.iter().position(|name| *name == end).unwrap_or(0);
        let names: Vec<&str> = names.into_iter().skip(begin).chain([end]).collect();
        let staged = path.iter().find_map(|(node, _)| match node {
            Node::Staged(place) => self.staged.get(*place as usize),
            Node::Present(..) => None,
        });
        wrong_at(
            staged.map_or(0, |staged| staged.line),
            "task.after",
            format!("makes a cycle: {}", names.join(" -> ")),
        )
    }
}

/// Puts the refusals among the answers into the report. Tells how many were none.
fn note(report: &mut ImportReport, staged: &[&Staged], answers: Vec<Result<(), TaskError>>) -> u64 {
    let mut taken = 0;
    for (staged, answer) in staged.iter().zip(answers) {
        match answer {
            Ok(()) => taken += 1,
            Err(error) => {
                report.failed += 1;
                note_refusal(&mut report.failures, &staged.def.id, &error);
            }
        }
    }
    taken
}

/// A task on the way through the graph.
#[derive(Debug, Clone, Copy)]
enum Node {
    Staged(u32),
    Present(u32),
}

/// What is wrong with JSON that is one line: where it stands in it, without the number of the line.
fn in_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let said = text.rsplit_once(" at line ").map_or(text.as_str(), |(said, _)| said);
    if error.is_data() { said.to_owned() } else { format!("{said} at column {}", error.column()) }
}

fn wrong_at(line: u64, field: &str, detail: impl Into<String>) -> TaskError {
    let field = if matches!(field, "" | "." | "?") { String::new() } else { format!(", {field}") };
    TaskError::invalid(format!("line {line}{field}"), detail)
}
