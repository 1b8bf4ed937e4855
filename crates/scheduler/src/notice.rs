//! What the bus is told about tasks and their runs.

use std::sync::Arc;

use runtime::TraceId;

use crate::def::Def;
use crate::id::RunId;
use crate::schedule::Micros;
use crate::view::RunOrigin;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoticeKind {
    Scheduled,
    Started,
    Completed,
    Failed,
    Canceled,
    Paused,
    Resumed,
    Skipped,
    Retrying,
}

/// One thing that has happened, until it is published.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) def: Arc<Def>,
    pub(crate) kind: NoticeKind,
    pub(crate) run: Option<RunId>,
    pub(crate) scheduled: Micros,
    pub(crate) at: Micros,
    /// When the run started, if its start is yet to be told too: one notice for both.
    pub(crate) started: Micros,
    pub(crate) attempt: u16,
    pub(crate) origin: RunOrigin,
    /// Why.
    pub(crate) text: Option<Box<str>>,
    /// The trace that the run goes on with.
    pub(crate) trace: Option<Box<TraceId>>,
}
