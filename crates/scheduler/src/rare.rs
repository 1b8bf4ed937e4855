//! What few tasks have, apart from the state that all of them have: in memory in a box of its own, and in a
//! store as a part that is left out where there is nothing to say.

use std::collections::VecDeque;
use std::sync::Arc;

use runtime::{Timestamp, TraceContext};
use serde::{Deserialize, Serialize};

use crate::schedule::{Micros, NEVER, floor_micros, timestamp};
use crate::spec::After;
use crate::upstream::UpstreamRun;

/// What few tasks have. Every field may be left out of what is stored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RareState {
    /// How many runs in a row have failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub consecutive_failures: u32,
    /// No scheduled run starts before this time, since runs have failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_until: Option<Timestamp>,
    /// The first time that is left out for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_from: Option<Timestamp>,
    /// When the task rested, the latest last; the last one may not have ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rests: Vec<Rest>,
    /// The runs of other tasks that have let this one go, while it waits for more of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstream: Vec<UpstreamRun>,
    /// The times of a backfill that have not been run yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backfill: Vec<Timestamp>,
    /// The first and the last time that any backfill has taken on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfilled: Option<(Timestamp, Timestamp)>,
    /// The work that gave the task's definition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// A while in which a task was not run by its schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Since when.
    pub from: Timestamp,
    /// Until when, if it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

impl RareState {
    /// The task rests from now on; a rest that lasts goes on.
    pub(crate) fn rest(&mut self, from: Micros, reason: &str) {
        if self.rests.last().is_none_or(|last| last.until.is_some()) {
            let excess = (self.rests.len() + 1).saturating_sub(RESTS_MAX);
            self.rests.drain(..excess);
            self.rests.push(Rest { from: timestamp(from), until: None, reason: reason.to_owned() });
        }
    }

    /// The task runs again: what failures have brought about is over.
    pub(crate) fn resume(&mut self, until: Micros) {
        if let Some(last) = self.rests.last_mut().filter(|last| last.until.is_none()) {
            last.until = Some(timestamp(until));
        }
        self.forget_failures();
    }

    /// Takes on times to be run that were missed.
    pub(crate) fn backfill(&mut self, times: &[Micros]) {
        self.backfill.extend(times.iter().copied().map(timestamp));
        let before = self.backfilled.map(|(from, until)| (floor_micros(from), floor_micros(until)));
        self.backfilled = hull(before, times).map(|(from, until)| (timestamp(from), timestamp(until)));
    }

    pub(crate) fn forget_failures(&mut self) {
        self.consecutive_failures = 0;
        self.backoff_until = None;
        self.backoff_from = None;
    }
}

/// Why a task rests that an operator has paused.
pub(crate) const BY_OPERATOR: &str = "by an operator";

/// Why a task rests that an operator has cancelled.
pub(crate) const CANCELED: &str = "canceled by an operator";

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The first and the last of all times.
fn hull(before: Option<(Micros, Micros)>, times: &[Micros]) -> Option<(Micros, Micros)> {
    let (first, last) = (*times.first()?, *times.last()?);
    let (from, until) = before.unwrap_or((first, last));
    Some((from.min(first), until.max(last)))
}

/// How many rests of a task are known.
const RESTS_MAX: usize = 16;

/// The same in memory, but for the count of failures, which is read more often.
#[derive(Debug)]
pub(crate) struct Rare {
    /// [`NEVER`] for none.
    pub(crate) backoff_until: Micros,
    pub(crate) backoff_from: Micros,
    pub(crate) rests: VecDeque<RestSpan>,
    /// By the number of the edge.
    pub(crate) upstream: Vec<(u8, Arc<UpstreamRun>)>,
    pub(crate) backfill: VecDeque<Micros>,
    /// Whether the run under way is one of the backfill.
    pub(crate) is_backfilling: bool,
    pub(crate) backfilled: Option<(Micros, Micros)>,
}

/// A rest in memory.
#[derive(Debug, Clone)]
pub(crate) struct RestSpan {
    pub(crate) from: Micros,
    /// [`NEVER`] while it lasts.
    pub(crate) until: Micros,
    pub(crate) reason: Box<str>,
}

impl Default for Rare {
    fn default() -> Self {
        Self {
            backoff_until: NEVER,
            backoff_from: NEVER,
            rests: VecDeque::new(),
            upstream: Vec::new(),
            backfill: VecDeque::new(),
            is_backfilling: false,
            backfilled: None,
        }
    }
}

impl Rare {
    /// The task rests from now on. A rest that lasts goes on, for its own reason.
    pub(crate) fn rest(&mut self, from: Micros, reason: impl Into<Box<str>>) {
        if self.rests.back().is_some_and(|last| last.until == NEVER) {
            return;
        }
        if self.rests.len() >= RESTS_MAX {
            self.rests.pop_front();
        }
        self.rests.push_back(RestSpan { from, until: NEVER, reason: reason.into() });
    }

    /// Ends the rest that lasts. Tells when it began.
    pub(crate) fn end_rest(&mut self, until: Micros) -> Option<Micros> {
        let last = self.rests.back_mut().filter(|last| last.until == NEVER)?;
        last.until = until.max(last.from);
        Some(last.from)
    }

    /// Takes on times to be run that were missed.
    pub(crate) fn backfill(&mut self, times: &[Micros]) {
        self.backfill.extend(times);
        self.backfilled = hull(self.backfilled, times);
    }

    /// Why the task rests now.
    pub(crate) fn resting(&self) -> Option<&str> {
        self.rests.back().filter(|last| last.until == NEVER).map(|last| &*last.reason)
    }

    pub(crate) fn store(&self, consecutive_failures: u32) -> RareState {
        let time = |at: Micros| (at != NEVER).then(|| timestamp(at));
        RareState {
            consecutive_failures,
            backoff_until: time(self.backoff_until),
            backoff_from: time(self.backoff_from),
            rests: self
                .rests
                .iter()
                .map(|rest| Rest {
                    from: timestamp(rest.from),
                    until: time(rest.until),
                    reason: rest.reason.to_string(),
                })
                .collect(),
            upstream: self.upstream.iter().map(|(_, run)| UpstreamRun::clone(run)).collect(),
            backfill: self.backfill.iter().copied().map(timestamp).collect(),
            backfilled: self.backfilled.map(|(from, until)| (timestamp(from), timestamp(until))),
            // It stands with the definition.
            trace: None,
        }
    }

    /// What was stored; `after` are the edges of the task as it is now.
    pub(crate) fn restore(stored: RareState, after: &[After]) -> Self {
        let time = |at: Option<Timestamp>| at.map_or(NEVER, floor_micros);
        let edge = |run: &UpstreamRun| after.iter().position(|edge| edge.task == run.task);
        Self {
            backoff_until: time(stored.backoff_until),
            backoff_from: time(stored.backoff_from),
            rests: stored
                .rests
                .into_iter()
                .map(|rest| RestSpan {
                    from: floor_micros(rest.from),
                    until: time(rest.until),
                    reason: rest.reason.into(),
                })
                .collect(),
            upstream: stored
                .upstream
                .into_iter()
                .filter_map(|run| Some((u8::try_from(edge(&run)?).ok()?, Arc::new(run))))
                .collect(),
            backfill: stored.backfill.into_iter().map(floor_micros).collect(),
            is_backfilling: false,
            backfilled: stored.backfilled.map(|(from, until)| (floor_micros(from), floor_micros(until))),
        }
    }
}
