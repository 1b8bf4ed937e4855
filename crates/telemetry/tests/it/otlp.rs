//! To a collector: what arrives there, and what becomes of it where nothing can.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use telemetry::testing::{Collector, Mood};
use telemetry::{Format, Metrics, Otlp, OtlpConfig, OtlpIdentity, Telemetry, TraceContext};
use tracing::field::Empty;
use tracing::{debug, debug_span, error, info, info_span, warn};

use crate::Pages;
use crate::checker::Page;

const PROTOCOLS: [&str; 2] = ["grpc", "http/protobuf"];
const DEADLINE: Duration = Duration::from_secs(60);

/// A configuration that sends at once, but for metrics.
fn config(collector: &str, protocol: &str, more: Value) -> OtlpConfig {
    let mut config = json!({
        "endpoint": collector, "protocol": protocol,
        "traces": {"interval": "1ms"}, "logs": {"interval": "1ms"}, "metrics": {"interval": "1h"},
    });
    let add = |into: &mut Value, from: &Value| {
        into.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
    };
    for (key, value) in more.as_object().unwrap() {
        match config.get_mut(key).filter(|known| known.is_object()) {
            Some(known) => add(known, value),
            None => add(&mut config, &json!({key: value})),
        }
    }
    serde_json::from_value(config).unwrap()
}

fn telemetry(config: &OtlpConfig) -> Telemetry {
    let identity =
        OtlpIdentity { version: "1.2.3".into(), attributes: vec![("service.instance.id", "n1".into())] };
    let otlp = Otlp::start(config, identity).unwrap().unwrap();
    let metrics = Metrics::builder().process(false).build();
    Telemetry::builder().metrics(metrics).log_writer(Pages::default()).exporter(otlp).build()
}

/// Says something through the telemetry, and not that of other tests.
fn within<T>(telemetry: &Telemetry, work: impl FnOnce() -> T) -> T {
    tracing::dispatcher::with_default(telemetry.dispatch(), || {
        metrics::with_local_recorder(telemetry.metrics(), work)
    })
}

fn page(telemetry: &Telemetry) -> Page {
    Page::read(&telemetry.metrics().render(Format::PrometheusText), Format::PrometheusText)
}

fn lost(telemetry: &Telemetry, signal: &str, reason: &str) -> f64 {
    page(telemetry).value("telemetry_export_lost_total", &[("signal", signal), ("reason", reason)])
}

fn exported(telemetry: &Telemetry, signal: &str) -> f64 {
    page(telemetry).value("telemetry_exported_total", &[("signal", signal)])
}

#[tokio::test]
async fn traces_metrics_and_logs_arrive_over_both_protocols() {
    for protocol in PROTOCOLS {
        for compression in ["none", "gzip"] {
            let collector = Collector::start().await.unwrap();
            let more = json!({
                "headers": {"x-tenant": "blue"}, "compression": compression, "service_name": "shop",
                "resource_attributes": "deployment.environment.name=test",
            });
            let telemetry = telemetry(&config(&collector.endpoint(), protocol, more));
            let trace = TraceContext::root(true);
            within(&telemetry, || {
                let request = info_span!(
                    "request",
                    traceparent = %trace,
                    parent_span_id = "00f067aa0ba902b7",
                    otel.kind = "server",
                    otel.name = Empty,
                    http.response.status_code = Empty,
                    secure = true,
                );
                request.in_scope(|| {
                    metrics::histogram!("took_seconds", "route" => "/a").record(0.25);
                    info_span!("query", table = "tasks", rows = 7_u64).in_scope(|| info!(rows = 7, "asked"));
                });
                request.record("otel.name", "GET /a");
                request.record("http.response.status_code", 200);
                metrics::counter!("jobs_total").increment(3);
                metrics::gauge!("depth").set(1.5);
            });
            collector.wait_for(|received| received.spans.len() == 2 && received.logs.len() == 1).await;
            let report = telemetry.shutdown(DEADLINE).await;
            assert!(report.is_clean(), "{report:?}");
            let received = collector.received();
            assert_eq!(received.headers["x-tenant"], "blue");

            let (request, query) = (received.span("GET /a"), received.span("query"));
            assert_eq!(request.trace_id, trace.trace_id().to_string());
            assert_eq!(request.span_id, trace.span_id().to_string());
            assert_eq!(request.parent_id, "00f067aa0ba902b7");
            assert_eq!((request.kind.as_str(), request.scope.as_str()), ("Server", "it::otlp"));
            assert_eq!(request.attributes["http.response.status_code"], "200");
            assert_eq!(request.attributes["secure"], "true");
            assert_eq!(request.attributes.len(), 2, "{:?}", request.attributes);
            assert_eq!((query.kind.as_str(), &query.parent_id), ("Internal", &request.span_id));
            assert_eq!(query.trace_id, request.trace_id);
            assert!(query.took <= request.took && query.took.is_some());
            for (key, value) in [
                ("service.name", "shop"),
                ("service.version", "1.2.3"),
                ("service.instance.id", "n1"),
                ("deployment.environment.name", "test"),
                ("telemetry.sdk.language", "rust"),
            ] {
                assert_eq!(request.resource[key], value);
            }

            let line = &received.logs[0];
            assert_eq!((line.body.as_str(), line.severity.as_str()), ("asked", "INFO"));
            assert_eq!((&line.trace_id, &line.span_id), (&query.trace_id, &query.span_id));
            assert_eq!(line.attributes["rows"], "7");

            let point = |name: &str| {
                let mut found = received.points.iter().filter(|point| point.name == name);
                found.next().cloned().unwrap_or_else(|| panic!("{name}: {:?}", received.points))
            };
            assert_eq!((point("jobs_total").kind, point("jobs_total").value), ("sum", 3.0));
            assert_eq!((point("depth").kind, point("depth").value), ("gauge", 1.5));
            let took = point("took_seconds");
            assert_eq!((took.kind, took.value), ("histogram", 1.0));
            assert_eq!(took.attributes["route"], "/a");
            assert_eq!(took.exemplars, [trace.trace_id().to_string()]);
            assert_eq!((exported(&telemetry, "traces"), exported(&telemetry, "logs")), (2.0, 1.0));
        }
    }
}

