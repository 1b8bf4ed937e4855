//! The metrics of this project, described once: what `/metrics` says of them, their buckets, and the
//! page `docs/reference/metrics.md`.

use std::collections::BTreeSet;

use metrics::Unit;

use crate::histogram::Buckets;
use crate::snapshot::{MetricKind, Snapshot};

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit.
    pub unit: Option<Unit>,
    /// The labels it has; their values come from bounded sets, never ids of tasks or events.
    pub labels: &'static [&'static str],
    /// What it means, one sentence.
    pub help: &'static str,
    /// The upper bounds of its buckets, if it is a histogram and wants others than the default; what makes
    /// no [`Buckets`] is not used.
    pub buckets: &'static [f64],
}

/// Where nobody said otherwise: half a millisecond to ten seconds.
const DEFAULT: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The bounds that the OpenTelemetry conventions advise, and three below them: most answers of the
/// management API take less than their smallest.
const HTTP: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// A no-op and a nightly report are both tasks.
const TASK: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// From a server on this machine to one that fails over.
const DATABASE: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Fine around the goals for lateness: 2 ms in steady state, 60 and 500 ms in a burst.
const LATENESS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.06, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// Up to `max_startup_time`, whose default is a minute.
const STARTUP: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind: MetricKind::Counter, unit: None, labels, help, buckets: &[] }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Described {
    Described { name, kind: MetricKind::Gauge, unit: None, labels, help, buckets: &[] }
}

const fn seconds(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    buckets: &'static [f64],
) -> Described {
    Described { name, kind: MetricKind::Histogram, unit: Some(Unit::Seconds), labels, help, buckets }
}

/// The metrics that Gantry's crates report, by name.
///
/// `plugin_count_total` and `scheduler_tasks_total` are gauges in spite of their names, which are older
/// than this project and are what dashboards know.
pub const CATALOG: &[Described] = &[
    seconds(
        "db_client_operation_duration_seconds",
        &["db_operation_name", "db_system_name", "error_type"],
        "Time that a call of an engine took, by OpenTelemetry's conventions; failed calls have an error type.",
        DATABASE,
    ),
    counter(
        "etcd_client_reconnects_total",
        &[],
        "Times that another member of an etcd was asked, since one failed.",
    ),
    counter("etcd_client_retries_total", &[], "Attempts at etcd that were made again."),
    counter("etcd_watch_resumes_total", &[], "Watches of etcd that went on after their stream had ended."),
    counter(
        "event_bus_bridge_duplicates_total",
        &["transport"],
        "Events that came in over a transport and were known: echoes, and what came twice.",
    ),
    counter(
        "event_bus_bridge_failures_total",
        &["transport"],
        "Times that sending or receiving failed for the moment.",
    ),
    counter(
        "event_bus_bridge_lost_total",
        &["transport"],
        "Events that did not go out: dropped by the overflow policy, or given up at the end.",
    ),
    counter(
        "event_bus_bridge_not_taken_total",
        &["reason", "transport"],
        "Messages that came in and were not published: of a topic that is not carried, refused by the bus, or no event.",
    ),
    counter(
        "event_bus_bridge_received_total",
        &["transport"],
        "Events that came in over a transport and were published.",
    ),
    counter("event_bus_bridge_refused_total", &["transport"], "Events that the transport refused for good."),
    counter("event_bus_bridge_sent_total", &["transport"], "Events that went out over a transport."),
    gauge("event_bus_bridge_waiting", &["transport"], "Events that wait to go out."),
    counter("event_bus_dead_lettered_total", &[], "Events that handlers failed on for good."),
    gauge("event_bus_dead_letters", &[], "Events that handlers failed on for good and that are kept."),
    counter(
        "event_bus_delivered_total",
        &[],
        "Events that a handler was called for, once for each subscription.",
    ),
    counter(
        "event_bus_discarded_total",
        &[],
        "Events given up: with a subscription's end, or as dead letters.",
    ),
    counter(
        "event_bus_dropped_total",
        &[],
        "Events that full subscriptions dropped by their overflow policy.",
    ),
    counter("event_bus_failed_total", &[], "Calls of handlers that returned an error."),
    counter("event_bus_filtered_total", &[], "Events that the filters of subscriptions passed over."),
    counter("event_bus_panicked_total", &[], "Calls of handlers that panicked."),
    counter("event_bus_published_total", &[], "Events published."),
    gauge("event_bus_queue_depth", &[], "Events that wait in subscriptions."),
    counter("event_bus_redriven_total", &[], "Dead letters given to a subscription again."),
    counter(
        "event_bus_refused_total",
        &["reason"],
        "Topics, patterns, options, events and replies that were refused, by reason.",
    ),
    counter("event_bus_retried_total", &[], "Calls of handlers that were another attempt."),
    gauge("event_bus_retrying", &[], "Events that wait for another attempt, or have it now."),
    counter(
        "event_bus_subscription_delivered_total",
        &["owner"],
        "Events that handlers were called for, by owner of the subscription.",
    ),
    gauge(
        "event_bus_subscription_depth",
        &["owner"],
        "Events that wait, for a handler or another attempt, by owner of the subscription.",
    ),
    counter(
        "event_bus_subscription_dropped_total",
        &["owner"],
        "Events dropped by overflow policies, by owner of the subscription.",
    ),
    counter(
        "event_bus_subscription_failed_total",
        &["owner"],
        "Calls of handlers that failed or panicked, by owner of the subscription.",
    ),
    gauge(
        "event_bus_subscription_handler_seconds",
        &["owner"],
        "Mean time of a handler's call, by owner of the subscription.",
    ),
    gauge(
        "event_bus_subscription_lag",
        &["owner"],
        "Events that wait, are handled now or are tried again, by owner of the subscription.",
    ),
    gauge(
        "event_bus_subscription_oldest_age_seconds",
        &["owner"],
        "Age of the oldest event that is not finished, by owner of the subscription; 0 where there is none.",
    ),
    counter(
        "event_bus_subscription_retried_total",
        &["owner"],
        "Calls of handlers that were another attempt, by owner of the subscription.",
    ),
    gauge("event_bus_subscriptions", &[], "Subscriptions that there are."),
    seconds(
        "http_server_request_duration_seconds",
        &["http_request_method", "http_response_status_code", "http_route", "url_scheme"],
        "Time from a request's head to the end of its answer, by OpenTelemetry's conventions.",
        HTTP,
    ),
    gauge("plugin_count_total", &[], "Plugins that the host knows."),
    counter("plugin_restarts_total", &["name"], "Restarts of a plugin, asked for and by supervision."),
    seconds(
        "plugin_startup_duration_seconds",
        &[],
        "Time from a plugin's start to its being ready.",
        STARTUP,
    ),
    gauge("plugin_status", &["name", "status"], "1 for the state that a plugin is in."),
    counter(
        "redis_client_connection_errors_total",
        &[],
        "Times that a connection to Redis was lost or could not be made.",
    ),
    counter("redis_client_reconnects_total", &[], "Connections to Redis that were lost and made again."),
    gauge("scheduler_runs_stuck", &[], "Runs that should have ended and do not yield."),
    gauge("scheduler_store_bytes", &[], "Room that the task store takes, in bytes, where it knows it."),
    counter("scheduler_store_changes_total", &[], "Changes that the task store has taken or refused."),
    seconds(
        "scheduler_store_commit_duration_seconds",
        &[],
        "Time that the task store took for a batch of changes, its sync to disk counted in.",
        DEFAULT,
    ),
    counter("scheduler_store_commits_total", &[], "Batches of changes that the task store has answered for."),
    counter("scheduler_store_errors_total", &[], "Batches of changes that the task store failed on."),
    gauge("scheduler_store_pending", &[], "Changes that wait for the task store."),
    counter("scheduler_task_auto_pauses_total", &[], "Times that a task was paused since its runs failed."),
    seconds(
        "scheduler_task_duration_seconds",
        &["executor"],
        "Time that a run took, retries not counted in.",
        TASK,
    ),
    counter(
        "scheduler_task_executions_total",
        &["executor"],
        "Runs that have ended, whatever their outcome.",
    ),
    counter("scheduler_task_failures_total", &["executor"], "Runs that have failed."),
    seconds(
        "scheduler_task_lateness_seconds",
        &[],
        "Time from when a run was due to when it began.",
        LATENESS,
    ),
    counter(
        "scheduler_task_skipped_total",
        &["reason"],
        "Due times that were left out: `overlap`, `missed`, `dependency` or `backoff`.",
    ),
    gauge("scheduler_tasks_total", &["status"], "Tasks that the scheduler holds, by state."),
    counter(
        "telemetry_export_lost_total",
        &["reason", "signal"],
        "Spans, log records and data points that did not reach the collector, by reason.",
    ),
    counter(
        "telemetry_exported_total",
        &["signal"],
        "Spans, log records and data points that the collector has taken.",
    ),
    gauge("websocket_clients", &[], "Clients that are connected by WebSocket."),
    counter("websocket_closed_total", &["reason"], "WebSocket connections that have ended, by why they did."),
];

