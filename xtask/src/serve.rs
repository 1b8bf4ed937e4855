//! `cargo xtask serve`: builds the server where it is stale and becomes it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::arguments::Split;
use crate::workspace::{Workspace, become_program};

/// The package of the server and its program.
pub(crate) const SERVER: (&str, &str) = ("server", "gantry-server");

pub(crate) const HELP: &str = "\
Builds what is stale in release mode and runs the server in the present folder.

Usage: cargo xtask serve [-- SERVER-ARGUMENTS…]

Settings come from defaults, `gantry.toml`, the environment (HTTP_PORT=8080, LOG_LEVEL=info, …) and the
server's own arguments, which `cargo xtask serve -- --help` lists. Ctrl-C and SIGTERM reach the server, which
drains and ends; its exit code is the exit code of this command.

Options:
  -h, --help  this text
";

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let Split { own, rest } = Split::at_dashes(arguments);
    crate::arguments::none(own)?;
    let (package, program) = SERVER;
    let path = Workspace::open()?.build_release(package, program)?;
    let mut command = Command::new(path);
    command.args(rest);
    become_program(command)
}
