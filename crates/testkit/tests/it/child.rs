//! Running one test of this program in a process of its own: to kill it, or to give it another environment.

use std::process::{Command, Output, Stdio};

/// Set for such a process.
const MARK: &str = "TESTKIT_TEST_CHILD";

/// Whether this is such a process; tests that are for one do nothing elsewhere.
pub(crate) fn is_child() -> bool {
    std::env::var_os(MARK).is_some()
}

/// A command that runs this test, such as `redis::answers_ping`, with this environment.
pub(crate) fn command(test: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .env("RUST_BACKTRACE", "0");
    for name in ["CI", "GANTRY_TEST_LEFT_OUT", "GANTRY_TEST_KEEP"] {
        command.env_remove(name);
    }
    command
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end on a thread for that.
pub(crate) async fn run(test: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = command(test, environment);
    tokio::task::spawn_blocking(move || command.output().expect("a run")).await.expect("a run")
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
