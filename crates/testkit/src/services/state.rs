//! What was started, remembered in a file beside its data, so that another process can end it: by its id,
//! and only if that id is still the same process.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::watchdog::start_of;

const FILE: &str = "started";

/// A server that was started here, perhaps by an earlier process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// A process, and when it was started.
    Process(u32, String),
    /// A container, and the `docker` to reach it by.
    Container(PathBuf, String),
}

pub(super) fn remember(folder: &Path, child: &Child, container: Option<(PathBuf, String)>) -> io::Result<()> {
    let text = match container {
        Some((docker, name)) => format!("container {name} {}\n", docker.display()),
        None => format!("process {} {}\n", child.id(), start_of(child.id())),
    };
    std::fs::write(folder.join(FILE), text)
}

pub(super) fn recall(folder: &Path) -> Option<Started> {
    parse(&std::fs::read_to_string(folder.join(FILE)).ok()?)
}

pub(super) fn forget(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Option<Started> {
    let (kind, rest) = text.trim_end().split_once(' ')?;
    let (id, more) = rest.split_once(' ')?;
    match kind {
        "process" => Some(Started::Process(id.parse().ok()?, more.to_owned())),
        "container" => Some(Started::Container(more.into(), id.to_owned())),
        _ => None,
    }
}

impl Started {
    pub(super) fn is_alive(&self) -> bool {
        match self {
            // One that has ended and was not waited for yet has no start time to us.
            Self::Process(id, start) => !start.is_empty() && start_of(*id) == *start,
            Self::Container(docker, name) => {
                docker_says(docker, &["inspect", "--format", "{{.State.Running}}", name])
                    .is_some_and(|said| said == "true")
            }
        }
    }

    /// Asks it to end, or ends it.
    pub(super) fn end(&self, now: bool) {
        if !self.is_alive() {
            return;
        }
        match self {
            Self::Process(id, _) => {
                if let Some(pid) = i32::try_from(*id).ok().and_then(Pid::from_raw) {
                    let signal = if now { Signal::KILL } else { Signal::TERM };
                    // It may have ended by itself just now.
                    let _ = rustix::process::kill_process(pid, signal);
                }
            }
            Self::Container(docker, name) => {
                let signal = if now { "KILL" } else { "TERM" };
                docker_says(docker, &["kill", "--signal", signal, name]);
            }
        }
    }
}

fn docker_says(docker: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(docker).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_recalled() {
        assert_eq!(parse("process 12 3456\n"), Some(Started::Process(12, "3456".into())));
        assert_eq!(
            parse("container gantry-redis /usr/bin/docker\n"),
            Some(Started::Container("/usr/bin/docker".into(), "gantry-redis".into()))
        );
        assert_eq!(parse("process twelve 3456\n"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_id_that_was_given_to_another_process_is_not_ours() {
        let own = std::process::id();
        assert!(Started::Process(own, start_of(own)).is_alive());
        assert!(!Started::Process(own, "1".into()).is_alive());
        // Sends nothing, or this test would be gone.
        Started::Process(own, "1".into()).end(true);
    }
}
