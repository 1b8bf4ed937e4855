//! What is measured of a client.

use std::time::Duration;

use metrics::{Counter, counter, histogram};

use crate::EtcdError;

/// Handles of metrics that are counted often.
pub(crate) struct Meter {
    retries: Counter,
    reconnects: Counter,
    resumed: Counter,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            retries: counter!("etcd_client_retries_total"),
            reconnects: counter!("etcd_client_reconnects_total"),
            resumed: counter!("etcd_watch_resumes_total"),
        }
    }

    /// A call has ended. The names are those of OpenTelemetry's conventions for clients of databases.
    pub(crate) fn called(&self, operation: &'static str, took: Duration, error: Option<&EtcdError>) {
        let error = error.map_or("", EtcdError::kind);
        let labels = [("db_system_name", "etcd"), ("db_operation_name", operation), ("error_type", error)];
        histogram!("db_client_operation_duration_seconds", &labels).record(took.as_secs_f64());
    }

    pub(crate) fn tried_again(&self) {
        self.retries.increment(1);
    }

    /// Another member is asked from now on.
    pub(crate) fn moved(&self) {
        self.reconnects.increment(1);
    }

    pub(crate) fn resumed(&self) {
        self.resumed.increment(1);
    }
}
