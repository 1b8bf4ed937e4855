//! A bill of materials in CycloneDX 1.6 JSON, from `cargo metadata` and `Cargo.lock`.
//!
//! Form: <https://cyclonedx.org/docs/1.6/json/>. It lists what the program is made of: everything that is
//! reached by normal dependencies, and nothing that is only for tests or for building.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::{Map, Value, json};

/// The bill of the package `name` of the workspace.
pub(super) fn bill(metadata: &Value, lock: &str, name: &str, time: u64) -> anyhow::Result<Value> {
    let root = super::member(metadata, name)?;
    let root_id = root["id"].as_str().context("a package without an id")?;
    let edges = edges(metadata);
    let reached = reached(&edges, root_id);
    let checksums = checksums(lock);

    let packages = metadata["packages"].as_array().map_or(&[] as &[_], Vec::as_slice);
    let by_id: BTreeMap<&str, &Value> =
        packages.iter().filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let url = |id: &str| by_id.get(id).map(|package| purl(package)).unwrap_or_default();

    let mut components: Vec<Value> = reached
        .iter()
        .filter(|id| **id != root_id)
        .filter_map(|id| Some(component(by_id.get(id)?, &checksums)))
        .collect();
    components.sort_by_key(|component| component["purl"].as_str().map(str::to_owned));
    let mut dependencies: Vec<(String, Vec<String>)> = reached
        .iter()
        .map(|id| {
            let mut below: Vec<String> = edges.get(id).into_iter().flatten().map(|id| url(id)).collect();
            below.sort();
            (url(id), below)
        })
        .collect();
    dependencies.sort();

    let mut program = component(root, &checksums);
    program["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "timestamp": rfc3339(time), "component": program },
        "components": components,
        "dependencies": dependencies
            .into_iter()
            .map(|(of, on)| json!({ "ref": of, "dependsOn": on }))
            .collect::<Vec<_>>(),
    }))
}

/// From each package to those that it links.
fn edges(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut edges = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().into_iter().flatten() {
        let links = |dependency: &&Value| {
            let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
            kinds.any(|kind| kind["kind"].is_null())
        };
        let dependencies = node["deps"].as_array().into_iter().flatten().filter(links);
        let below = dependencies.filter_map(|dependency| dependency["pkg"].as_str()).collect();
        edges.insert(node["id"].as_str().unwrap_or_default(), below);
    }
    edges
}

fn reached<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, root: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    reached
}

fn component(package: &Value, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let field = |name: &str| package[name].as_str();
    let (name, version) = (field("name").unwrap_or_default(), field("version").unwrap_or_default());
    let purl = purl(package);
    let mut component = Map::new();
    component.insert("type".to_owned(), "library".into());
    component.insert("bom-ref".to_owned(), purl.clone().into());
    component.insert("name".to_owned(), name.into());
    component.insert("version".to_owned(), version.into());
    if let Some(description) = field("description") {
        component.insert(
            "description".to_owned(),
            description.split_whitespace().collect::<Vec<_>>().join(" ").into(),
        );
    }
    if let Some(license) = field("license") {
        // `MIT/Apache-2.0` is an old way to write `OR`.
        let expression = license.replace('/', " OR ");
        component.insert("licenses".to_owned(), json!([{ "expression": expression }]));
    }
    // A package of the workspace has none: its sources are what is being described.
    if let Some(checksum) = checksums.get(&(name, version)).filter(|_| field("source").is_some()) {
        component.insert("hashes".to_owned(), json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    component.insert("purl".to_owned(), purl.into());
    Value::Object(component)
}

fn purl(package: &Value) -> String {
    let field = |name: &str| package[name].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", field("name"), field("version"))
}

/// The checksums in a `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            value.and_then(|value| value.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            checksums.insert((name, version), sum);
        }
    }
    checksums
}

/// Seconds since 1970 as a date and a time in UTC; days to a date as Howard Hinnant's `civil_from_days`,
/// <https://howardhinnant.github.io/date_algorithms.html>, for dates from 1970 on.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day ends one; an era is 400 of them.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"server\"\nversion = \"0.1.0\"\n\n[[package]]\n\
                        name = \"serde\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"abc\"\n";

    fn metadata() -> Value {
        let package = |id: &str, version: &str, source: Option<&str>, license: &str| {
            json!({ "id": id, "name": id, "version": version, "source": source, "license": license,
                    "description": "What\nit is.\n" })
        };
        let on = |id: &str, kind: Option<&str>| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        json!({
            "packages": [
                package("server", "0.1.0", None, "MIT"),
                package("serde", "1.0.0", Some("registry"), "MIT/Apache-2.0"),
                package("itoa", "1.0.1", Some("registry"), "MIT"),
                package("proptest", "1.0.0", Some("registry"), "MIT"),
                package("cc", "1.0.0", Some("registry"), "MIT"),
            ],
            "resolve": { "nodes": [
                { "id": "server", "deps": [on("serde", None), on("proptest", Some("dev")), on("cc", Some("build"))] },
                { "id": "serde", "deps": [on("itoa", None)] },
                { "id": "itoa", "deps": [] },
                { "id": "proptest", "deps": [on("cc", None)] },
                { "id": "cc", "deps": [] },
            ] },
        })
    }

    #[test]
    fn the_bill_lists_what_is_linked_and_nothing_else() {
        let bill = bill(&metadata(), LOCK, "server", 0).unwrap();
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str()).collect();
        assert_eq!(names, [Some("itoa"), Some("serde")]);
        let serde = &bill["components"][1];
        assert_eq!(serde["purl"], "pkg:cargo/serde@1.0.0");
        assert_eq!(serde["description"], "What it is.");
        assert_eq!(serde["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(serde["hashes"], json!([{ "alg": "SHA-256", "content": "abc" }]));
        assert_eq!(bill["metadata"]["component"]["type"], "application");
        assert_eq!(
            bill["dependencies"][2],
            json!({ "ref": "pkg:cargo/server@0.1.0", "dependsOn": ["pkg:cargo/serde@1.0.0"] })
        );
    }

    #[test]
    fn an_unknown_package_is_an_error() {
        assert!(bill(&metadata(), LOCK, "none", 0).is_err());
        assert!(bill(&metadata(), LOCK, "serde", 0).is_err());
    }

    #[test]
    fn times_are_in_utc() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
