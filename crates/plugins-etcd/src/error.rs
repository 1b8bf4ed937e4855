//! What can go wrong between here and etcd.

use std::error::Error as _;

use tonic::Code;

/// Why etcd did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No member answered in time. What was to be read was not read; what was to be written may have been.
    #[error("etcd at {endpoints} cannot be reached: {reason}")]
    Unreachable {
        /// All members.
        endpoints: String,
        /// What the last attempt came to.
        reason: String,
    },
    /// A change that must not be made twice was sent, and no answer came: it may have been made.
    #[error("etcd at {endpoint} did not say whether it made the change: {reason}")]
    Uncertain {
        /// The member that was asked.
        endpoint: String,
        /// What the attempt came to.
        reason: String,
    },
    /// The user or the password is wrong, or etcd asks for one and none is set, or has none and one is set.
    #[error(
        "etcd at {endpoint} refuses the credentials in `plugins.etcd.username` and `plugins.etcd.password`: {reason}"
    )]
    Credentials {
        /// The member that was asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The user may not do this.
    #[error("etcd at {endpoint} does not allow this to the user in `plugins.etcd.username`: {reason}")]
    Forbidden {
        /// The member that was asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// Certificates do not fit, or only one side speaks TLS.
    #[error("etcd at {endpoint} and `plugins.etcd.tls` do not fit: {reason}")]
    Tls {
        /// The member that was asked.
        endpoint: String,
        /// What was wrong.
        reason: String,
    },
    /// etcd has reached its quota and takes nothing any more, until it is compacted, defragmented and its
    /// alarm is taken back.
    #[error("etcd at {endpoint} is out of space, by its setting `--quota-backend-bytes`: {reason}")]
    NoSpace {
        /// The member that was asked.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// The lease has ended, and all keys that it held are gone.
    #[error("the lease has ended")]
    LeaseEnded,
    /// What was asked for had been compacted away.
    #[error("the revisions before {first} have been compacted")]
    Compacted {
        /// The first that is still there.
        first: i64,
    },
    /// etcd understood and refused.
    #[error("etcd at {endpoint} refuses: {reason}")]
    Refused {
        /// The member that was asked.
        endpoint: String,
        /// The status code, such as `InvalidArgument`.
        code: Code,
        /// What it said.
        reason: String,
    },
    /// A file with a certificate or a key cannot be read.
    #[error("`plugins.etcd.tls.{setting}`: {reason}")]
    File {
        /// The key of the setting.
        setting: &'static str,
        /// Why.
        reason: String,
    },
}

impl EtcdError {
    /// A name with few values, for metrics and spans.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Uncertain { .. } => "uncertain",
            Self::Credentials { .. } => "credentials",
            Self::Forbidden { .. } => "forbidden",
            Self::Tls { .. } => "tls",
            Self::NoSpace { .. } => "no_space",
            Self::LeaseEnded => "lease_ended",
            Self::Compacted { .. } => "compacted",
            Self::Refused { .. } => "refused",
            Self::File { .. } => "file",
        }
    }

    /// Whether waiting may help, as it does not where somebody has to change a setting.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Uncertain { .. })
    }
}

/// What one attempt at one member came to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another attempt may succeed.
    Passing { reason: String, applied: Applied },
    /// No other attempt would.
    Final(EtcdError),
}

/// Whether a change may have been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    No,
    Perhaps,
}

/// Judges an error of the client.
pub(crate) fn judge(endpoint: &str, error: etcd_client::Error) -> Failure {
    let endpoint = endpoint.to_owned();
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::LeaseKeepAliveError(_) => return Failure::Final(EtcdError::LeaseEnded),
        etcd_client::Error::TransportError(error) => {
            let reason = chain(&error);
            return transport(endpoint, reason);
        }
        // A stream that ended before it said anything.
        error @ etcd_client::Error::WatchError(_) => {
            return Failure::Passing { reason: error.to_string(), applied: Applied::Perhaps };
        }
        other => {
            let reason = other.to_string();
            return Failure::Final(EtcdError::Refused { endpoint, code: Code::Internal, reason });
        }
    };
    let reason = match status.source() {
        Some(source) => chain(source),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::Unauthenticated => Failure::Final(EtcdError::Credentials { endpoint, reason }),
        Code::PermissionDenied => Failure::Final(EtcdError::Forbidden { endpoint, reason }),
        Code::InvalidArgument | Code::FailedPrecondition if speaks_of_users(&reason) => {
            Failure::Final(EtcdError::Credentials { endpoint, reason })
        }
        Code::ResourceExhausted if reason.contains("space") => {
            Failure::Final(EtcdError::NoSpace { endpoint, reason })
        }
        Code::NotFound if reason.contains("lease") => Failure::Final(EtcdError::LeaseEnded),
        // From etcd itself, and not from what lies between: nothing was proposed.
        Code::Unavailable if reason.contains("no leader") => {
            Failure::Passing { reason, applied: Applied::No }
        }
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => {
            transport(endpoint, reason)
        }
        // Too many requests in flight, as etcd says it.
        Code::ResourceExhausted => Failure::Passing { reason, applied: Applied::No },
        code => Failure::Final(EtcdError::Refused { endpoint, code, reason }),
    }
}

