//! What is counted and traced.

use std::sync::{Arc, Mutex};

use plugins_redis::fred::interfaces::{HashesInterface, KeysInterface};
use telemetry::{CATALOG, Metrics, contradictions};
use testkit::{Redis, need, until};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::{PATIENCE, config, connect};

/// On one thread, so that this test's recorder sees what its tasks count.
#[tokio::test]
async fn calls_errors_and_reconnects_are_counted_as_described() {
    let server = need!(Redis::start());
    let metrics = Metrics::builder().describe(CATALOG).build();
    let _guard = metrics::set_default_local_recorder(&metrics);
    let redis = connect(&config(server.address())).await;
    for _ in 0..3 {
        redis.call("SET", redis.client().set::<(), _, _>("k", "v", None, None, false)).await.unwrap();
    }
    redis.call("HGET", redis.client().hget::<(), _, _>("k", "f")).await.unwrap_err();
    server.server().restart().await.unwrap();
    until("a reconnect", PATIENCE, async || {
        let page = metrics.render(telemetry::Format::negotiate(None));
        let counted = |line: &str| page.lines().any(|found| found == line);
        let all = [
            "db_client_operation_duration_seconds_count{db_operation_name=\"SET\",db_system_name=\"redis\"} 3",
            "db_client_operation_duration_seconds_count{db_operation_name=\"HGET\",db_system_name=\"redis\",error_type=\"server\"} 1",
        ];
        let lost = !page.contains("redis_client_connection_errors_total 0") && page.contains("redis_client_connection_errors_total ");
        let again = page.contains("redis_client_reconnects_total ");
        if all.into_iter().all(counted) && lost && again { Ok(()) } else { Err(page) }
    })
    .await
    .unwrap();
    assert_eq!(contradictions(&metrics.snapshot(), CATALOG), Vec::<String>::new());
    redis.close().await;
}

/// The fields of spans that were made, as text.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl Visit for Spans {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{}={value:?}", field.name()));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        attributes.record(&mut self.clone());
    }

    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

#[tokio::test]
async fn a_call_has_a_span_by_the_conventions_of_opentelemetry() {
    let server = need!(Redis::start());
    let redis = connect(&config(server.address())).await;
    let spans = Spans::default();
    let subscriber = tracing_subscriber::registry().with(spans.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    redis.call("SET", redis.client().set::<(), _, _>("k", "secret", None, None, false)).await.unwrap();
    redis.call("HGET", redis.client().hget::<(), _, _>("k", "f")).await.unwrap_err();
    let seen = spans.0.lock().unwrap().clone();
    let port = server.address().rsplit(':').next().unwrap();
    for field in [
        "otel.name=\"SET\"",
        "otel.kind=\"client\"",
        "db.system.name=\"redis\"",
        "db.operation.name=\"HGET\"",
        "server.address=\"127.0.0.1\"",
        &format!("server.port={port}"),
        "error.type=\"server\"",
    ] {
        assert!(seen.iter().any(|found| found == field), "{field} is not in {seen:?}");
    }
    assert!(!seen.iter().any(|found| found.contains("secret")), "what is stored is in no span: {seen:?}");
    redis.close().await;
}
