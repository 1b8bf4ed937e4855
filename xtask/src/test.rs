//! `cargo xtask test`: every test of the workspace, with a closing line that sums them up.

mod servers;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::{ExitCode, Stdio};

use anyhow::Context;
use lexopt::prelude::*;

use self::servers::Servers;
use crate::arguments::Split;
use crate::workspace::{Workspace, show};

/// The package whose tests are about real servers themselves.
const TESTKIT: &str = "testkit";

pub(crate) const HELP: &str = "\
Runs all tests of the workspace, doc tests among them, with all features.

Usage: cargo xtask test [OPTIONS] [-- TEST-ARGUMENTS…]

Needs nothing but Rust. Real servers that tests start are looked for first, and fetched where they are not
there; tests whose server cannot be had are left out and named, or fail with CI=true. The last line says how
many tests passed and failed.

Options:
      --full         adds the tests that take long (sets GANTRY_TEST_FULL=1, and builds with optimisation,
                     profile `full`), and those of package testkit, which start every kind of server
      --seed N       runs this one history of a simulation again (sets GANTRY_SEED=N)
  -p, --package PKG  only this package; may be given again
  -h, --help         this text
";

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let Split { own, rest } = Split::at_dashes(arguments);
    let (mut full, mut seed, mut packages) = (false, None, Vec::new());
    let mut parser = lexopt::Parser::from_args(own);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("full") => full = true,
            Long("seed") => seed = Some(parser.value()?.parse::<u64>()?),
            Short('p') | Long("package") => packages.push(parser.value()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let passed = test(&Workspace::open()?, full, seed, &packages, &rest)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests of these packages, or of all, and says whether all passed.
pub(crate) fn test(
    workspace: &Workspace,
    full: bool,
    seed: Option<u64>,
    packages: &[OsString],
    more: &[OsString],
) -> anyhow::Result<bool> {
    // Without fail-fast one run shows everything that is broken.
    let mut command = workspace.cargo(&["test", "--all-features", "--no-fail-fast"]);
    if packages.is_empty() {
        command.arg("--workspace");
        // Its tests start every kind of server, a Java among them.
        if !full {
            command.args(["--exclude", TESTKIT]);
        }
    }
    for package in packages {
        command.arg("--package").arg(package);
    }
    let servers = Servers::provide(workspace, |name| match packages {
        [] => full || name != TESTKIT,
        packages => packages.iter().any(|package| package == name),
    })?;
    if let Some(servers) = &servers {
        servers.prepare(&mut command);
    }
    if full {
        command.args(["--profile", "full"]).env("GANTRY_TEST_FULL", "1");
    }
    if let Some(seed) = seed {
        command.env("GANTRY_SEED", seed.to_string());
    }
    eprintln!("xtask: {}", show(&command));
    command.arg("--").args(more);
    // The output passes through here to be counted; the test programs no longer see a terminal themselves.
    if std::io::stdout().is_terminal() {
        command.arg("--color=always");
    }

    let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo")?;
    let mut total = Total::default();
    let mut reader = BufReader::new(child.stdout.take().context("read from cargo")?);
    let (mut line, mut out) = (Vec::new(), std::io::stdout().lock());
    // Tests print what they like, so bytes and not text.
    while reader.read_until(b'\n', &mut line)? > 0 {
        total.add(&String::from_utf8_lossy(&line));
        out.write_all(&line)?;
        line.clear();
    }
    drop(out);
    let status = child.wait().context("wait for cargo")?;
    let complete = servers.as_ref().is_none_or(Servers::complete);
    if !complete {
        eprintln!("xtask: failed: with CI=true every server must be there");
    }
    let left_out = servers.map(Servers::left_out).unwrap_or_default();
    for line in &left_out {
        eprintln!("xtask: {line}");
    }
    total.leave_out(left_out.len() as u64);
    println!("{}", total.text());
    Ok(status.success() && complete)
}

/// The sum of the results of all test programs.
#[derive(Default)]
struct Total {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Total {
    /// Takes a line of output into account where it closes a test program:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<u64>() else { continue };
            match pair[1].trim_end_matches(';') {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }

    /// Tests that only said that they were left out count as passed until here.
    fn leave_out(&mut self, tests: u64) {
        let tests = tests.min(self.passed);
        self.passed -= tests;
        self.ignored += tests;
    }

    fn text(&self) -> String {
        let skipped = if self.ignored > 0 { format!(", {} skipped", self.ignored) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_with_and_without_colour() {
        let mut total = Total::default();
        for line in [
            "running 3 tests\n",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s\n",
            "test result: \x1b[31mFAILED\x1b[m. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n",
            "a test that prints: test result: ok. 7 passed\n",
        ] {
            total.add(line);
        }
        assert_eq!(total.text(), "43 passed, 2 failed");
        total.add("test result: ok. 0 passed; 0 failed; 1 ignored;");
        assert_eq!(total.text(), "43 passed, 2 failed, 1 skipped");
        total.leave_out(3);
        assert_eq!(total.text(), "40 passed, 2 failed, 4 skipped");
    }
}
