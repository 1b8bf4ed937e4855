//! Who is let in: the caller itself, and API tokens.

use axum::response::{IntoResponse, Response};
use management::{ApiToken, Role, TokenRequest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::envelope::{Answer, Envelope, Outcome, Refusal, ShownOnce, list_data};
use crate::extract::{Ctx, Json, Name, PageQuery, Query};

list_data!(
    /// API tokens, by name.
    TokensData, tokens, ApiToken);

/// An API token.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenData {
    token: ApiToken,
}

/// An API token that has just been made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NewTokenData {
    /// What is kept of it.
    token: ApiToken,
    /// What its bearer shows: `Authorization: Bearer …`. It is shown this once; none in a dry run.
    secret: Option<String>,
}

/// Who the caller is taken for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeData {
    /// The name under which the audit log has them.
    #[schema(example = "token:deploy")]
    name: String,
    /// What they may do.
    role: Option<Role>,
    /// Whether this host asks for credentials. Without, whoever reaches it may do everything.
    authentication_required: bool,
}

/// Who the caller is taken for, and what it may do.
#[utoipa::path(get, path = "/access/me", tag = "access", security(("bearer" = ["access.read"])),
    responses((status = 200, description = "The caller.", body = Envelope<MeData>)))]
pub(crate) async fn me(ctx: Ctx) -> Outcome {
    let caller = ctx.caller();
    Answer::ok(&MeData {
        name: caller.name.to_string(),
        role: caller.role,
        authentication_required: ctx.management().requires_authentication(),
    })
}

/// The API tokens, without what they are proved by.
#[utoipa::path(get, path = "/access/tokens", tag = "access", security(("bearer" = ["token.read"])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = Envelope<TokensData>)))]
pub(crate) async fn tokens(ctx: Ctx, Query(query): Query<PageQuery>) -> Outcome {
    Answer::ok(&TokensData::from(ctx.management().tokens(ctx.caller(), &query.page()?)?))
}

/// One API token.
#[utoipa::path(get, path = "/access/tokens/{id}", tag = "access", security(("bearer" = ["token.read"])),
    params(("id" = String, Path, description = "The token's id.")),
    responses((status = 200, description = "The token.", body = Envelope<TokenData>)))]
pub(crate) async fn token(ctx: Ctx, Name(id): Name) -> Outcome {
    Answer::ok(&TokenData { token: ctx.management().token(ctx.caller(), &id)? })
}

/// Makes an API token.
///
/// The answer is the only one that has the token itself: it is not kept for a repeated `Idempotency-Key` either,
/// which is 409 since the name is taken by then.
#[utoipa::path(post, path = "/access/tokens", tag = "access", security(("bearer" = ["token.create"])),
    request_body = TokenRequest,
    responses((status = 201, description = "It holds from now on.", body = Envelope<NewTokenData>)))]
pub(crate) async fn create(ctx: Ctx, Json(request): Json<TokenRequest>) -> Result<Response, Refusal> {
    let (token, secret) = ctx.management().create_token(ctx.caller(), &request).await?;
    let location = format!("/access/tokens/{}", token.id);
    let secret = secret.map(|secret| secret.expose().to_owned());
    let is_secret = secret.is_some();
    let mut response = Answer::created(location, &NewTokenData { token, secret })?.into_response();
    if is_secret {
        response.extensions_mut().insert(ShownOnce);
    }
    Ok(response)
}

/// Takes an API token back: it does not hold from now on.
#[utoipa::path(delete, path = "/access/tokens/{id}", tag = "access", security(("bearer" = ["token.revoke"])),
    params(("id" = String, Path, description = "The token's id.")),
    responses((status = 200, description = "The token as it was.", body = Envelope<TokenData>)))]
pub(crate) async fn revoke(ctx: Ctx, Name(id): Name) -> Outcome {
    Answer::ok(&TokenData { token: ctx.management().revoke_token(ctx.caller(), &id).await? })
}
