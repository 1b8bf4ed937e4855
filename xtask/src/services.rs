//! `cargo xtask services`: builds the program of `testkit` and becomes it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::workspace::{Workspace, become_program};

pub(crate) const HELP: &str = include_str!("../../crates/testkit/help.txt");

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let path = Workspace::open()?.build_release("testkit", "testkit")?;
    let mut command = Command::new(path);
    command.args(arguments);
    become_program(command)
}
