//! Tells the bus: `scheduler.task.*`.

use std::sync::{Arc, Mutex, TryLockError};

use event_bus::{Event, EventBus, Topic, TopicError};
use runtime::{Timestamp, TraceId};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::def::Def;
use crate::id::RunId;
use crate::notice::{Notice, NoticeKind};
use crate::schedule::{NEVER, timestamp};
use crate::view::RunOrigin;

/// How many notices are taken at once.
pub(crate) const BATCH: usize = 256;

/// Publishes notices, one batch at a time, so that those of one run keep their order.
#[derive(Debug)]
pub(crate) struct Teller {
    bus: EventBus,
    topics: [Topic; 9],
    source: Arc<str>,
    node: Arc<str>,
    turn: Mutex<Vec<Notice>>,
}

impl Teller {
    pub(crate) fn new(bus: EventBus, node: &str) -> Result<Self, TopicError> {
        let topic = |kind: &str| Topic::new(format!("scheduler.task.{kind}"));
        Ok(Self {
            bus,
            // In the order of their declaration.
            topics: [
                topic("scheduled")?,
                topic("started")?,
                topic("completed")?,
                topic("failed")?,
                topic("canceled")?,
                topic("paused")?,
                topic("resumed")?,
                topic("skipped")?,
                topic("retrying")?,
            ],
            source: "scheduler".into(),
            node: node.into(),
            turn: Mutex::new(Vec::with_capacity(BATCH)),
        })
    }

    /// Publishes batch after batch until `fill` has no more. Does nothing while another caller is at it,
    /// who then takes what has come meanwhile, too.
    pub(crate) fn tell(&self, mut fill: impl FnMut(&mut Vec<Notice>)) {
        let mut batch = match self.turn.try_lock() {
            Ok(batch) => batch,
            Err(TryLockError::Poisoned(batch)) => batch.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        loop {
            fill(&mut batch);
            if batch.is_empty() {
                return;
            }
            for notice in batch.drain(..) {
                self.publish(notice);
            }
        }
    }

    fn publish(&self, mut notice: Notice) {
        if notice.started != NEVER {
            let started = std::mem::replace(&mut notice.started, NEVER);
            self.send(
                NoticeKind::Started,
                timestamp(started),
                TaskEvent {
                    def: Arc::clone(&notice.def),
                    node: Arc::clone(&self.node),
                    run: notice.run,
                    scheduled_for: Some(timestamp(notice.scheduled)),
                    attempt: notice.attempt,
                    origin: notice.origin,
                    reason: None,
                    trace: notice.trace.clone(),
                },
            );
        }
        let at = timestamp(notice.at);
        let scheduled_for = (notice.scheduled != NEVER).then(|| timestamp(notice.scheduled));
        let Notice { def, kind, run, attempt, origin, text: reason, trace, .. } = notice;
        let node = Arc::clone(&self.node);
        self.send(kind, at, TaskEvent { def, node, run, scheduled_for, attempt, origin, reason, trace });
    }

    fn send(&self, kind: NoticeKind, at: Timestamp, event: TaskEvent) {
        let Some(topic) = self.topics.get(kind as usize) else { return };
        let event = Event::builder(topic.clone())
            .source(Arc::clone(&self.source))
            .time(at)
            .typed(event)
            .build(&**self.bus.clock());
        // What a subscriber misses, the bus has counted; after its shutdown nobody is there to be told.
        if let Ok(event) = event {
            let _ = self.bus.try_publish(event);
        }
    }
}

/// The data of a `scheduler.task.*` event. It crosses the process as it is and becomes JSON when somebody
/// asks: see [`event_bus::Event::downcast`].
#[derive(Debug, Clone)]
pub struct TaskEvent {
    def: Arc<Def>,
    node: Arc<str>,
    run: Option<RunId>,
    scheduled_for: Option<Timestamp>,
    attempt: u16,
    origin: RunOrigin,
    reason: Option<Box<str>>,
    trace: Option<Box<TraceId>>,
}

impl TaskEvent {
    /// The id of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.def.id
    }

    /// The run, if the event is about one.
    #[must_use]
    pub fn run(&self) -> Option<RunId> {
        self.run
    }

    /// The time that the run was due at.
    #[must_use]
    pub fn scheduled_for(&self) -> Option<Timestamp> {
        self.scheduled_for
    }

    /// Why, where there is a reason: of a failure, a cancellation or a skip.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Serialize for TaskEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("task", &*self.def.id)?;
        map.serialize_entry("name", self.def.name())?;
        map.serialize_entry("node", &*self.node)?;
        if let Some(owner) = self.def.owner() {
            map.serialize_entry("owner", owner)?;
        }
        if let Some(run) = self.run {
            map.serialize_entry("run", &run)?;
            let trace = self.trace.as_deref();
            let trace_id = trace.map_or_else(|| run.trace_id(), TraceId::to_string);
            map.serialize_entry("trace_id", &trace_id)?;
            map.serialize_entry("scheduled_for", &self.scheduled_for)?;
            map.serialize_entry("attempt", &self.attempt)?;
            map.serialize_entry("origin", &self.origin)?;
        }
        if let Some(reason) = &self.reason {
            map.serialize_entry("reason", &**reason)?;
        }
        map.end()
    }
}
