use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use plugin_core::{
    ConfigError, ConfigSource, ConfigSpec, Layer, MASK, Manifest, OverrideFile, Plugin, PluginContext,
    PluginError, Reconfigured, Secret, Settings, State,
};
use plugin_manager::{Applied, Change, ManagerError, PluginManager, PluginOptions};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::bench::{Log, Sample, builder, topics};

#[derive(Deserialize, JsonSchema)]
struct Config {
    #[serde(default)]
    size: u64,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    password: Option<Secret>,
}

/// Takes a new size live, and a new mode only by a restart.
#[derive(Default)]
struct Pool {
    starts: AtomicUsize,
    size: AtomicUsize,
    password: std::sync::Mutex<String>,
    mode: std::sync::Mutex<String>,
}

#[async_trait]
impl Plugin for Pool {
    fn manifest(&self) -> Manifest {
        let spec = ConfigSpec::checked(|config: &Config| {
            if config.size > 100 { Err(ConfigError::invalid("size", "at most 100")) } else { Ok(()) }
        });
        Manifest::new("pool", "1.0.0").unwrap().config(spec)
    }

    async fn start(&self, ctx: PluginContext) -> Result<(), PluginError> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        let config: Config = ctx.config()?;
        if config.mode == "broken" {
            return Err(PluginError::new("no such mode"));
        }
        self.take(config);
        Ok(())
    }

    async fn reconfigure(&self, ctx: PluginContext) -> Result<Reconfigured, PluginError> {
        let config: Config = ctx.config()?;
        if config.mode != *self.mode.lock().unwrap() {
            return Ok(Reconfigured::NeedsRestart);
        }
        match config.size {
            13 => Err(PluginError::new("unlucky")),
            99 => panic!("too many"),
            _ => {
                self.take(config);
                Ok(Reconfigured::Applied)
            }
        }
    }
}

