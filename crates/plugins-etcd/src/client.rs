//! The client: every call goes through one place, which tries again, measures and tells.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::Client;
use tokio::time::{Instant, sleep, timeout};
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span, debug, info_span};

use crate::config::EtcdConfig;
use crate::error::{Applied, EtcdError, Failure, guess, judge};
use crate::members::Members;
use crate::meter::Meter;

/// Between two attempts. A leader's election takes about a second, a dead member is known at once.
const PACE: Duration = Duration::from_millis(50);

/// The longest wait between two attempts, once all members have failed.
const PACE_MAX: Duration = Duration::from_secs(1);

/// A client of an etcd. A clone is the same client.
///
/// It connects with the first call, so that it can be made while etcd is away. Calls go to one member until
/// that one fails, and are tried again there and at the others for as long as the setting `timeout` says;
/// what a change does then is said at each method.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
    timeout: Duration,
}

struct Inner {
    members: Members,
    config: EtcdConfig,
    meter: Meter,
}

/// What may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Whatever comes to the same when it is done twice.
    Always,
    /// What has surely not been done.
    Unapplied,
}

impl Etcd {
    /// A client by this configuration. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// If the configuration is wrong.
    pub fn new(config: EtcdConfig) -> Result<Self, plugin_core::ConfigError> {
        config.check()?;
        let members = Members::new(config.clone(), config.addresses()?);
        let timeout = config.timeout;
        Ok(Self { inner: Arc::new(Inner { members, config, meter: Meter::new() }), timeout })
    }

    /// The same client for calls that may take this long, with all their attempts, in place of the setting
    /// `timeout`.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// What it was made with.
    #[must_use]
    pub fn config(&self) -> &EtcdConfig {
        &self.inner.config
    }

    /// A key of Gantry's own: what begins them all, and `parts` with `/` between them.
    #[must_use]
    pub fn own_key(&self, parts: &[&str]) -> String {
        format!("{}{}", self.inner.config.namespace, parts.join("/"))
    }

    /// The members, for messages.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.inner.members.names()
    }

    /// The client of the `etcd-client` crate for the member that is asked now: the whole of it, without any of
    /// what [`Etcd`] adds.
    ///
    /// # Errors
    ///
    /// If the member does not take the credentials.
    pub async fn bare(&self) -> Result<Client, EtcdError> {
        let at = self.inner.members.current();
        self.inner.members.client(at).await.map_err(|failure| self.given_up(at, failure, Again::Always))
    }

    pub(crate) fn members(&self) -> &Members {
        &self.inner.members
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// Has `work` done by a member, with attempts as [`Again`] allows.
    pub(crate) async fn call<T, F, Fut>(
        &self,
        operation: &'static str,
        again: Again,
        work: F,
    ) -> Result<T, EtcdError>
    where
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let span = info_span!(
            "etcd.call",
            otel.name = operation,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = "etcd",
            db.operation.name = operation,
            server.address = Empty,
            server.port = Empty,
            error.type = Empty,
            attempts = Empty,
        );
        let begun = Instant::now();
        let outcome = self.attempts(again, &work, &span).instrument(span.clone()).await;
        self.inner.meter.called(operation, begun.elapsed(), outcome.as_ref().err());
        if let Err(error) = &outcome {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", error.kind());
        }
        outcome
    }

    async fn attempts<T, F, Fut>(&self, again: Again, work: &F, span: &Span) -> Result<T, EtcdError>
    where
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let members = &self.inner.members;
        let deadline = Instant::now() + self.timeout;
        let mut attempt = 0_u32;
        let mut told: Option<String> = None;
        loop {
            attempt += 1;
            let at = members.current();
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.min(self.inner.config.attempt_timeout);
            // On the heap: futures of the client are large, and callers put this into theirs.
            let failure = match timeout(limit, Box::pin(self.attempt(at, work))).await {
                Ok(Ok(value)) => {
                    self.tell_where(span, at, attempt);
                    return Ok(value);
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    // One that the end of all time cut short says less than the one before.
                    let before = told.take().filter(|_| limit < self.inner.config.attempt_timeout);
                    let late = || format!("no answer within {}", runtime::format_duration(limit));
                    Failure::Passing { reason: before.unwrap_or_else(late), applied: Applied::Perhaps }
                }
            };
            let wait = pace(attempt, members.len());
            let last = Instant::now() + wait >= deadline;
            if last || !may_repeat(&failure, again) {
                self.tell_where(span, at, attempt);
                return Err(self.given_up(at, failure, again));
            }
            if let Failure::Passing { reason, .. } = &failure {
                debug!(member = members.name(at), attempt, reason, "trying again");
                told = Some(reason.clone());
            }
            self.inner.meter.tried_again();
            if members.leave(at) {
                self.inner.meter.moved();
            }
            sleep(wait).await;
        }
    }

    async fn attempt<T, F, Fut>(&self, at: usize, work: &F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let client = self.inner.members.client(at).await?;
        work(client).await.map_err(|error| judge(self.inner.members.name(at), error))
    }

    pub(crate) fn given_up(&self, at: usize, failure: Failure, again: Again) -> EtcdError {
        match failure {
            Failure::Final(error) => error,
            Failure::Passing { reason, applied: Applied::Perhaps } if again == Again::Unapplied => {
                EtcdError::Uncertain { endpoint: self.inner.members.name(at).to_owned(), reason }
            }
            Failure::Passing { mut reason, .. } => {
                let tls = self.inner.members.address(at).is_some_and(|address| address.tls);
                let certificate = self.config().tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
                reason.push_str(guess(&reason, tls, certificate));
                EtcdError::Unreachable { endpoints: self.inner.members.names(), reason }
            }
        }
    }

    fn tell_where(&self, span: &Span, at: usize, attempts: u32) {
        if let Some(address) = self.inner.members.address(at).filter(|_| !span.is_disabled()) {
            span.record("server.address", display(&address.host));
            span.record("server.port", address.port);
            span.record("attempts", attempts);
        }
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

fn may_repeat(failure: &Failure, again: Again) -> bool {
    match failure {
        Failure::Passing { applied, .. } => again == Again::Always || *applied == Applied::No,
        Failure::Final(_) => false,
    }
}

/// How long to wait after so many attempts: not long while there are members that have not been asked, and
/// longer with each round through all of them.
pub(crate) fn pace(attempt: u32, members: usize) -> Duration {
    let rounds = attempt / u32::try_from(members.max(1)).unwrap_or(u32::MAX);
    let wait = PACE.saturating_mul(1 << rounds.min(8)).min(PACE_MAX);
    // Clients that lost one member together do not come to the next in step.
    wait.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_each_round_through_all_members_and_stay_bounded() {
        assert!(pace(1, 3) < Duration::from_millis(70));
        assert!(pace(2, 3) < Duration::from_millis(70));
        assert!(pace(6, 3) >= Duration::from_millis(150));
        assert!(pace(u32::MAX, 1) <= Duration::from_millis(1250));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_everybody_within_the_time() {
        // Port 1 is nobody's.
        let config = EtcdConfig {
            timeout: Duration::from_millis(300),
            ..EtcdConfig::at(["127.0.0.1:1", "localhost:1"])
        };
        let etcd = Etcd::new(config).unwrap();
        let error = etcd.get("a").await.unwrap_err();
        let text = error.to_string();
        assert!(error.is_away() && text.contains("127.0.0.1:1, localhost:1"), "{text}");
        assert!(text.contains("onnect"), "{text}");
    }
}
