use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plugin_core::{ConfigSpec, Health, Manifest, Plugin, PluginBuilder, PluginContext, PluginError, State};
use plugin_manager::{Change, LoadRequest, ManagerConfig, ManagerError, PluginManager, SwapRequest};
use registry::PluginFactory;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bench::{Log, Sample, brisk, builder, events};
use crate::config::Folder;

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Deserialize, JsonSchema)]
struct Config {
    #[serde(default)]
    #[expect(dead_code, reason = "only checked")]
    greeting: String,
}

fn factory() -> PluginFactory {
    let factory = PluginFactory::new();
    for version in ["1.0.0", "1.2.0", "2.0.0"] {
        let make = move || {
            let builder = PluginBuilder::new("greeter", version).unwrap().config(ConfigSpec::of::<Config>());
            builder.permission("service:provide:greeter").unwrap().build()
        };
        factory.add("greeter", make).unwrap();
    }
    let needs = || PluginBuilder::new("needy", "1.0.0").unwrap().depends_on("greeter", "^1").unwrap().build();
    factory.add("needy", needs).unwrap();
    factory
}

fn host(folder: &Path) -> PluginManager {
    let config =
        ManagerConfig { auto_load: true, auto_load_directory: folder.to_owned(), ..ManagerConfig::default() };
    builder().config(config).factory(factory()).build()
}

fn write(folder: &Folder, file: &str, text: &str) {
    // As an editor does: aside first, then in place.
    let aside = folder.0.join(format!(".{file}.tmp"));
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, folder.0.join(file)).unwrap();
}

async fn until(manager: &PluginManager, what: &str, condition: impl Fn() -> bool) {
    assert!(
        manager.wait_until(PATIENCE, condition).await,
        "{what}: {:?} {:?}",
        manager.definitions(),
        manager.list()
    );
}

