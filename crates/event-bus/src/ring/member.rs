//! A subscription's place in a ring: where it stands, and how it comes and goes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;

use super::{Chunk, Entry, Found, Hands, Leftovers, Log, Ring};
use crate::options::Overflow;

/// See the module's text. In this order in memory: an event that comes alone needs the first cache line.
#[repr(C, align(64))]
pub(crate) struct Member {
    /// The next entry that its handler will see; written by its reader.
    cursor: AtomicU64,
    /// What it may not read any more; `u64::MAX` while it is subscribed.
    end: AtomicU64,
    capacity: u64,
    // Read and written under the ring's lock only.
    asleep_in: AtomicU64,
    asleep_at: AtomicUsize,
    pub(super) overflow: Overflow,
    stopped: AtomicBool,
    /// Whether its task is cut off.
    is_cut: AtomicBool,
    /// What its reader has done, beside its cursor.
    pub(crate) calls: Calls,
    /// What its task waits by to be cut off.
    task: AtomicWaker,
    start: u64,
    /// What was waiting when it left the ring.
    left: Mutex<VecDeque<Arc<Chunk>>>,
    /// Entries that it was moved past.
    dropped: AtomicU64,
    /// Entries that were meant for it and never written.
    missed: AtomicU64,
    /// Read and written under the ring's lock only.
    index: AtomicUsize,
}

/// Counts of the calls of a handler.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Calls {
    delivered: AtomicU64,
    /// Of how many calls the time was taken, and what it came to.
    timed: AtomicU64,
    busy_ns: AtomicU64,
}

impl Calls {
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn count(&self, delivered: u64) {
        self.delivered.fetch_add(delivered, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, calls: u64, busy: Duration) {
        let busy = u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        self.timed.fetch_add(calls, Ordering::Relaxed);
        self.busy_ns.fetch_add(busy, Ordering::Relaxed);
    }

    /// The mean time of a call, of those whose time was taken.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people; 2^52 ns are 52 days")]
    pub(crate) fn mean_seconds(&self) -> f64 {
        match self.timed.load(Ordering::Relaxed) {
            0 => 0.0,
            timed => self.busy_ns.load(Ordering::Relaxed) as f64 / timed as f64 / 1e9,
        }
    }
}

impl Ring {
    /// How many entries wait for the member, as its policy has it.
    pub(crate) fn depth(&self, member: &Member) -> u64 {
        let tail = self.tail(member);
        tail.saturating_sub(member.bound(tail))
    }

    /// How many entries were meant for the member.
    pub(crate) fn accepted(&self, member: &Member) -> u64 {
        self.tail(member).saturating_sub(member.start) + member.missed.load(Ordering::Relaxed)
    }

    /// Entries that the policy has taken from the member.
    pub(crate) fn dropped(&self, member: &Member) -> u64 {
        let coming = member.bound(self.tail(member)).saturating_sub(member.cursor());
        member.dropped.load(Ordering::Relaxed) + member.missed.load(Ordering::Relaxed) + coming
    }
}

/// Several rings, held so that their members change in one step.
pub(crate) struct Held<'a>(Vec<(&'a Arc<Ring>, MutexGuard<'a, Log>)>);

impl<'a> Held<'a> {
    /// Locks the rings.
    pub(crate) fn new(rings: impl IntoIterator<Item = &'a Arc<Ring>>) -> Self {
        let mut rings: Vec<_> = rings.into_iter().collect();
        // In the order in which publishers lock.
        rings.sort_by_key(|ring| ring.id());
        rings.dedup_by_key(|ring| ring.id());
        Self(rings.into_iter().map(|ring| (ring, ring.log())).collect())
    }

    /// One of them.
    pub(crate) fn log(&mut self, ring: &Ring) -> Option<&mut Log> {
        let at = self.0.binary_search_by_key(&ring.id(), |(ring, _)| ring.id()).ok()?;
        self.0.get_mut(at).map(|(_, log)| &mut **log)
    }

    /// Lets go, and wakes publishers that wait for the room of members that have left.
    pub(crate) fn release(self) {
        let rings: Vec<_> = self.0.iter().map(|(ring, _)| *ring).collect();
        drop(self);
        rings.iter().for_each(|ring| ring.freed());
    }
}

impl Log {
    /// Adds a member that sees what is written from now on.
    pub(crate) fn join(&mut self, overflow: Overflow, capacity: usize) -> Arc<Member> {
        let member = Arc::new(Member {
            overflow,
            capacity: capacity as u64,
            start: self.tail,
            cursor: AtomicU64::new(self.tail),
            end: AtomicU64::new(u64::MAX),
            left: Mutex::default(),
            dropped: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            calls: Calls::default(),
            stopped: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            task: AtomicWaker::new(),
            index: AtomicUsize::new(self.members.len()),
            asleep_at: AtomicUsize::new(0),
            asleep_in: AtomicU64::new(0),
        });
        self.gate = if self.members.is_empty() { member.gate() } else { self.gate.min(member.gate()) };
        self.members.push(member.clone());
        member
    }

