//! `cargo xtask ci`: everything that must hold before a change lands.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::workspace::{Workspace, run as run_command};
use crate::{lint, test};

pub(crate) const HELP: &str = "\
Checks everything: lint (format, clippy, layers, tidy), tests, documentation, and cargo-deny where it is
installed. Says at the end what was left out.

Usage: cargo xtask ci [OPTIONS]

Options:
      --full  adds the tests that take long
  -h, --help  this text
";

pub(crate) fn run(mut arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let full = arguments.iter().any(|argument| argument == "--full");
    arguments.retain(|argument| argument != "--full");
    crate::arguments::none(arguments)?;

    let workspace = Workspace::open()?;
    let mut left_out = Vec::new();
    lint::lint(&workspace)?;
    // Before the tests, which take longest and whose closing lines should stand near the end.
    let mut doc = workspace.cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    if workspace.command("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
        // Advisories need the network: a check of their own, not one of a change.
        workspace.run_cargo(&[
            "deny",
            "--all-features",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ])?;
    } else {
        left_out
            .push("bans, licences and sources of dependencies: `cargo install cargo-deny` brings the check");
    }
    if !full {
        left_out.push("the tests that take long: `--full` adds them");
    }
    let passed = test::test(&workspace, full, None, &[], &[])?;
    for reason in left_out {
        eprintln!("xtask: left out: {reason}");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