impl Pool {
    fn take(&self, config: Config) {
        self.size.store(usize::try_from(config.size).unwrap(), Ordering::SeqCst);
        *self.mode.lock().unwrap() = config.mode;
        *self.password.lock().unwrap() = config.password.map(|p| p.expose().to_owned()).unwrap_or_default();
    }
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn settings() -> Settings {
    let mut settings = Settings::new();
    let file = json!({"plugins": {"pool": {"size": 1, "mode": "a", "password": "hunter2"}}});
    settings.set_layer(Layer::File, "gantry.toml", map(file));
    settings
}

async fn host(overrides: Option<OverrideFile>) -> (PluginManager, Arc<Pool>) {
    let mut builder = builder().settings(settings());
    if let Some(file) = overrides {
        builder = builder.overrides(file);
    }
    let (manager, pool) = (builder.build(), Arc::new(Pool::default()));
    manager.register(pool.clone(), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    (manager, pool)
}

/// A folder for one test, removed with it.
pub(crate) struct Folder(pub(crate) std::path::PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gantry-manager-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn is_applied_live_or_by_a_restart() {
    let (manager, pool) = host(None).await;
    let shown = manager.config_of("pool").unwrap();
    assert_eq!(shown, json!({"size": 1, "mode": "a", "password": MASK}));
    let applied =
        manager.set_config("pool", json!({"size": 5, "mode": "a", "password": MASK})).await.unwrap();
    assert_eq!(applied, Applied::Live);
    assert_eq!((pool.size.load(Ordering::SeqCst), pool.starts.load(Ordering::SeqCst)), (5, 1));
    assert_eq!(*pool.password.lock().unwrap(), "hunter2", "a mask that comes back means unchanged");
    let applied =
        manager.set_config("pool", json!({"size": 5, "mode": "b", "password": "new"})).await.unwrap();
    assert_eq!(applied, Applied::Restarted);
    assert_eq!((pool.mode.lock().unwrap().as_str(), pool.starts.load(Ordering::SeqCst)), ("b", 2));
    assert_eq!(*pool.password.lock().unwrap(), "new");
    assert_eq!(topics(&manager, "pool").last().unwrap(), "plugin.config_changed");
    manager.stop("pool", Change::default()).await.unwrap();
    let applied = manager.set_config("pool", json!({"size": 7})).await.unwrap();
    assert_eq!(applied, Applied::AtNextStart);
    manager.start("pool", Change::default()).await.unwrap();
    assert_eq!(pool.size.load(Ordering::SeqCst), 7);
    assert_eq!(pool.mode.lock().unwrap().as_str(), "a", "what is left out goes back to the file's");
    // What the file says of the secret stands in no event.
    let events =
        serde_json::to_string(&manager.host().bus.history(&event_bus::HistoryFilter::new())).unwrap();
    assert!(!events.contains("hunter2") && !events.contains("\"new\""), "promise 9");
}

/// What a plugin falls back to is shown as a default; to send it back is no change, and is not kept.
#[tokio::test(start_paused = true)]
async fn defaults_are_shown_with_their_origin() {
    let mut settings = Settings::new();
    let file = json!({"plugins": {"pool": {"size": 1}}});
    settings.set_layer(Layer::Default, "built in", map(json!({})));
    settings.set_layer(Layer::File, "gantry.toml", map(file));
    let folder = Folder::new("defaults");
    let overrides = OverrideFile::new(folder.0.join("config.json"));
    let manager = builder().settings(settings).overrides(overrides.clone()).build();
    manager.register(Arc::new(Pool::default()), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    let shown = manager.config_of("pool").unwrap();
    assert_eq!((&shown["size"], &shown["mode"]), (&json!(1), &json!("")));
    let origin = |key| manager.settings().origin(&["plugins", "pool", key]).unwrap();
    assert_eq!((origin("mode").layer, origin("mode").source), (Layer::Default, "built in".to_owned()));
    assert_eq!(origin("size").layer, Layer::File);
    assert_eq!(manager.set_config("pool", shown.clone()).await.unwrap(), Applied::Live);
    assert!(overrides.load().await.unwrap().get("plugins").is_none_or(|plugins| plugins["pool"].is_null()));
    let mut changed = shown;
    changed["size"] = json!(2);
    manager.set_config("pool", changed).await.unwrap();
    assert_eq!(Value::Object(overrides.load().await.unwrap()), json!({"plugins": {"pool": {"size": 2}}}));
    let told: Vec<_> = manager
        .host()
        .bus
        .history(&event_bus::HistoryFilter::new())
        .into_iter()
        .filter(|event| event.topic().as_str() == "system.config_changed")
        .map(|event| event.data().clone())
        .collect();
    assert_eq!(told, [json!({"layer": "api", "paths": ["plugins.pool.size"]})], "once, without the value");
}

/// Promise 10: refused with the field's name, and nothing has changed.
#[tokio::test(start_paused = true)]
async fn promise_10_what_is_wrong_is_named_and_changes_nothing() {
    let (manager, pool) = host(None).await;
    let before = manager.config_of("pool").unwrap();
    for (config, path) in [
        (json!({"size": 101}), "size"),
        (json!({"size": "x"}), "size"),
        (json!({"sise": 1}), "sise"),
        (json!([1]), ""),
        (json!(null), ""),
    ] {
        match manager.set_config("pool", config.clone()).await.unwrap_err() {
            ManagerError::InvalidConfig(error) => assert_eq!(error.path(), path, "{config}"),
            other => panic!("{config}: {other}"),
        }
        assert_eq!(manager.config_of("pool").unwrap(), before);
    }
    assert!(matches!(manager.set_config("nobody", json!({})).await, Err(ManagerError::NotFound(_))));
    // What nobody can check is not kept: the next start of the host would refuse it.
    Sample::new("plain", &Log::default()).add_to(&manager);
    let refused = manager.set_config("plain", json!({"x": 1})).await;
    assert!(matches!(refused, Err(ManagerError::InvalidConfig(_))), "{refused:?}");
    assert_eq!(manager.config_of("plain").unwrap(), json!({}));
    manager.set_config("plain", json!({})).await.unwrap();
    assert_eq!(pool.starts.load(Ordering::SeqCst), 1);
}

/// Promise 6, for a configuration.
#[tokio::test(start_paused = true)]
async fn promise_6_a_configuration_that_fails_is_rolled_back() {
    let (manager, pool) = host(None).await;
    manager.set_config("pool", json!({"size": 5, "mode": "a"})).await.unwrap();
    let before = manager.config_of("pool").unwrap();
    for config in
        [json!({"size": 13, "mode": "a"}), json!({"size": 99, "mode": "a"}), json!({"mode": "broken"})]
    {
        let error = manager.set_config("pool", config.clone()).await.unwrap_err();
        assert!(matches!(error, ManagerError::ConfigFailed { .. }), "{error}");
        let view = manager.get("pool").unwrap();
        assert_eq!((view.status, view.ready), (State::Running, true), "after {config}");
        assert_eq!(pool.size.load(Ordering::SeqCst), 5);
        assert_eq!(manager.config_of("pool").unwrap(), before);
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(manager.get("pool").unwrap().restarts, 0);
}

#[tokio::test]
async fn is_kept_on_disk_and_only_what_differs() {
    let folder = Folder::new("kept");
    let file = OverrideFile::new(folder.0.join("overrides.json"));
    let (manager, _) = host(Some(file.clone())).await;
    manager.set_config("pool", json!({"size": 9, "mode": "a", "password": MASK})).await.unwrap();
    let kept = file.load().await.unwrap();
    assert_eq!(Value::Object(kept), json!({"plugins": {"pool": {"size": 9}}}));
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_in_force() {
    let folder = Folder::new("not-kept");
    // A file stands where the folder of the overrides would be.
    std::fs::write(folder.0.join("in-the-way"), "").unwrap();
    let file = OverrideFile::new(folder.0.join("in-the-way").join("overrides.json"));
    let (manager, pool) = host(Some(file)).await;
    let error = manager.set_config("pool", json!({"size": 9, "mode": "a"})).await.unwrap_err();
    assert!(matches!(error, ManagerError::NotKept { .. }), "{error}");
    assert_eq!(pool.size.load(Ordering::SeqCst), 1);
    assert_eq!(manager.config_of("pool").unwrap()["size"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_environment_says_prevails_and_says_so() {
    let mut settings = settings();
    let environment = json!({"plugins": {"pool": {"size": 3}}});
    settings.set_layer(Layer::Environment, "environment", map(environment));
    let manager = builder().settings(settings).build();
    manager.register(Arc::new(Pool::default()), PluginOptions::default()).unwrap();
    manager.start_all().await.unwrap();
    let error = manager.set_config("pool", json!({"size": 4, "mode": "a"})).await.unwrap_err();
    assert_eq!(error.to_string(), "`size`: is set by the environment or a flag, which prevails");
    manager.set_config("pool", json!({"size": 3, "mode": "b"})).await.unwrap();
    assert_eq!(manager.config_of("pool").unwrap()["mode"], "b");
}

#[tokio::test(start_paused = true)]
async fn a_start_with_a_wrong_configuration_fails_and_names_the_key() {
    let mut settings = Settings::new();
    settings.set_layer(Layer::File, "f", map(json!({"plugins": {"pool": {"sise": 1}}})));
    let manager = builder().settings(settings).build();
    manager.register(Arc::new(Pool::default()), PluginOptions::default()).unwrap();
    let report = manager.start_all().await.unwrap();
    assert_eq!(report.failed[0].reason, "initialize plugin `pool`: `plugins.pool.sise`: unknown key");
}

/// A source that says what it is given.
struct Shelf {
    values: std::sync::Mutex<Map<String, Value>>,
    changed: tokio::sync::Notify,
}

impl Shelf {
    fn put(&self, plugins: Value) {
        *self.values.lock().unwrap() = map(json!({ "plugins": plugins }));
        self.changed.notify_one();
    }
}

#[async_trait]
impl ConfigSource for Shelf {
    fn name(&self) -> String {
        "shelf".to_owned()
    }

    fn layer(&self) -> Layer {
        Layer::Fleet
    }

    async fn load(&self) -> Result<Map<String, Value>, ConfigError> {
        let values = self.values.lock().unwrap().clone();
        if values.contains_key("broken") {
            return Err(ConfigError::Unreadable { origin: self.name(), detail: "broken".to_owned() });
        }
        Ok(values)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[tokio::test]
async fn a_source_of_the_fleet_is_followed_checked_and_taken_back() {
    let (manager, pool) = host(None).await;
    let shelf = Arc::new(Shelf { values: std::sync::Mutex::default(), changed: tokio::sync::Notify::new() });
    let (follower, source) = (manager.clone(), shelf.clone());
    let tasks = runtime::TaskOwner::new("test");
    tasks.spawn("follow", async move { follower.follow(&*source).await });
    let until = async |size: usize| {
        let reached = async {
            while pool.size.load(Ordering::SeqCst) != size {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap();
    };
    // Above the file, live, and shown with where it comes from.
    shelf.put(json!({ "pool": { "size": 7 }, "later": { "x": 1 } }));
    until(7).await;
    assert_eq!(pool.starts.load(Ordering::SeqCst), 1);
    let shown = manager.settings().values();
    let size = shown.iter().find(|value| value.path == "plugins.pool.size").unwrap();
    assert_eq!((size.origin.layer, size.origin.source.as_str()), (Layer::Fleet, "shelf"));
    assert!(shown.iter().any(|value| value.path == "plugins.later.x"), "kept for when the plugin comes");

    // What the check refuses, what the plugin refuses, and what it does not survive: nothing of it stays, and
    // the next is taken.
    for (size, next) in [(101, 8), (13, 9), (99, 10)] {
        shelf.put(json!({ "pool": { "size": size } }));
        shelf.put(json!({ "pool": { "size": size, "mode": "b" } }));
        shelf.put(json!({ "pool": { "size": next } }));
        until(next).await;
    }
    // One that only a restart applies, and one whose restart fails.
    shelf.put(json!({ "pool": { "size": 11, "mode": "b" } }));
    until(11).await;
    let starts = pool.starts.load(Ordering::SeqCst);
    shelf.put(json!({ "pool": { "size": 12, "mode": "broken" } }));
    let back = async {
        while pool.starts.load(Ordering::SeqCst) < starts + 2
            || manager.get("pool").unwrap().status != State::Running
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.unwrap();
    assert_eq!(pool.size.load(Ordering::SeqCst), 11, "promise 6: what ran before runs");

    // An operator's word stands above the fleet's, and the file is in force again when the fleet says nothing.
    manager.set_config("pool", json!({ "size": 50, "mode": "b", "password": MASK })).await.unwrap();
    shelf.put(json!({ "pool": { "size": 12, "mode": "b" } }));
    let taken = async {
        while manager.settings().layer(Layer::Fleet).unwrap()["plugins"]["pool"]["size"] != 12 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.unwrap();
    assert_eq!(pool.size.load(Ordering::SeqCst), 50);
    manager.set_config("pool", json!({ "size": 12, "mode": "b", "password": MASK })).await.unwrap();
    until(12).await;
    shelf.put(json!({}));
    until(1).await;
    tasks.shutdown(Duration::ZERO).await;
}
