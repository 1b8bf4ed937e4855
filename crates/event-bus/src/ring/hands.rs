//! What a reader has in its hands: the entries that it handles without going back to the ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Chunk, Entries, Entry};

/// Up to a chunk of entries, shared or its own.
#[derive(Default)]
pub(crate) struct Hands {
    shared: Option<Arc<Chunk>>,
    /// Its memory is kept, and swapped with the ring's open end.
    own: Entries,
    /// Of the next entry; can be moved while an entry is borrowed. One task at a time has it.
    at: AtomicUsize,
    end: usize,
}

impl Hands {
    /// The next entry.
    #[inline]
    pub(crate) fn current(&self) -> Option<&Entry> {
        let at = self.at();
        if at < self.end { self.entries().get(at) } else { None }
    }

    /// Moves on. The entry stays where it is until the hands are cleared.
    #[inline]
    pub(crate) fn next(&self) {
        self.at.store(self.at() + 1, Ordering::Relaxed);
    }

    /// The entry before the next.
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries().get(self.at().checked_sub(1)?)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.at() >= self.end
    }

    /// Lets go of everything. Runs foreign code.
    pub(crate) fn clear(&mut self) {
        if let Some(chunk) = self.shared.take() {
            Chunk::release(chunk);
        }
        self.own.clear();
        *self.at.get_mut() = 0;
        self.end = 0;
    }

    /// What is left of it, for whoever gives it up.
    pub(crate) fn rest(&self) -> &[Entry] {
        self.entries().get(self.at()..self.end).unwrap_or_default()
    }

    #[inline]
    fn at(&self) -> usize {
        self.at.load(Ordering::Relaxed)
    }

    #[inline]
    fn entries(&self) -> &[Entry] {
        match &self.shared {
            Some(chunk) => &chunk.entries,
            None => &self.own,
        }
    }

    /// Entries of a chunk from one number to another.
    pub(super) fn share(&mut self, chunk: Arc<Chunk>, from: u64, to: u64) {
        let index = |number: u64| usize::try_from(number - chunk.base).unwrap_or(usize::MAX);
        *self.at.get_mut() = index(from);
        self.end = index(to.min(chunk.end()));
        self.shared = Some(chunk);
    }

    /// Takes all entries, which begin with the number `base`, to be handled from `from` on; leaves the
    /// memory of its own.
    pub(super) fn take(&mut self, entries: &mut Entries, base: u64, from: u64) {
        std::mem::swap(&mut self.own, entries);
        *self.at.get_mut() = usize::try_from(from - base).unwrap_or(usize::MAX);
        self.end = self.own.len();
    }

    /// Takes what nobody will see, to be dropped when the hands are cleared.
    pub(super) fn drop_later(&mut self, open: &mut Entries) {
        std::mem::swap(&mut self.own, open);
        self.end = self.at();
    }
}
