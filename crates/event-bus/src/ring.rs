//! A queue with many readers: the events of one pattern, written once and read by every subscription to
//! it, each at its own pace.
//!
//! A ring is a list of [`Segment`]s. A publisher writes under the lock; a reader takes the lock once a
//! segment and reads the entries themselves without it. What a ring keeps is bounded by the largest
//! capacity among its members, whatever a member does: one that falls further behind finds, when it comes
//! back, that it has been moved forward (see [`Member::bound`]).

mod segment;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

pub(crate) use segment::{Entry, MAX_SLOTS, Segment};

use crate::options::Overflow;

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

struct Log {
    segments: VecDeque<Arc<Segment>>,
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

/// A subscription's place in a ring.
pub(crate) struct Member {
    overflow: Overflow,
    capacity: u64,
    start: u64,
    /// The next entry that its handler will see; written by its reader.
    cursor: AtomicU64,
    /// What it may not read any more; `u64::MAX` while it is subscribed.
    end: AtomicU64,
    /// What was waiting when it left the ring.
    left: Mutex<VecDeque<Arc<Segment>>>,
    /// Entries that it was moved past, or that were not written for it.
    dropped: AtomicU64,
    /// Entries that were meant for it and never written.
    missed: AtomicU64,
    stopped: AtomicBool,
    // The rest is read and written under the ring's lock only.
    index: AtomicUsize,
    asleep_at: AtomicUsize,
    asleep_in: AtomicU64,
}

/// What [`Ring::push`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The entry is written, for that many members.
    To(usize),
    /// The entry is not written: a member has no room for it.
    Full,
}

/// What a reader finds.
pub(crate) enum Found {
    /// Entries of this segment, up to that number.
    Entries(Arc<Segment>, u64),
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
                segments: VecDeque::new(),
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

    pub(crate) fn is_gated(&self) -> bool {
        self.class == RingClass::Gated
    }

    /// Adds a member that sees what is written from now on.
    pub(crate) fn join(&self, overflow: Overflow, capacity: u64) -> Arc<Member> {
        let mut log = self.log();
        let member = Arc::new(Member {
            overflow,
            capacity,
            start: log.tail,
            cursor: AtomicU64::new(log.tail),
            end: AtomicU64::new(u64::MAX),
            left: Mutex::default(),
            dropped: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            index: AtomicUsize::new(log.members.len()),
            asleep_at: AtomicUsize::new(0),
            asleep_in: AtomicU64::new(0),
        });
        log.members.push(member.clone());
        // The new member may have less room than the gate was computed for.
        log.gate = 0;
        member
    }

    /// Ends a membership: nothing written from now on is the member's. What waits for it stays readable
    /// for it alone. Answers how many members are left; the member's reader is to be woken.
    pub(crate) fn leave(&self, member: &Member, wakes: &mut Wakes) -> usize {
        let mut log = self.log();
        let index = member.index.load(Ordering::Relaxed);
        let is_here = log.members.get(index).is_some_and(|m| std::ptr::eq(&**m, member));
        if !is_here {
            return log.members.len();
        }
        let tail = log.tail;
        let from = member.bound(tail);
        *member.left() = log.segments.iter().filter(|s| s.end() > from).cloned().collect();
        member.end.store(tail, Ordering::Release);
        log.members.swap_remove(index);
        if let Some(moved) = log.members.get(index) {
            moved.index.store(index, Ordering::Relaxed);
        }
        if member.asleep_in.load(Ordering::Relaxed) == log.round {
            let place = member.asleep_at.load(Ordering::Relaxed);
            if let Some(waker) = log.sleepers.get_mut(place).and_then(Option::take) {
                wakes.push(Some(waker));
                log.vacant.push(place);
            }
        }
        log.gate = 0;
        let left = log.members.len();
        drop(log);
        // Whoever waited for the member's room need not any more.
        self.freed();
        left
    }

    /// Writes an entry, unless a member that must not miss it has no room.
    pub(crate) fn push(&self, entry: Entry, wakes: &mut Wakes) -> Pushed {
        let mut log = self.log();
        if !log.has_room(self.class) {
            return Pushed::Full;
        }
        let (pushed, evicted) = self.write(&mut log, entry, wakes);
        drop(log);
        // Dropping events runs foreign code, which must find no lock held.
        drop(evicted);
        pushed
    }

