//! Everything that is wrong with a configuration, each with where it stands.

use std::fmt;

use plugin_core::{ConfigError, EnvSource, Layer, Settings};
use serde_json::Value;

use crate::flags::{Flags, setting};

/// How many problems are looked for.
const PROBLEMS_MAX: usize = 100;
/// From which likeness on a name is taken for a misspelt one.
const LIKENESS: f64 = 0.8;

/// What has been found so far.
pub(super) struct Problems<'a> {
    environment: &'a EnvSource,
    flags: &'a Flags,
    found: Vec<String>,
}

/// A configuration with problems.
#[derive(Debug)]
pub(crate) struct InvalidConfig(Vec<String>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "the configuration is wrong: {only}"),
            problems => {
                write!(f, "the configuration has {} problems:", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for InvalidConfig {}

impl<'a> Problems<'a> {
    pub(super) fn new(environment: &'a EnvSource, flags: &'a Flags) -> Self {
        Self { environment, flags, found: Vec::new() }
    }

    pub(super) fn add(&mut self, place: &str, what: &str) {
        self.found.push(format!("{place}: {what}"));
    }

    /// Notes why a source has no values.
    pub(super) fn note<T>(&mut self, source: &str, outcome: Result<T, ConfigError>) -> Option<T> {
        outcome
            .inspect_err(|error| match error {
                // It names the source itself.
                ConfigError::Unreadable { .. } => self.found.push(error.to_string()),
                error => self.add(source, &error.to_string()),
            })
            .ok()
    }

    /// Finds everything that `check` refuses, with the help of what keys there are, and answers what is left
    /// of the settings without it.
    pub(super) fn find(
        &mut self,
        settings: Settings,
        known: &Value,
        check: impl Fn(&Settings) -> Result<(), ConfigError>,
    ) -> Settings {
        sift(settings, check, |settings, error, culprit| {
            let what = match error {
                ConfigError::Unknown { path } => format!("{error}{}", meant(known, path)),
                error => error.to_string(),
            };
            match culprit {
                Some((layer, path)) => self.add(&self.place(settings, *layer, path), &what),
                None => self.found.push(what),
            }
        })
    }

    /// The file, the variable or the flag that a value comes from.
    fn place(&self, settings: &Settings, layer: Layer, path: &[&str]) -> String {
        match layer {
            Layer::Environment => self.environment.variable(path).unwrap_or("environment").to_owned(),
            Layer::Flag => self.flag(&path.join(".")),
            _ => settings.origin(path).map_or_else(|| layer.to_string(), |origin| origin.source),
        }
    }

    fn flag(&self, path: &str) -> String {
        let keys = self.flags.set.iter().filter_map(|text| Some(setting(text).ok()?.0));
        let full = |key: &str| match key.strip_prefix("scheduler.") {
            Some(rest) => format!("plugins.scheduler.{rest}"),
            None => key.to_owned(),
        };
        let of = |key: &str| key.starts_with(path) || path.starts_with(key);
        match keys.rev().find(|key| of(&full(key))) {
            Some(key) => format!("--set {key}"),
            None if path == super::HTTP_PORT => "--port".to_owned(),
            None => format!("--{}", path.replace('_', "-")),
        }
    }

    /// Fails if anything was found.
    pub(super) fn none(self) -> Result<(), InvalidConfig> {
        if self.found.is_empty() { Ok(()) } else { Err(InvalidConfig(self.found)) }
    }
}

/// The settings without what `check` refuses.
pub(super) fn without_problems<T>(
    settings: &Settings,
    check: impl Fn(&Settings) -> Result<T, ConfigError>,
) -> Settings {
    sift(settings.clone(), |settings| check(settings).map(drop), |_, _, _| ())
}

/// A check tells of one thing at a time: takes that out of the layer that says it, and checks what is left,
/// in which a lower layer may say something wrong, too.
fn sift(
    mut settings: Settings,
    check: impl Fn(&Settings) -> Result<(), ConfigError>,
    mut found: impl FnMut(&Settings, &ConfigError, &Option<(Layer, Vec<&str>)>),
) -> Settings {
    let mut last = String::new();
    for _ in 0..PROBLEMS_MAX {
        let Err(error) = check(&settings) else { break };
        let is_missing =
            matches!(&error, ConfigError::Invalid { detail, .. } if detail.starts_with("missing field"));
        let culprit = culprit(&settings, error.path());
        // What does not fit to a value that was taken out is not told a second time.
        if culprit.is_some() || last != error.path() {
            found(&settings, &error, &culprit);
        }
        match culprit.filter(|_| !is_missing) {
            Some((layer, path)) => settings.set_section(layer, &path, None),
            None if !drop_section(&mut settings, error.path()) => break,
            None => {}
        }
        error.path().clone_into(&mut last);
    }
    settings
}

/// Takes a whole section out, where no single value is to blame. Answers whether anything of it was there.
fn drop_section(settings: &mut Settings, path: &str) -> bool {
    let depth = if path.starts_with("plugins.") { 2 } else { 1 };
    let section: Vec<&str> = path.split(['.', '[']).take(depth).collect();
    let mut dropped = false;
    while let Some(origin) = settings.origin(&section) {
        settings.set_section(origin.layer, &section, None);
        dropped = true;
    }
    dropped
}

/// The layer that says what stands at a path or, if nothing does, above it.
fn culprit<'p>(settings: &Settings, path: &'p str) -> Option<(Layer, Vec<&'p str>)> {
    // A list is one value.
    let whole = path.split('[').next().unwrap_or_default();
    let keys: Vec<&str> = whole.split('.').collect();
    let (origin, depth) =
        (1..=keys.len()).rev().find_map(|depth| Some((settings.origin(keys.get(..depth)?)?, depth)))?;
    (origin.layer != Layer::Default).then(|| (origin.layer, keys.into_iter().take(depth).collect()))
}

/// What an unknown key may have been meant for, or what there is in its place.
fn meant(known: &Value, path: &str) -> String {
    let (parents, key) = path.rsplit_once('.').map_or((None, path), |(parents, key)| (Some(parents), key));
    let at = parents.into_iter().flat_map(|path| path.split('.')).try_fold(known, |at, key| at.get(key));
    let Some(Value::Object(there)) = at else { return String::new() };
    let alike = there.keys().map(|name| (strsim::jaro_winkler(name, key), name));
    match alike.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        Some((likeness, name)) if likeness >= LIKENESS => format!(", did you mean `{name}`?"),
        Some(_) => {
            let names: Vec<_> = there.keys().map(|name| format!("`{name}`")).collect();
            format!(", known are {}", names.join(", "))
        }
        None => String::new(),
    }
}
