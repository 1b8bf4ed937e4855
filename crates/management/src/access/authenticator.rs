//! From credentials to a caller.

use std::path::Path;
use std::sync::Arc;

use runtime::SharedClock;
use telemetry::TraceContext;

use super::Rejected;
use super::config::{AccessConfig, InvalidAccess};
use super::delay::FailureDelay;
#[cfg(feature = "jwt")]
use super::jwt::JwtVerifier;
use super::token::looks_like_one;
use super::token_file::{TokenError, TokenFile};
use crate::{Caller, Origin, Problem, ProblemKind, Role};

/// How long credentials may be, in bytes.
const CREDENTIALS_LEN_MAX: usize = 8 * 1024;

/// Why access could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The configuration is wrong.
    #[error("access.{0}")]
    Config(#[from] InvalidAccess),
    /// API tokens could not be read.
    #[error("read api tokens")]
    Tokens(#[source] TokenError),
}

/// Knows who somebody is by what they show. One for all transports of a host.
#[derive(Debug)]
pub struct Authenticator {
    required: bool,
    tokens: Arc<TokenFile>,
    #[cfg(feature = "jwt")]
    jwt: Option<JwtVerifier>,
    #[cfg(feature = "jwt")]
    clock: SharedClock,
    delay: FailureDelay,
}

/// Whom credentials belong to.
struct Identity {
    name: Arc<str>,
    role: Role,
}

impl Authenticator {
    /// Asks nobody for credentials. Those that are shown have to hold all the same.
    pub(crate) fn open_to_all(clock: SharedClock) -> Self {
        Self {
            required: false,
            tokens: Arc::new(TokenFile::in_memory(clock.clone())),
            #[cfg(feature = "jwt")]
            jwt: None,
            #[cfg(feature = "jwt")]
            clock,
            delay: FailureDelay::new(),
        }
    }

    /// As the configuration says, with the API tokens of a file, which need not be there yet.
    ///
    /// # Errors
    ///
    /// If the configuration is wrong, or a file that it names or the tokens cannot be read.
    pub fn open(config: &AccessConfig, tokens: &Path, clock: SharedClock) -> Result<Self, AccessError> {
        let tokens = TokenFile::open(tokens, clock.clone()).map_err(AccessError::Tokens)?;
        Self::with_tokens(config, tokens, clock)
    }

    /// The same with tokens that were opened before.
    ///
    /// # Errors
    ///
    /// As for [`Authenticator::open`].
    pub fn with_tokens(
        config: &AccessConfig,
        tokens: TokenFile,
        clock: SharedClock,
    ) -> Result<Self, AccessError> {
        config.check()?;
        #[cfg(not(feature = "jwt"))]
        if config.jwt.is_some() {
            let detail = "this program was built without the feature `jwt`".to_owned();
            return Err(InvalidAccess { key: "jwt", detail }.into());
        }
        let open = Self::open_to_all(clock);
        Ok(Self {
            required: config.required,
            tokens: Arc::new(tokens),
            #[cfg(feature = "jwt")]
            jwt: config.jwt.as_ref().map(JwtVerifier::new).transpose()?,
            ..open
        })
    }

    /// Whether whoever calls needs credentials.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// The host's own tokens.
    pub(crate) fn tokens(&self) -> &Arc<TokenFile> {
        &self.tokens
    }

    /// Who somebody is, by the value of the header `Authorization`, or what stands for it in another protocol.
    ///
    /// # Errors
    ///
    /// `unauthenticated` for credentials that do not hold, the later the more there have been from the same
    /// network; `too_many` where too many wait for that; `unavailable` while the keys of an issuer are unknown.
    pub(crate) async fn caller(
        &self,
        authorization: Option<&[u8]>,
        origin: Origin,
        trace: TraceContext,
    ) -> Result<Caller, Problem> {
        let Some(authorization) = authorization else { return Ok(self.stranger(origin, trace)) };
        let checked = match bearer(authorization) {
            Some(text) => self.identify(text).await,
            None => Err(Rejected::Invalid("not `Bearer` and a token")),
        };
        let (reason, message) = match checked {
            Ok(Identity { name, role }) => return Ok(Caller::new(name, role, origin, trace)),
            Err(Rejected::NoRole) => {
                return Err(Problem::forbidden("these credentials give no role on this host"));
            }
            Err(Rejected::Unknown(why)) => {
                tracing::warn!(%origin, why, "credentials cannot be checked");
                let problem = Problem::new(ProblemKind::Unavailable, "credentials cannot be checked now");
                return Err(problem.retry_after(std::time::Duration::from_secs(5)));
            }
            Err(Rejected::Expired) => ("expired", "these credentials have expired"),
            Err(Rejected::Invalid(reason)) => (reason, "these credentials do not hold"),
        };
        self.delay.failed(origin).await?;
        tracing::warn!(%origin, reason, %trace, "authentication failed");
        Err(Problem::new(ProblemKind::Unauthenticated, message))
    }

    /// Somebody without credentials.
    pub(crate) fn stranger(&self, origin: Origin, trace: TraceContext) -> Caller {
        if self.required { Caller::anonymous(origin, trace) } else { Caller::developer(origin, trace) }
    }

    async fn identify(&self, text: &str) -> Result<Identity, Rejected> {
        if looks_like_one(text) {
            let token = self.tokens.verify(text)?;
            return Ok(Identity { name: format!("token:{}", token.name).into(), role: token.role });
        }
        #[cfg(feature = "jwt")]
        if let Some(jwt) = &self.jwt {
            let (subject, role) = jwt.verify(text, self.clock.now()).await?;
            return Ok(Identity { name: format!("jwt:{subject}").into(), role });
        }
        Err(Rejected::Invalid("neither an api token nor one of an issuer that is known"))
    }
}

/// The token of `Bearer TOKEN` (RFC 6750, 2.1), if it is one.
fn bearer(value: &[u8]) -> Option<&str> {
    if value.len() > CREDENTIALS_LEN_MAX {
        return None;
    }
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.bytes().all(is_token))
        .then_some(token)
}