    /// Writes one entry to each of several rings, or to none if one has no room, which is answered. The
    /// rings must be in the order of their ids.
    pub(crate) fn push_all<'a>(
        rings: &'a [Arc<Self>],
        entry: impl Fn() -> Entry,
        wakes: &mut Wakes,
    ) -> Result<usize, &'a Arc<Self>> {
        debug_assert!(rings.is_sorted_by_key(|ring| ring.id));
        let mut logs: Vec<_> = rings.iter().map(|ring| ring.log()).collect();
        for (ring, log) in rings.iter().zip(&mut logs) {
            if !log.has_room(ring.class) {
                return Err(ring);
            }
        }
        let mut members = 0;
        let mut garbage = Vec::new();
        for (ring, log) in rings.iter().zip(&mut logs) {
            let (pushed, evicted) = ring.write(log, entry(), wakes);
            if let Pushed::To(count) = pushed {
                members += count;
            }
            garbage.extend(evicted);
        }
        drop(logs);
        drop(garbage);
        Ok(members)
    }

    fn write(&self, log: &mut Log, entry: Entry, wakes: &mut Wakes) -> (Pushed, Vec<Arc<Segment>>) {
        let number = log.tail;
        let mut evicted = Vec::new();
        let segment = match log.segments.back() {
            Some(last) if number < last.end() => last,
            last => {
                let segment = Arc::new(Segment::after(last.map(|last| &**last), number));
                evicted = log.evict();
                log.segments.push_back(segment);
                // Just pushed.
                let Some(last) = log.segments.back() else { return (Pushed::Full, evicted) };
                last
            }
        };
        segment.set(number, entry);
        log.tail = number + 1;
        self.tail.0.store(number + 1, Ordering::Release);
        if !log.sleepers.is_empty() {
            log.wake_all(wakes);
        }
        (Pushed::To(log.members.len()), evicted)
    }

    /// Counts an entry that was refused for want of room as missed by every member.
    pub(crate) fn miss(&self) -> usize {
        let log = self.log();
        for member in &log.members {
            member.missed.fetch_add(1, Ordering::Relaxed);
        }
        log.members.len()
    }

    /// What is there for the member at its cursor, `most` entries at the most. If nothing is, the waker is
    /// kept for the next entry.
    ///
    /// Members that a policy moves forward are told through `skipped`, which gets the numbers and the
    /// segments that still have the entries.
    pub(crate) fn read(
        &self,
        member: &Member,
        most: u64,
        waker: Option<&Waker>,
        skipped: &mut dyn FnMut(&Entry),
    ) -> Found {
        let mut log = self.log();
        let cursor = member.cursor.load(Ordering::Relaxed);
        let end = member.end.load(Ordering::Acquire);
        if end != u64::MAX {
            drop(log);
            return member.read_left(cursor, end, most);
        }
        let tail = log.tail;
        if cursor == tail {
            let Some(waker) = waker else { return Found::Nothing };
            let idle = log.sleep(member, waker);
            drop(log);
            drop(idle);
            return Found::Nothing;
        }
        let from = member.bound(tail);
        if from > cursor {
            if member.overflow == Overflow::Disconnect {
                return Found::TooLate;
            }
            member.dropped.fetch_add(from - cursor, Ordering::Relaxed);
            member.cursor.store(from, Ordering::Release);
            let passed: Vec<_> =
                log.segments.iter().filter(|s| s.end() > cursor && s.base() < from).cloned().collect();
            let found = log.entries(from, tail, most);
            drop(log);
            for segment in passed {
                (cursor..from).filter_map(|number| segment.get(number)).for_each(&mut *skipped);
            }
            return found;
        }
        log.entries(from, tail, most)
    }

    /// Whether [`Ring::read`] would find more than nothing; if not, the waker is kept.
    pub(crate) fn has_entries(&self, member: &Member, waker: &Waker) -> bool {
        let mut log = self.log();
        if member.has_left() || member.cursor() < log.tail {
            return true;
        }
        let idle = log.sleep(member, waker);
        drop(log);
        drop(idle);
        false
    }

    /// How far a reader that stands in `segment` may go on without taking the lock, `limit` at the most.
    pub(crate) fn further(&self, member: &Member, segment: &Segment, limit: u64) -> Option<u64> {
        let cursor = member.cursor.load(Ordering::Relaxed);
        let tail = self.tail.0.load(Ordering::Acquire);
        let until = tail.min(segment.end()).min(limit);
        let goes_on = until > cursor
            && tail - cursor <= member.capacity
            && member.end.load(Ordering::Acquire) == u64::MAX;
        goes_on.then_some(until)
    }

    /// To be called when cursors have moved: wakes publishers that wait for room.
    pub(crate) fn freed(&self) {
        // Pairs with the fence in `wait_for_room`: either the publisher sees the cursor, or we see it.
        fence(Ordering::SeqCst);
        if self.blocked.load(Ordering::Relaxed) > 0 {
            self.room.notify_waiters();
        }
    }

    /// Waits until there may be room. `has_room` is asked again after the wait has been announced.
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

    /// How many entries wait for the member, as its policy has it.
    pub(crate) fn depth(&self, member: &Member) -> u64 {
        let tail = self.tail.0.load(Ordering::Acquire).min(member.end.load(Ordering::Acquire));
        tail.saturating_sub(member.bound(tail))
    }

    /// How many entries were written for the member.
    pub(crate) fn accepted(&self, member: &Member) -> u64 {
        let tail = self.tail.0.load(Ordering::Acquire).min(member.end.load(Ordering::Acquire));
        tail.saturating_sub(member.start)
    }

    /// The oldest entry that waits for the member.
    pub(crate) fn oldest(&self, member: &Member) -> Option<crate::event::Event> {
        let log = self.log();
        let number = member.bound(log.tail);
        log.segments.iter().find_map(|segment| segment.get(number)).map(|entry| entry.event.clone())
    }

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
        self.gate = self
            .members
            .iter()
            .map(|member| member.cursor.load(Ordering::Acquire).saturating_add(member.capacity))
            .min()
            .unwrap_or(u64::MAX);
        self.tail < self.gate
    }

    /// Takes out the segments that no member needs any more.
    fn evict(&mut self) -> Vec<Arc<Segment>> {
        let tail = self.tail;
        let needed = self.members.iter().map(|member| member.bound(tail)).min().unwrap_or(tail);
        let done = self.segments.iter().take_while(|segment| segment.end() <= needed).count();
        self.segments.drain(..done).collect()
    }

    /// Keeps the waker. Once everyone sleeps nothing needs the segments: they are answered, to be dropped
    /// without the lock, so that a ring at rest keeps no event alive.
    fn sleep(&mut self, member: &Member, waker: &Waker) -> VecDeque<Arc<Segment>> {
        let place = member.asleep_at.load(Ordering::Relaxed);
        let known = member.asleep_in.load(Ordering::Relaxed) == self.round;
        if known && let Some(kept) = self.sleepers.get_mut(place) {
            match kept {
                Some(kept) => kept.clone_from(waker),
                None => *kept = Some(waker.clone()),
            }
        } else {
            let place = if let Some(place) = self.vacant.pop() {
                self.sleepers[place] = Some(waker.clone());
                place
            } else {
                self.sleepers.push(Some(waker.clone()));
                self.sleepers.len() - 1
            };
            member.asleep_at.store(place, Ordering::Relaxed);
            member.asleep_in.store(self.round, Ordering::Relaxed);
        }
        let asleep = self.sleepers.len() - self.vacant.len();
        let tail = self.tail;
        let at_rest = asleep >= self.members.len()
            && self.members.iter().all(|member| member.cursor.load(Ordering::Relaxed) >= tail);
        if at_rest { std::mem::take(&mut self.segments) } else { VecDeque::new() }
    }

    fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.append(&mut self.sleepers);
        self.vacant.clear();
        self.round += 1;
    }

    fn entries(&self, from: u64, tail: u64, most: u64) -> Found {
        let at = self.segments.partition_point(|segment| segment.end() <= from);
        match self.segments.get(at) {
            Some(segment) => Found::Entries(segment.clone(), tail.min(segment.end()).min(from + most)),
            None => Found::Nothing,
        }
    }
}

