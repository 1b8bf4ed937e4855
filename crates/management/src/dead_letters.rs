//! Dead letters: events that a subscription failed on for good, redriven and discarded.

use event_bus::{
    DeadLetter, DeadLetterCause, DeadLetterFilter, DeadLetterId, EventBus, RedriveError, SubscriptionId,
};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::events::read_pattern;
use crate::{
    Caller, Management, PAGE_DEFAULT, PAGE_MAX, Page, PageRequest, Permission, Problem, ProblemKind,
};

/// How long a text may be that is looked for in reasons, in characters.
const REASON_LEN_MAX: usize = 256;

/// Which dead letters; all of them where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterSelection {
    /// A pattern of topics.
    pub pattern: Option<String>,
    /// The name or the id of the subscription that failed.
    pub subscription: Option<String>,
    /// Whose subscription it is: a plugin's name, as a rule.
    pub owner: Option<String>,
    /// Why there was no further attempt.
    pub cause: Option<DeadLetterCause>,
    /// A text in the reason, that is in the last error.
    pub reason: Option<String>,
    /// Dead since that time.
    pub since: Option<Timestamp>,
    /// Dead before that time.
    pub until: Option<Timestamp>,
}

impl DeadLetterSelection {
    fn filter(&self) -> Result<DeadLetterFilter, Problem> {
        let mut filter = DeadLetterFilter::new();
        if let Some(pattern) = &self.pattern {
            filter = filter.pattern(read_pattern(pattern)?);
        }
        if let Some(subscription) = &self.subscription {
            filter = match subscription.parse() {
                Ok(id) => filter.subscription(SubscriptionId(id)),
                Err(_) => filter.name(subscription),
            };
        }
        if let Some(owner) = &self.owner {
            filter = filter.owner(owner);
        }
        if let Some(cause) = self.cause {
            filter = filter.cause(cause);
        }
        if let Some(reason) = &self.reason {
            if reason.chars().count() > REASON_LEN_MAX {
                let detail = format!("is longer than {REASON_LEN_MAX} characters");
                return Err(Problem::invalid("reason", detail));
            }
            filter = filter.reason(reason);
        }
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err(Problem::invalid("until", "has to be after `since`"));
        }
        if let Some(since) = self.since {
            filter = filter.since(since);
        }
        if let Some(until) = self.until {
            filter = filter.until(until);
        }
        Ok(filter)
    }
}

/// What is to be done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterAction {
    /// Give it to its subscription again.
    Redrive,
    /// Give it up.
    Discard,
}

impl DeadLetterAction {
    /// What it asks of the caller.
    const fn permission(self) -> Permission {
        match self {
            Self::Redrive => Permission::DeadLetterRedrive,
            Self::Discard => Permission::DeadLetterDiscard,
        }
    }
}

/// Many dead letters at once: the ones of these ids or, without ids, those that all of the rest takes, the
/// oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({"type": "orders.*", "subscription": "billing", "limit": 100}))]
pub struct DeadLetterBatch {
    /// These, and no others; at most 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<u64>>, max_items = 1000)]
    pub ids: Option<Vec<DeadLetterId>>,
    /// A pattern of topics: `*` is one segment, `**` any number.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The name or the id of the subscription that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Whose subscription it is: a plugin's name, as a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Why there was no further attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<DeadLetterCause>,
    /// A text in the reason, that is in the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub reason: Option<String>,
    /// Dead since that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Dead before that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How many at the most; 100 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<u64>,
}

impl DeadLetterBatch {
    /// The ids that are meant, and how many more there are.
    fn ids(&self, bus: &EventBus) -> Result<(Vec<DeadLetterId>, u64), Problem> {
        let selection = DeadLetterSelection {
            pattern: self.pattern.clone(),
            subscription: self.subscription.clone(),
            owner: self.owner.clone(),
            cause: self.cause,
            reason: self.reason.clone(),
            since: self.since,
            until: self.until,
        };
        if let Some(ids) = &self.ids {
            if selection != DeadLetterSelection::default() || self.limit.is_some() {
                return Err(Problem::invalid("ids", "stands alone: with ids, nothing else is looked at"));
            }
            if ids.len() > PAGE_MAX {
                return Err(Problem::invalid("ids", format!("are more than {PAGE_MAX}")));
            }
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.dedup();
            return Ok((ids, 0));
        }
        let limit = PageRequest::new(self.limit.or(Some(PAGE_DEFAULT as u64)), None)?.limit();
        let page = bus.dead_letters(&selection.filter()?.limit(limit));
        let ids: Vec<_> = page.letters.iter().map(|letter| letter.id).collect();
        let left = page.total.saturating_sub(ids.len()) as u64;
        Ok((ids, left))
    }
}

/// What became of one dead letter.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeadLetterOutcome {
    /// The dead letter.
    #[schema(value_type = u64)]
    pub id: DeadLetterId,
    /// Whether it was done.
    pub done: bool,
    /// The subscription that it was given to.
    #[schema(value_type = Option<u64>)]
    pub subscription: Option<SubscriptionId>,
    /// Why it was not done; it is a dead letter still, unless it is `not_found`.
    pub kind: Option<ProblemKind>,
    /// The same in words.
    pub message: Option<String>,
}

