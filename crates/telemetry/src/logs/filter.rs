//! `info,http_api=debug`: a level for all, and others for some.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// A filter names no more targets than this.
const TARGETS_MAX: usize = 64;

/// Which log lines are wanted: a level, and directives for single targets.
///
/// The text form is that of `LOG_LEVEL`: directives separated by commas, each a level (`off error warn
/// info debug trace`) or `target=level`. A target is a crate or module path and covers what lies below
/// it; the longest that fits decides. Without a level for all it is `info`.
///
/// ```
/// let filter: telemetry::LogFilter = "warn,scheduler=debug".parse()?;
/// assert_eq!(filter.to_string(), "warn,scheduler=debug");
/// assert!("inof".parse::<telemetry::LogFilter>().is_err());
/// # Ok::<(), telemetry::LogFilterError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    default: LevelFilter,
    targets: BTreeMap<String, LevelFilter>,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self { default: LevelFilter::INFO, targets: BTreeMap::new() }
    }
}

impl LogFilter {
    pub(crate) fn targets(&self) -> Targets {
        let named = self.targets.iter().map(|(target, level)| (target.clone(), *level));
        Targets::new().with_default(self.default).with_targets(named)
    }

    /// The same with other levels for some targets; `None` is all that have none of their own.
    pub(crate) fn with<'a>(&self, changes: impl IntoIterator<Item = (Option<&'a str>, LevelFilter)>) -> Self {
        let mut changed = self.clone();
        for (target, level) in changes {
            match target {
                None => changed.default = level,
                Some(target) => {
                    changed.targets.insert(target.to_owned(), level);
                }
            }
        }
        changed
    }

    /// The level for all targets that have none of their own, and those that have.
    pub(crate) fn levels(&self) -> impl Iterator<Item = (Option<&str>, LevelFilter)> {
        let named = self.targets.iter().map(|(target, level)| (Some(target.as_str()), *level));
        std::iter::once((None, self.default)).chain(named)
    }

    /// Whether another target still fits.
    pub(crate) fn check_room(&self, target: Option<&str>) -> Result<(), LogFilterError> {
        let is_new = target.is_some_and(|target| !self.targets.contains_key(target));
        if is_new && self.targets.len() >= TARGETS_MAX { Err(LogFilterError::TooMany) } else { Ok(()) }
    }
}

/// Why a text is no [`LogFilter`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// A level has another name.
    #[error("unknown log level `{0}` (known: off, error, warn, info, debug, trace)")]
    Level(String),
    /// A target is not a module path.
    #[error("`{0}` is not a log target: use a crate or module path such as `http_api` or `http_api::serve`")]
    Target(String),
    /// More targets than a filter holds.
    #[error("more than {TARGETS_MAX} log targets")]
    TooMany,
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut filter = Self::default();
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            match directive.split_once('=') {
                None => filter.default = level(directive)?,
                Some((target, level_text)) => {
                    filter.targets.insert(target_path(target.trim())?, level(level_text.trim())?);
                }
            }
            if filter.targets.len() > TARGETS_MAX {
                return Err(LogFilterError::TooMany);
            }
        }
        Ok(filter)
    }
}

/// Read by hand, since the library's parser takes an unknown level for the name of a target, and a
/// typing error would turn all logs off.
pub(super) fn level(text: &str) -> Result<LevelFilter, LogFilterError> {
    match text.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" | "warning" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(LogFilterError::Level(shortened(text))),
    }
}

pub(super) fn target_path(text: &str) -> Result<String, LogFilterError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-' | b'.');
    if !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(LogFilterError::Target(shortened(text)))
    }
}

/// What is quoted back in an error, bounded.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

impl fmt::Display for LogFilter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.default)?;
        self.targets.iter().try_for_each(|(target, level)| write!(out, ",{target}={level}"))
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracing::Level;

    use super::*;

    #[test]
    fn reads_levels_and_targets() {
        let filter: LogFilter = " WARN, http_api = debug,scheduler::planner=trace,".parse().unwrap();
        assert_eq!(filter.to_string(), "warn,http_api=debug,scheduler::planner=trace");
        let targets = filter.targets();
        assert!(targets.would_enable("http_api::serve", &Level::DEBUG));
        assert!(!targets.would_enable("scheduler", &Level::INFO));
        assert!(targets.would_enable("scheduler::planner", &Level::TRACE));
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |text: &str, message: &str| {
            assert_eq!(text.parse::<LogFilter>().unwrap_err().to_string(), message);
        };
        check("inof", "unknown log level `inof` (known: off, error, warn, info, debug, trace)");
        check("info,a=loud", "unknown log level `loud` (known: off, error, warn, info, debug, trace)");
        check(
            "info,a b=info",
            "`a b` is not a log target: use a crate or module path such as `http_api` or `http_api::serve`",
        );
        let many: Vec<_> = (0..65).map(|n| format!("t{n}=info")).collect();
        check(&many.join(","), "more than 64 log targets");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = text.parse::<LogFilter>();
        }

        #[test]
        fn what_was_read_is_written_and_read_again(text in "[a-z_:]{0,8}(=(info|off|trace))?(,[a-z]{0,6}=debug)?") {
            if let Ok(filter) = text.parse::<LogFilter>() {
                prop_assert_eq!(filter.to_string().parse::<LogFilter>().unwrap(), filter);
            }
        }
    }
}