#[tokio::test]
async fn spans_without_a_context_get_one_and_those_of_traces_that_are_not_kept_do_not_leave() {
    let collector = Collector::start().await.unwrap();
    let telemetry = telemetry(&config(&collector.endpoint(), "grpc", json!({})));
    within(&telemetry, || {
        info_span!("alone").in_scope(|| {
            let context = TraceContext::current().unwrap();
            assert!(context.is_sampled());
            info_span!("below").in_scope(|| {
                assert_eq!(TraceContext::current().unwrap().trace_id(), context.trace_id());
                info!("in both");
            });
            assert_eq!(TraceContext::current(), Some(context));
        });
        assert_eq!(TraceContext::current(), None);
        debug_span!("detail").in_scope(|| assert_eq!(TraceContext::current(), None));
        let dropped = TraceContext::root(false);
        info_span!("dropped", traceparent = %dropped).in_scope(|| {
            info_span!("dropped too").in_scope(|| assert_eq!(TraceContext::current(), Some(dropped)));
        });
        let kept = TraceContext::root(true);
        kept.in_scope(|| {
            info_span!("in a scope").in_scope(|| {});
            info_span!("its own", traceparent = %kept).in_scope(|| {});
            info_span!(parent: None, "elsewhere").in_scope(|| {});
        });
        let linked = format!("{kept} nonsense {dropped}");
        info_span!("linked", links = linked, otel.status_code = "ok").in_scope(|| error!("and yet well"));
        info_span!("failed").in_scope(|| error!("out of luck"));
    });
    assert!(telemetry.shutdown(DEADLINE).await.is_clean());
    let received = collector.received();
    let mut names: Vec<_> = received.spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["alone", "below", "elsewhere", "failed", "in a scope", "its own", "linked"]);
    assert_eq!(received.span("alone").parent_id, "");
    assert_eq!(received.span("below").parent_id, received.span("alone").span_id);
    assert_eq!(received.logs[0].span_id, received.span("below").span_id);
    let own = received.span("its own");
    assert_eq!(own.parent_id, "", "it is not its own parent");
    assert_eq!(received.span("in a scope").parent_id, own.span_id);
    assert_eq!(received.span("elsewhere").parent_id, "");
    assert_ne!(received.span("elsewhere").trace_id, own.trace_id);
    assert_eq!(received.span("failed").status, Some((2, "out of luck".into())));
    assert_eq!(received.span("linked").status, Some((1, String::new())));
    let links = &received.span("linked").links;
    assert_eq!((links.len(), &links[0]), (2, &(own.trace_id.clone(), own.span_id.clone())));
}

#[tokio::test]
async fn logs_follow_their_levels_and_what_the_way_out_says_of_itself_stays_here() {
    let collector = Collector::start().await.unwrap();
    let telemetry = telemetry(&config(&collector.endpoint(), "http/protobuf", json!({})));
    within(&telemetry, || {
        debug!("too fine");
        info!("one");
        info!(target: "h2::client", "ours");
        telemetry.log_levels().set("warn,it=debug".parse().unwrap()).unwrap();
        debug!("two");
        telemetry.log_levels().set("warn".parse().unwrap()).unwrap();
        info!("not any more");
        warn!("three");
    });
    assert!(telemetry.shutdown(DEADLINE).await.is_clean());
    let bodies: Vec<_> = collector.received().logs.into_iter().map(|line| line.body).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_nothing_is_lost() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await.unwrap();
        collector.set_mood(Mood::Unavailable(1));
        let telemetry =
            telemetry(&config(&collector.endpoint(), protocol, json!({"logs": {"exporter": "none"}})));
        within(&telemetry, || info_span!("persistent").in_scope(|| {}));
        let received = collector.wait_for(|received| received.spans.len() == 1).await;
        assert_eq!(received.requests, 2, "{protocol}");
        assert!(telemetry.shutdown(DEADLINE).await.is_clean());
        assert_eq!((exported(&telemetry, "traces"), lost(&telemetry, "traces", "failed")), (1.0, 0.0));
    }
}

