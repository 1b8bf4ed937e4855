//! Where the programs of the servers come from.
//!
//! In this order: what is on the `PATH`; Docker, if an engine answers; the system's packages, unpacked into a
//! cache folder of the user's, so that nothing is installed, no service is started and no root is needed;
//! Maven Central for Kafka. (Before all of these come addresses from the environment: see
//! [`Redis::provide`](crate::Redis::provide) and its siblings.)

mod client;
mod debian;
mod docker;
mod launch;
mod maven;
mod report;
mod tool;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use client::client;
pub use launch::Launch;
pub use report::{Report, report};
pub(crate) use tool::{on_path, run_tool};

use crate::{StartError, Unavailable, background};

/// The version of Kafka that is taken from Maven Central.
pub(crate) const KAFKA_VERSION: &str = "4.1.1";

/// A program that tests start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Program {
    /// `redis-server`, which is also the sentinel; 7.0 or newer.
    RedisServer,
    /// `redis-cli`.
    RedisCli,
    /// `etcd`, 3.4 or newer.
    Etcd,
    /// `etcdctl`.
    Etcdctl,
    /// Apache Kafka, broker and tools, with a Java to run it: 17 or newer.
    Kafka,
    /// `kcat`, a client of Kafka that shares nothing with Java's or ours.
    Kcat,
}

