//! Dead letters: events that a handler failed on for good, kept until someone redrives or discards them.

mod store;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use runtime::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bus::EventBus;
use crate::event::Event;
use crate::hub::{Hub, Registry};
use crate::pattern::Pattern;
use crate::subscription::{Inbox, Subscriber, SubscriptionId};

pub(crate) use store::DeadStore;

/// The attribute of a published dead letter that holds the id of the event itself.
pub const DEAD_LETTER_ID: &str = "dlid";
/// The attribute that holds the event's topic.
pub const DEAD_LETTER_TOPIC: &str = "dltopic";
/// The attribute that holds the name of the subscription.
pub const DEAD_LETTER_SUBSCRIPTION: &str = "dlsubscription";
/// The attribute that says why, see [`DeadLetter::reason`].
pub const DEAD_LETTER_REASON: &str = "dlreason";
/// The attribute that holds the number of attempts.
pub const DEAD_LETTER_ATTEMPTS: &str = "dlattempts";

/// The longest reason that is kept, in bytes.
const MAX_REASON_BYTES: usize = 1024;
/// The most letters in one answer.
const MAX_PAGE: usize = 1000;

/// What a dead letter is known by: grows with each, and none is given twice by one bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct DeadLetterId(pub u64);

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterCause {
    /// The handler has failed as often as the policy allows.
    Failed,
    /// The handler says that every attempt would fail.
    Permanent,
    /// The last attempt that the policy allows panicked.
    Panicked,
    /// As many events as the subscription's capacity allows waited for another attempt already.
    NoRoom,
}

/// An event that a subscription's handler failed on for good.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// What it is known by.
    pub id: DeadLetterId,
    /// The event.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub event: Event,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub owner: Option<String>,
    /// What it takes.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub pattern: Pattern,
    /// Why there is no further attempt.
    pub cause: DeadLetterCause,
    /// The text of the last error or panic, cut off at 1,024 bytes.
    pub reason: String,
    /// How often the handler was called for it, since it was redriven the last time.
    pub attempts: u32,
    /// How often it was redriven before.
    pub redriven: u32,
    /// When it became one.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub time: Timestamp,
}

/// Which dead letters to give back.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DeadLetterFilter {
    pattern: Option<Pattern>,
    subscription: Option<SubscriptionId>,
    name: Option<String>,
    owner: Option<String>,
    cause: Option<DeadLetterCause>,
    reason: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    after: Option<DeadLetterId>,
    limit: Option<usize>,
}

impl DeadLetterFilter {
    /// All of them, a page at a time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only events whose topic the pattern takes.
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// Only those of that subscription.
    pub fn subscription(mut self, id: SubscriptionId) -> Self {
        self.subscription = Some(id);
        self
    }

    /// Only those of subscriptions that are called so.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only those of that owner's subscriptions.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Only those for which there is no further attempt because of that.
    pub fn cause(mut self, cause: DeadLetterCause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// Only those whose [`DeadLetter::reason`] has this text in it.
    pub fn reason(mut self, text: impl Into<String>) -> Self {
        self.reason = Some(text.into());
        self
    }

    /// Only those that became one at that time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = Some(time);
        self
    }

    /// Only those that became one before that time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.until = Some(time);
        self
    }

    /// Only those after that one: [`DeadLetters::next`] of the page before.
    pub fn after(mut self, id: DeadLetterId) -> Self {
        self.after = Some(id);
        self
    }

    /// At most so many, 1 to 1,000; 100, if nothing is said.
    pub fn limit(mut self, letters: usize) -> Self {
        self.limit = Some(letters);
        self
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.matches(letter.event.topic()))
            && self.subscription.is_none_or(|id| id == letter.subscription)
            && self.name.as_ref().is_none_or(|name| *name == letter.name)
            && self.owner.as_ref().is_none_or(|owner| Some(owner) == letter.owner.as_ref())
            && self.cause.is_none_or(|cause| cause == letter.cause)
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
            && self.reason.as_ref().is_none_or(|text| letter.reason.contains(text))
    }
}

/// A page of dead letters.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetters {
    /// The letters, oldest first.
    pub letters: Vec<DeadLetter>,
    /// How many the filter takes, on all pages together.
    pub total: usize,
    /// Where the next page begins; nothing: this is the last.
    pub next: Option<DeadLetterId>,
}

/// Why a dead letter was not redriven. It is still one then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedriveError {
    /// There is none of that id: it was redriven, discarded, or made room for others.
    #[error("dead letter `{0}` does not exist")]
    Unknown(DeadLetterId),
    /// The subscription has ended, and none of that name, owner and pattern that keeps its dead letters has
    /// followed it.
    #[error("subscription `{0}` has ended")]
    Ended(String),
    /// As many redriven events as the subscription's capacity allows wait for it already.
    #[error("subscription `{0}` has no room")]
    Full(String),
}