impl Member {
    /// The first entry that the member may still see when `tail` entries are written: its cursor, or, for
    /// one that has fallen behind by more than its capacity, what its capacity leaves it.
    fn bound(&self, tail: u64) -> u64 {
        let cursor = self.cursor.load(Ordering::Acquire);
        if self.overflow == Overflow::Block {
            return cursor;
        }
        cursor.max(tail.saturating_sub(self.capacity))
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Moves past an entry whose handling begins.
    pub(crate) fn advance(&self, to: u64) {
        self.cursor.store(to, Ordering::Release);
    }

    /// Entries that the policy has taken from it.
    pub(crate) fn dropped(&self, ring: &Ring) -> u64 {
        let tail = ring.tail.0.load(Ordering::Acquire).min(self.end.load(Ordering::Acquire));
        let coming = self.bound(tail).saturating_sub(self.cursor());
        self.dropped.load(Ordering::Relaxed) + self.missed() + coming
    }

    /// Entries that were meant for it and not written.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Forbids any further call of its handler.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn has_left(&self) -> bool {
        self.end.load(Ordering::Acquire) != u64::MAX
    }

    fn read_left(&self, cursor: u64, end: u64, most: u64) -> Found {
        let from = self.bound(end);
        if from > cursor {
            self.dropped.fetch_add(from - cursor, Ordering::Relaxed);
            self.cursor.store(from, Ordering::Release);
        }
        let mut left = self.left();
        while left.front().is_some_and(|segment| segment.end() <= from) {
            left.pop_front();
        }
        match left.front() {
            Some(segment) if from < end => {
                Found::Entries(segment.clone(), end.min(segment.end()).min(from + most))
            }
            _ => Found::End,
        }
    }

    /// Gives up what still waits after the member has left: shows what can be shown, answers how much it
    /// was.
    pub(crate) fn discard(&self, each: &mut dyn FnMut(&Entry)) -> u64 {
        let end = self.end.load(Ordering::Acquire);
        let segments = std::mem::take(&mut *self.left());
        if end == u64::MAX {
            return 0;
        }
        let cursor = self.cursor.swap(end, Ordering::AcqRel);
        for segment in segments {
            let from = segment.base().max(cursor);
            (from..segment.end().min(end)).filter_map(|number| segment.get(number)).for_each(&mut *each);
        }
        end.saturating_sub(cursor)
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
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
