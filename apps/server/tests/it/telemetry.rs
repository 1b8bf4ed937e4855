//! What leaves the server for a collector: one trace through all its parts, and the end of a start that failed.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::json;
use telemetry::TraceContext;
use telemetry::testing::{Collector, Received, ReceivedSpan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::plugins::example;
use crate::process::{Folder, PATIENCE, Server, command, server_program};

/// Somebody whom the server calls: takes one request, and gives its headers.
async fn called(listener: TcpListener) -> BTreeMap<String, String> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the head is whole");
    }
    stream
        .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let head = String::from_utf8(request).unwrap();
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

/// What makes a server send to the collector at once.
fn exports(collector: &Collector, protocol: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
        ("OTEL_BLRP_SCHEDULE_DELAY", "10".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100".to_owned()),
        ("OTEL_SERVICE_NAME", "shop".to_owned()),
    ]
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn has(received: &Received, name: &str) -> bool {
    received.spans.iter().any(|span| span.name == name)
}

fn assert_below(child: &ReceivedSpan, parent: &ReceivedSpan) {
    assert_eq!(child.trace_id, parent.trace_id, "{} and {}", child.name, parent.name);
    assert_eq!(child.parent_id, parent.span_id, "{} is below {}", child.name, parent.name);
}

#[tokio::test]
async fn one_trace_runs_from_a_request_through_event_and_task_to_the_outgoing_call() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start().await.unwrap();
        let server = example("warehouse", &borrowed(&exports(&collector, protocol))).await;
        server.until("/plugins/orders", |data| data["plugin"]["status"] == "running").await;
        let warehouse = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/told?secret=hunter2", warehouse.local_addr().unwrap());

        let client = TraceContext::root(true);
        let order = json!({"id": "7", "notify": url}).to_string();
        let headers = [("traceparent", &*client.to_string()), ("user-agent", "till/1")];
        let request = server.raw(Method::POST, "/orders", Some((&order, "application/json")), &headers);
        let (answer, told) = tokio::join!(request, tokio::time::timeout(PATIENCE, called(warehouse)));
        let told = told.expect("the warehouse is told");
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text);
        assert_eq!(answer.headers["x-trace-id"], client.trace_id().to_string());

        let ends = ["POST /orders", "event.handle", "scheduler.run", "POST"];
        let received = collector.wait_for(|received| ends.iter().all(|name| has(received, name))).await;
        let request = received.span("POST /orders");
        assert_eq!(request.trace_id, client.trace_id().to_string());
        assert_eq!(request.parent_id, client.span_id().to_string());
        assert_eq!((request.kind.as_str(), &*request.scope), ("Server", "http_api::span"));
        for (key, value) in [
            ("http.request.method", "POST"),
            ("http.route", "/orders"),
            ("http.response.status_code", "200"),
            ("url.path", "/orders"),
            ("user_agent.original", "till/1"),
            ("client.address", "127.0.0.1"),
        ] {
            assert_eq!(request.attributes[key], value);
        }
        assert_eq!(request.resource["service.name"], "shop");
        assert_eq!(request.resource["service.instance.id"], "local");

        let handled = received.span("event.handle");
        assert_below(handled, request);
        assert_eq!(handled.kind, "Consumer");
        assert_eq!(handled.attributes["topic"], "orders.received");
        assert_eq!(handled.attributes["subscription"], "warehouse");

        let run = received.span("scheduler.run");
        assert_below(run, handled);
        assert_eq!((run.kind.as_str(), &*run.attributes["task"]), ("Consumer", "notify-7"));

        let call = received.span("POST");
        assert_below(call, run);
        assert_eq!(call.kind, "Client");
        assert_eq!(call.attributes["http.response.status_code"], "202");
        assert_eq!(call.attributes["url.path"], "/told");
        assert!(!format!("{call:?}").contains("hunter2"), "promise 9: {call:?}");
        assert_eq!(told["traceparent"], format!("00-{}-{}-03", call.trace_id, call.span_id));

        // The record of the run and the lines of the log know the trace, too.
        let task = server.until("/scheduler/tasks/notify-7", |data| data["task"]["run_count"] == 1).await;
        assert_eq!(task["task"]["last_error"], json!(null));
        let runs = server.get("/scheduler/tasks/notify-7/runs").await.data();
        assert_eq!(runs["runs"][0]["trace_id"], request.trace_id);
        let line =
            |received: &Received| received.logs.iter().find(|line| line.body == "order received").cloned();
        let received = collector.wait_for(|received| line(received).is_some()).await;
        let line = line(&received).unwrap();
        assert_eq!((&line.trace_id, &line.span_id), (&request.trace_id, &request.span_id));

        // So do the durations, by their exemplars.
        let exemplar = |received: &Received| {
            received.points.iter().any(|point| {
                point.name == "http_server_request_duration_seconds"
                    && point.attributes["http_route"] == "/orders"
                    && point.exemplars == [request.trace_id.clone()]
            })
        };
        collector.wait_for(exemplar).await;
    }
}

