//! API tokens: listed, made, taken back.

use std::sync::Arc;

use plugin_core::Secret;
use telemetry::TraceContext;

use crate::access::TokenError;
use crate::{
    ApiToken, Caller, Management, Origin, Page, PageRequest, Permission, Problem, ProblemKind, TokenRequest,
};

impl Management {
    /// Whether whoever calls needs credentials, but for what is public.
    #[must_use]
    pub fn requires_authentication(&self) -> bool {
        self.inner.access.is_required()
    }

    /// Who somebody is who has shown nothing: a developer, who may do everything, or nobody where credentials
    /// are required.
    #[must_use]
    pub fn stranger(&self, origin: Origin, trace: TraceContext) -> Caller {
        self.inner.access.stranger(origin, trace)
    }

    /// Who somebody is, by the value of the header `Authorization`, or what stands for it in another protocol.
    ///
    /// # Errors
    ///
    /// `unauthenticated` for credentials that do not hold, answered the later the more of them there have been
    /// from the same network; `forbidden` for those that give no role; `too_many` where too many wait for
    /// their answer; `unavailable` while the keys of an issuer are unknown.
    pub async fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        origin: Origin,
        trace: TraceContext,
    ) -> Result<Caller, Problem> {
        self.inner.access.caller(authorization, origin, trace).await
    }

    /// Asks for a permission before anything of a request is read. A write that is refused is in the audit
    /// log; a stranger's is not, since strangers could fill it.
    ///
    /// # Errors
    ///
    /// `unauthenticated` or `forbidden`.
    pub fn authorize(
        &self,
        caller: &Caller,
        permission: Permission,
        writes_to: Option<&str>,
    ) -> Result<(), Problem> {
        let outcome = caller.require(permission);
        if let Some(target) = writes_to
            && outcome.is_err()
            && caller.role.is_some()
            && !caller.dry_run
        {
            self.inner.audit.record(caller, permission.name(), target, &outcome);
        }
        outcome
    }

    /// The API tokens, by name.
    ///
    /// # Errors
    ///
    /// For callers below `admin`, and for a cursor that is none.
    pub fn tokens(&self, caller: &Caller, page: &PageRequest) -> Result<Page<ApiToken>, Problem> {
        caller.require(Permission::TokenRead)?;
        Ok(page.of_sorted(self.inner.access.tokens().list(), |token| &token.name))
    }

    /// One API token.
    ///
    /// # Errors
    ///
    /// For callers below `admin`, and `not_found`.
    pub fn token(&self, caller: &Caller, id: &str) -> Result<ApiToken, Problem> {
        caller.require(Permission::TokenRead)?;
        self.inner.access.tokens().get(id).ok_or_else(|| Problem::not_found("token", id))
    }

    /// Makes an API token. What proves it is in the answer and nowhere else; a dry run has none.
    ///
    /// # Errors
    ///
    /// `invalid_field`, or `already_exists` where another has the name.
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: &TokenRequest,
    ) -> Result<(ApiToken, Option<Secret>), Problem> {
        self.write(caller, Permission::TokenCreate, &request.name, async |dry_run| {
            let now = self.inner.clock.now();
            let tokens = Arc::clone(self.inner.access.tokens());
            if dry_run {
                let expires_at = request.check(now)?;
                tokens.check_room(&request.name)?;
                let token = ApiToken {
                    id: "0".repeat(16),
                    name: request.name.clone(),
                    role: request.role,
                    created_at: now,
                    created_by: caller.name.to_string(),
                    expires_at,
                };
                return Ok((token, None));
            }
            let (request, by) = (request.clone(), Arc::clone(&caller.name));
            let new = blocking(move || tokens.create_as(&request, &by)).await?;
            Ok((new.token, Some(new.secret)))
        })
        .await
    }

    /// Takes an API token back: it does not hold from now on.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<ApiToken, Problem> {
        self.write(caller, Permission::TokenRevoke, id, async |dry_run| {
            let tokens = Arc::clone(self.inner.access.tokens());
            let wanted = id.to_owned();
            let revoked = match dry_run {
                true => tokens.get(id),
                false => blocking(move || tokens.revoke(&wanted)).await?,
            };
            revoked.ok_or_else(|| Problem::not_found("token", id))
        })
        .await
    }
}

/// Files are written where nobody waits for a thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TokenError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            tracing::error!(%error, "api tokens were not changed");
            Err(Problem::internal())
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match &error {
            TokenError::Invalid(problem) => problem.clone(),
            TokenError::NameTaken(_) => Self::new(ProblemKind::AlreadyExists, error.to_string()),
            TokenError::Full => Self::new(ProblemKind::InvalidState, error.to_string()),
            TokenError::Damaged { .. } | TokenError::Io { .. } | TokenError::Random(_) => {
                tracing::error!(%error, cause = ?std::error::Error::source(&error), "api tokens were not changed");
                Self::new(ProblemKind::Unavailable, "the file of api tokens did not take the change")
            }
        }
    }
}
