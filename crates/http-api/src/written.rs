//! Answers about tasks that were written out before and still hold.
//!
//! Whoever watches a task asks again and again, and mostly nothing has changed. A task's snapshot tells: where
//! it equals the one that an answer was made of, the answer is the same to the letter, and is not made again.
//! Each thread remembers for itself, so that nobody waits for anybody.

use std::cell::RefCell;

use bytes::Bytes;
use scheduler::TaskSnapshot;

use crate::envelope::{Answer, Outcome};

/// How many answers a thread remembers.
const SLOTS: usize = 64;
/// Longer answers are not remembered.
const BODY_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static WRITTEN: RefCell<[Option<(TaskSnapshot, Bytes)>; SLOTS]> = const { RefCell::new([const { None }; SLOTS]) };
}

/// The answer about a task as it stands, by `write` if this thread does not have it.
pub(crate) fn once(id: &str, task: TaskSnapshot, write: impl FnOnce(&TaskSnapshot) -> Outcome) -> Outcome {
    let slot = slot_of(id);
    let known = WRITTEN.with_borrow(|written| match &written[slot] {
        Some((of, body)) if *of == task => Some(body.clone()),
        _ => None,
    });
    if let Some(body) = known {
        return Ok(Answer::written(body));
    }
    let answer = write(&task)?;
    if answer.body().len() <= BODY_BYTES_MAX {
        let body = answer.body().clone();
        WRITTEN.with_borrow_mut(|written| written[slot] = Some((task, body)));
    }
    Ok(answer)
}

/// FNV-1a: which slot an id takes is no secret, and nobody gains by taking another's.
fn slot_of(id: &str) -> usize {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32) as usize % SLOTS
}