fn error_of(manager: &PluginManager, file: &str) -> Option<String> {
    manager.definitions().into_iter().find(|d| d.file == file).and_then(|d| d.error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_come_change_and_go_make_change_and_unload_plugins() {
    let folder = Folder::new("watched");
    write(&folder, "a.toml", "type = 'greeter'\nversion = '^1.0'\nconfig = { greeting = 'hi' }");
    let manager = host(&folder.0);
    manager.watch_folder().await.unwrap();
    until(&manager, "runs", || manager.registry().state("greeter") == State::Running).await;
    assert_eq!(manager.get("greeter").unwrap().version, "1.2.0", "the newest that fits");
    assert_eq!(manager.config_of("greeter").unwrap(), json!({"greeting": "hi"}));

    write(&folder, "b.toml", "type = 'greeter'\nname = 'second'\nrestart = 'never'");
    until(&manager, "comes", || manager.registry().state("second") == State::Running).await;
    let incarnation = manager.get("greeter").unwrap().incarnation;

    write(&folder, "a.toml", "type = 'greeter'\nversion = '^1.0'\nconfig = { greeting = 'hello' }");
    let greeting = || manager.config_of("greeter").unwrap()["greeting"].clone();
    until(&manager, "is configured", || greeting() == "hello").await;
    let restarted = || {
        let view = manager.get("greeter").unwrap();
        view.status == State::Running && view.incarnation > incarnation
    };
    until(&manager, "runs by it", restarted).await;

    write(&folder, "a.toml", "type = 'greeter'\nversion = '^2.0'\nconfig = { greeting = 'hello' }");
    until(&manager, "is swapped", || manager.get("greeter").is_ok_and(|view| view.version == "2.0.0")).await;

    std::fs::remove_file(folder.0.join("b.toml")).unwrap();
    until(&manager, "goes", || manager.registry().state("second") == State::Unknown).await;
    assert_eq!(events(&manager, "second").last().unwrap().topic().as_str(), "plugin.unloaded");
    write(&folder, "a.toml", "type = 'greeter'\nenabled = false");
    until(&manager, "is disabled", || manager.registry().state("greeter") == State::Unknown).await;
    assert!(manager.stop_all(Duration::from_secs(5)).await.is_clean());
}

/// Promise 6, for the folder: a file that is wrong is reported, and what runs goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_6_a_broken_file_is_reported_and_changes_nothing() {
    let folder = Folder::new("broken");
    write(&folder, "a.toml", "type = 'greeter'\nversion = '^1'");
    let manager = host(&folder.0);
    manager.watch_folder().await.unwrap();
    until(&manager, "runs", || manager.registry().state("greeter") == State::Running).await;
    let incarnation = manager.get("greeter").unwrap().incarnation;
    for (text, part) in [
        ("type = ", "TOML parse error"),
        ("type = 'greeter'\nversion = '^1'\ncolour = 'red'", "unknown field `colour`"),
        ("type = 'greeter'\nversion = '^1'\nconfig = { greetings = 'x' }", "`greetings`: unknown key"),
        ("type = 'greeter'\nversion = '^9'\nconfig = { greeting = 'x' }", "none fits `^9`"),
        ("type = 'no-such'\nversion = '^1'", "`no-such` is unknown"),
    ] {
        write(&folder, "a.toml", text);
        let told = || error_of(&manager, "a.toml").is_some_and(|error| error.contains(part));
        until(&manager, part, told).await;
        let view = manager.get("greeter").unwrap();
        assert_eq!(
            (view.status, view.version.as_str(), view.incarnation),
            (State::Running, "1.2.0", incarnation)
        );
        assert_eq!(manager.config_of("greeter").unwrap(), json!({"greeting": ""}));
    }
    write(&folder, "a.toml", "type = 'greeter'\nversion = '^1'");
    until(&manager, "is fine again", || error_of(&manager, "a.toml").is_none()).await;
    assert_eq!(manager.get("greeter").unwrap().incarnation, incarnation);
    write(&folder, "b.toml", "type = 'greeter'\nversion = '^1'");
    let taken = || error_of(&manager, "b.toml").is_some_and(|error| error.contains("is there already"));
    until(&manager, "the name is taken", taken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_may_need_each_other_in_any_order_and_what_is_needed_is_not_unloaded() {
    let folder = Folder::new("order");
    write(&folder, "a.toml", "type = 'needy'");
    let manager = host(&folder.0);
    manager.watch_folder().await.unwrap();
    until(&manager, "waits", || manager.get("needy").is_ok_and(|view| !view.waiting_for.is_empty())).await;
    write(&folder, "z.toml", "type = 'greeter'\nversion = '^1'");
    until(&manager, "both run", || manager.registry().state("needy") == State::Running).await;
    std::fs::remove_file(folder.0.join("z.toml")).unwrap();
    until(&manager, "is told", || {
        error_of(&manager, "z.toml").is_some_and(|e| e.contains("is used by `needy`"))
    })
    .await;
    assert_eq!(manager.registry().state("greeter"), State::Running);
    std::fs::remove_file(folder.0.join("a.toml")).unwrap();
    until(&manager, "both go", || manager.registry().is_empty()).await;
}

/// Unhealthy until it is made well.
#[derive(Clone, Default)]
struct Patient(Arc<AtomicBool>);

#[async_trait::async_trait]
impl Plugin for Patient {
    fn manifest(&self) -> Manifest {
        Manifest::new("patient", "1.0.0").unwrap()
    }

    async fn start(&self, _: PluginContext) -> Result<(), PluginError> {
        self.0.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn health(&self) -> Health {
        if self.0.load(Ordering::SeqCst) { Health::healthy() } else { Health::unhealthy("dizzy") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_comes_late_restarts_what_has_long_been_unhealthy() {
    let folder = Folder::new("policy");
    let patient = Patient::default();
    let made = patient.clone();
    let factory = PluginFactory::new();
    factory.add("patient", move || made.clone()).unwrap();
    let config = ManagerConfig {
        auto_load: true,
        auto_load_directory: folder.0.clone(),
        health_check_interval: Duration::from_millis(5),
        ..brisk()
    };
    let manager = builder().config(config).factory(factory).build();
    write(&folder, "a.toml", "type = 'patient'\nrestart = 'never'");
    manager.watch_folder().await.unwrap();
    until(&manager, "runs", || manager.registry().state("patient") == State::Running).await;
    let failures = || {
        let checks = events(&manager, "patient");
        let last = checks.iter().rfind(|event| event.topic().as_str() == "plugin.health_check");
        last.and_then(|event| event.data()["failures"].as_u64()).unwrap_or(0)
    };
    patient.0.store(false, Ordering::SeqCst);
    until(&manager, "is past the threshold", || failures() >= 3).await;
    assert_eq!(manager.registry().state("patient"), State::Running, "nobody is to restart it");
    // At least one more check by the old policy, so that the threshold itself lies behind it.
    let seen = || manager.get("patient").unwrap().health.timestamp;
    let then = seen();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen() == then {
        assert!(tokio::time::Instant::now() < deadline, "is not asked again");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    write(&folder, "a.toml", "type = 'patient'\nrestart = 'on_failure'");
    until(&manager, "is restarted", || manager.get("patient").is_ok_and(|view| view.restarts == 1)).await;
}

#[tokio::test(start_paused = true)]
async fn plugins_are_loaded_and_unloaded_by_request() {
    let folder = Folder::new("requests");
    let manager = host(&folder.0);
    let request = |value: Value| serde_json::from_value::<LoadRequest>(value).unwrap();
    let view = manager.load(request(json!({"type": "greeter", "version": "^1"}))).await.unwrap();
    assert_eq!((view.version.as_str(), view.status), ("1.2.0", State::Running));
    assert_eq!(view.permissions, ["service:provide:greeter"], "compiled in: it gets what it declares");
    let refused = [
        (json!({"type": "greeter"}), "plugin `greeter` is there already"),
        (json!({"type": "nothing"}), "plugin type `nothing` is unknown"),
        (json!({"type": ""}), "type: has to have 1 to 512 bytes"),
        (json!({"type": "greeter", "name": "x", "config": {"y": 1}}), "`config.y`: unknown key"),
        (
            json!({"type": "greeter", "name": "x", "version": "^7"}),
            "plugin type `greeter` is there in 1.0.0, 1.2.0, 2.0.0, and none fits `^7`",
        ),
    ];
    for (value, text) in refused {
        assert_eq!(manager.load(request(value)).await.unwrap_err().to_string(), text);
        assert_eq!(manager.registry().len(), 1);
    }
    assert_eq!(manager.load(request(json!({"type": "needy"}))).await.unwrap().status, State::Running);
    let error = manager.unload("greeter", Change::default()).await.unwrap_err();
    assert!(matches!(error, ManagerError::HasDependents { .. }), "{error}");
    let error = manager.swap("greeter", SwapRequest::default()).await.unwrap_err();
    assert!(error.to_string().contains("needs `greeter` ^1, and 2.0.0 is there"), "{error}");
    // A version in full is that one, though a newer one would be compatible.
    let exact: SwapRequest = serde_json::from_value(json!({"version": "1.0.0"})).unwrap();
    assert_eq!(manager.swap("greeter", exact).await.unwrap().version, "1.0.0");
    manager.unload("greeter", Change { cascade: true, ..Change::default() }).await.unwrap();
    assert_eq!(manager.registry().state("needy"), State::Stopped);
    assert_eq!(manager.types().len(), 4);
    let schema = manager.types()[0].config_schema.clone().unwrap();
    assert_eq!(schema["properties"]["greeting"]["type"], "string");
    // A plugin that nobody made of a type has no other version to look for.
    Sample::new("own", &Log::default()).add_to(&manager);
    let error = manager.swap("own", SwapRequest::default()).await.unwrap_err();
    assert!(matches!(error, ManagerError::Invalid { field: "type", .. }), "{error}");
}
