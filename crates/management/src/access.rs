//! Who a caller is: credentials and what they stand for.

mod authenticator;
mod config;
mod delay;
#[cfg(feature = "jwt")]
mod jwt;
mod token;
mod token_file;

pub use authenticator::{AccessError, Authenticator};
pub use config::{AccessConfig, InvalidAccess, JwtConfig};
pub use token::{ApiToken, NewToken, TokenRequest};
pub use token_file::{TokenError, TokenFile};

/// Why credentials do not hold. The caller is told no more than it has to know, the log all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// They are not what was issued here, or not any more.
    Invalid(&'static str),
    /// They did hold.
    Expired,
    /// They hold, and give no role here.
    #[cfg_attr(not(feature = "jwt"), expect(dead_code, reason = "an api token has a role"))]
    NoRole,
    /// Whether they hold cannot be told now.
    #[cfg_attr(not(feature = "jwt"), expect(dead_code, reason = "only keys that are fetched can be missing"))]
    Unknown(&'static str),
}
