//! Who asks, and what they may do.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use telemetry::TraceContext;
use utoipa::ToSchema;

use crate::{Permission, Problem, ProblemKind};

/// What a caller may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Runs things: tasks, events, starts and stops.
    Operator,
    /// Changes what is there: loads and unloads plugins, changes configuration.
    Admin,
}

impl Role {
    /// The role's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The transport: `http`, `grpc`, or `host` for the program itself.
    pub transport: &'static str,
    /// The address of the peer, as far as the transport has one.
    pub address: Option<SocketAddr>,
}

impl Origin {
    /// The program itself.
    pub const HOST: Self = Self { transport: "host", address: None };
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport)?;
        match self.address {
            Some(address) => write!(f, " {address}"),
            None => Ok(()),
        }
    }
}

/// Who asks for an operation.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name under which the audit log has them.
    pub name: Arc<str>,
    /// What they may do; nothing but what is public for somebody who has shown no credentials.
    pub role: Option<Role>,
    /// Where the request came from.
    pub origin: Origin,
    /// The request's place in its trace.
    pub trace: TraceContext,
    /// Whether a write is only to be tried: everything is checked and nothing changed.
    pub dry_run: bool,
}

static DEVELOPER: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("developer"));
static ANONYMOUS: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("anonymous"));

impl Caller {
    /// Somebody whom a transport has made sure of.
    pub fn new(name: impl Into<Arc<str>>, role: Role, origin: Origin, trace: TraceContext) -> Self {
        Self { name: name.into(), role: Some(role), origin, trace, dry_run: false }
    }

    /// Somebody who has shown no credentials to a host that asks for some.
    #[must_use]
    pub fn anonymous(origin: Origin, trace: TraceContext) -> Self {
        Self { name: Arc::clone(&ANONYMOUS), role: None, origin, trace, dry_run: false }
    }

    /// Whoever reaches a host that asks for no credentials: on loopback, for development. May do everything.
    #[must_use]
    pub fn developer(origin: Origin, trace: TraceContext) -> Self {
        Self::new(Arc::clone(&DEVELOPER), Role::Admin, origin, trace)
    }

    /// The program itself.
    #[must_use]
    pub fn host() -> Self {
        Self::new("host", Role::Admin, Origin::HOST, TraceContext::root(false))
    }

    /// The same caller, who only tries.
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Whether the caller has a permission.
    ///
    /// # Errors
    ///
    /// As for [`Caller::require_role`].
    pub fn require(&self, permission: Permission) -> Result<(), Problem> {
        self.require_role(permission.role())
    }

    /// Whether the caller may do what asks for `role`.
    ///
    /// # Errors
    ///
    /// `unauthenticated` for somebody without credentials, and a `forbidden` problem that names both roles.
    pub fn require_role(&self, role: Role) -> Result<(), Problem> {
        match self.role {
            Some(own) if own >= role => Ok(()),
            Some(own) => Err(Problem::forbidden(format!(
                "this needs the role `{role}`, and `{}` has `{own}`",
                self.name
            ))),
            None => Err(Problem::new(ProblemKind::Unauthenticated, "this needs credentials")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_do_what_lower_ones_may() {
        let caller = |role| Caller::new("x", role, Origin::HOST, TraceContext::root(false));
        assert!(caller(Role::Admin).require_role(Role::Operator).is_ok());
        assert!(caller(Role::Operator).require_role(Role::Operator).is_ok());
        let refused = caller(Role::Viewer).require_role(Role::Operator).unwrap_err();
        assert_eq!(refused.status(), 403);
        assert!(refused.message.contains("`operator`"), "{refused}");
        let nobody = Caller::anonymous(Origin::HOST, TraceContext::root(false));
        assert_eq!(nobody.require_role(Role::Viewer).unwrap_err().status(), 401);
    }
}
