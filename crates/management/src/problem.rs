//! Why an operation was refused, in the words of the API.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use scheduler::{StoreError, TaskError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kinds of refusal. Each has one HTTP status, and a transport other than HTTP maps the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// 400: the request cannot be read.
    Malformed,
    /// 401: no credentials, or none that hold.
    Unauthenticated,
    /// 403: the caller may not do this.
    Forbidden,
    /// 404: no such thing.
    NotFound,
    /// 405: the path is there, the method is not.
    MethodNotAllowed,
    /// 409: something of this name is there already.
    AlreadyExists,
    /// 409: the present state does not allow it.
    InvalidState,
    /// 409: others depend on it.
    InUse,
    /// 409: the same `Idempotency-Key` is being worked on.
    InProgress,
    /// 412: it has changed since the version that `If-Match` names.
    PreconditionFailed,
    /// 413: the body is larger than the limit.
    TooLarge,
    /// 415: the body is of a type that is not read here.
    UnsupportedMediaType,
    /// 421: the request is meant for another host.
    Misdirected,
    /// 422: what was sent can be read and is wrong; `field` says where.
    InvalidField,
    /// 429: more than the limit.
    TooMany,
    /// 500: a failure of the host's or a plugin's.
    Internal,
    /// 500: a plugin's own code failed at what it was asked to do.
    PluginFailed,
    /// 501: this host has been built or configured without it.
    NotAvailable,
    /// 503: not now.
    Unavailable,
    /// 504: not within the time that was given.
    Timeout,
}

impl ProblemKind {
    /// The status that stands for the kind in HTTP.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyExists | Self::InvalidState | Self::InUse | Self::InProgress => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Misdirected => 421,
            Self::InvalidField => 422,
            Self::TooMany => 429,
            Self::Internal | Self::PluginFailed => 500,
            Self::NotAvailable => 501,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The kind's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::AlreadyExists => "already_exists",
            Self::InvalidState => "invalid_state",
            Self::InUse => "in_use",
            Self::InProgress => "in_progress",
            Self::PreconditionFailed => "precondition_failed",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::Misdirected => "misdirected",
            Self::InvalidField => "invalid_field",
            Self::TooMany => "too_many",
            Self::Internal => "internal",
            Self::PluginFailed => "plugin_failed",
            Self::NotAvailable => "not_available",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
        }
    }
}

/// A refusal or a failure, ready to be shown to the caller: it holds no secret and no inside of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind it is; it decides the status.
    pub kind: ProblemKind,
    /// A sentence.
    pub message: Cow<'static, str>,
    /// The path of the field that is wrong, such as `schedule.cron`.
    pub field: Option<String>,
    /// More about it: what is wrong with the field, who is in the way.
    pub detail: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// A problem with a message and nothing else.
    pub fn new(kind: ProblemKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), field: None, detail: None, retry_after: None }
    }

    /// A field that can be read and is wrong.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let (field, detail) = (field.into(), detail.into());
        let message = if field.is_empty() { detail.clone() } else { format!("{field}: {detail}") };
        Self {
            field: (!field.is_empty()).then_some(field),
            ..Self::new(ProblemKind::InvalidField, message).detail(detail)
        }
    }

    /// What cannot be read.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::Malformed, message)
    }

    /// What the caller may not do.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::Forbidden, message)
    }

    /// What is not there: `no task "x"` and the like.
    #[must_use]
    pub fn not_found(what: &str, name: &str) -> Self {
        let name: String = name.chars().take(128).collect();
        Self::new(ProblemKind::NotFound, format!("no {what} `{name}`"))
    }

    /// A failure whose cause is for the log and not for the caller.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(ProblemKind::Internal, "the host failed to answer")
    }

    /// The same of a field that is part of something larger: `type` becomes `[2].type`.
    #[must_use]
    pub fn under(self, whole: &str) -> Self {
        let Some(field) = &self.field else { return self };
        let path = format!("{whole}.{field}");
        let message = match self.message.strip_prefix(field.as_str()) {
            Some(rest) => format!("{path}{rest}").into(),
            None => self.message,
        };
        Self { field: Some(path), message, ..self }
    }

    /// Adds what the caller may want to know beside the message.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.kind.status()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl From<TaskError> for Problem {
    fn from(error: TaskError) -> Self {
        use ProblemKind as K;
        match &error {
            TaskError::Invalid { field, detail } => Self::invalid(field, detail),
            TaskError::Exists(_) => Self::new(K::AlreadyExists, error.to_string()),
            TaskError::NotFound(id) => Self::not_found("task", id),
            TaskError::RunNotFound(id) => Self::not_found("run", id),
            TaskError::Conflict { .. } => Self::new(K::InvalidState, error.to_string()),
            TaskError::VersionMismatch { .. } => Self::new(K::PreconditionFailed, error.to_string()),
            TaskError::InUse { dependents, .. } => {
                Self::new(K::InUse, error.to_string()).detail(dependents.join(", "))
            }
            TaskError::Full(_) => {
                Self::new(K::Unavailable, error.to_string()).retry_after(Duration::from_secs(5))
            }
            TaskError::Stopped => {
                Self::new(K::Unavailable, error.to_string()).retry_after(Duration::from_secs(1))
            }
            TaskError::NotOwner(_) => {
                Self::new(K::Unavailable, error.to_string()).retry_after(Duration::from_secs(1))
            }
            TaskError::Store(StoreError::Fenced { .. }) => {
                Self::new(K::Unavailable, "the task has moved to another node")
                    .retry_after(Duration::from_secs(1))
            }
            TaskError::Store(source) => {
                tracing::warn!(error = %source, "task store refused a change");
                Self::new(K::Unavailable, "the task store did not take the change")
                    .retry_after(Duration::from_secs(1))
            }
            _ => {
                tracing::error!(%error, "scheduler failed");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_wire_are_those_that_serde_writes() {
        for kind in [
            ProblemKind::Malformed,
            ProblemKind::AlreadyExists,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::InvalidField,
            ProblemKind::NotAvailable,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn a_wrong_field_is_named_in_the_message_too() {
        let problem =
            Problem::from(TaskError::Invalid { field: "schedule.cron".into(), detail: "no".into() });
        assert_eq!((problem.status(), problem.message.as_ref()), (422, "schedule.cron: no"));
        assert_eq!(problem.field.as_deref(), Some("schedule.cron"));
        assert_eq!(problem.detail.as_deref(), Some("no"));
        let inner = Problem::invalid("type", "no").under("[2]");
        assert_eq!((inner.field.as_deref(), inner.message.as_ref()), (Some("[2].type"), "[2].type: no"));
    }

    #[test]
    fn what_a_store_says_stays_inside() {
        let secret = TaskError::Store(StoreError::Engine("redis://user:hunter2@host".into()));
        let problem = Problem::from(secret);
        assert_eq!(problem.status(), 503);
        assert!(!format!("{problem:?}").contains("hunter2"));
    }
}
