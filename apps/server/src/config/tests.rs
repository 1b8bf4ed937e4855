use clap::Parser;

use super::*;

async fn load_with(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let flags = Flags::parse_from(std::iter::once(&"gantry-server").chain(arguments));
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    load(&flags, variables, &sections()).await
}

fn sections() -> BTreeMap<String, Option<ConfigSpec>> {
    crate::wiring::sections(&crate::host::Host::new().unwrap()).unwrap()
}

#[tokio::test]
async fn flags_prevail_over_the_environment_and_that_over_defaults() {
    let variables = [("HTTP_PORT", "9000"), ("GO_ENV", "production"), ("GANTRY__NODE", "n1")];
    let loaded = load_with(&["--port", "9001"], &variables).await.unwrap();
    assert_eq!(loaded.host.plugins["http"]["port"], 9001);
    assert_eq!(loaded.host.env, Environment::Production);
    assert_eq!(loaded.host.node, "n1");
    assert_eq!(loaded.settings.origin(&["node"]).unwrap().layer, Layer::Environment);
}

#[tokio::test]
async fn the_schedulers_section_has_a_short_name() {
    let loaded = load_with(&["--set", "scheduler.auto_start=false"], &[]).await.unwrap();
    assert_eq!(loaded.host.plugins["scheduler"]["auto_start"], false);
    let twice = ["--set", "scheduler.a=1", "--set", "plugins.scheduler.a=1"];
    assert!(load_with(&twice, &[]).await.is_err());
}

#[tokio::test]
async fn the_variables_of_opentelemetry_stand_for_the_telemetry_section() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x,tenant=a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=stage,team=a"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_SDK_DISABLED", ""),
    ];
    let loaded = load_with(&["--set", "telemetry.sampler_ratio=0.5"], &variables).await.unwrap();
    let telemetry = &loaded.host.telemetry;
    assert_eq!(telemetry.endpoint.as_deref(), Some("http://collector:4317"));
    assert_eq!(telemetry.headers.0.0["authorization"], "Bearer x");
    assert_eq!(telemetry.timeout.0.as_millis(), 2500);
    assert_eq!(telemetry.resource_attributes.0["team"], "a");
    assert_eq!(telemetry.sampler(), telemetry::Sampler::ratio(0.5).ignoring_parent());
    assert_eq!(telemetry.traces.interval.0.as_millis(), 100);
    assert_eq!(telemetry.logs.interval.0.as_secs(), 1, "what is not said is as built in");
    assert!(!telemetry.disabled, "an empty variable is none");
    assert_eq!(loaded.settings.origin(&["telemetry", "endpoint"]).unwrap().layer, Layer::Environment);
    let wrong = [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")];
    let error = format!("{:#}", load_with(&[], &wrong).await.unwrap_err());
    let expected = "OTEL_EXPORTER_OTLP_ENDPOINT: `telemetry.endpoint`: must be an `http` or `https` URL";
    assert!(error.contains(expected), "{error}");
}

/// The file that people read has every key, with the default that is in force without it.
#[tokio::test]
async fn the_sample_file_says_what_is_built_in() {
    let sample = FileSource::required(concat!(env!("CARGO_MANIFEST_DIR"), "/gantry.toml"));
    let said = short_sections(sample.load().await.unwrap()).unwrap();
    let mut built_in = Value::Object(defaults().unwrap());
    for plugin in [SCHEDULER, http_api::HTTP, plugins_redis::REDIS] {
        let spec = sections().remove(plugin).flatten().unwrap();
        built_in["plugins"][plugin] = Value::Object(spec.defaults().clone());
    }
    assert_eq!(Value::Object(said), built_in);
}

