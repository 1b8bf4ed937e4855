//! What log lines look like, and which are written.

use serde_json::Value;
use telemetry::{LogFormat, Telemetry, TraceContext};
use tracing::{debug, error, info, info_span, warn};

use crate::Pages;

fn logged(format: LogFormat, filter: &str, work: impl FnOnce(&Telemetry)) -> String {
    let pages = Pages::default();
    let telemetry = Telemetry::builder()
        .log_format(format)
        .log_filter(filter.parse().unwrap())
        .log_writer(pages.clone())
        .build();
    tracing::dispatcher::with_default(telemetry.dispatch(), || work(&telemetry));
    pages.text()
}

fn json(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}

#[test]
fn json_lines_carry_fields_spans_and_trace_ids() {
    let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let text = logged(LogFormat::Json, "info", |_| {
        info!(port = 8080, "listening\n\"here\"");
        let _entered = info_span!("request", traceparent = %trace, method = "GET").entered();
        let _deeper = info_span!("query", table = "tasks").entered();
        warn!(target: "scheduler::planner", task_id = "a", "late");
    });
    let lines = json(&text);
    assert_eq!(lines.len(), 2);
    let [plain, traced] = [&lines[0], &lines[1]];
    assert_eq!(plain["level"], "INFO");
    assert_eq!(plain["fields"]["message"], "listening\n\"here\"");
    assert_eq!(plain["fields"]["port"], 8080);
    assert!(plain["timestamp"].as_str().unwrap().parse::<runtime::Timestamp>().is_ok());
    assert!(plain.get("trace_id").is_none());
    assert_eq!(traced["target"], "scheduler::planner");
    assert_eq!(traced["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(traced["span_id"], "00f067aa0ba902b7");
    assert_eq!(traced["spans"][0]["method"], "GET");
    assert_eq!(traced["spans"][1]["table"], "tasks");
}

#[test]
fn an_error_knows_its_trace_where_only_errors_are_logged() {
    let trace = TraceContext::root(false);
    let text = logged(LogFormat::Json, "error", |_| {
        let _entered = info_span!("request", traceparent = %trace).entered();
        info!("not wanted");
        info!(traceparent = %trace, "no span, and not wanted either");
        error!("broken");
    });
    let lines = json(&text);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["trace_id"], trace.trace_id().to_string());
}

#[test]
fn pretty_lines_are_one_line_each_without_colours_in_a_file() {
    let text = logged(LogFormat::Pretty, "info", |_| {
        let _entered = info_span!("request", method = "GET").entered();
        info!(port = 8080, "listening");
        info!(input = "a\u{1b}[31mred", "\u{1b}[31mred");
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].ends_with("INFO request{method=\"GET\"}: it::lines: listening port=8080"),
        "{}",
        lines[0]
    );
    assert!(!text.contains('\u{1b}'), "what a caller sends does not steer the terminal: {text:?}");
}

#[test]
fn levels_change_while_it_runs_and_per_target() {
    let text = logged(LogFormat::Pretty, "info", |telemetry| {
        let say = |what: &str| {
            debug!("{what} here");
            debug!(target: "scheduler::planner", "{what} there");
        };
        say("first");
        let levels = telemetry.log_levels();
        let before = levels.set("info,scheduler=debug".parse().unwrap()).unwrap();
        assert_eq!(before.to_string(), "info");
        say("second");
        levels.set("debug,scheduler=off".parse().unwrap()).unwrap();
        say("third");
        levels.set(before).unwrap();
        say("fourth");
        assert_eq!(levels.current().to_string(), "info");
    });
    let said: Vec<_> = text.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
    assert_eq!(said, ["second there", "third here"]);
}

#[test]
fn levels_of_a_subscriber_that_is_gone_cannot_change() {
    let telemetry = Telemetry::builder().log_writer(Pages::default()).build();
    let levels = telemetry.log_levels().clone();
    drop(telemetry);
    assert_eq!(levels.set("debug".parse().unwrap()).unwrap_err().to_string(), "the log subscriber is gone");
    assert_eq!(levels.current().to_string(), "info", "and stay what they were");
}

#[test]
fn the_look_follows_the_environment() {
    assert_eq!(LogFormat::for_environment("development"), LogFormat::Pretty);
    assert_eq!(LogFormat::for_environment(""), LogFormat::Pretty);
    assert_eq!(LogFormat::for_environment("production"), LogFormat::Json);
    assert_eq!(LogFormat::for_environment("staging"), LogFormat::Json);
    assert_eq!("json".parse(), Ok(LogFormat::Json));
    let error = "xml".parse::<LogFormat>().unwrap_err();
    assert_eq!(error.to_string(), "unknown log format `xml` (known: pretty, json)");
}
