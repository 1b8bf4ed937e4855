//! Telemetry of the whole process. One test, since a process has one.

use telemetry::{Format, InstallError, LogFormat, Telemetry};

use crate::Pages;

#[test]
fn installed_it_takes_in_all_three_facades_once() {
    let pages = Pages::default();
    let telemetry = Telemetry::builder()
        .log_format(LogFormat::Json)
        .log_filter("it::installed=info,off".parse().unwrap())
        .log_writer(pages.clone())
        .install()
        .unwrap();

    tracing::info!("through tracing");
    log::info!("through log");
    log::debug!("too fine");
    // Where it stands depends on the other tests of this process, each of which has a level of its own.
    log::set_max_level(log::LevelFilter::Info);
    telemetry.log_levels().set("it::installed=debug,off".parse().unwrap()).unwrap();
    log::debug!("fine enough now");
    metrics::counter!("installed_total").increment(1);

    let text = pages.text();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> = lines.iter().map(|line| line["fields"]["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["through tracing", "through log", "fine enough now"], "{text}");
    assert!(telemetry.metrics().render(Format::PrometheusText).contains("installed_total 1\n"));

    let again = Telemetry::builder().log_writer(Pages::default()).install();
    assert_eq!(again.unwrap_err(), InstallError::Subscriber);
}