#[tokio::test]
async fn promise_10_what_is_wrong_is_named() {
    for (arguments, expected) in [
        (
            ["--set", "mangler.auto_load=true"],
            "--set mangler.auto_load: `mangler`: unknown key, did you mean `manager`?",
        ),
        (["--set", "manager.auto_laod=true"], "`manager.auto_laod`: unknown key, did you mean `auto_load`?"),
        (["--set", "log.colour=true"], "`log.colour`: unknown key, known are `format`, `level`"),
        (["--set", "plugins.http.prot=1"], "did you mean `port`?"),
        (["--set", "scheduler.max_tasks=0"], "--set scheduler.max_tasks: `plugins.scheduler.max_tasks`: "),
        (["--set", "hunter2"], "--set: expected KEY=VALUE"),
        (["--set", "plugins.absent.x=1"], "`plugins.absent`: there is no plugin of this name"),
        (["--set", "manager.auto_load=3"], "`manager.auto_load`: "),
        (["--set", "log.level=lout"], "`log.level`: "),
        (["--set", "log.format=xml"], "`log.format`: "),
        (["--set", "env=staging"], "`env`: "),
        (["--set", "telemetry.logs.headerz=a=b"], "did you mean `headers`?"),
        (["--set", "telemetry.sampler_ratio=2"], "`telemetry.sampler_ratio`: must be from 0 to 1"),
        (["--set", "telemetry.sampler=rarely"], "`telemetry.sampler`: "),
        (["--set", "node="], "`node`: is empty"),
        (["--set", "data_dir="], "`data_dir`: is empty"),
        (["--set", "manager.drain_deadline=5"], "expected a duration such as `500ms`"),
        (["--config", "absent.toml"], "absent.toml"),
    ] {
        let error = format!("{:#}", load_with(&arguments, &[]).await.unwrap_err());
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

/// Every problem, each with the file, the variable or the flag that it stands in, and in every layer.
#[tokio::test]
async fn promise_10_everything_that_is_wrong_is_named() {
    let folder = std::env::temp_dir().join(format!("gantry-problems-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("wrong.toml");
    let text = r#"
        nod = "n1"
        [manager]
        auto_laod = true
        max_startup_time = "soon"
        [manager.restart]
        backoff = "2m"
        backoff_max = "1m"
        [log]
        level = "lout"
        [scheduler]
        max_tasks = 0
        default_timeout = 5
        [plugins.http]
        port = "hunter2"
        [plugins.absent]
        x = 1
    "#;
    std::fs::write(&file, text).unwrap();
    std::fs::write(
        folder.join("config.json"),
        r#"{"plugins": {"http": {"heartbeat": "0s"}, "gone": {"x": 1}}}"#,
    )
    .unwrap();
    let path = file.display().to_string();
    let data_dir = folder.display().to_string();
    let arguments = ["--config", &path, "--data-dir", &data_dir, "--set", "x", "--set", "log.format=xml"];
    let variables = [
        ("HTTP_PORT", "many"),
        ("GANTRY__MANAGER__SWAP_QUEUE", "-1"),
        ("GANTRY____X", "1"),
        ("LOG_LEVEL", "loud"),
    ];
    let error = load_with(&arguments, &variables).await.unwrap_err();
    std::fs::remove_dir_all(&folder).unwrap();
    let error = format!("{error:#}");
    let mut told: Vec<_> = error.lines().map(|line| line.trim().replace(&data_dir, "")).collect();
    assert_eq!(told.remove(0), "the configuration has 16 problems:");
    told.sort();
    let starts = [
        "--set log.format: `log.format`: ",
        "--set: expected KEY=VALUE",
        "/config.json: `plugins.http.heartbeat`: ",
        "/wrong.toml: `log.level`: ",
        "/wrong.toml: `manager.auto_laod`: unknown key, did you mean `auto_load`?",
        "/wrong.toml: `manager.max_startup_time`: ",
        "/wrong.toml: `manager.restart.backoff_max`: ",
        "/wrong.toml: `nod`: unknown key, did you mean `node`?",
        "/wrong.toml: `plugins.absent`: there is no plugin of this name",
        "/wrong.toml: `plugins.http.port`: invalid type: string, expected ",
        "/wrong.toml: `plugins.scheduler.default_timeout`: ",
        "/wrong.toml: `plugins.scheduler.max_tasks`: ",
        "GANTRY__MANAGER__SWAP_QUEUE: `manager.swap_queue`: ",
        "GANTRY____X: the name has a part that is empty",
        "HTTP_PORT: `plugins.http.port`: invalid type: string, expected ",
        "LOG_LEVEL: `log.level`: ",
    ];
    assert_eq!(told.len(), starts.len(), "{error}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start), "{told}\n{error}");
    }
    assert!(!error.contains("hunter2"), "promise 9: {error}");
}
