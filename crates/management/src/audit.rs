//! Who did what: a bounded record of every write.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runtime::{SharedClock, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Caller, Page, PageRequest, Problem, Role};

/// One write, done or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it ended.
    pub time: Timestamp,
    /// Who asked.
    pub caller: String,
    /// What they may do; nothing for somebody without credentials.
    pub role: Option<Role>,
    /// Where the request came from: the transport, and the address of the peer.
    pub origin: String,
    /// What was asked for, such as `task.create`.
    pub action: String,
    /// With what: the id of a task, the name of a plugin.
    pub target: String,
    /// `done`, or the kind of refusal.
    pub outcome: String,
    /// Why it was refused.
    pub message: Option<String>,
    /// The trace of the request.
    pub trace_id: String,
}

/// The last writes, up to a bound; the oldest go first.
#[derive(Debug)]
pub(crate) struct AuditLog {
    clock: SharedClock,
    capacity: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    last_seq: u64,
    ring: VecDeque<AuditEntry>,
}

/// How much of a target's name is kept, in characters.
const TARGET_LEN_MAX: usize = 256;

impl AuditLog {
    pub(crate) fn new(clock: SharedClock, capacity: usize) -> Self {
        Self { clock, capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// Records a write and how it went, and logs it.
    pub(crate) fn record<T>(
        &self,
        caller: &Caller,
        action: &str,
        target: &str,
        outcome: &Result<T, Problem>,
    ) {
        let problem = outcome.as_ref().err();
        let (kind, message) = match problem {
            None => ("done", None),
            Some(problem) => (problem.kind.as_str(), Some(problem.message.to_string())),
        };
        let target: String = target.chars().take(TARGET_LEN_MAX).collect();
        tracing::info!(caller = %caller.name, origin = %caller.origin, action, target, outcome = kind, "audit");
        let time = self.clock.now();
        let mut entries = self.lock();
        entries.last_seq += 1;
        let entry = AuditEntry {
            seq: entries.last_seq,
            time,
            caller: caller.name.to_string(),
            role: caller.role,
            origin: caller.origin.to_string(),
            action: action.to_owned(),
            target,
            outcome: kind.to_owned(),
            message,
            trace_id: caller.trace.trace_id().to_string(),
        };
        if entries.ring.len() == self.capacity {
            entries.ring.pop_front();
        }
        entries.ring.push_back(entry);
    }

    /// The newest first; the cursor is the number of the last entry of the page before.
    pub(crate) fn page(&self, page: &PageRequest) -> Result<Page<AuditEntry>, Problem> {
        let before = page.cursor_as()?.unwrap_or(u64::MAX);
        let entries = self.lock();
        let total = entries.ring.len() as u64;
        let mut older = entries.ring.iter().rev().filter(|entry| entry.seq < before);
        let items: Vec<AuditEntry> = older.by_ref().take(page.limit()).cloned().collect();
        let next_cursor =
            if older.next().is_some() { items.last().map(|entry| entry.seq.to_string()) } else { None };
        Ok(Page { items, total, next_cursor })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // A panic between the two steps can only leave out one entry.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use runtime::SystemClock;

    use super::*;

    #[test]
    fn keeps_the_latest_and_pages_through_them_newest_first() {
        let log = AuditLog::new(SystemClock::shared(), 5);
        for n in 0..8 {
            let outcome = if n == 7 { Err(Problem::not_found("task", "x")) } else { Ok(()) };
            log.record(&Caller::host(), "task.pause", &format!("t{n}"), &outcome);
        }
        let first = log.page(&PageRequest::new(Some(3), None).unwrap()).unwrap();
        let targets =
            |page: &Page<AuditEntry>| page.items.iter().map(|e| e.target.clone()).collect::<Vec<_>>();
        assert_eq!((targets(&first), first.total), (vec!["t7".into(), "t6".into(), "t5".into()], 5));
        assert_eq!(first.items[0].outcome, "not_found");
        let rest = log.page(&PageRequest::new(Some(3), first.next_cursor).unwrap()).unwrap();
        assert_eq!((targets(&rest), rest.next_cursor), (vec!["t4".into(), "t3".into()], None));
        assert!(log.page(&PageRequest::new(None, Some("x".into())).unwrap()).is_err());
    }
}