/// Where `snapshot` and `described` do not agree: a metric of another kind, a label too many, a metric
/// that nobody said the meaning of. For tests of programs, which want none.
#[must_use]
pub fn contradictions(snapshot: &Snapshot, described: &[Described]) -> Vec<String> {
    let mut found = Vec::new();
    for family in snapshot.families.iter().filter(|family| !family.series.is_empty()) {
        let name = &family.name;
        let Some(said) = described.iter().find(|said| said.name == name) else {
            if family.help.is_empty() {
                found.push(format!("`{name}` is described nowhere"));
            }
            continue;
        };
        if family.kind != said.kind {
            found.push(format!(
                "`{name}` is a {}, described as a {}",
                family.kind.as_str(),
                said.kind.as_str()
            ));
        }
        let labels: BTreeSet<_> =
            family.series.iter().flat_map(|one| one.labels.iter()).map(|(label, _)| label).collect();
        let more = labels.into_iter().filter(|label| !said.labels.contains(&label.as_str()));
        found.extend(more.map(|label| format!("`{name}` has the label `{label}`, which is not described")));
    }
    found
}

/// The buckets of a histogram that nobody described.
pub(crate) fn default_buckets() -> Buckets {
    Buckets::constant(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_well_formed() {
        assert!(Buckets::new(DEFAULT).is_ok());
        assert!(CATALOG.is_sorted_by(|a, b| a.name < b.name), "sorted, each name once");
        for metric in CATALOG {
            let name = metric.name;
            assert_eq!(crate::names::metric_name(name), name);
            assert!(metric.labels.is_sorted(), "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(
                metric
                    .labels
                    .iter()
                    .all(|label| !matches!(*label, "id" | "task" | "task_id" | "event_id" | "le"))
            );
            match metric.kind {
                MetricKind::Histogram => assert!(Buckets::new(metric.buckets).is_ok(), "{name}"),
                _ => assert!(metric.buckets.is_empty(), "{name}"),
            }
            if metric.kind == MetricKind::Counter {
                assert!(name.ends_with("_total"), "{name}");
            }
            if metric.unit == Some(Unit::Seconds) {
                assert!(name.ends_with("_seconds"), "{name}");
            }
        }
    }
}
