//! A count that many threads add to.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::thread::{self, THREADS};

/// A sum in several cells, each on a cache line of its own: one for each of the threads that have a number,
/// and one for all others.
#[derive(Default)]
pub(crate) struct Counter {
    own: [Padded; THREADS],
    shared: Padded,
}

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn count(&self) {
        match thread::number().and_then(|number| self.own.get(number)) {
            // Nobody else writes to it, so that no atomic addition is needed.
            Some(Padded(cell)) => cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed),
            None => drop(self.shared.0.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.own.iter().chain([&self.shared]).map(|cell| cell.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[test]
    fn nothing_is_lost_with_more_threads_than_cells_nor_when_threads_follow_each_other() {
        let counter = Arc::new(Counter::default());
        for _ in 0..3 {
            let all_there = Arc::new(Barrier::new(2 * THREADS));
            let threads: Vec<_> = (0..2 * THREADS)
                .map(|_| {
                    let (counter, all_there) = (counter.clone(), all_there.clone());
                    std::thread::spawn(move || {
                        all_there.wait();
                        (0..1000).for_each(|_| counter.count());
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
        assert_eq!(counter.sum(), 3 * 2 * 1000 * THREADS as u64);
    }
}