#[tokio::test]
async fn a_trace_that_its_caller_does_not_keep_is_carried_on_and_not_exported() {
    let collector = Collector::start().await.unwrap();
    let server = example("warehouse", &borrowed(&exports(&collector, "grpc"))).await;
    server.until("/plugins/orders", |data| data["plugin"]["status"] == "running").await;
    let warehouse = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", warehouse.local_addr().unwrap());
    let client = TraceContext::root(false);
    let order = json!({"id": "8", "notify": url}).to_string();
    let headers = [("traceparent", &*client.to_string())];
    let request = server.raw(Method::POST, "/orders", Some((&order, "application/json")), &headers);
    let (_, told) = tokio::join!(request, tokio::time::timeout(PATIENCE, called(warehouse)));
    let told: TraceContext = told.expect("the warehouse is told")["traceparent"].parse().unwrap();
    assert_eq!((told.trace_id(), told.is_sampled()), (client.trace_id(), false));

    server.get("/health/live").await;
    let received = collector.wait_for(|received| has(received, "GET /health/live")).await;
    assert!(received.spans.iter().all(|span| span.trace_id != client.trace_id().to_string()));
    // A line is logged whether or not its trace is kept.
    let line =
        collector.wait_for(|received| received.logs.iter().any(|line| line.body == "order received")).await;
    let line = line.logs.iter().find(|line| line.body == "order received").unwrap();
    assert_eq!(line.trace_id, client.trace_id().to_string());
}

#[tokio::test]
async fn what_recurs_has_traces_of_its_own_that_link_to_who_asked_for_it() {
    let collector = Collector::start().await.unwrap();
    let folder = Folder::new();
    let mut server = command(&folder, server_program());
    server.envs(exports(&collector, "http/protobuf"));
    let server = Server::spawn(folder, server).await;
    let client = TraceContext::root(true);
    let task = json!({"id": "beat", "schedule": {"type": "interval", "interval": "10ms", "max_runs": 2}});
    let headers = [("traceparent", &*client.to_string())];
    let body = Some((&*task.to_string(), "application/json"));
    assert_eq!(server.raw(Method::POST, "/scheduler/tasks", body, &headers).await.status.as_u16(), 201);
    let runs = |received: &Received| {
        received.spans.iter().filter(|span| span.name == "scheduler.run").cloned().collect::<Vec<_>>()
    };
    let all = |received: &Received| runs(received).len() == 2 && has(received, "POST /scheduler/tasks");
    let received = collector.wait_for(all).await;
    let created = received.span("POST /scheduler/tasks");
    let runs = runs(&received);
    assert_ne!(runs[0].trace_id, runs[1].trace_id);
    for run in runs {
        assert_eq!(run.links, [(created.trace_id.clone(), created.span_id.clone())]);
        let id = run.attributes["run"].replace('-', "");
        assert_eq!((run.trace_id, run.parent_id), (id, String::new()));
    }
    // A trigger is one cause of one run.
    let client = TraceContext::root(true);
    let headers = [("traceparent", &*client.to_string())];
    let again = json!({"id": "again", "schedule": {"type": "cron", "cron": "0 0 1 1 *"}});
    server.send(Method::POST, "/scheduler/tasks", Some(again)).await;
    server.raw(Method::POST, "/scheduler/tasks/again/trigger", None, &headers).await;
    let trace = client.trace_id().to_string();
    let of_trigger =
        |received: &Received| received.spans.iter().filter(|span| span.trace_id == trace).count() == 2;
    let received = collector.wait_for(of_trigger).await;
    let run = received.spans.iter().find(|span| span.trace_id == trace && span.name == "scheduler.run");
    assert_below(run.unwrap(), received.span("POST /scheduler/tasks/{id}/trigger"));
}

#[tokio::test]
async fn a_start_that_fails_is_told_to_the_collector() {
    let collector = Collector::start().await.unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = Folder::new();
    let mut server = command(&folder, server_program());
    server.envs(exports(&collector, "grpc"));
    server.env("HTTP_PORT", taken.local_addr().unwrap().port().to_string());
    let ended = tokio::time::timeout(PATIENCE, server.output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let received = collector.received();
    let line = received.logs.iter().find(|line| line.body == "the server ends").expect("the last line");
    assert_eq!(line.severity, "ERROR");
    assert!(line.attributes["error"].contains("in use"), "{:?}", line.attributes);
    assert!(received.points.iter().any(|point| point.name == "plugin_count_total"), "the last metrics");
}
