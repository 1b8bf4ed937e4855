//! `cargo xtask dist`: what is handed to those who do not build.

mod archive;
mod sbom;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::serve::SERVER;
use crate::workspace::Workspace;

pub(crate) const HELP: &str = "\
Packs the release into `dist/gantry-VERSION-HOST.tar.gz`: the server, a sample configuration, README, licence,
changelog, an SBOM (CycloneDX 1.6) and SHA256SUMS. The SBOM and SHA256SUMS also lie beside it.

Usage: cargo xtask dist

The same sources and compiler give the same file: entries are sorted and carry the time of the last commit, or
of SOURCE_DATE_EPOCH where that is set.

Options:
  -h, --help  this text
";

/// Files of the checkout and their names in the tarball.
const FILES: &[(&str, &str)] = &[
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE", "LICENSE"),
    ("README.md", "README.md"),
    ("apps/server/gantry.toml", "gantry.toml"),
];

const SBOM: &str = "sbom.cdx.json";
const SUMS: &str = "SHA256SUMS";

/// A file to be packed.
struct Entry {
    name: String,
    content: Vec<u8>,
    executable: bool,
}

pub(crate) fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitCode> {
    crate::arguments::none(arguments)?;
    let workspace = Workspace::open()?;
    let root = workspace.root();
    let (package, program) = SERVER;
    let host = host(&workspace)?;
    let time = source_time(&workspace)?;

    let path = workspace.build_for_others(package, program)?;
    let mut entries = vec![Entry { name: program.to_owned(), content: read(&path)?, executable: true }];
    for (from, name) in FILES {
        let content = read(&root.join(from))?;
        entries.push(Entry { name: (*name).to_owned(), content, executable: false });
    }
    eprintln!("xtask: listing what {program} is made of");
    // The default features and this system: what the program that was just built contains.
    let resolved = workspace.resolved(&["--filter-platform", &host])?;
    let lock = String::from_utf8(read(&root.join("Cargo.lock"))?).context("read `Cargo.lock`")?;
    let bill = sbom::bill(&resolved, &lock, package, time)?;
    let version = bill["metadata"]["component"]["version"].as_str().unwrap_or_default().to_owned();
    let bill = (serde_json::to_string_pretty(&bill)? + "\n").into_bytes();
    entries.push(Entry { name: SBOM.to_owned(), content: bill.clone(), executable: false });
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let sums = sums(entries.iter().map(|entry| (entry.name.as_str(), entry.content.as_slice())));
    entries.push(Entry { name: SUMS.to_owned(), content: sums.into_bytes(), executable: false });

    let folder = format!("gantry-{version}-{host}");
    let (tarball, beside) = (format!("{folder}.tar.gz"), format!("{folder}.{SBOM}"));
    eprintln!("xtask: packing {tarball}");
    let packed = archive::pack(&folder, &entries, time).context("pack the release")?;
    let dist = root.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("create `{}`", dist.display()))?;
    let sums = self::sums([(tarball.as_str(), packed.as_slice()), (beside.as_str(), bill.as_slice())]);
    for (name, content) in [(tarball.as_str(), &packed), (&beside, &bill), (SUMS, &sums.into_bytes())] {
        fs::write(dist.join(name), content).with_context(|| format!("write `dist/{name}`"))?;
        println!("dist/{name}  {} kB", content.len().div_ceil(1000));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read `{}`", path.display()))
}

/// The form that `sha256sum --check` reads.
fn sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let line = |(name, content): (&str, &[u8])| format!("{}  {name}\n", hex(&Sha256::digest(content)));
    files.into_iter().map(line).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The system that the compiler builds for, such as `x86_64-unknown-linux-gnu`.
fn host(workspace: &Workspace) -> anyhow::Result<String> {
    let output = workspace.command("rustc").arg("-vV").output().context("start `rustc`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Seconds since 1970 that stand for "when this was made": of the sources and not of the build.
fn source_time(workspace: &Workspace) -> anyhow::Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.parse().with_context(|| format!("read SOURCE_DATE_EPOCH `{text}`"));
    }
    let mut git = workspace.command("git");
    git.args(["log", "-1", "--format=%ct"]).stdin(Stdio::null()).stderr(Stdio::null());
    match git.output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            said.trim().parse().context("read the time of the last commit")
        }
        // A tarball of the sources has no history.
        _ => Ok(0),
    }
}

/// The package of this name that belongs to the workspace.
fn member<'a>(metadata: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    match packages.find(|package| package["name"] == name && package["source"].is_null()) {
        Some(package) => Ok(package),
        None => bail!("no package `{name}` in the workspace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.txt\n";
        assert_eq!(sums([("a.txt", b"abc".as_slice())]), expected);
    }
}
