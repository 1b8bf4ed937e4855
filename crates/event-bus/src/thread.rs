//! Small numbers for threads.

use std::sync::{Mutex, PoisonError};

/// How many threads have a number at one time.
pub(crate) const THREADS: usize = 16;

/// A bit for each number that is taken.
static TAKEN: Mutex<u64> = Mutex::new(0);

/// Gives its number back when the thread ends.
struct Number(Option<usize>);

thread_local! {
    static NUMBER: Number = Number::take();
}

/// A number below [`THREADS`] that no other thread has meanwhile, if there was one left. What the thread that
/// had it before has done with it is seen.
#[inline]
pub(crate) fn number() -> Option<usize> {
    NUMBER.try_with(|number| number.0).ok().flatten()
}

impl Number {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..THREADS).find(|number| *taken & (1 << number) == 0);
        *taken |= number.map_or(0, |number| 1 << number);
        Self(number)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        *taken &= !self.0.map_or(0, |number| 1 << number);
    }
}