#[tokio::test]
async fn what_the_collector_will_not_have_is_counted() {
    for protocol in PROTOCOLS {
        let collector = Collector::start().await.unwrap();
        let none = json!({"exporter": "none"});
        let telemetry =
            telemetry(&config(&collector.endpoint(), protocol, json!({"metrics": none, "logs": none})));
        collector.set_mood(Mood::Rejects(2));
        within(&telemetry, || (0..3).for_each(|_| info_span!("some").in_scope(|| {})));
        collector.wait_for(|received| received.spans.len() == 3).await;
        // Each of up to three requests rejects two, or all that it has.
        let rejected = async {
            while exported(&telemetry, "traces") + lost(&telemetry, "traces", "rejected") < 3.0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, rejected).await.unwrap();
        assert!(lost(&telemetry, "traces", "rejected") >= 2.0);
        collector.set_mood(Mood::Refuses);
        within(&telemetry, || info_span!("refused").in_scope(|| {}));
        let report = telemetry.shutdown(DEADLINE).await;
        assert_eq!(report.failed, [("otlp".into(), "lost 1 of traces".into())], "{protocol}");
        assert_eq!(lost(&telemetry, "traces", "failed"), 1.0);
    }
}

/// Promise 7 and 8: the program neither waits nor grows, and the end comes in time.
#[tokio::test]
async fn promise_7_a_collector_that_hangs_or_is_away_holds_nothing_up() {
    let hanging = Collector::start().await.unwrap();
    hanging.set_mood(Mood::Hangs);
    let away = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", gone.local_addr().unwrap())
    };
    for endpoint in [hanging.endpoint(), away] {
        for protocol in PROTOCOLS {
            let more = json!({
                "traces": {"queue_max": 64, "batch_max": 16}, "logs": {"exporter": "none"},
                "metrics": {"exporter": "none"},
            });
            let telemetry = telemetry(&config(&endpoint, protocol, more));
            within(&telemetry, || (0..1_000).for_each(|_| info_span!("one of many").in_scope(|| {})));
            assert!(lost(&telemetry, "traces", "queue_full") >= 1_000.0 - 64.0);
            let ended = telemetry.shutdown(Duration::from_secs(1));
            let report = tokio::time::timeout(DEADLINE, ended).await.unwrap();
            // On a busy machine it may be cut off before it can say how many.
            let [(exporter, why)] = report.failed.as_slice() else { panic!("{protocol}: {report:?}") };
            assert_eq!(exporter, "otlp");
            assert!(why.starts_with("lost ") || why.starts_with("deadline"), "{protocol}: {why}");
            let reasons = ["queue_full", "failed", "rejected", "shutdown"];
            let all = || reasons.iter().map(|reason| lost(&telemetry, "traces", reason)).sum::<f64>();
            let accounted = async {
                while all() < 1_000.0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, accounted).await.unwrap();
            assert_eq!(all(), 1_000.0, "each is accounted for once");
        }
    }
}

#[tokio::test]
async fn nothing_is_started_where_nothing_goes_anywhere() {
    let identity = || OtlpIdentity { version: "1".into(), attributes: Vec::new() };
    let start = |config: Value| Otlp::start(&serde_json::from_value(config).unwrap(), identity());
    assert!(start(json!({})).unwrap().is_none());
    assert!(start(json!({"endpoint": "http://c", "disabled": true})).unwrap().is_none());
    let missing = start(json!({"endpoint": "http://c", "certificate": "/absent.pem"})).unwrap_err();
    assert_eq!(missing.to_string(), "read the certificates in `/absent.pem`");
    let wrong = start(json!({"endpoint": "c"})).unwrap_err();
    assert!(wrong.to_string().starts_with("endpoint: must be"), "{wrong}");
}

#[tokio::test]
async fn metrics_go_out_at_each_interval() {
    let collector = Collector::start().await.unwrap();
    let telemetry =
        telemetry(&config(&collector.endpoint(), "grpc", json!({"metrics": {"interval": "5ms"}})));
    within(&telemetry, || metrics::counter!("jobs_total").increment(1));
    collector.wait_for(|received| received.requests >= 3 && !received.points.is_empty()).await;
    let _ = Arc::new(telemetry.shutdown(DEADLINE).await);
}
