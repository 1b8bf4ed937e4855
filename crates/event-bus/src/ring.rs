//! A queue with many readers: the events of one pattern, written once and read by every subscription to
//! it, each at its own pace.
//!
//! Publishers append to the open end under the lock. Every [`CHUNK`] entries, or when a reader comes for it,
//! the open end is sealed into a [`Chunk`], which readers share without the lock. What a ring keeps is bounded by the largest capacity among its members, whatever a member
//! does: one that falls further behind finds, when it comes back, that it has been moved forward (see
//! [`Member::bound`]).

mod hands;
mod log;
mod member;
mod push;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use smallvec::SmallVec;
use tokio::sync::Notify;

pub(crate) use hands::Hands;
use log::{Chunk, Log};
pub(crate) use member::{Held, Member};
pub(crate) use push::{Leftovers, Push, Refused, push};

use crate::ack::AckTicket;
use crate::event::Event;
use crate::options::Overflow;

/// Entries in a chunk. What a reader has in its hands is one chunk at the most.
pub(crate) const CHUNK: usize = 64;

/// An event on its way, and who waits for it to be handled.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) ack: Option<Arc<AckTicket>>,
}

/// Consecutive entries; few of them need no memory of their own.
pub(crate) type Entries = SmallVec<[Entry; 2]>;

/// What has to be woken once no lock is held.
pub(crate) type Wakes = SmallVec<[Option<Waker>; 1]>;

/// See the module's text.
pub(crate) struct Ring {
    front: Front,
    log: Mutex<Log>,
    room: Notify,
}

/// What is looked at without the lock, on a cache line of its own: readers look at it while the publisher works on
/// what stands beside it.
#[repr(align(64))]
struct Front {
    /// How many entries were ever written; stored under the lock.
    tail: AtomicU64,
    /// Publishers that wait for room.
    blocked: AtomicUsize,
    /// Orders the locks of several rings.
    id: u64,
    class: RingClass,
}

/// Which subscriptions of a pattern share a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum RingClass {
    /// Those that never hold up a publisher.
    Free,
    /// Those that do.
    Gated,
    /// One that drops what is new, which the others want to see: it has a ring of its own.
    Own(u64),
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Entries; they are in its hands.
    Entries,
    /// Nothing now; the waker is kept.
    Nothing,
    /// Nothing any more.
    End,
    /// It fell too far behind for its policy.
    TooLate,
}

impl Ring {
    pub(crate) fn new(id: u64, class: RingClass) -> Self {
        Self {
            front: Front { tail: AtomicU64::new(0), blocked: AtomicUsize::new(0), id, class },
            log: Mutex::new(Log::new()),
            room: Notify::new(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.front.id
    }

    /// What is there for the member, put into its hands, which must be empty. If nothing is, the waker is
    /// kept for the next entry.
    ///
    /// What a policy moves it past is shown to `passed`, if someone waits for it to be handled.
    pub(crate) fn read(
        &self,
        member: &Member,
        hands: &mut Hands,
        waker: Option<&Waker>,
        passed: &mut dyn FnMut(&Entry),
    ) -> Found {
        let mut log = self.log();
        let cursor = member.cursor();
        if let Some(end) = member.end() {
            drop(log);
            return member.read_left(cursor, end, hands);
        }
        let tail = log.tail;
        if cursor == tail {
            let Some(waker) = waker else { return Found::Nothing };
            let mut leftovers = None;
            log.sleep(member, waker);
            log.rest(hands, &mut leftovers);
            drop(log);
            // Dropping events runs foreign code, which must find no lock held.
            hands.clear();
            if let Some(leftovers) = leftovers {
                leftovers.settle();
            }
            return Found::Nothing;
        }
        let from = member.bound(tail);
        let mut late = Vec::new();
        if from > cursor {
            if member.overflow == Overflow::Disconnect {
                return Found::TooLate;
            }
            // Most are awaited by nobody, and need not be shown.
            late.extend(log.between(cursor, from).filter(|entry| entry.ack.is_some()).cloned());
            member.skip(cursor, from);
        }
        log.give(from, hands);
        drop(log);
        late.iter().for_each(passed);
        Found::Entries
    }

    /// Whether [`Ring::read`] would find more than nothing; if not, the waker is kept.
    pub(crate) fn has_entries(&self, member: &Member, waker: &Waker) -> bool {
        let mut log = self.log();
        if member.end().is_some() || member.cursor() < log.tail {
            return true;
        }
        log.sleep(member, waker);
        false
    }

    /// Moves the member past what its policy takes away, while it has entries in its hands.
    pub(crate) fn skip_late(&self, member: &Member, hands: &mut Hands, passed: &mut dyn FnMut(&Entry)) {
        let tail = self.tail(member);
        let (cursor, from) = (member.cursor(), member.bound(tail));
        if from <= cursor || member.overflow == Overflow::Disconnect {
            return;
        }
        let mut to = cursor;
        while to < from
            && let Some(entry) = hands.current()
        {
            passed(entry);
            hands.next();
            to += 1;
        }
        member.skip(cursor, to);
    }

    /// To be called when the member's cursor has moved: wakes publishers that wait for room. Not at the first
    /// free place, but when half the capacity is free, so that a publisher that is faster than the handler
    /// is woken once for many events.
    #[inline]
    pub(crate) fn freed_by(&self, member: &Member) {
        if self.front.class == RingClass::Gated {
            // Pairs with the fence in `wait_for_room`: either the publisher sees the cursor, or we see it.
            fence(Ordering::SeqCst);
            if self.front.blocked.load(Ordering::Relaxed) > 0 && member.has_room_again(self.tail(member)) {
                self.room.notify_waiters();
            }
        }
    }

    /// To be called when members have left.
    fn freed(&self) {
        fence(Ordering::SeqCst);
        if self.front.blocked.load(Ordering::Relaxed) > 0 {
            self.room.notify_waiters();
        }
    }

    /// Waits until there may be room.
    pub(crate) async fn wait_for_room(&self) {
        let _announced = Announced::new(&self.front.blocked);
        fence(Ordering::SeqCst);
        let freed = self.room.notified();
        if self.log().has_room(self.front.class) {
            return;
        }
        freed.await;
    }

    /// How many entries were written and wait for the member.
    #[inline]
    pub(crate) fn waiting(&self, member: &Member) -> u64 {
        self.tail(member).saturating_sub(member.cursor())
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.log().members.len()
    }

    /// The oldest entry that waits for the member and that no reader has in its hands.
    pub(crate) fn oldest(&self, member: &Member) -> Option<Event> {
        let log = self.log();
        let number = member.bound(log.tail);
        log.between(number, number + 1).next().map(|entry| entry.event.clone())
    }

    /// What was written and the member may see.
    #[inline]
    fn tail(&self, member: &Member) -> u64 {
        let tail = self.front.tail.load(Ordering::Acquire);
        member.end().map_or(tail, |end| end.min(tail))
    }

    #[inline]
    fn log(&self) -> MutexGuard<'_, Log> {
        // No foreign code runs under the lock, so a panic cannot leave the log half written.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publisher that waits, counted for as long as it does.
struct Announced<'a>(&'a AtomicUsize);

impl<'a> Announced<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
