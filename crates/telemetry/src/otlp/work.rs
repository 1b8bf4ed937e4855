//! What sends, in the background.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use runtime::CancellationToken;
use tracing::{info, warn};

use super::logs::Line;
use super::metrics;
use super::queue::{Batches, Counts, Loss};
use super::send::{Export, Sender};
use super::spans::Ended;
use crate::Metrics;

/// How often a request is sent in all, where its failure may pass.
const ATTEMPTS: u32 = 5;
/// The wait before the second attempt, which doubles with each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait, whatever the collector says.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Sends one signal.
pub(super) struct Worker {
    pub(super) sender: Sender,
    pub(super) counts: Arc<Counts>,
    pub(super) resource: Resource,
    pub(super) stop: CancellationToken,
}

impl Worker {
    pub(super) async fn send_spans(self, mut batches: Batches<Ended>) {
        let mut health = Health::default();
        while let Some(batch) = batches.next(&self.stop).await {
            let count = batch.len() as u64;
            let mut scopes: BTreeMap<&str, ScopeSpans> = BTreeMap::new();
            for Ended { target, span } in batch {
                let scope = || ScopeSpans { scope: Some(scope(target)), ..ScopeSpans::default() };
                scopes.entry(target).or_insert_with(scope).spans.push(span);
            }
            let resource_spans = vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: scopes.into_values().collect(),
                ..ResourceSpans::default()
            }];
            self.send(ExportTraceServiceRequest { resource_spans }, count, &mut health).await;
        }
    }

    pub(super) async fn send_logs(self, mut batches: Batches<Line>) {
        let mut health = Health::default();
        while let Some(batch) = batches.next(&self.stop).await {
            let count = batch.len() as u64;
            let mut scopes: BTreeMap<_, ScopeLogs> = BTreeMap::new();
            for Line { target, record } in batch {
                let new = ScopeLogs { scope: Some(scope(&target)), ..ScopeLogs::default() };
                scopes.entry(target).or_insert(new).log_records.push(record);
            }
            let resource_logs = vec![ResourceLogs {
                resource: Some(self.resource.clone()),
                scope_logs: scopes.into_values().collect(),
                ..ResourceLogs::default()
            }];
            self.send(ExportLogsServiceRequest { resource_logs }, count, &mut health).await;
        }
    }

    /// Sends all metrics at each interval, and once more at the end.
    pub(super) async fn send_metrics(self, source: Metrics, interval: Duration) {
        let mut health = Health::default();
        let mut ends = false;
        while !ends {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => ends = true,
                () = tokio::time::sleep(interval) => {}
            }
            let snapshot = source.snapshot();
            let count = metrics::points(&snapshot);
            let scope_metrics = vec![ScopeMetrics {
                scope: Some(scope("gantry")),
                metrics: metrics::metrics(&snapshot),
                ..ScopeMetrics::default()
            }];
            let resource_metrics = vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics,
                ..ResourceMetrics::default()
            }];
            self.counts.took(count);
            self.send(ExportMetricsServiceRequest { resource_metrics }, count, &mut health).await;
        }
    }

    /// Sends until it is there, or cannot get there. At the end there is one attempt.
    async fn send<E: Export>(&self, request: E, count: u64, health: &mut Health) {
        let signal = self.counts.signal.as_str();
        let mut attempt = 1;
        let failure = loop {
            match self.sender.send(&request).await {
                Ok((rejected, why)) => {
                    let rejected = rejected.min(count);
                    self.counts.exported(count - rejected);
                    if rejected > 0 || !why.is_empty() {
                        self.counts.lost(Loss::Rejected, rejected);
                        warn!(signal, rejected, why, "the collector rejected a part");
                    }
                    health.works(signal);
                    return;
                }
                Err(failure) if failure.may_pass && attempt < ATTEMPTS && !self.stop.is_cancelled() => {
                    health.fails(signal, &failure.detail);
                    let wait = failure.after.unwrap_or(BACKOFF * 2_u32.pow(attempt - 1)).min(BACKOFF_MAX);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.stop.cancelled() => {}
                    }
                    attempt += 1;
                }
                Err(failure) => break failure,
            }
        };
        health.fails(signal, &failure.detail);
        self.counts.lost(Loss::Failed, count);
    }
}

/// Whether the collector is there, as far as is known: that is logged when it changes, not at each request.
#[derive(Debug, Default)]
struct Health {
    failing: bool,
}

impl Health {
    fn works(&mut self, signal: &str) {
        if std::mem::take(&mut self.failing) {
            info!(signal, "telemetry is exported again");
        }
    }

    fn fails(&mut self, signal: &str, error: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(signal, error, "telemetry cannot be exported");
        }
    }
}

fn scope(name: &str) -> InstrumentationScope {
    InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() }
}
