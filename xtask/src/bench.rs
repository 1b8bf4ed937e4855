//! `cargo xtask bench`: builds the measuring program in release mode and runs it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use lexopt::prelude::*;

use crate::serve::SERVER;
use crate::workspace::{Workspace, wait_for_program};

pub(crate) const HELP: &str = include_str!("../bench/help.txt");

/// The suites that start the server.
const WITH_SERVER: &[&str] = &["http", "start"];

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let with_server = wants_server(&arguments)?;
    let workspace = Workspace::open()?;
    let bench = workspace.build_release("bench", "bench")?;
    let mut command = Command::new(bench);
    command.args(arguments);
    if with_server {
        let (package, program) = SERVER;
        command.env("GANTRY_BENCH_SERVER", workspace.build_release(package, program)?);
    }
    // Waits instead of becoming the program: the target folder stays claimed, so that no other checkout
    // compiles beside the measurement or removes the programs that it starts.
    wait_for_program(&mut command)
}

/// Whether a suite that is asked for starts the server: by its name, by the rows that are selected, or since
/// all are asked for. What is wrong with the arguments is left to the program to say.
fn wants_server(arguments: &[OsString]) -> anyhow::Result<bool> {
    let (mut suites, mut rows, mut only_names) = (Vec::new(), Vec::new(), false);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => rows.push(parser.value()?.string()?),
            Long("json" | "rounds") => drop(parser.value()?),
            Long("list") => only_names = true,
            Value(suite) => suites.push(suite.string()?),
            _ => {}
        }
    }
    let asked = |names: &[String]| {
        names.is_empty() || names.iter().any(|name| WITH_SERVER.iter().any(|suite| name.starts_with(suite)))
    };
    Ok(!only_names && asked(&suites) && asked(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_built_only_for_suites_that_start_it() {
        let wants = |line: &str| {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            wants_server(&arguments).unwrap()
        };
        for line in ["", "--quick", "start", "bus http --json x", "--only http.get_task", "--rounds 3"] {
            assert!(wants(line), "{line}");
        }
        for line in ["bus", "bus scheduler --quick", "--only bus.fanout", "bus --json start", "--list"] {
            assert!(!wants(line), "{line}");
        }
    }
}
