//! Dead letters: looked at, redriven, discarded.

use event_bus::{DeadLetter, DeadLetterCause, SubscriptionId};
use management::{DeadLetterAction, DeadLetterBatch, DeadLetterReport, DeadLetterSelection, PageRequest};
use runtime::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::envelope::{Answer, Envelope, Outcome, list_data};
use crate::extract::{Ctx, Json, Name, Query};

list_data!(
    /// Dead letters, the oldest first.
    DeadLettersData, dead_letters, DeadLetter);

/// A dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterData {
    dead_letter: DeadLetter,
}

/// A dead letter that was redriven or discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SettledData {
    /// What it was.
    dead_letter: DeadLetter,
    /// The subscription that it was given to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    subscription: Option<SubscriptionId>,
}

/// Which dead letters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadLettersQuery {
    /// A pattern of topics: `*` is one segment, `**` any number.
    #[serde(rename = "type")]
    #[param(example = "orders.*")]
    pattern: Option<String>,
    /// The name or the id of the subscription that failed.
    subscription: Option<String>,
    /// Whose subscription it is: a plugin's name, as a rule.
    owner: Option<String>,
    /// Why there was no further attempt.
    cause: Option<DeadLetterCause>,
    /// A text in the reason, that is in the last error.
    #[param(max_length = 256)]
    reason: Option<String>,
    /// Dead since that time.
    since: Option<Timestamp>,
    /// Dead before that time.
    until: Option<Timestamp>,
    /// How many entries at the most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Events that a subscription failed on for good, the oldest first.
#[utoipa::path(get, path = "/events/dead-letters", tag = "events", security(("bearer" = ["event.read"])), params(DeadLettersQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<DeadLettersData>)))]
pub(crate) async fn list(ctx: Ctx, Query(query): Query<DeadLettersQuery>) -> Outcome {
    let page = PageRequest::new(query.limit, query.cursor)?;
    let selection = DeadLetterSelection {
        pattern: query.pattern,
        subscription: query.subscription,
        owner: query.owner,
        cause: query.cause,
        reason: query.reason,
        since: query.since,
        until: query.until,
    };
    Answer::ok(&DeadLettersData::from(ctx.management().dead_letters(ctx.caller(), &selection, &page)?))
}

/// One dead letter.
#[utoipa::path(get, path = "/events/dead-letters/{id}", tag = "events", security(("bearer" = ["event.read"])),
    params(("id" = String, Path, description = "The dead letter's id.", example = "17")),
    responses((status = 200, description = "The dead letter.", body = Envelope<DeadLetterData>)))]
pub(crate) async fn get(ctx: Ctx, Name(id): Name) -> Outcome {
    Answer::ok(&DeadLetterData { dead_letter: ctx.management().dead_letter(ctx.caller(), &id)? })
}

/// Gives a dead letter to its subscription again, with all its attempts before it.
///
/// Where that subscription has ended, as it does when its plugin restarts, it goes to the one that has the same
/// name, owner and pattern. An event that fails again is a new dead letter.
#[utoipa::path(post, path = "/events/dead-letters/{id}/redrive", tag = "events", security(("bearer" = ["dead_letter.redrive"])),
    params(("id" = String, Path, description = "The dead letter's id.", example = "17")),
    responses((status = 200, description = "What it was, and who has it now.", body = Envelope<SettledData>)))]
pub(crate) async fn redrive(ctx: Ctx, Name(id): Name) -> Outcome {
    settle(&ctx, &id, DeadLetterAction::Redrive).await
}

/// Gives a dead letter up.
#[utoipa::path(post, path = "/events/dead-letters/{id}/discard", tag = "events", security(("bearer" = ["dead_letter.discard"])),
    params(("id" = String, Path, description = "The dead letter's id.", example = "17")),
    responses((status = 200, description = "What it was.", body = Envelope<SettledData>)))]
pub(crate) async fn discard(ctx: Ctx, Name(id): Name) -> Outcome {
    settle(&ctx, &id, DeadLetterAction::Discard).await
}

/// Redrives many dead letters, and says what became of each.
#[utoipa::path(post, path = "/events/dead-letters/redrive", tag = "events", security(("bearer" = ["dead_letter.redrive"])), request_body = DeadLetterBatch,
    responses((status = 200, description = "What became of each.", body = Envelope<DeadLetterReport>)))]
pub(crate) async fn redrive_many(ctx: Ctx, Json(batch): Json<DeadLetterBatch>) -> Outcome {
    let action = DeadLetterAction::Redrive;
    Answer::ok(&ctx.management().settle_dead_letters(ctx.caller(), &batch, action).await?)
}

/// Discards many dead letters, and says what became of each.
#[utoipa::path(post, path = "/events/dead-letters/discard", tag = "events", security(("bearer" = ["dead_letter.discard"])), request_body = DeadLetterBatch,
    responses((status = 200, description = "What became of each.", body = Envelope<DeadLetterReport>)))]
pub(crate) async fn discard_many(ctx: Ctx, Json(batch): Json<DeadLetterBatch>) -> Outcome {
    let action = DeadLetterAction::Discard;
    Answer::ok(&ctx.management().settle_dead_letters(ctx.caller(), &batch, action).await?)
}

async fn settle(ctx: &Ctx, id: &str, action: DeadLetterAction) -> Outcome {
    let (dead_letter, subscription) = ctx.management().settle_dead_letter(ctx.caller(), id, action).await?;
    Answer::ok(&SettledData { dead_letter, subscription })
}
