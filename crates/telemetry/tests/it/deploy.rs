//! The dashboard and the alert rules in `deploy/` name metrics and labels that exist.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use telemetry::{CATALOG, MetricKind, Metrics};

/// Labels that Prometheus adds to what it scrapes.
const OF_SCRAPES: [&str; 3] = ["instance", "job", "le"];

/// Words of PromQL that are neither functions nor names.
const KEYWORDS: [&str; 7] = ["and", "or", "unless", "bool", "offset", "inf", "nan"];

/// Words that a list of labels follows.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// The metrics and the labels that a query names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

/// Reads as much of PromQL as there is in `deploy/`.
fn named(query: &str) -> Named {
    let mut named = Named::default();
    let mut rest = query;
    // Inside of braces, or of the parentheses after `by`, words are labels.
    let mut in_labels = false;
    let mut labels_next = false;
    while let Some(first) = rest.chars().next() {
        let word_len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        let word = &rest[..word_len.unwrap_or(rest.len())];
        if word.is_empty() || first.is_ascii_digit() {
            rest = match first {
                '"' => rest[1..].split_once('"').unwrap().1,
                '[' => rest.split_once(']').unwrap().1,
                '$' => rest[1..].trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_'),
                _ if word.is_empty() => &rest[first.len_utf8()..],
                _ => &rest[word.len()..],
            };
            match first {
                '{' => in_labels = true,
                '(' if labels_next => in_labels = true,
                '}' | ')' => in_labels = false,
                _ => {}
            }
            labels_next &= first == ' ';
            continue;
        }
        rest = &rest[word.len()..];
        if in_labels {
            named.labels.insert(word.to_owned());
        } else if BEFORE_LABELS.contains(&word) {
            labels_next = true;
        } else if !is_called(rest) && !KEYWORDS.contains(&word) {
            named.metrics.insert(word.to_owned());
        }
    }
    named
}

/// Whether what follows a word says that it is a function or an aggregation.
fn is_called(rest: &str) -> bool {
    ["(", "by ", "by(", "without ", "without("].iter().any(|next| rest.trim_start().starts_with(next))
}

/// Every name that stands on `/metrics`, with its labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    let own = [
        ("build_info", &["service", "version"] as &[&str]),
        ("telemetry_collector_panics_total", &["collector"]),
        ("telemetry_metrics_refused_total", &["reason"]),
        ("telemetry_series_overflow_total", &["metric"]),
        ("up", &[]),
    ];
    let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    for family in Metrics::builder().build().snapshot().families {
        known.insert(family.name, BTreeSet::new());
    }
    known.extend(own.map(|(name, of)| (name.to_owned(), labels(of))));
    for metric in CATALOG {
        if metric.kind == MetricKind::Histogram {
            for part in ["bucket", "count", "sum"] {
                known.insert(format!("{}_{part}", metric.name), labels(metric.labels));
            }
        } else {
            known.insert(metric.name.to_owned(), labels(metric.labels));
        }
    }
    known
}

/// What is wrong with a query.
fn problems(query: &str) -> Vec<String> {
    let known = known();
    let named = named(query);
    let mut problems: Vec<String> = named
        .metrics
        .iter()
        .filter(|metric| !known.contains_key(*metric))
        .map(|metric| format!("no metric `{metric}`"))
        .collect();
    if named.metrics.is_empty() {
        problems.push("names no metric".to_owned());
    }
    for label in &named.labels {
        let of = |metric: &String| known.get(metric).is_none_or(|labels| labels.contains(label));
        if !OF_SCRAPES.contains(&label.as_str()) && !named.metrics.iter().all(of) {
            problems.push(format!("no label `{label}`"));
        }
    }
    problems
}

fn read(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/");
    std::fs::read_to_string(format!("{root}{path}")).unwrap()
}

/// All values of a key, wherever they stand.
fn values<'a>(json: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match json {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| values(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let dashboard: Value = serde_json::from_str(&read("grafana/gantry.json")).unwrap();
    let mut queries = Vec::new();
    values(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 30, "{}", queries.len());
    for query in &queries {
        assert_eq!(problems(query), Vec::<String>::new(), "{query}");
    }
    let mut ids = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        ids.push(panel["id"].as_u64().unwrap());
    }
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "each panel has an id of its own");
}

#[test]
fn every_metric_of_the_alert_rules_exists() {
    let rules = read("prometheus/gantry-alerts.yml");
    let queries: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(queries.len(), rules.matches("- alert: ").count(), "each rule has its query on one line");
    for query in queries {
        assert_eq!(problems(query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn what_does_not_exist_is_found() {
    let check = |query: &str, expected: &[&str]| assert_eq!(problems(query), expected, "{query}");
    check("sum by (status) (scheduler_tasks_total{instance=~\"$instance\"})", &[]);
    check("rate(scheduler_task_total[5m])", &["no metric `scheduler_task_total`"]);
    check("http_server_request_duration_seconds", &["no metric `http_server_request_duration_seconds`"]);
    check("sum by (task) (scheduler_tasks_total)", &["no label `task`"]);
    check("scheduler_tasks_total{state=\"x\"} > 0.5", &["no label `state`"]);
    check("time() > 1e3", &["names no metric"]);
    let query = "a_total{x=\"b y\", z!=\"}\"}[5m] / on (x) c offset 5m unless (d or e) > 1.5";
    let set = |words: &str| words.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(named(query), Named { metrics: set("a_total c d e"), labels: set("x z") });
}