    /// Ends a membership: nothing written from now on is the member's. What waits for it stays readable
    /// for it alone. Its reader is among those to be woken.
    pub(crate) fn leave(&mut self, member: &Member, leftovers: &mut Leftovers) {
        let index = member.index.load(Ordering::Relaxed);
        if !self.members.get(index).is_some_and(|held| std::ptr::eq(&**held, member)) {
            return;
        }
        let tail = self.tail;
        let from = member.bound(tail);
        if !self.open.is_empty() {
            self.seal();
        }
        *member.left() = self.sealed.iter().filter(|chunk| chunk.end() > from).cloned().collect();
        member.end.store(tail, Ordering::Release);
        self.members.swap_remove(index);
        if let Some(moved) = self.members.get(index) {
            moved.index.store(index, Ordering::Relaxed);
        }
        if let Some(place) = member.place_in(self.round)
            && let Some(waker) = self.sleepers.get_mut(place).and_then(Option::take)
        {
            leftovers.wakes.push(Some(waker));
            self.vacant.push(place);
        }
        self.gate = 0;
        if self.members.is_empty() {
            leftovers.garbage.extend(self.sealed.drain(..));
        }
    }
}

impl Member {
    /// The first entry that the member may still see when `tail` entries are written: its cursor, or, for
    /// one that has fallen behind by more than its capacity, what its capacity leaves it.
    pub(super) fn bound(&self, tail: u64) -> u64 {
        let cursor = self.cursor.load(Ordering::Acquire);
        if self.overflow == Overflow::Block {
            return cursor;
        }
        cursor.max(tail.saturating_sub(self.capacity))
    }

    /// Up to where there is room for it.
    pub(super) fn gate(&self) -> u64 {
        self.cursor.load(Ordering::Acquire).saturating_add(self.capacity)
    }

    /// Whether half of its capacity is free.
    pub(super) fn has_room_again(&self, tail: u64) -> bool {
        tail.saturating_sub(self.cursor()) <= self.capacity / 2
    }

    #[inline]
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    /// Moves past an entry whose handling begins.
    #[inline]
    pub(crate) fn advance(&self, to: u64) {
        self.cursor.store(to, Ordering::Release);
    }

    /// Moves past entries that are not handled.
    pub(super) fn skip(&self, from: u64, to: u64) {
        self.dropped.fetch_add(to - from, Ordering::Relaxed);
        self.cursor.store(to, Ordering::Release);
    }

    /// How many entries it was moved past so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts an entry that was meant for it and not written.
    pub(super) fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Forbids any further call of its handler.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends its task at the next await.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Whether its task is to end.
    #[inline]
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// What [`Member::cut`] wakes.
    pub(crate) fn task_waits_by(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Where its entries end, once it has left.
    pub(crate) fn end(&self) -> Option<u64> {
        match self.end.load(Ordering::Acquire) {
            u64::MAX => None,
            end => Some(end),
        }
    }

    pub(super) fn place_in(&self, round: u64) -> Option<usize> {
        let known = self.asleep_in.load(Ordering::Relaxed) == round;
        known.then(|| self.asleep_at.load(Ordering::Relaxed))
    }

    pub(super) fn sleeps_at(&self, place: usize, round: u64) {
        self.asleep_at.store(place, Ordering::Relaxed);
        self.asleep_in.store(round, Ordering::Relaxed);
    }

    pub(super) fn read_left(&self, cursor: u64, end: u64, hands: &mut Hands) -> Found {
        let from = self.bound(end);
        if from > cursor {
            self.skip(cursor, from);
        }
        let mut left = self.left();
        while left.front().is_some_and(|chunk| chunk.end() <= from) {
            left.pop_front();
        }
        match left.front() {
            Some(chunk) if from < end => {
                hands.share(chunk.clone(), from, end);
                Found::Entries
            }
            _ => Found::End,
        }
    }

    /// Gives up what still waits after the member has left: shows what can be shown, answers how much it
    /// was.
    pub(crate) fn discard(&self, hands: &mut Hands, each: &mut dyn FnMut(&Entry)) -> u64 {
        let chunks = std::mem::take(&mut *self.left());
        let Some(end) = self.end() else { return 0 };
        let cursor = self.cursor.swap(end, Ordering::AcqRel);
        let in_hand = hands.rest().len() as u64;
        hands.rest().iter().for_each(&mut *each);
        for chunk in chunks {
            let waiting = chunk.numbered().filter(|(number, _)| (cursor + in_hand..end).contains(number));
            waiting.for_each(|(_, entry)| each(entry));
        }
        hands.clear();
        end.saturating_sub(cursor)
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<Arc<Chunk>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
