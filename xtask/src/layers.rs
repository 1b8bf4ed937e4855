//! `cargo xtask layers`: who may depend on whom.
//!
//! The table of layers lives here and nowhere else in code. A crate depends on strictly lower layers only,
//! so siblings never see each other and no cycle can come about. Development dependencies are free: a test
//! may look up.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;

use crate::workspace::Workspace;

pub(crate) const HELP: &str = "\
Checks that every crate depends on strictly lower layers only, that only apps name adapters, that only
`telemetry` uses the OpenTelemetry SDK and exporters, and that `testkit` is for tests only.

Usage: cargo xtask layers [OPTIONS]

Options:
      --table  print the table of layers and check nothing
  -h, --help   this text
";

/// From the highest layer to the lowest; a package is named after its folder.
const LAYERS: &[&[&str]] = &[
    &["server", "cli"],
    &["http-api", "grpc-api", "plugins-redis", "plugins-kafka", "plugins-etcd", "plugins-wasm"],
    &["management"],
    &["plugin-manager"],
    &["registry", "scheduler"],
    &["plugin-core"],
    &["event-bus", "telemetry"],
    &["runtime"],
];

/// Engines behind ports: nothing but an app names one, so that an engine can be left out or exchanged.
const ADAPTERS: &[&str] = &["plugins-redis", "plugins-kafka", "plugins-etcd", "plugins-wasm"];

const APPS: &[&str] = LAYERS[0];

/// Starts and hurts real servers for tests; stands outside of the layers.
const TESTKIT: &str = "testkit";

/// Programs of the workspace that are no part of the product: nothing depends on them.
const TOOLS: &[&str] = &["xtask", "bench"];

/// The measuring program, the one tool that looks at every layer.
const BENCH: &str = "bench";

/// Where a crate brings telemetry out of the process; a trailing `*` stands for any ending.
const EXPORTERS: &[&str] = &["opentelemetry*", "tracing-opentelemetry", "prometheus*", "metrics-exporter-*"];

