//! New tasks, one by one and many at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::{Scheduler, refused};
use crate::core::{Core, Insert};
use crate::def::Def;
use crate::error::TaskError;
use crate::schedule::Micros;
use crate::spec::TaskSpec;
use crate::store::StoreError;
use crate::view::TaskView;

/// How many tasks are taken in before the lock is let go for a moment.
const STRETCH: usize = 64;
/// How many of them a store is given at once: more, since each time is a sync.
const WRITTEN_TOGETHER: usize = 64 * STRETCH;

/// A checked task.
pub(super) struct NewTask {
    /// The number of its answer.
    pub(super) at: usize,
    pub(super) def: Arc<Def>,
    /// What the definition was made of, if that is at hand.
    pub(super) spec: Option<TaskSpec>,
    pub(super) is_paused: bool,
}

impl Scheduler {
    /// Takes a new task in.
    ///
    /// # Errors
    ///
    /// If a field is wrong, the id is taken, or there is no room. No task is left then.
    pub async fn create(&self, spec: TaskSpec) -> Result<TaskView, TaskError> {
        let inner = &self.inner;
        let now = inner.now();
        let def = Arc::new(Def::admit(&spec, None, &inner.executors, &inner.calendars, now)?);
        let (sender, receiver) = oneshot::channel();
        let taken = move |core: &Core, answer: Result<u32, TaskError>| {
            let _ = sender.send(answer.map(|task| core.snapshot(task)));
        };
        let new = NewTask { at: 0, def: Arc::clone(&def), spec: Some(spec), is_paused: false };
        let wanted = {
            let mut core = inner.core();
            self.begin(&mut core, new, now, taken)?;
            core.wanted_at(now)
        };
        inner.nudge(wanted);
        inner.tell();
        let snapshot = receiver.await.map_err(|_| TaskError::Stopped)??;
        self.view(snapshot, &def.id)
    }

    /// Takes many tasks in, each on its own: one that is refused does not keep the others out.
    pub async fn create_many(&self, specs: Vec<TaskSpec>) -> Vec<Result<(), TaskError>> {
        let inner = &self.inner;
        let total = specs.len();
        let (answers, answered) = Answers::new(total);
        let mut specs = specs.into_iter().enumerate();
        loop {
            let now = inner.now();
            let mut stretch = Vec::with_capacity(STRETCH);
            for (at, spec) in specs.by_ref().take(STRETCH) {
                match Def::admit(&spec, None, &inner.executors, &inner.calendars, now) {
                    Ok(def) => {
                        stretch.push(NewTask { at, def: Arc::new(def), spec: Some(spec), is_paused: false })
                    }
                    Err(error) => answers.set(at, Err(error)),
                }
            }
            if stretch.is_empty() && specs.len() == 0 {
                break;
            }
            self.create_all(stretch, &answers, now);
            let taken = total - specs.len();
            if inner.keeper.is_none() || taken.is_multiple_of(WRITTEN_TOGETHER) {
                inner.tell();
            }
        }
        inner.tell();
        drop(answers);
        answered.await.unwrap_or_default()
    }

    /// Takes checked tasks in. Their answers come as the store gives them, to which it is for the caller to
    /// [tell](super::Inner::tell) that they wait.
    pub(super) fn create_all(&self, tasks: Vec<NewTask>, answers: &Arc<Answers>, now: Micros) {
        let inner = &self.inner;
        let wanted = {
            let mut core = inner.core();
            for new in tasks {
                let (at, to) = (new.at, Arc::clone(answers));
                let begun = self.begin(&mut core, new, now, move |_, answer| to.set(at, answer.map(drop)));
                if let Err(error) = begun {
                    answers.set(at, Err(error));
                }
            }
            core.wanted_at(now)
        };
        inner.nudge(wanted);
    }

    /// Takes one in, and has `taken` told once it is there: where there is a store, once that has it. Until
    /// then it does not run.
    fn begin(
        &self,
        core: &mut Core,
        new: NewTask,
        now: Micros,
        taken: impl FnOnce(&Core, Result<u32, TaskError>) + Send + 'static,
    ) -> Result<(), TaskError> {
        let NewTask { def, spec, is_paused, .. } = new;
        let named = Arc::clone(&def);
        let is_kept = self.inner.keeper.is_some();
        let how = if is_kept || is_paused { Insert::Held } else { Insert::Ready };
        let task = core.insert(def, how, now)?;
        if is_paused {
            core.pause_held(task, now);
        }
        if !is_kept {
            core.release(task, now);
            taken(core, Ok(task));
            return Ok(());
        }
        let incarnation = core.incarnation(task);
        let then = move |core: &mut Core, answer: Result<(), StoreError>| {
            // Its shard may have gone to another node meanwhile, and its place to another task.
            let is_there = core.incarnation(task) == incarnation;
            match answer {
                Ok(()) if is_there => {
                    core.release(task, now);
                    taken(core, Ok(task));
                }
                Ok(()) => taken(core, Err(TaskError::NotOwner(named.id.to_string()))),
                Err(error) => {
                    if is_there {
                        core.discard(task, now);
                    }
                    taken(core, Err(refused(&named.id, error)));
                }
            }
        };
        core.store_new(task, spec, Box::new(then));
        Ok(())
    }
}

/// The answers to many tasks. They are sent when nobody is left who could give one.
#[derive(Debug)]
pub(super) struct Answers {
    all: Mutex<Vec<Result<(), TaskError>>>,
    sender: Option<oneshot::Sender<Vec<Result<(), TaskError>>>>,
}

impl Answers {
    pub(super) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Vec<Result<(), TaskError>>>) {
        let (sender, receiver) = oneshot::channel();
        let all = std::iter::repeat_with(|| Err(TaskError::Stopped)).take(count).collect();
        (Arc::new(Self { all: Mutex::new(all), sender: Some(sender) }), receiver)
    }

    pub(super) fn set(&self, at: usize, answer: Result<(), TaskError>) {
        if let Some(place) = self.all.lock().unwrap_or_else(PoisonError::into_inner).get_mut(at) {
            *place = answer;
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let all = std::mem::take(self.all.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(all);
        }
    }
}
