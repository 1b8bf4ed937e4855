use serde_json::{Value, json};

use super::*;

fn config(value: Value) -> OtlpConfig {
    serde_json::from_value(value).unwrap()
}

#[test]
fn nothing_goes_anywhere_until_there_is_an_endpoint() {
    assert!(Signal::ALL.iter().all(|signal| OtlpConfig::default().target(*signal).is_none()));
    assert_eq!(OtlpConfig::default().sampler(), Sampler::OFF);
    let on = config(json!({"endpoint": "http://c:4318/base/", "traces": {"exporter": "none"}}));
    assert!(on.target(Signal::Traces).is_none());
    assert_eq!(on.sampler(), Sampler::OFF, "no span is made that goes nowhere");
    assert_eq!(on.target(Signal::Logs).unwrap().url.as_str(), "http://c:4318/base/v1/logs");
    let off = config(json!({"endpoint": "http://c", "disabled": true}));
    assert!(off.target(Signal::Logs).is_none());
}

#[test]
fn what_is_said_of_a_signal_prevails() {
    let config = config(json!({
        "endpoint": "http://c:4317", "protocol": "grpc", "headers": "a=1, b=x%20y", "timeout": 1500,
        "logs": {"endpoint": "https://other/in", "protocol": "http/protobuf", "headers": {"c": "3"},
                 "timeout": "2s", "compression": "gzip"},
    }));
    let traces = config.target(Signal::Traces).unwrap();
    assert_eq!((traces.url.as_str(), traces.protocol), ("http://c:4317/", Protocol::Grpc));
    assert_eq!(traces.headers.0.0["b"], "x y");
    assert_eq!(traces.timeout, Duration::from_millis(1500));
    let logs = config.target(Signal::Logs).unwrap();
    assert_eq!((logs.url.as_str(), logs.protocol), ("https://other/in", Protocol::Http));
    assert_eq!(logs.headers.0.0.keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!((logs.timeout, logs.compression), (Duration::from_secs(2), Compression::Gzip));
    config.check().unwrap();
}

#[test]
fn samplers_are_those_of_the_specification() {
    for (name, expected) in [
        ("always_on", Sampler::ratio(1.0).ignoring_parent()),
        ("always_off", Sampler::ratio(0.0).ignoring_parent()),
        ("traceidratio", Sampler::ratio(0.25).ignoring_parent()),
        ("parentbased_always_on", Sampler::ratio(1.0)),
        ("parentbased_always_off", Sampler::ratio(0.0)),
        ("parentbased_traceidratio", Sampler::ratio(0.25)),
    ] {
        let config = config(json!({"endpoint": "http://c", "sampler": name, "sampler_ratio": 0.25}));
        assert_eq!(config.sampler(), expected, "{name}");
    }
}

#[test]
fn promise_10_what_is_wrong_is_named() {
    for (value, expected) in [
        (json!({"endpoint": "localhost:4317"}), "endpoint: must be an `http` or `https` URL"),
        (json!({"logs": {"endpoint": "ftp://x"}}), "logs.endpoint: must be"),
        (json!({"sampler_ratio": 1.5}), "sampler_ratio: must be from 0 to 1"),
        (json!({"headers": {"a b": "1"}}), "headers.a b: is no header"),
        (json!({"traces": {"headers": {"a": "\n"}}}), "traces.headers.a: is no header"),
        (json!({"timeout": "0s"}), "timeout: must not be zero"),
        (json!({"metrics": {"interval": 0}}), "metrics.interval: must not be zero"),
        (json!({"traces": {"queue_max": 0}}), "traces.queue_max: must be from 1"),
        (json!({"traces": {"queue_max": 10, "batch_max": 11}}), "traces.batch_max: must be from 1"),
    ] {
        let error = config(value.clone()).check().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{value}: {error}");
    }
    for (value, expected) in [
        (json!({"headers": "hunter2"}), "expected `name=value,name=value`"),
        (json!({"sampler": "sometimes"}), "unknown variant `sometimes`"),
        (json!({"timeout": "soon"}), "expected a duration such as `500ms`, or milliseconds"),
        (json!({"colour": 1}), "unknown field `colour`"),
    ] {
        let error = serde_json::from_value::<OtlpConfig>(value).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn promise_9_headers_do_not_show_their_values() {
    let config = config(json!({"headers": {"authorization": "hunter2"}}));
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}

#[test]
fn every_variable_stands_for_a_key() {
    let mut known = serde_json::to_value(OtlpConfig::default()).unwrap();
    let optional = ["endpoint", "protocol", "headers", "timeout", "compression", "certificate"];
    for key in ["/traces", "/metrics", "/logs", ""] {
        let section = known.pointer_mut(key).unwrap().as_object_mut().unwrap();
        section.extend(optional.map(|key| (key.to_owned(), Value::Null)));
    }
    for (variable, key) in OTEL_VARIABLES {
        let path = key.strip_prefix("telemetry").unwrap().replace('.', "/");
        assert!(known.pointer(&path).is_some(), "{variable}: {key}");
    }
}
