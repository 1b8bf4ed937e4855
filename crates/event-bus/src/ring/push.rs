//! Writing an event to every ring of its route, in one step.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CHUNK, Chunk, Entry, Log, Ring, RingClass, Wakes};

/// Rings that are locked by recursion; more of them are locked by a list, which is allocated.
const BY_RECURSION: usize = 16;

/// What is left to be done once no lock is held, since it runs foreign code.
#[derive(Default)]
pub(crate) struct Leftovers {
    pub(super) wakes: Wakes,
    /// What nobody needs any more.
    pub(super) garbage: Vec<Arc<Chunk>>,
}

/// What a push does on its way.
#[derive(Default)]
pub(crate) struct Push<'a> {
    /// Where the event's number comes from, if it gets one, once all rings are held and it will be written.
    pub(crate) numbers: Option<&'a AtomicU64>,
    pub(crate) number: u64,
    /// Subscriptions that have the event.
    pub(crate) delivered_to: usize,
    /// Subscriptions that had no room for it.
    pub(crate) missed: usize,
    /// Members that must not miss an event may miss this one.
    pub(crate) may_miss: bool,
    pub(crate) leftovers: Option<Leftovers>,
}

impl Push<'_> {
    #[inline]
    fn give_number(&mut self) {
        if let Some(numbers) = self.numbers {
            self.number = numbers.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn leftovers(&mut self) -> &mut Leftovers {
        self.leftovers.get_or_insert_with(Leftovers::begin)
    }
}

/// Why nothing was written.
pub(crate) enum Refused {
    /// A member that must not miss the event has no room in this ring.
    Full(Arc<Ring>),
    /// The route is out of date.
    Stale,
}

/// Writes the entry to all rings, whose ids must ascend, or to none. `is_valid` is asked while all of them are
/// held.
///
/// What was refused is left where it is, and so is what no ring took: to be dropped where no lock is held.
#[inline]
pub(crate) fn push(
    rings: &[Arc<Ring>],
    entry: &mut Option<Entry>,
    push: &mut Push<'_>,
    is_valid: impl Fn() -> bool,
) -> Result<(), Refused> {
    debug_assert!(rings.is_sorted_by(|a, b| a.id() < b.id()));
    if rings.len() <= BY_RECURSION {
        lock_next(rings, entry, true, push, &is_valid)
    } else {
        lock_list(rings, entry, push, &is_valid)
    }
}

/// Holds the first ring while it does the same with the rest; writes on the way back, so that everything is
/// held before anything is written.
fn lock_next(
    rings: &[Arc<Ring>],
    entry: &mut Option<Entry>,
    is_last_to_write: bool,
    push: &mut Push<'_>,
    is_valid: &impl Fn() -> bool,
) -> Result<(), Refused> {
    let Some((ring, rest)) = rings.split_first() else {
        if !is_valid() {
            return Err(Refused::Stale);
        }
        push.give_number();
        return Ok(());
    };
    let mut log = ring.log();
    let has_room = log.has_room(ring.front.class);
    if !has_room && ring.front.class == RingClass::Gated && !push.may_miss {
        drop(log);
        return Err(if is_valid() { Refused::Full(ring.clone()) } else { Refused::Stale });
    }
    lock_next(rest, entry, false, push, is_valid)?;
    if ring.takes(&log, has_room, push) {
        // Moved into the last ring and not copied: a counter less to count up and down.
        let entry = if is_last_to_write { entry.take() } else { entry.clone() };
        ring.write(&mut log, entry, push);
    }
    Ok(())
}

fn lock_list(
    rings: &[Arc<Ring>],
    entry: &mut Option<Entry>,
    push: &mut Push<'_>,
    is_valid: &impl Fn() -> bool,
) -> Result<(), Refused> {
    let mut logs: Vec<_> = rings.iter().map(|ring| (ring, ring.log(), true)).collect();
    if !is_valid() {
        return Err(Refused::Stale);
    }
    for (ring, log, has_room) in &mut logs {
        *has_room = log.has_room(ring.front.class);
        if !*has_room && ring.front.class == RingClass::Gated && !push.may_miss {
            return Err(Refused::Full(Arc::clone(ring)));
        }
    }
    push.give_number();
    for (ring, log, has_room) in &mut logs {
        if ring.takes(log, *has_room, push) {
            ring.write(log, entry.clone(), push);
        }
    }
    Ok(())
}

impl Ring {
    /// Whether there is someone to write an entry for, with room for it.
    #[inline]
    fn takes(&self, log: &Log, has_room: bool, push: &mut Push<'_>) -> bool {
        if !has_room {
            log.members.iter().for_each(|member| member.miss());
            push.missed += log.members.len();
        }
        has_room && !log.members.is_empty()
    }

    #[inline]
    fn write(&self, log: &mut Log, entry: Option<Entry>, push: &mut Push<'_>) {
        if log.tail.is_multiple_of(CHUNK as u64) && !log.sealed.is_empty() {
            log.trim(&mut push.leftovers().garbage);
        }
        if log.open.len() >= CHUNK {
            log.seal();
        }
        log.open.extend(entry);
        log.tail += 1;
        self.front.tail.store(log.tail, Ordering::Release);
        push.delivered_to += log.members.len();
        if !log.sleepers.is_empty() {
            log.wake_all(&mut push.leftovers().wakes);
        }
    }
}

thread_local! {
    static LAST: Cell<Option<Leftovers>> = const { Cell::new(None) };
}

impl Leftovers {
    /// None yet, with the memory of this thread's last ones.
    #[inline]
    pub(crate) fn begin() -> Self {
        LAST.take().unwrap_or_default()
    }

    /// Drops what is garbage and wakes who is to be woken. To be called where no lock is held.
    #[inline]
    pub(crate) fn settle(mut self) {
        self.garbage.drain(..).for_each(Chunk::release);
        self.wakes.drain(..).flatten().for_each(std::task::Waker::wake);
        LAST.set(Some(self));
    }
}