/// Judges why a watch was refused, which is told in its stream and not as a status.
pub(crate) fn judge_watch(endpoint: &str, reason: &str) -> EtcdError {
    let code =
        if reason.contains("permission denied") { Code::PermissionDenied } else { Code::InvalidArgument };
    match judge(endpoint, etcd_client::Error::GRpcStatus(tonic::Status::new(code, reason))) {
        Failure::Final(error) => error,
        Failure::Passing { reason, .. } => EtcdError::Refused { endpoint: endpoint.to_owned(), code, reason },
    }
}

/// What may be wrong where a member ends connections without a word. One that dies does the same, so that this
/// is no more than a guess.
pub(crate) fn guess(reason: &str, tls: bool, certificate: bool) -> &'static str {
    let ended = ["broken pipe", "connection closed", "connection reset", "CertificateRequired"]
        .iter()
        .any(|of| reason.contains(of));
    match (ended, tls, certificate) {
        (true, false, _) => " (does it speak TLS, and `plugins.etcd.tls` is not set?)",
        (true, true, false) => {
            " (does it ask for a certificate, and `plugins.etcd.tls.certificate` is not set?)"
        }
        _ => "",
    }
}

/// Judges what a connection came to.
fn transport(endpoint: String, reason: String) -> Failure {
    if is_about_tls(&reason) {
        return Failure::Final(EtcdError::Tls { endpoint, reason });
    }
    let refused =
        ["tcp connect error", "Connection refused", "dns error"].iter().any(|of| reason.contains(of));
    Failure::Passing { reason, applied: if refused { Applied::No } else { Applied::Perhaps } }
}

fn speaks_of_users(reason: &str) -> bool {
    ["authentication", "user name", "user is", "auth"].iter().any(|word| reason.contains(word))
}

fn is_about_tls(reason: &str) -> bool {
    [
        "fatal alert",
        "certificate",
        "InvalidContentType",
        "HandshakeFailure",
        "handshake",
        "FRAME_SIZE_ERROR",
        "invalid size",
    ]
    .iter()
    .any(|word| reason.contains(word))
}

/// An error and its causes, each once: some repeat what is below them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> Failure {
        judge("127.0.0.1:1", etcd_client::Error::GRpcStatus(tonic::Status::new(code, message)))
    }

    #[test]
    fn only_what_another_attempt_may_mend_is_passing() {
        for (code, message, applied) in [
            (Code::Unavailable, "etcdserver: no leader", Applied::No),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Applied::Perhaps,
            ),
            (Code::Cancelled, "Timeout expired", Applied::Perhaps),
            (Code::Unknown, "transport error", Applied::Perhaps),
            (Code::Unavailable, "error trying to connect: tcp connect error", Applied::No),
            (Code::ResourceExhausted, "etcdserver: too many requests", Applied::No),
        ] {
            match of(code, message) {
                Failure::Passing { applied: said, .. } => assert_eq!(said, applied, "{message}"),
                Failure::Final(error) => panic!("{message}: {error}"),
            }
        }
    }

    #[test]
    fn what_no_attempt_mends_names_its_setting() {
        for (code, message, kind, setting) in [
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                "credentials",
                "plugins.etcd.password",
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                "credentials",
                "plugins.etcd.username",
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", "credentials", "plugins.etcd.username"),
            (Code::PermissionDenied, "etcdserver: permission denied", "forbidden", "plugins.etcd.username"),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                "no_space",
                "--quota-backend-bytes",
            ),
            (
                Code::Unknown,
                "transport error: received corrupt message of type InvalidContentType",
                "tls",
                "plugins.etcd.tls",
            ),
            (Code::NotFound, "etcdserver: requested lease not found", "lease_ended", "lease"),
            (Code::InvalidArgument, "etcdserver: key is not provided", "refused", "127.0.0.1:1"),
        ] {
            match of(code, message) {
                Failure::Final(error) => {
                    assert_eq!(error.kind(), kind, "{message}");
                    assert!(error.to_string().contains(setting), "{error}");
                }
                Failure::Passing { .. } => panic!("{message}"),
            }
        }
    }
}
