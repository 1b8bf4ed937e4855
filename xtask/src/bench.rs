//! `cargo xtask bench`: builds the measuring program in release mode and becomes it.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::workspace::{Workspace, become_program};

pub(crate) const HELP: &str = include_str!("../bench/help.txt");

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::open()?;
    let program = workspace.build_release("bench", "bench")?;
    let mut command = workspace.command(&program);
    command.args(arguments);
    become_program(command)
}
