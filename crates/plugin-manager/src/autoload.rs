//! The watched folder of definition files: what is there is there as a plugin.

mod plan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use plugin_core::{Layer, PluginName};
use semver::VersionReq;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use self::plan::{Found, InForce, Step, plan};
use crate::load::{Intake, wanted_version};
use crate::shared::Shared;
use crate::supervisor::{Command, ConfigChange};
use crate::{Change, LoadRequest, ManagerError, RestartPolicy, SwapRequest};

/// How long the folder has to be quiet before it is read: an editor writes a file in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// The folder is read after this time even if it is never quiet.
const QUIET_AT_MOST: Duration = Duration::from_secs(2);

/// The folder is read this often without a sign, too: some file systems give none, and what could not be
/// done before may be possible now.
const RESCAN: Duration = Duration::from_secs(30);

/// No definition is longer.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// No folder has more.
const FILES_MAX: usize = 2_000;

/// A definition file: one plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// The type that a factory knows.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The plugin's name, where it is not to be the type's own.
    #[serde(default)]
    pub name: Option<PluginName>,
    /// The versions that will do, such as `^1.2`; the newest of them is taken. A version in full is that one.
    #[serde(default, deserialize_with = "wanted_version")]
    pub version: Option<VersionReq>,
    /// Its configuration, in the place of its section in the configuration file.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Whether it is there at all. Default `true`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What happens when it fails.
    #[serde(default)]
    pub restart: Option<RestartPolicy>,
}

fn yes() -> bool {
    true
}

/// A definition file and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DefinitionView {
    /// The file's name.
    pub file: String,
    /// The plugin that is there because of it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub plugin: Option<PluginName>,
    /// Why it is not in force as it stands.
    pub error: Option<String>,
}

/// The folder, and what it has brought about so far.
pub(crate) struct Folder {
    shared: Arc<Shared>,
    path: PathBuf,
    in_force: BTreeMap<String, InForce>,
    errors: BTreeMap<String, String>,
    /// Changes that failed, which are not tried again until the file is another one.
    refused: BTreeMap<String, Definition>,
}

/// Tells of changes in the folder as long as it lives.
pub(crate) struct Signs {
    _watcher: RecommendedWatcher,
    signs: mpsc::Receiver<()>,
}

