//! `cargo xtask lint`: what can be said about the sources without running them.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use serde_json::Value;

use crate::workspace::Workspace;
use crate::{layers, tidy};

pub(crate) const HELP: &str = "\
Checks the sources without running them: format, tidiness, layers, clippy with warnings as errors, and that
every crate compiles alone with its default features.

Usage: cargo xtask lint [OPTIONS]

Options:
      --fast  format, tidiness and layers only: what takes a second
  -h, --help  this text
";

pub(crate) fn run(mut arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let fast = arguments.iter().any(|argument| argument == "--fast");
    arguments.retain(|argument| argument != "--fast");
    crate::arguments::none(arguments)?;
    let workspace = Workspace::open()?;
    if fast {
        quick_checks(&workspace)?
    } else {
        lint(&workspace)?
    }
    Ok(ExitCode::SUCCESS)
}

/// All checks; stops at the first that fails, since each lists all of its findings.
pub(crate) fn lint(workspace: &Workspace) -> anyhow::Result<()> {
    let started = Instant::now();
    quick_checks(workspace)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    workspace.run_cargo(&clippy)?;
    // A crate is used alone. In a build of the workspace another member's features may hide that it forgot
    // one of its own, so each is checked by itself.
    for library in libraries(workspace.metadata()) {
        workspace.run_cargo(&["check", "--quiet", "--package", &library])?;
    }
    eprintln!("xtask: lint passed in {:.0?}", started.elapsed());
    Ok(())
}

fn quick_checks(workspace: &Workspace) -> anyhow::Result<()> {
    workspace.run_cargo(&["fmt", "--all", "--check"])?;
    let metadata = workspace.metadata();
    let findings: Vec<String> =
        tidy::findings(workspace.root(), metadata)?.into_iter().chain(layers::findings(metadata)).collect();
    if !findings.is_empty() {
        bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
    }
    eprintln!("xtask: tidiness and layers hold");
    Ok(())
}

/// The names of the packages that are libraries.
fn libraries(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let has_library = |package: &&Value| {
        let mut targets = package["targets"].as_array().into_iter().flatten();
        targets.any(|target| target["kind"].as_array().into_iter().flatten().any(|kind| kind == "lib"))
    };
    packages.filter(has_library).filter_map(|package| package["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_libraries_are_checked_alone() {
        let package =
            |name, kind| json!({ "name": name, "targets": [{ "kind": [kind] }, { "kind": ["test"] }] });
        let metadata = json!({ "packages": [package("runtime", "lib"), package("server", "bin")] });
        assert_eq!(libraries(&metadata), ["runtime"]);
    }
}