impl EventBus {
    /// The dead letters that the filter takes, oldest first.
    #[must_use]
    pub fn dead_letters(&self, filter: &DeadLetterFilter) -> DeadLetters {
        let limit = filter.limit.unwrap_or(100).clamp(1, MAX_PAGE);
        self.hub.registry().dead.page(|letter| filter.takes(letter), filter.after, limit)
    }

    /// One dead letter.
    #[must_use]
    pub fn dead_letter(&self, id: DeadLetterId) -> Option<DeadLetter> {
        self.hub.registry().dead.get(id).cloned()
    }

    /// Gives a dead letter to its subscription again, and to no other, with all its attempts before it.
    /// Where that subscription has ended, as it does when its plugin restarts, it goes to the one with the
    /// same name, owner and pattern. Answers which it went to.
    ///
    /// # Errors
    ///
    /// [`RedriveError`].
    pub fn redrive(&self, id: DeadLetterId) -> Result<SubscriptionId, RedriveError> {
        let mut registry = self.hub.registry();
        let (letter, target) = registry.redrivable(id)?;
        {
            let mut inbox = target.room_for_letter()?;
            target.counters.retrying.fetch_add(1, Ordering::Relaxed);
            inbox.letters.push_back((letter.event.clone(), letter.redriven.saturating_add(1)));
        }
        let letter = registry.dead.remove(id);
        if let Some(letter) = &letter {
            if letter.subscription == target.id {
                target.counters.dead.fetch_sub(1, Ordering::Relaxed);
            } else {
                target.counters.inherited.fetch_add(1, Ordering::Relaxed);
                registry.give_up(letter);
            }
        }
        drop(registry);
        // An event's drop is foreign code.
        drop(letter);
        self.hub.redriven.count();
        target.nudge.notify_one();
        Ok(target.id)
    }

    /// Which subscription [`EventBus::redrive`] would give a dead letter to now.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn redrive_target(&self, id: DeadLetterId) -> Result<SubscriptionId, RedriveError> {
        let registry = self.hub.registry();
        let (_, target) = registry.redrivable(id)?;
        drop(target.room_for_letter()?);
        Ok(target.id)
    }

    /// Gives a dead letter up. Answers whether it was there.
    pub fn discard(&self, id: DeadLetterId) -> bool {
        let mut registry = self.hub.registry();
        let Some(letter) = registry.dead.remove(id) else { return false };
        registry.give_up(&letter);
        drop(registry);
        true
    }
}

impl Hub {
    /// Keeps a letter of a subscription whose reader runs.
    pub(crate) fn bury(&self, subscriber: &Subscriber, letter: DeadLetter) {
        let mut registry = self.registry();
        subscriber.counters.dead.fetch_add(1, Ordering::Relaxed);
        let gone = registry.dead.push(letter, &self.limits);
        for letter in &gone {
            registry.give_up(letter);
        }
        drop(registry);
        self.dead_lettered.count();
        drop(gone);
    }
}

impl Registry {
    /// Counts a letter that was taken out of the store as discarded.
    fn give_up(&mut self, letter: &DeadLetter) {
        match self.subscribers.get(&letter.subscription) {
            Some(subscriber) => {
                subscriber.counters.dead.fetch_sub(1, Ordering::Relaxed);
                subscriber.counters.discarded.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                self.retired.dead = self.retired.dead.saturating_sub(1);
                self.retired.discarded += 1;
            }
        }
    }

    /// A letter, and the subscription that it can go to.
    fn redrivable(&self, id: DeadLetterId) -> Result<(&DeadLetter, Arc<Subscriber>), RedriveError> {
        let letter = self.dead.get(id).ok_or(RedriveError::Unknown(id))?;
        let target = self.heir_of(letter).ok_or_else(|| RedriveError::Ended(letter.name.clone()))?;
        Ok((letter, target))
    }

    fn heir_of(&self, letter: &DeadLetter) -> Option<Arc<Subscriber>> {
        let is_open = |subscriber: &&Arc<Subscriber>| {
            subscriber.options.keeps_failed() && subscriber.member.end().is_none()
        };
        let itself = self.subscribers.get(&letter.subscription).filter(is_open);
        let follows = |subscriber: &&Arc<Subscriber>| {
            *subscriber.name == *letter.name
                && subscriber.options.owner == letter.owner
                && subscriber.pattern == letter.pattern
        };
        itself.or_else(|| self.subscribers.values().filter(is_open).find(follows)).cloned()
    }
}

impl Subscriber {
    /// Its inbox, which has room for a letter.
    fn room_for_letter(&self) -> Result<MutexGuard<'_, Inbox>, RedriveError> {
        let inbox = self.inbox();
        if inbox.closed {
            return Err(RedriveError::Ended(self.name.to_string()));
        }
        if inbox.letters.len() >= self.options.capacity {
            return Err(RedriveError::Full(self.name.to_string()));
        }
        Ok(inbox)
    }
}

/// The reason as it is kept and sent: bounded, and one line.
pub(crate) fn reason_of(text: &str) -> String {
    let mut reason = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if reason.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        reason.push(c);
    }
    reason
}
