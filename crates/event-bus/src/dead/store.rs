//! Where dead letters are kept. Bounded by count and by size.

use std::collections::{BTreeMap, BTreeSet};

use super::{DeadLetter, DeadLetterId, DeadLetters};
use crate::bus::Limits;
use crate::subscription::SubscriptionId;

/// What one letter counts beside its event's data, in bytes.
const LETTER_BYTES: usize = 1024;

/// See the module's text.
#[derive(Default)]
pub(crate) struct DeadStore {
    letters: BTreeMap<DeadLetterId, DeadLetter>,
    /// The letters of each subscription, for what has to go to be found.
    by_subscription: BTreeMap<SubscriptionId, BTreeSet<DeadLetterId>>,
    bytes: usize,
    last_id: u64,
}

impl DeadStore {
    /// Keeps a letter under a new id. Answers those that had to go, to be dropped where no lock is held: the
    /// oldest of the subscription that has the most, so that one that fails often does not push out what
    /// others have.
    pub(super) fn push(&mut self, mut letter: DeadLetter, limits: &Limits) -> Vec<DeadLetter> {
        self.last_id += 1;
        letter.id = DeadLetterId(self.last_id);
        self.bytes += bytes_of(&letter);
        self.by_subscription.entry(letter.subscription).or_default().insert(letter.id);
        self.letters.insert(letter.id, letter);
        let mut gone = Vec::new();
        while self.letters.len() > limits.dead_letters || self.bytes > limits.dead_letter_bytes {
            let most = self.by_subscription.values().max_by_key(|letters| letters.len());
            let Some(oldest) = most.and_then(BTreeSet::first).copied() else { break };
            gone.extend(self.remove(oldest));
        }
        gone
    }

    pub(super) fn get(&self, id: DeadLetterId) -> Option<&DeadLetter> {
        self.letters.get(&id)
    }

    pub(super) fn remove(&mut self, id: DeadLetterId) -> Option<DeadLetter> {
        let letter = self.letters.remove(&id)?;
        self.bytes -= bytes_of(&letter);
        if let Some(letters) = self.by_subscription.get_mut(&letter.subscription) {
            letters.remove(&id);
            if letters.is_empty() {
                self.by_subscription.remove(&letter.subscription);
            }
        }
        Some(letter)
    }

    pub(super) fn page(
        &self,
        takes: impl Fn(&DeadLetter) -> bool,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> DeadLetters {
        let mut page = DeadLetters::default();
        for letter in self.letters.values().filter(|letter| takes(letter)) {
            page.total += 1;
            if after.is_some_and(|after| letter.id <= after) {
                continue;
            }
            if page.letters.len() < limit {
                page.letters.push(letter.clone());
            } else if page.next.is_none() {
                page.next = page.letters.last().map(|last| last.id);
            }
        }
        page
    }
}

fn bytes_of(letter: &DeadLetter) -> usize {
    letter.event.data_bytes() + LETTER_BYTES
}