#[cfg(test)]
mod tests {
    use runtime::VirtualClock;

    use super::*;

    fn trace() -> TraceContext {
        TraceContext::root(false)
    }

    #[test]
    fn a_bearer_is_read_or_is_not() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  a.b-c_d~e+f/g=", Some("a.b-c_d~e+f/g=")),
            ("Bearer ", None),
            ("Bearer", None),
            ("abc", None),
            ("Basic YTpi", None),
            ("Bearer a b", None),
            ("Bearer a,b", None),
            ("Bearer \u{e4}", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token, "{value:?}");
        }
        assert_eq!(bearer(b"Bearer \xff"), None);
        assert_eq!(bearer(format!("Bearer {}", "a".repeat(CREDENTIALS_LEN_MAX)).as_bytes()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_holds_until_it_expires_or_is_taken_back() {
        let clock = VirtualClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let tokens = TokenFile::in_memory(clock.clone());
        let config = AccessConfig { required: true, jwt: None };
        let gate = Authenticator::with_tokens(&config, tokens, clock.clone()).unwrap();
        let end = "2026-01-02T00:00:00Z".parse().unwrap();
        let short = gate.tokens.create("short", Role::Operator, "x", Some(end)).unwrap();
        let taken = gate.tokens.create("taken", Role::Viewer, "x", None).unwrap();
        let show = async |text: &str| {
            let header = format!("Bearer {text}");
            gate.caller(Some(header.as_bytes()), Origin::HOST, trace()).await
        };
        let caller = show(short.secret.expose()).await.unwrap();
        assert_eq!((&*caller.name, caller.role), ("token:short", Some(Role::Operator)));
        assert!(show(taken.secret.expose()).await.is_ok());
        gate.tokens.revoke(&taken.token.id).unwrap().unwrap();
        assert_eq!(show(taken.secret.expose()).await.unwrap_err().status(), 401);
        clock.jump(jiff::SignedDuration::from_hours(24));
        let expired = show(short.secret.expose()).await.unwrap_err();
        assert_eq!((expired.status(), expired.message.as_ref()), (401, "these credentials have expired"));
        let nobody = gate.caller(None, Origin::HOST, trace()).await.unwrap();
        assert_eq!(nobody.role, None);
        let open = Authenticator::open_to_all(clock);
        assert_eq!(open.caller(None, Origin::HOST, trace()).await.unwrap().role, Some(Role::Admin));
        assert!(open.caller(Some(b"Bearer x"), Origin::HOST, trace()).await.is_err());
    }
}
