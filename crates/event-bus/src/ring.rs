//! A queue with many readers: the events of one pattern, written once and read by every subscription to
//! it, each at its own pace.
//!
//! Publishers append to the open end under the lock. Every [`CHUNK`] entries the open end is sealed into a
//! [`Chunk`], which readers share without the lock; what is still open they copy, or take, if they are the
//! only one. What a ring keeps is bounded by the largest capacity among its members, whatever a member
//! does: one that falls further behind finds, when it comes back, that it has been moved forward (see
//! [`Member::bound`]).

mod hands;
mod member;
mod push;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

pub(crate) use hands::Hands;
pub(crate) use member::{Held, Member};
pub(crate) use push::{Garbage, Push, Refused, push};

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

/// Consecutive entries that are shared by the readers.
pub(crate) struct Chunk {
    base: u64,
    entries: Vec<Entry>,
}

/// What has to be woken once no lock is held.
pub(crate) type Wakes = Vec<Option<Waker>>;

/// See the module's text.
pub(crate) struct Ring {
    /// Orders the locks of several rings.
    id: u64,
    class: RingClass,
    log: Mutex<Log>,
    /// How many entries were ever written; stored under the lock, read without.
    tail: Padded,
    /// Publishers that wait for room.
    blocked: AtomicUsize,
    room: Notify,
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

/// On a cache line of its own: readers look at it while the publisher works on what stands beside it.
#[repr(align(128))]
struct Padded(AtomicU64);

pub(crate) struct Log {
    sealed: VecDeque<Arc<Chunk>>,
    open: Vec<Entry>,
    /// The number of the first open entry.
    open_base: u64,
    tail: u64,
    members: Vec<Arc<Member>>,
    /// Up to this number there is room, whatever the cursors say now.
    gate: u64,
    /// Who sleeps; a vacant place is one whose member left.
    sleepers: Wakes,
    vacant: Vec<usize>,
    /// Counts how often all sleepers were woken, so that a member knows whether its place still holds.
    round: u64,
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
            id,
            class,
            log: Mutex::new(Log {
                sealed: VecDeque::new(),
                open: Vec::new(),
                open_base: 0,
                tail: 0,
                members: Vec::new(),
                gate: 0,
                sleepers: Vec::new(),
                vacant: Vec::new(),
                round: 1,
            }),
            tail: Padded(AtomicU64::new(0)),
            blocked: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What is there for the member, put into its hands, which must be empty. If nothing is, the waker is
    /// kept for the next entry.
    ///
    /// What a policy moves it past is shown to `passed`.
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
            log.sleep(member, waker);
            let chunks = log.rest(hands);
            drop(log);
            // Dropping events runs foreign code, which must find no lock held.
            drop(chunks);
            hands.clear();
            return Found::Nothing;
        }
        let from = member.bound(tail);
        let mut late = Vec::new();
        if from > cursor {
            if member.overflow == Overflow::Disconnect {
                return Found::TooLate;
            }
            late = log.between(cursor, from);
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
        if self.class == RingClass::Gated {
            // Pairs with the fence in `wait_for_room`: either the publisher sees the cursor, or we see it.
            fence(Ordering::SeqCst);
            if self.blocked.load(Ordering::Relaxed) > 0 && member.has_room_again(self.tail(member)) {
                self.room.notify_waiters();
            }
        }
    }

    /// To be called when members have left.
    fn freed(&self) {
        fence(Ordering::SeqCst);
        if self.blocked.load(Ordering::Relaxed) > 0 {
            self.room.notify_waiters();
        }
    }

    /// Waits until there may be room.
    pub(crate) async fn wait_for_room(&self) {
        let _announced = Announced::new(&self.blocked);
        fence(Ordering::SeqCst);
        let freed = self.room.notified();
        if self.log().has_room(self.class) {
            return;
        }
        freed.await;
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.log().members.len()
    }

