//! What the program says about itself: how it looks, and how much of it.

mod filter;
mod format;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::Timestamp;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, reload};

pub use filter::{LogFilter, LogFilterError};
pub(crate) use format::layer;
pub use format::{LogFormat, UnknownLogFormat};

/// Changes at run time what is logged; cheap to clone.
///
/// There is what the program was told once and for all, and there are levels for a while, for all targets or
/// for one. Whoever sets these calls [`LogLevels::expire`] when their time is over.
#[derive(Clone, Debug)]
pub struct LogLevels {
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    levels: Levels,
    /// One for each way that lines take.
    reload: Vec<reload::Handle<Targets, Registry>>,
}

#[derive(Debug, Clone)]
struct Levels {
    filter: LogFilter,
    /// By target, `None` being all that have no level of their own.
    for_a_while: BTreeMap<Option<String>, (LevelFilter, Timestamp)>,
}

/// The level of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLevel {
    /// A crate or module path; `None` for all that have no level of their own.
    pub target: Option<String>,
    /// `off error warn info debug trace`.
    pub level: String,
    /// Until when; `None` if it is not for a while only.
    pub until: Option<Timestamp>,
}

/// Why a level was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// The level or the target is none, or there are too many.
    #[error(transparent)]
    Filter(#[from] LogFilterError),
    /// The subscriber is gone.
    #[error(transparent)]
    Gone(#[from] LogLevelsGone),
}

impl LogLevels {
    pub(crate) fn new(filter: LogFilter) -> Self {
        let levels = Levels { filter, for_a_while: BTreeMap::new() };
        Self { now: Arc::new(Mutex::new(Now { levels, reload: Vec::new() })) }
    }

    /// A filter that follows the levels.
    pub(crate) fn follower(&self) -> reload::Layer<Targets, Registry> {
        let mut now = self.lock();
        let (layer, reload) = reload::Layer::new(now.levels.in_force().targets());
        now.reload.push(reload);
        layer
    }

    /// What is logged now.
    #[must_use]
    pub fn current(&self) -> LogFilter {
        self.lock().levels.in_force()
    }

    /// The level of each target that has one, that for all the others first.
    #[must_use]
    pub fn list(&self) -> Vec<TargetLevel> {
        let now = &self.lock().levels;
        let all = now.in_force();
        let until = |target: &Option<String>| now.for_a_while.get(target).map(|(_, until)| *until);
        all.levels()
            .map(|(target, level)| {
                let target = target.map(str::to_owned);
                TargetLevel { until: until(&target), target, level: level.to_string() }
            })
            .collect()
    }

    /// Logs by `filter` from now on, with nothing for a while, and answers what went before.
    ///
    /// # Errors
    ///
    /// [`LogLevelsGone`] if the subscriber that this handle belongs to is no more.
    pub fn set(&self, filter: LogFilter) -> Result<LogFilter, LogLevelsGone> {
        let mut now = self.lock();
        let before = now.levels.in_force();
        now.put(Levels { filter, for_a_while: BTreeMap::new() })?;
        Ok(before)
    }

    /// Gives a target another level for a while; `None` is all targets that have none of their own.
    ///
    /// # Errors
    ///
    /// [`LogLevelError::Filter`] if the level or the target is none, or there are too many targets; nothing
    /// has changed then. [`LogLevelError::Gone`] as for [`LogLevels::set`].
    pub fn set_until(
        &self,
        target: Option<&str>,
        level: &str,
        until: Timestamp,
    ) -> Result<(), LogLevelError> {
        let level = filter::level(level)?;
        let target = target.map(filter::target_path).transpose()?;
        let mut now = self.lock();
        let mut next = now.levels.clone();
        if !next.for_a_while.contains_key(&target) {
            next.in_force().check_room(target.as_deref())?;
        }
        next.for_a_while.insert(target, (level, until));
        Ok(now.put(next)?)
    }

    /// Ends what was set for a while. Tells whether there was anything.
    ///
    /// # Errors
    ///
    /// [`LogLevelsGone`].
    pub fn reset(&self, target: Option<&str>) -> Result<bool, LogLevelsGone> {
        let mut now = self.lock();
        let mut next = now.levels.clone();
        let was_there = next.for_a_while.remove(&target.map(str::to_owned)).is_some();
        now.put(next)?;
        Ok(was_there)
    }

    /// Ends whatever was set until `now` or before. Tells when the next of them ends.
    pub fn expire(&self, at: Timestamp) -> Option<Timestamp> {
        let mut now = self.lock();
        let mut next = now.levels.clone();
        next.for_a_while.retain(|_, (_, until)| *until > at);
        if next.for_a_while.len() < now.levels.for_a_while.len() {
            // Nobody is there to be told where the subscriber is gone.
            let _ = now.put(next);
        }
        now.levels.for_a_while.values().map(|(_, until)| *until).min()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// Puts other levels in force, or leaves everything as it is.
    fn put(&mut self, levels: Levels) -> Result<(), LogLevelsGone> {
        let filter = levels.in_force();
        for reload in &self.reload {
            reload.reload(filter.targets()).map_err(|_| LogLevelsGone)?;
        }
        self.levels = levels;
        Ok(())
    }
}

impl Levels {
    fn in_force(&self) -> LogFilter {
        let changes = self.for_a_while.iter().map(|(target, (level, _))| (target.as_deref(), *level));
        self.filter.with(changes)
    }
}

/// The subscriber whose levels were to be changed is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log subscriber is gone")]
pub struct LogLevelsGone;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn text(levels: &LogLevels) -> String {
        levels.current().to_string()
    }

    #[test]
    fn a_level_for_a_while_goes_by_itself() {
        let levels = LogLevels::new("warn,scheduler=info".parse().unwrap());
        levels.set_until(Some("scheduler"), "debug", at(10)).unwrap();
        levels.set_until(Some("http_api::serve"), "TRACE", at(20)).unwrap();
        levels.set_until(None, "error", at(15)).unwrap();
        assert_eq!(text(&levels), "error,http_api::serve=trace,scheduler=debug");
        let level = |target: Option<&str>, level: &str, until| TargetLevel {
            target: target.map(str::to_owned),
            level: level.to_owned(),
            until: Some(until),
        };
        assert_eq!(
            levels.list(),
            [
                level(None, "error", at(15)),
                level(Some("http_api::serve"), "trace", at(20)),
                level(Some("scheduler"), "debug", at(10)),
            ]
        );
        assert_eq!(levels.expire(at(9)), Some(at(10)));
        assert_eq!(levels.expire(at(10)), Some(at(15)));
        assert_eq!(text(&levels), "error,http_api::serve=trace,scheduler=info");
        assert_eq!(levels.reset(None), Ok(true));
        assert_eq!(levels.reset(None), Ok(false));
        assert_eq!(text(&levels), "warn,http_api::serve=trace,scheduler=info");
        assert_eq!(levels.expire(at(20)), None);
        assert_eq!(text(&levels), "warn,scheduler=info");
        levels.set_until(Some("x"), "off", at(30)).unwrap();
        assert_eq!(levels.set("info".parse().unwrap()).unwrap().to_string(), "warn,scheduler=info,x=off");
        assert_eq!(text(&levels), "info", "what is set for good ends what is for a while");
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let levels = LogLevels::new("warn".parse().unwrap());
        for (target, level, expected) in [
            (None, "loud", "unknown log level `loud`"),
            (Some("a b"), "info", "`a b` is not a log target"),
            (Some(""), "info", "`` is not a log target"),
        ] {
            let error = levels.set_until(target, level, at(1)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        for n in 0..64 {
            levels.set_until(Some(&format!("t{n}")), "debug", at(1)).unwrap();
        }
        let error = levels.set_until(Some("one_more"), "debug", at(1)).unwrap_err();
        assert_eq!(error.to_string(), "more than 64 log targets");
        levels.set_until(Some("t7"), "trace", at(1)).unwrap();
        levels.set_until(None, "error", at(1)).unwrap();
        assert_eq!(levels.list().len(), 65);
    }
}
