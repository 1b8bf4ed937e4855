//! What is counted and traced of each call.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fred::error::Error;
use metrics::Histogram;
use tracing::field::Empty;
use tracing::{Span, info_span};

use crate::error::class;

/// Durations of calls, by operation and class of error: OpenTelemetry's `db.client.operation.duration`. Its
/// count is that of the calls.
pub(crate) const DURATION: &str = "db_client_operation_duration_seconds";
/// Connections that were lost and made again.
pub(crate) const RECONNECTS: &str = "redis_client_reconnects_total";
/// Times that a connection could not be made, or was lost.
pub(crate) const CONNECTION_ERRORS: &str = "redis_client_connection_errors_total";

/// Counts calls, and makes their spans.
pub(crate) struct Meter {
    host: String,
    port: u16,
    /// The durations of calls that went well, by operation. Few, so that a search is the fastest lookup.
    durations: RwLock<Vec<(&'static str, Arc<Histogram>)>>,
}

impl Meter {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, durations: RwLock::default() }
    }

    /// The span of a call, by OpenTelemetry's conventions for clients of Redis.
    pub(crate) fn span(&self, operation: &'static str) -> Span {
        info_span!(
            "redis.call",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = operation,
            server.address = self.host,
            server.port = self.port,
            error.r#type = Empty,
        )
    }

    pub(crate) fn done(&self, operation: &'static str, took: Duration, error: Option<&Error>, span: &Span) {
        match error {
            None => self.durations(operation).record(took),
            Some(error) => {
                let class = class(error);
                span.record("error.type", class);
                let labels =
                    [("db_operation_name", operation), ("db_system_name", "redis"), ("error_type", class)];
                metrics::histogram!(DURATION, &labels).record(took);
            }
        }
    }

    fn durations(&self, operation: &'static str) -> Arc<Histogram> {
        let known = self.durations.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known.iter().find(|(name, _)| *name == operation) {
            return found.clone();
        }
        drop(known);
        let labels = [("db_operation_name", operation), ("db_system_name", "redis")];
        let made = Arc::new(metrics::histogram!(DURATION, &labels));
        let mut known = self.durations.write().unwrap_or_else(PoisonError::into_inner);
        // Two at once may have made it: they are the same in the registry.
        known.push((operation, made.clone()));
        made
    }
}