impl Folder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let path = shared.config.auto_load_directory.clone();
        let (in_force, errors, refused) = Default::default();
        Self { shared, path, in_force, errors, refused }
    }

    /// Begins to watch. The folder is made if it is not there: a folder that is not there cannot be watched.
    pub(crate) async fn watch(&self) -> Result<Signs, ManagerError> {
        let path = self.path.clone();
        let watching = tokio::task::spawn_blocking(move || watch(&path)).await;
        let refused = |detail: String| ManagerError::Invalid { field: "auto_load_directory", detail };
        watching.map_err(|error| refused(error.to_string()))?.map_err(refused)
    }

    /// Follows the folder until the manager ends.
    pub(crate) async fn follow(mut self, mut signs: Signs) {
        let ended = self.shared.tasks.token();
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                sign = signs.signs.recv() => {
                    if sign.is_some() {
                        signs.settle().await;
                    } else {
                        tokio::time::sleep(RESCAN).await;
                    }
                }
                () = tokio::time::sleep(RESCAN) => {}
            }
            if self.shared.is_shutting_down() {
                return;
            }
            self.read().await;
        }
    }

    /// Reads the folder, and makes the plugins be what it says.
    pub(crate) async fn read(&mut self) {
        let path = self.path.clone();
        let found = match tokio::task::spawn_blocking(move || scan(&path)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return self.complain(".", error.to_string()),
            Err(error) => return self.complain(".", error.to_string()),
        };
        self.errors.retain(|file, _| found.contains_key(file) || self.in_force.contains_key(file));
        self.refused.retain(|file, _| found.contains_key(file));
        for step in plan(&self.in_force, &found) {
            Box::pin(self.take(step)).await;
        }
        for (file, found) in &found {
            let Found::Good(definition) = found else { continue };
            let as_it_stands = match self.in_force.get(file) {
                Some(in_force) => in_force.definition == *definition,
                None => !definition.enabled,
            };
            if as_it_stands {
                self.errors.remove(file);
                self.refused.remove(file);
            }
        }
        self.show(&found);
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Broken { file, error } => self.complain(&file, error),
            Step::Load { file, definition } => match self.load(&definition).await {
                Ok(name) => drop(self.in_force.insert(file, InForce { name, definition })),
                Err(error) => self.complain(&file, error.to_string()),
            },
            Step::Unload { file, name } => {
                let unloaded = self.shared.unload(name.as_str(), &Change::default()).await;
                if let Ok(()) | Err(ManagerError::NotFound(_)) = unloaded {
                    let path = ["plugins", name.as_str()];
                    let before = self.shared.settings().section(&path);
                    self.shared.settings().set_section(Layer::File, &path, None);
                    let after = self.shared.settings().section(&path);
                    self.shared.tell_config_changed(&name, Layer::File, &before, &after);
                    self.in_force.remove(&file);
                    self.errors.remove(&file);
                } else if let Err(error) = unloaded {
                    self.complain(&file, error.to_string());
                }
            }
            Step::Change { file, name, definition, swaps } => {
                if self.refused.get(&file) == Some(&definition) {
                    return;
                }
                match self.change(&name, &definition, swaps).await {
                    Ok(()) => {
                        self.in_force.insert(file, InForce { name, definition });
                    }
                    Err(error) => {
                        self.refused.insert(file.clone(), definition);
                        self.complain(&file, error.to_string());
                    }
                }
            }
        }
    }

    async fn load(&self, definition: &Definition) -> Result<PluginName, ManagerError> {
        let mut restart = None;
        if let Some(policy) = definition.restart {
            restart = Some(self.shared.config.restart.clone().with_policy(policy));
        }
        let request = LoadRequest {
            version: definition.version.clone(),
            name: definition.name.clone(),
            config: Some(definition.config.clone()),
            start: false,
            restart,
            ..LoadRequest::new(definition.type_name.clone())
        };
        let intake = Intake { request, layer: Layer::File, may_wait: true, dry_run: false };
        let name = self.shared.clone().take_in(intake).await?.name;
        // Beside the rest of the folder: a start may take its time, or wait for the next file's plugin.
        let (shared, started) = (self.shared.clone(), name.clone());
        self.shared.tasks.spawn(format!("start {name}"), async move {
            // How it goes is in the plugin's own status.
            let _ = shared.ask(started.as_str(), Command::Start).await;
        });
        Ok(name)
    }

    async fn change(
        &self,
        name: &PluginName,
        definition: &Definition,
        swaps: bool,
    ) -> Result<(), ManagerError> {
        let change = || ConfigChange::Definition(definition.config.clone());
        if let Some(policy) = definition.restart {
            let restart = self.shared.config.restart.clone().with_policy(policy);
            self.shared.entry(name.as_str())?.mailbox.send(Command::SetRestart(restart)).await.ok();
        }
        if !swaps {
            return self
                .shared
                .ask(name.as_str(), |reply| Command::Configure(change(), reply))
                .await
                .map(drop);
        }
        // The new version is to find its configuration there, and the old one its own if the swap fails.
        let path = ["plugins", name.as_str()];
        let in_force = self.shared.settings().section(&path);
        let before = crate::supervisor::section_of(&self.shared.settings(), Layer::File, &path);
        self.shared.settings().set_section(
            Layer::File,
            &path,
            Some(Value::Object(definition.config.clone())),
        );
        let request = SwapRequest {
            type_name: Some(definition.type_name.clone()),
            version: definition.version.clone(),
            drain: None,
        };
        let swapped = self.shared.swap(name.as_str(), request, false).await;
        if swapped.is_err() {
            self.shared.settings().set_section(Layer::File, &path, before);
        } else {
            let after = self.shared.settings().section(&path);
            self.shared.tell_config_changed(name, Layer::File, &in_force, &after);
        }
        swapped.map(drop)
    }

    /// Tells once what is wrong with a file.
    fn complain(&mut self, file: &str, error: String) {
        if self.errors.get(file) == Some(&error) {
            return;
        }
        tracing::warn!(file, error, "definition file is not in force");
        self.shared.emit("plugin.definition_refused", None, json!({ "file": file, "error": error }));
        self.errors.insert(file.to_owned(), error);
    }

    fn show(&self, found: &BTreeMap<String, Found>) {
        let files = found.keys().chain(self.in_force.keys()).chain(self.errors.keys());
        let mut views: Vec<_> = files
            .map(|file| DefinitionView {
                file: file.clone(),
                plugin: self.in_force.get(file).map(|in_force| in_force.name.clone()),
                error: self.errors.get(file).cloned(),
            })
            .collect();
        views.sort_by(|a, b| a.file.cmp(&b.file));
        views.dedup();
        *self.shared.definitions.lock().unwrap_or_else(PoisonError::into_inner) = views;
        self.shared.changed();
    }
}

impl Signs {
    /// Waits until the folder is quiet.
    async fn settle(&mut self) {
        let quiet =
            async { while let Ok(Some(())) = tokio::time::timeout(QUIET, self.signs.recv()).await {} };
        let _ = tokio::time::timeout(QUIET_AT_MOST, quiet).await;
    }
}

fn watch(path: &Path) -> Result<Signs, String> {
    std::fs::create_dir_all(path).map_err(|error| format!("make `{}`: {error}", path.display()))?;
    // One sign waiting is as good as many.
    let (sender, signs) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
        let _ = sender.try_send(());
    })
    .map_err(|error| error.to_string())?;
    watcher.watch(path, RecursiveMode::NonRecursive).map_err(|error| error.to_string())?;
    Ok(Signs { _watcher: watcher, signs })
}

/// The definition files of a folder, by name.
fn scan(folder: &Path) -> std::io::Result<BTreeMap<String, Found>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".toml") || name.starts_with('.') {
            continue;
        }
        if found.len() == FILES_MAX {
            return Err(std::io::Error::other(format!("more than {FILES_MAX} definition files")));
        }
        match read(&entry.path()) {
            Ok(Some(definition)) => drop(found.insert(name, Found::Good(definition))),
            // Removed since it was listed.
            Ok(None) => {}
            Err(error) => drop(found.insert(name, Found::Bad(error))),
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<Definition>, String> {
    let text = match std::fs::metadata(path).and_then(|about| match about.len() {
        bytes if bytes > FILE_BYTES_MAX => Err(std::io::Error::other("is longer than 256 KiB")),
        _ => std::fs::read_to_string(path),
    }) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    toml::from_str(&text).map(Some).map_err(|error| error.to_string().trim_end().to_owned())
}
