//! A count that many threads add to.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const CELLS: usize = 16;

/// A sum in several cells, each on a cache line of its own; threads take turns in which they use.
#[derive(Default)]
pub(crate) struct Counter([Padded; CELLS]);

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn count(&self) {
        thread_local! {
            static CELL: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let mut cell = CELL.get();
        if cell == usize::MAX {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            cell = NEXT.fetch_add(1, Ordering::Relaxed) % CELLS;
            CELL.set(cell);
        }
        self.0[cell % CELLS].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|cell| cell.0.load(Ordering::Relaxed)).sum()
    }
}