pub(crate) fn run(mut arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let table = arguments.iter().any(|argument| argument == "--table");
    arguments.retain(|argument| argument != "--table");
    crate::arguments::none(arguments)?;
    if table {
        for (depth, names) in LAYERS.iter().enumerate() {
            println!("L{}  {}", LAYERS.len() - 1 - depth, names.join("  "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let findings = findings(Workspace::open()?.metadata());
    if !findings.is_empty() {
        bail!("{} findings:\n  {}", findings.len(), findings.join("\n  "));
    }
    println!("layers hold");
    Ok(ExitCode::SUCCESS)
}

/// What breaks the rules, a line each.
pub(crate) fn findings(metadata: &Value) -> Vec<String> {
    let members: Vec<&str> =
        metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().map_or(&[] as &[_], Vec::as_slice);
    let is_member = |package: &&Value| package["id"].as_str().is_some_and(|id| members.contains(&id));
    let mut findings = Vec::new();
    for package in packages.iter().filter(is_member) {
        let name = package["name"].as_str().unwrap_or_default();
        if height(name).is_none() && !TOOLS.contains(&name) && name != TESTKIT {
            findings.push(format!("`{name}` has no place in the table of layers"));
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let other = dependency["name"].as_str().unwrap_or_default();
            let own = dependency["path"].is_string();
            findings.extend(if own { within(name, other) } else { outside(name, other) });
        }
    }
    findings
}

/// Judges a dependency of one package of the workspace on another.
fn within(name: &str, other: &str) -> Option<String> {
    if other == TESTKIT {
        return Some(format!("`{name}` depends on `{TESTKIT}`, which is for development dependencies only"));
    }
    if TOOLS.contains(&other) {
        return Some(format!("`{name}` depends on `{other}`, which is a tool"));
    }
    if name == BENCH {
        return None;
    }
    if name == TESTKIT || TOOLS.contains(&name) {
        return Some(format!("`{name}` depends on `{other}`, and must depend on no crate of Gantry"));
    }
    if ADAPTERS.contains(&other) && !APPS.contains(&name) {
        return Some(format!("`{name}` depends on the adapter `{other}`, which only an app may name"));
    }
    match (height(name), height(other)) {
        (Some(above), Some(below)) if below < above => None,
        (Some(above), Some(below)) if below == above => {
            Some(format!("`{name}` and `{other}` are siblings in L{above} and must not see each other"))
        }
        (Some(below), Some(above)) => {
            Some(format!("`{name}` (L{below}) depends on `{other}` (L{above}), which is higher"))
        }
        _ => Some(format!("`{name}` depends on `{other}`, which has no place in the table of layers")),
    }
}

/// Judges a dependency on a package from elsewhere.
fn outside(name: &str, other: &str) -> Option<String> {
    let exports = EXPORTERS.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => other.starts_with(start),
        None => other == *pattern,
    });
    (exports && name != "telemetry")
        .then(|| format!("`{name}` depends on `{other}`; only `telemetry` exports, others use a facade"))
}

/// The layer of a package: 0 is the lowest.
fn height(name: &str) -> Option<usize> {
    let depth = LAYERS.iter().position(|names| names.contains(&name))?;
    Some(LAYERS.len() - 1 - depth)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is found for one package with one dependency; `own` where that is of the workspace too.
    fn check(name: &str, kind: Option<&str>, other: &str, own: bool) -> Vec<String> {
        let dependency = json!({ "name": other, "kind": kind, "path": own.then_some("somewhere") });
        findings(&json!({
            "workspace_members": ["here"],
            "packages": [
                { "id": "here", "name": name, "dependencies": [dependency] },
                { "id": "elsewhere", "name": "serde", "dependencies": [{ "name": "opentelemetry_sdk" }] },
            ],
        }))
    }

    fn fine(name: &str, other: &str) {
        assert_eq!(check(name, None, other, true), Vec::<String>::new());
    }

    fn refused(name: &str, other: &str, why: &str) {
        for kind in [None, Some("build")] {
            let findings = check(name, kind, other, true);
            assert!(matches!(findings.as_slice(), [one] if one.contains(why)), "{findings:?}");
        }
    }

    #[test]
    fn a_crate_sees_strictly_lower_layers_only() {
        fine("event-bus", "runtime");
        fine("server", "plugins-redis");
        fine("http-api", "runtime");
        refused("runtime", "event-bus", "`runtime` (L0) depends on `event-bus` (L1), which is higher");
        refused("plugin-core", "server", "higher");
        refused("registry", "scheduler", "siblings in L3");
        refused("server", "cli", "siblings in L7");
        refused("server", "strange", "no place in the table");
    }

    #[test]
    fn only_apps_name_adapters() {
        refused("http-api", "plugins-redis", "only an app may name");
        refused("plugins-etcd", "plugins-kafka", "only an app may name");
    }

    #[test]
    fn tests_may_look_up() {
        for (name, other) in [("runtime", "server"), ("registry", "scheduler"), ("event-bus", TESTKIT)] {
            assert_eq!(check(name, Some("dev"), other, true), Vec::<String>::new());
        }
    }

    #[test]
    fn tools_and_testkit_stand_outside() {
        fine("bench", "plugins-redis");
        refused("xtask", "runtime", "must depend on no crate");
        refused("testkit", "runtime", "must depend on no crate");
        refused("server", "testkit", "for development dependencies only");
        refused("server", "bench", "is a tool");
        refused("bench", "xtask", "is a tool");
    }

    #[test]
    fn only_telemetry_exports() {
        for other in
            ["opentelemetry", "opentelemetry_sdk", "opentelemetry-otlp", "metrics-exporter-prometheus"]
        {
            assert_eq!(check("telemetry", None, other, false), Vec::<String>::new());
            assert!(check("event-bus", None, other, false)[0].contains("only `telemetry` exports"));
            assert_eq!(check("event-bus", Some("dev"), other, false), Vec::<String>::new());
        }
        assert_eq!(check("event-bus", None, "metrics", false), Vec::<String>::new());
    }

    #[test]
    fn a_new_package_must_be_given_a_place() {
        assert!(check("strange", None, "serde", false)[0].contains("no place in the table"));
    }

    #[test]
    fn a_package_has_one_place() {
        let mut names: Vec<_> = LAYERS.iter().flat_map(|names| names.iter()).chain(TOOLS).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ADAPTERS.iter().all(|adapter| LAYERS[1].contains(adapter)));
    }
}