impl Program {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::RedisServer, Self::RedisCli, Self::Etcd, Self::Etcdctl, Self::Kafka, Self::Kcat];

    /// The program of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|program| program.name() == name)
    }

    /// What it is called on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisServer => "redis-server",
            Self::RedisCli => "redis-cli",
            Self::Etcd => "etcd",
            Self::Etcdctl => "etcdctl",
            Self::Kafka => "kafka",
            Self::Kcat => "kcat",
        }
    }

    /// The arguments that make it print its version and end.
    fn version_arguments(self) -> &'static [&'static str] {
        match self {
            Self::RedisServer | Self::RedisCli | Self::Etcd => &["--version"],
            Self::Etcdctl => &["version"],
            Self::Kafka => &["kafka.Kafka", "--version"],
            Self::Kcat => &["-V"],
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A place that programs come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The folders of `PATH`.
    Path,
    /// A container on the host's network, where `docker info` finds an engine.
    Docker,
    /// Debian's packages and those of its relatives, through `apt-get download`.
    Packages,
    /// Maven Central, through `mvn`; for Kafka.
    Maven,
}

impl Source {
    const ALL: &[(&'static str, Self)] = &[
        ("path", Self::Path),
        ("docker", Self::Docker),
        ("packages", Self::Packages),
        ("maven", Self::Maven),
    ];
}

/// A program that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub program: Program,
    /// What it says its version is, in its own words.
    pub version: String,
    /// Where it was found, for people.
    pub origin: String,
    /// How it is started.
    pub launch: Launch,
}

/// Where to look, and where to keep what was fetched.
#[derive(Clone, Debug)]
pub struct Provision {
    sources: Vec<Source>,
    path: OsString,
    cache: PathBuf,
    fetches: bool,
    until: Option<Instant>,
}

impl Provision {
    /// As the environment says: `GANTRY_TEST_SOURCES` is a list with commas of `path`, `docker`, `packages`
    /// and `maven`, all of them where it is not set; the cache is `gantry/testkit` under `XDG_CACHE_HOME` or
    /// `~/.cache`; and with `GANTRY_TEST_FETCH=no` what has not been fetched before is missing.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let sources = match set("GANTRY_TEST_SOURCES") {
            None => Source::ALL.iter().map(|(_, source)| *source).collect(),
            Some(list) => sources(&list.to_string_lossy()),
        };
        let cache = set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let fetches = set("GANTRY_TEST_FETCH").is_none_or(|value| value != "no");
        Self { sources, path, cache: cache.join("gantry/testkit"), fetches, until: None }
    }

    /// Looks in these places only, in this order.
    #[must_use]
    pub fn with_sources(mut self, sources: impl IntoIterator<Item = Source>) -> Self {
        self.sources = sources.into_iter().collect();
        self
    }

    /// Looks for programs in these folders, written like `PATH`.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<OsString>) -> Self {
        self.path = path.into();
        self
    }

    /// Takes only what has been fetched before.
    #[must_use]
    pub fn without_fetching(mut self) -> Self {
        self.fetches = false;
        self
    }

    /// Fetches for this long at most, all programs together.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.until = Some(Instant::now() + time);
        self
    }

    /// Keeps what it fetches in this folder.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = folder.into();
        self
    }

    /// The folder that fetched programs are kept in. Removing it is always safe while nothing of it runs.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Finds a program, fetching it if need be, which blocks for as long as a package manager takes.
    ///
    /// # Errors
    ///
    /// [`Unavailable`], with every place that was looked at and why it had none.
    pub fn find(&self, program: Program) -> Result<Found, Unavailable> {
        let mut tried = Vec::new();
        for source in &self.sources {
            let launch = match source {
                Source::Path => self.local(program),
                Source::Docker => docker::find(self, program),
                Source::Packages => debian::find(self, program),
                Source::Maven => maven::find(self, program),
            };
            match launch.and_then(|(launch, origin)| Ok((version(program, &launch)?, launch, origin))) {
                Ok((version, launch, origin)) => return Ok(Found { program, version, origin, launch }),
                Err(reason) if reason.is_empty() => {}
                Err(reason) => tried.push(reason),
            }
        }
        if tried.is_empty() {
            tried.push("GANTRY_TEST_SOURCES names no place that could have it".into());
        }
        Err(Unavailable { program: program.name().into(), tried })
    }

    fn local(&self, program: Program) -> Result<(Launch, String), String> {
        if program == Program::Kafka {
            let script = on_path(&self.path, "kafka-server-start.sh")
                .or_else(|| on_path(&self.path, "kafka-server-start"));
            let script = script.ok_or("no kafka-server-start.sh on the PATH")?;
            let libraries =
                script.canonicalize().ok().and_then(|script| Some(script.parent()?.parent()?.join("libs")));
            let libraries = libraries
                .filter(|folder| folder.is_dir())
                .ok_or("kafka-server-start.sh on the PATH stands beside no libs")?;
            return Ok((maven::java(&self.path, &libraries)?, format!("the PATH ({})", script.display())));
        }
        let found = on_path(&self.path, program.name()).ok_or_else(|| format!("no {program} on the PATH"))?;
        let origin = format!("the PATH ({})", found.display());
        Ok((Launch::local(found), origin))
    }

    /// How long something that goes over the network may take now.
    fn fetch_time(&self, name: &str) -> Result<Duration, String> {
        if !self.fetches {
            return Err(format!("{name} was not fetched before, and GANTRY_TEST_FETCH=no"));
        }
        let left = self.until.map_or(tool::FETCH, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            Err(format!("no time is left to fetch {name}"))
        } else {
            Ok(left.min(tool::FETCH))
        }
    }

    /// A folder of the cache that is made once: by whoever comes first, while others wait for it.
    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
        let made = self.cache.join(name);
        let said = |error: std::io::Error| format!("the cache folder {}: {error}", self.cache.display());
        if made.is_dir() {
            return Ok(made);
        }
        self.fetch_time(name)?;
        std::fs::create_dir_all(&self.cache).map_err(said)?;
        let lock = File::create(self.cache.join(format!("{name}.lock"))).map_err(said)?;
        lock.lock().map_err(said)?;
        if made.is_dir() {
            return Ok(made);
        }
        // Under its own name only when it is whole, so that a run that was cut off leaves nothing half done.
        let staging = tempfile::Builder::new().prefix("fetching-").tempdir_in(&self.cache).map_err(said)?;
        make(staging.path())?;
        let staging = staging.keep();
        std::fs::rename(&staging, &made).map_err(said)?;
        Ok(made)
    }
}

