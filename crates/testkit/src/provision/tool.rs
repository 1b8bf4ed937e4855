//! Running the tools that fetch programs, each with a deadline.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// For a question that is answered at once, by a JVM on a busy machine at the latest.
pub(crate) const ASK: Duration = Duration::from_secs(30);

/// For what goes over the network.
pub(crate) const FETCH: Duration = Duration::from_secs(600);

/// The first executable of that name in the folders of a `PATH`.
pub(crate) fn on_path(path: &OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::env::split_paths(path).filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(
        |file| file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0),
    )
}

/// Runs a tool to its end and gives what it printed, on both streams; or says in one line why that failed.
pub(crate) fn run_tool(command: Command, within: Duration) -> Result<String, String> {
    run_with_input(command, within, "")
}

/// The same with something on standard input.
#[expect(
    clippy::disallowed_methods,
    reason = "runs on a thread for blocking work, and waits with a deadline"
)]
pub(crate) fn run_with_input(mut command: Command, within: Duration, input: &str) -> Result<String, String> {
    let shown = command.get_program().to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let said = |error: std::io::Error| format!("{shown}: {error}");
    // Files and not pipes: a tool that prints a lot, or leaves a child behind, cannot block us.
    let mut printed = tempfile::tempfile().map_err(said)?;
    let stdout = printed.try_clone().map_err(said)?;
    let stderr = printed.try_clone().map_err(said)?;
    let mut given = tempfile::tempfile().map_err(said)?;
    given.write_all(input.as_bytes()).and_then(|()| given.rewind()).map_err(said)?;
    let mut child = command.stdin(given).stdout(stdout).stderr(stderr).spawn().map_err(said)?;
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(said)? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{shown}: no end after {within:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut bytes = Vec::new();
    printed.rewind().and_then(|()| printed.read_to_end(&mut bytes)).map_err(said)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if status.success() {
        return Ok(text);
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling =
        lines.iter().find(|line| line.starts_with("E:") || line.contains("ERROR") || line.contains("rror:"));
    let line = telling.or(lines.last()).copied().unwrap_or("nothing was printed");
    Err(format!("{shown} ended with {status}: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_tool_gives_what_it_printed_or_why_it_failed() {
        assert_eq!(run_tool(shell("echo one; echo two >&2"), ASK).unwrap(), "one\ntwo\n");
        let failed =
            run_tool(shell("echo fine; echo 'E: no such package'; echo bye; exit 3"), ASK).unwrap_err();
        assert_eq!(failed, "sh ended with exit status: 3: E: no such package");
        assert_eq!(run_with_input(shell("cat"), ASK, "given").unwrap(), "given");
        assert!(run_tool(Command::new("/nowhere/tool"), ASK).unwrap_err().starts_with("tool: "));
    }

    #[test]
    fn a_tool_that_hangs_is_ended_at_its_deadline() {
        let begun = Instant::now();
        let failed = run_tool(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(
            failed.contains("no end after 50ms") && begun.elapsed() < Duration::from_secs(20),
            "{failed}"
        );
    }
}
