//! The real servers that tests start: their programs are made sure of before any test runs, and the tests
//! that had to do without are told afterwards.
//!
//! A package says in `[package.metadata.testkit]` of its manifest which programs its tests start.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use crate::workspace::{Workspace, show};

/// A file that a test which is left out adds a line to.
const LEFT_OUT: &str = "GANTRY_TEST_LEFT_OUT";

/// What is known of the servers in one run of tests.
pub(super) struct Servers {
    complete: bool,
    left_out: PathBuf,
}

impl Servers {
    /// Looks for the programs that the tests of these packages start, fetching what is missing; nothing where
    /// they start none.
    pub(super) fn provide(
        workspace: &Workspace,
        is_tested: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Option<Self>> {
        let programs = programs(workspace.metadata(), is_tested);
        if programs.is_empty() {
            return Ok(None);
        }
        let mut command = workspace.cargo(&["run", "--quiet", "--package", "testkit", "--", "provide"]);
        command.args(&programs);
        eprintln!("xtask: {}", show(&command));
        let status = command.status().context("start cargo")?;
        let left_out = std::env::var_os(LEFT_OUT).filter(|file| !file.is_empty()).map(PathBuf::from);
        let left_out = left_out.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("gantry-tests-left-out-{}", std::process::id()))
        });
        let _ = std::fs::remove_file(&left_out);
        Ok(Some(Self { complete: status.success(), left_out }))
    }

    /// Whether everything is there that has to be.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }

    /// Has the tests use what is there now, and say which of them are left out.
    pub(super) fn prepare(&self, command: &mut Command) {
        // What could not be fetched just now would only keep each test waiting.
        command.env("GANTRY_TEST_FETCH", "no").env(LEFT_OUT, &self.left_out);
    }

    /// The tests that were left out, a line each with the reason.
    pub(super) fn left_out(self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.left_out).unwrap_or_default();
        if std::env::var_os(LEFT_OUT).is_none() {
            let _ = std::fs::remove_file(&self.left_out);
        }
        text.lines().map(str::to_owned).collect()
    }
}

/// The programs that these packages name.
fn programs(metadata: &Value, is_tested: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let tested = packages.filter(|package| package["name"].as_str().is_some_and(&is_tested));
    let named = tested.filter_map(|package| package["metadata"]["testkit"]["programs"].as_array());
    named.flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_tested_packages_start_is_looked_for() {
        let package = |name: &str, programs: &[&str]| json!({ "name": name, "metadata": { "testkit": { "programs": programs } } });
        let metadata = json!({ "packages": [
            package("one", &["etcd", "etcdctl"]),
            package("two", &["kafka"]),
            package("three", &["etcd"]),
            { "name": "four", "metadata": null },
        ] });
        let found = |tested: &[&str]| {
            programs(&metadata, |name| tested.contains(&name)).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(found(&["one", "three", "four"]), ["etcd", "etcdctl"]);
        assert_eq!(found(&["two"]), ["kafka"]);
        assert!(found(&["four"]).is_empty());
    }
}
