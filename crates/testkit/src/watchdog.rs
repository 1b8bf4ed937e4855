//! Nothing is left running, and no folder left behind, when a test process goes without dropping anything:
//! killed, aborted, or ended with servers in statics.
//!
//! A shell waits at the end of a pipe for that. The usual alternative, `PR_SET_PDEATHSIG`, needs `unsafe`,
//! exists on Linux only, follows the thread that started the child instead of the process, and removes no
//! folder.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

const SCRIPT: &str = include_str!("watchdog.sh");

struct Watchdog {
    folder: TempDir,
    pipe: Mutex<ChildStdin>,
}

static WATCHDOG: OnceLock<Result<Watchdog, io::Error>> = OnceLock::new();

/// What the watchdog is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// A process and when it was started, in the system's own terms.
    Pid(u32, String),
    /// A container.
    Container(String),
}

/// The folder of this process, under which each server has its own.
pub(crate) fn folder() -> io::Result<&'static Path> {
    Ok(watchdog()?.folder.path())
}

/// Puts a charge under the watchdog's eyes.
pub(crate) fn watch(charge: &Charge) -> io::Result<()> {
    tell(&match charge {
        Charge::Pid(id, start) => format!("pid {id} {start}\n"),
        Charge::Container(name) => format!("box {name} -\n"),
    })
}

/// Takes it away again; to be called before a process is waited for, while its id cannot be given anew.
pub(crate) fn forget(charge: &Charge) -> io::Result<()> {
    tell(&match charge {
        Charge::Pid(id, _) => format!("gone {id}\n"),
        Charge::Container(name) => format!("gone {name}\n"),
    })
}

fn tell(line: &str) -> io::Result<()> {
    watchdog()?.pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
}

fn watchdog() -> io::Result<&'static Watchdog> {
    // An `io::Error` cannot be cloned; the text is what is worth keeping.
    WATCHDOG.get_or_init(start).as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

fn start() -> io::Result<Watchdog> {
    let mut folder = tempfile::Builder::new().prefix("testkit-").tempdir()?;
    let keep = std::env::var_os("GANTRY_TEST_KEEP").is_some_and(|value| !value.is_empty());
    // The watchdog removes the folder, at the end of this process and not before.
    folder.disable_cleanup(true);
    let removed = if keep { Path::new("") } else { folder.path() };
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "testkit-watchdog"])
        .arg(removed)
        .arg("docker")
        // A Ctrl-C on the terminal is for the tests, not for the one who cleans up after them.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pipe = child.stdin.take().ok_or_else(|| io::Error::other("the watchdog has no standard input"))?;
    Ok(Watchdog { folder, pipe: Mutex::new(pipe) })
}

/// When a process was started: in ticks since the boot, or as `ps` says where the system has no `/proc`.
/// Empty for one that does not run; one that has ended and was not waited for does not.
pub(crate) fn start_of(pid: u32) -> String {
    if !Path::new("/proc/self/stat").exists() {
        let said = Command::new("ps").args(["-o", "lstart=", "-p", &pid.to_string()]).output();
        return said
            .map(|said| String::from_utf8_lossy(&said.stdout).split_whitespace().collect())
            .unwrap_or_default();
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    match fields.next() {
        Some("Z" | "X") | None => String::new(),
        Some(_) => fields.nth(18).unwrap_or_default().to_owned(),
    }
}