/// What the rest of the crate uses: as the environment says, and looked up once in a process.
pub(crate) async fn find(program: Program) -> Result<Arc<Found>, StartError> {
    type Answers = HashMap<Program, Result<Arc<Found>, Unavailable>>;
    static ANSWERS: Mutex<Option<Answers>> = Mutex::new(None);
    background::blocking(move || {
        // Held while looking: two tests that want the same program fetch it once.
        let mut answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = answers.get_or_insert_default();
        let found = answers
            .entry(program)
            .or_insert_with(|| Provision::from_environment().find(program).map(Arc::new));
        found.clone().map_err(StartError::Unavailable)
    })
    .await
}

fn sources(list: &str) -> Vec<Source> {
    let named = |word: &str| Source::ALL.iter().find(|(name, _)| *name == word).map(|(_, source)| *source);
    list.split(',').filter_map(|word| named(word.trim())).collect()
}

/// The version, which also shows that the program runs here.
fn version(program: Program, launch: &Launch) -> Result<String, String> {
    let output = run_tool(launch.command(program.version_arguments()), tool::ASK)?;
    let version = version_in(&output);
    Ok(version.unwrap_or_else(|| output.lines().next().unwrap_or_default().trim().to_owned()))
}

/// The first word that begins like `7.0.15`, perhaps after `v` or `v=`.
fn version_in(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches("v=").trim_start_matches('v').trim_end_matches([',', ')']);
        let numbers = word.split('.').take_while(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        (numbers.count() >= 2).then(|| word.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everywhere, whatever the environment of these tests says.
    fn all() -> Provision {
        let sources = Source::ALL.iter().map(|(_, source)| *source).collect();
        Provision { sources, fetches: true, ..Provision::from_environment() }
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        let check = |text: &str, version: &str| assert_eq!(version_in(text).as_deref(), Some(version));
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", "7.0.15");
        check("redis-cli 7.0.15", "7.0.15");
        check("etcd Version: 3.4.23\nGit SHA: x", "3.4.23");
        check("4.1.1 (Commit:be816b82)", "4.1.1");
        check(
            "kcat - Apache Kafka producer and consumer tool\nVersion 1.7.1 (JSON, librdkafka 2.0.2)",
            "1.7.1",
        );
        assert_eq!(version_in("no version here."), None);
    }

    #[test]
    fn sources_keep_their_order_and_unknown_ones_are_nothing() {
        assert_eq!(sources("maven, path,nowhere"), [Source::Maven, Source::Path]);
        assert_eq!(sources("none"), []);
    }

    #[test]
    fn where_nothing_is_to_be_had_every_place_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let provision = all().with_path(empty.path()).with_cache(empty.path().join("cache"));
        let missing = provision.find(Program::RedisServer).unwrap_err().to_string();
        for place in ["redis-server", "on the PATH", "docker", "apt-get"] {
            assert!(missing.contains(place), "{missing}");
        }
        let missing = provision.clone().find(Program::Kafka).unwrap_err().to_string();
        assert!(missing.contains("mvn") && !missing.contains("apt-get"), "{missing}");
        let missing = provision.with_sources([]).find(Program::Etcd).unwrap_err().to_string();
        assert!(missing.contains("GANTRY_TEST_SOURCES"), "{missing}");
    }

    #[test]
    fn what_is_fetched_is_made_once_and_never_half() {
        let folder = tempfile::tempdir().unwrap();
        let provision = all().with_cache(folder.path());
        let refused = provision.once("thing", |staging| {
            std::fs::write(staging.join("half"), "").unwrap();
            Err("cut off".into())
        });
        assert_eq!(refused.unwrap_err(), "cut off");
        let made = provision
            .once("thing", |staging| std::fs::write(staging.join("whole"), "").map_err(|e| e.to_string()));
        assert!(made.as_ref().unwrap().join("whole").is_file() && !made.unwrap().join("half").exists());
        provision.once("thing", |_| Err("made twice".into())).unwrap();
        // What is there stays, and nothing else comes.
        for (short, why) in [
            (provision.clone().without_fetching(), "GANTRY_TEST_FETCH=no"),
            (provision.within(Duration::ZERO), "no time is left"),
        ] {
            short.once("thing", |_| Err("made twice".into())).unwrap();
            let refused = short.once("other", |_| Ok(())).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