    /// The oldest entry that waits for the member and that no reader has in its hands.
    pub(crate) fn oldest(&self, member: &Member) -> Option<Event> {
        let log = self.log();
        let number = member.bound(log.tail);
        log.between(number, number + 1).pop().map(|entry| entry.event)
    }

    /// What was written and the member may see.
    #[inline]
    fn tail(&self, member: &Member) -> u64 {
        let tail = self.tail.0.load(Ordering::Acquire);
        member.end().map_or(tail, |end| end.min(tail))
    }

    #[inline]
    fn log(&self) -> MutexGuard<'_, Log> {
        // No foreign code runs under the lock, so a panic cannot leave the log half written.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn has_room(&mut self, class: RingClass) -> bool {
        if class == RingClass::Free || self.tail < self.gate {
            return true;
        }
        // The cursors only grow, so the gate stays true until it is reached again.
        self.gate = self.members.iter().map(|member| member.gate()).min().unwrap_or(u64::MAX);
        self.tail < self.gate
    }

    /// Seals the open end and takes out what no member needs any more.
    fn seal(&mut self, garbage: &mut Garbage) {
        let entries = std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK));
        self.sealed.push_back(Arc::new(Chunk { base: self.open_base, entries }));
        self.open_base = self.tail;
        let tail = self.tail;
        let needed = self.members.iter().map(|member| member.bound(tail)).min().unwrap_or(tail);
        while self.sealed.front().is_some_and(|chunk| chunk.end() <= needed) {
            garbage.extend(self.sealed.pop_front());
        }
    }

    /// Puts what begins at `from` into a reader's hands.
    fn give(&mut self, from: u64, hands: &mut Hands) {
        if from < self.open_base {
            let at = self.sealed.partition_point(|chunk| chunk.end() <= from);
            if let Some(chunk) = self.sealed.get(at) {
                hands.share(chunk.clone(), from, u64::MAX);
            }
        } else if self.members.len() == 1 {
            // Nobody else wants them.
            hands.take(&mut self.open, self.open_base, from);
            self.open_base = self.tail;
        } else {
            let skipped = usize::try_from(from - self.open_base).unwrap_or(usize::MAX);
            hands.copy(self.open.get(skipped..).unwrap_or_default());
        }
    }

    /// Copies of the entries of a range, as far as they are here.
    fn between(&self, from: u64, to: u64) -> Vec<Entry> {
        let sealed = self.sealed.iter().flat_map(|chunk| chunk.numbered());
        let open = (self.open_base..).zip(&self.open);
        sealed
            .chain(open)
            .filter(|(number, _)| (from..to).contains(number))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    fn sleep(&mut self, member: &Member, waker: &Waker) {
        if let Some(place) = member.place_in(self.round) {
            match self.sleepers.get_mut(place) {
                Some(Some(kept)) => kept.clone_from(waker),
                Some(none) => *none = Some(waker.clone()),
                None => {}
            }
            return;
        }
        let place = match self.vacant.pop() {
            Some(place) => {
                self.sleepers[place] = Some(waker.clone());
                place
            }
            None => {
                self.sleepers.push(Some(waker.clone()));
                self.sleepers.len() - 1
            }
        };
        member.sleeps_at(place, self.round);
    }

    /// Once everyone sleeps nothing needs the entries, and a ring at rest keeps no event alive: takes them
    /// out, to be dropped without the lock.
    fn rest(&mut self, hands: &mut Hands) -> VecDeque<Arc<Chunk>> {
        let asleep = self.sleepers.len() - self.vacant.len();
        let tail = self.tail;
        if asleep < self.members.len() || self.members.iter().any(|member| member.cursor() < tail) {
            return VecDeque::new();
        }
        hands.take(&mut self.open, self.open_base, tail);
        self.open_base = tail;
        std::mem::take(&mut self.sealed)
    }

    fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.append(&mut self.sleepers);
        self.vacant.clear();
        self.round += 1;
    }
}

impl Chunk {
    fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn numbered(&self) -> impl Iterator<Item = (u64, &Entry)> {
        (self.base..).zip(&self.entries)
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