/// What became of many dead letters.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DeadLetterReport {
    /// What was done with them.
    pub action: DeadLetterAction,
    /// Whether it was only tried out: nothing has changed then.
    pub dry_run: bool,
    /// How many it was done with.
    pub done: u64,
    /// How many it could not be done with.
    pub refused: u64,
    /// How many more there are that are meant, beyond the limit.
    pub left: u64,
    /// Each of them.
    pub outcomes: Vec<DeadLetterOutcome>,
}

impl Management {
    /// Dead letters, the oldest first.
    ///
    /// # Errors
    ///
    /// `invalid_field` for a pattern or a cursor that is none, and for times without anything between.
    pub fn dead_letters(
        &self,
        caller: &Caller,
        selection: &DeadLetterSelection,
        page: &PageRequest,
    ) -> Result<Page<DeadLetter>, Problem> {
        caller.require(Permission::EventRead)?;
        let mut filter = selection.filter()?.limit(page.limit());
        if let Some(id) = page.cursor_as()? {
            filter = filter.after(DeadLetterId(id));
        }
        let found = self.bus()?.dead_letters(&filter);
        Ok(Page {
            items: found.letters,
            total: found.total as u64,
            next_cursor: found.next.map(|id| id.to_string()),
        })
    }

    /// One dead letter.
    ///
    /// # Errors
    ///
    /// `not_found`, also for what cannot be the id of one.
    pub fn dead_letter(&self, caller: &Caller, id: &str) -> Result<DeadLetter, Problem> {
        caller.require(Permission::EventRead)?;
        find(self.bus()?, id)
    }

    /// Redrives or discards one dead letter. Answers what it was, and which subscription it was given to.
    ///
    /// # Errors
    ///
    /// `not_found`, `invalid_state` if its subscription has ended and none has followed it, and
    /// `unavailable` while that has no room.
    pub async fn settle_dead_letter(
        &self,
        caller: &Caller,
        id: &str,
        action: DeadLetterAction,
    ) -> Result<(DeadLetter, Option<SubscriptionId>), Problem> {
        self.write(caller, action.permission(), id, async |dry_run| {
            let bus = self.bus()?;
            let letter = find(bus, id)?;
            let target = settle(bus, letter.id, action, dry_run)?;
            Ok((letter, target))
        })
        .await
    }

    /// Redrives or discards many dead letters, at most 1000, and says what became of each. One that is
    /// refused keeps no other from being done.
    ///
    /// # Errors
    ///
    /// `invalid_field` as for [`Management::dead_letters`]; nothing is done then.
    pub async fn settle_dead_letters(
        &self,
        caller: &Caller,
        batch: &DeadLetterBatch,
        action: DeadLetterAction,
    ) -> Result<DeadLetterReport, Problem> {
        let target = serde_json::to_string(batch).unwrap_or_default();
        self.write(caller, action.permission(), &target, async |dry_run| {
            let bus = self.bus()?;
            let (ids, left) = batch.ids(bus)?;
            let mut report =
                DeadLetterReport { action, dry_run, done: 0, refused: 0, left, outcomes: Vec::new() };
            for id in ids {
                let outcome = settle(bus, id, action, dry_run);
                *(if outcome.is_ok() { &mut report.done } else { &mut report.refused }) += 1;
                let problem = outcome.as_ref().err();
                report.outcomes.push(DeadLetterOutcome {
                    id,
                    done: problem.is_none(),
                    kind: problem.map(|problem| problem.kind),
                    message: problem.map(ToString::to_string),
                    subscription: outcome.unwrap_or_default(),
                });
            }
            Ok(report)
        })
        .await
    }
}

fn find(bus: &EventBus, id: &str) -> Result<DeadLetter, Problem> {
    let known = id.parse().ok().and_then(|id| bus.dead_letter(DeadLetterId(id)));
    known.ok_or_else(|| Problem::not_found("dead letter", id))
}

fn settle(
    bus: &EventBus,
    id: DeadLetterId,
    action: DeadLetterAction,
    dry_run: bool,
) -> Result<Option<SubscriptionId>, Problem> {
    match (action, dry_run) {
        (DeadLetterAction::Redrive, false) => Ok(Some(bus.redrive(id)?)),
        (DeadLetterAction::Redrive, true) => Ok(Some(bus.redrive_target(id)?)),
        (DeadLetterAction::Discard, _) => {
            let there = if dry_run { bus.dead_letter(id).is_some() } else { bus.discard(id) };
            if there { Ok(None) } else { Err(Problem::not_found("dead letter", &id.to_string())) }
        }
    }
}

impl From<RedriveError> for Problem {
    fn from(error: RedriveError) -> Self {
        match &error {
            RedriveError::Unknown(id) => Self::not_found("dead letter", &id.to_string()),
            RedriveError::Ended(_) => Self::new(ProblemKind::InvalidState, error.to_string()),
            RedriveError::Full(_) => Self::new(ProblemKind::Unavailable, error.to_string())
                .retry_after(std::time::Duration::from_secs(1)),
        }
    }
}
