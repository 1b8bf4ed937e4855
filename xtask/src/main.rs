//! The chores of the workspace: `cargo xtask COMMAND`.
//!
//! Each command is a module with a `HELP` text and a `run` function; [`workspace`] finds the checkout and
//! starts `cargo` for all of them, always in one target folder outside of the checkout. This crate stays
//! small, since a fresh machine builds it before anything else.

#![expect(clippy::print_stdout, reason = "a program: its output is its purpose")]

mod arguments;
mod bench;
mod ci;
mod dist;
mod layers;
mod lint;
mod serve;
mod services;
mod test;
mod tidy;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

/// A command: its name, a line about it, its help, and what it does with the arguments after its name.
struct Task {
    name: &'static str,
    about: &'static str,
    help: &'static str,
    run: fn(Vec<OsString>) -> anyhow::Result<ExitCode>,
}

const TASKS: &[Task] = &[
    Task { name: "serve", about: "build and run the server", help: serve::HELP, run: serve::run },
    Task { name: "test", about: "run all tests", help: test::HELP, run: test::run },
    Task { name: "lint", about: "format, clippy, layers, tidiness", help: lint::HELP, run: lint::run },
    Task { name: "ci", about: "lint, test, docs, licences", help: ci::HELP, run: ci::run },
    Task { name: "layers", about: "who may depend on whom", help: layers::HELP, run: layers::run },
    Task { name: "bench", about: "measure beside the references", help: bench::HELP, run: bench::run },
    Task { name: "dist", about: "pack a release", help: dist::HELP, run: dist::run },
    Task { name: "services", about: "real servers, up and down", help: services::HELP, run: services::run },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next().map(|name| name.to_string_lossy().into_owned());
    let rest: Vec<OsString> = arguments.collect();
    let task = match name.as_deref() {
        None | Some("help" | "-h" | "--help") => {
            print!("{}", overview());
            return ExitCode::SUCCESS;
        }
        Some(name) => match TASKS.iter().find(|task| task.name == name) {
            Some(task) => task,
            None => {
                eprintln!("error: no command `{name}`\n\n{}", overview());
                return ExitCode::from(2);
            }
        },
    };
    // What stands after `--` is meant for the program that is started.
    let own = rest.iter().take_while(|argument| *argument != "--");
    if own.into_iter().any(|argument| argument == "-h" || argument == "--help") {
        print!("{}", task.help);
        return ExitCode::SUCCESS;
    }
    match (task.run)(rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn overview() -> String {
    let mut text =
        "The chores of the workspace.\n\nUsage: cargo xtask COMMAND [OPTIONS]\n\nCommands:\n".to_owned();
    for task in TASKS {
        text += &format!("  {:8} {}\n", task.name, task.about);
    }
    text + "\n`cargo xtask COMMAND --help` tells more.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_help_text_that_shows_its_use() {
        for task in TASKS {
            assert!(task.help.contains(&format!("Usage: cargo xtask {}", task.name)), "{}", task.name);
            assert!(task.help.ends_with('\n') && overview().contains(task.about));
        }
    }
}
