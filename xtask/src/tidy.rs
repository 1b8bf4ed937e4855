//! Rules of the house that no compiler checks.

mod links;
mod manifests;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

/// A text file of the checkout.
struct Text {
    /// Relative to the root, with `/` between its parts.
    path: String,
    content: String,
}

/// Folders whose content is not ours or not source.
const SKIPPED: &[&str] = &["target", "node_modules", "dist", "data"];

/// Endings of the files that are read.
const READ: &[&str] = &["rs", "toml", "md", "sh", "yaml", "yml", "json", "ts", "tsx", "html", "css", "proto"];

/// What breaks a rule, a line each, in the order of the paths.
pub(crate) fn findings(root: &Path, metadata: &Value) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    read(root, root, &mut files).with_context(|| format!("read the sources in `{}`", root.display()))?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let homes = sources::own_places(root);
    let mut findings = Vec::new();
    for file in &files {
        if file.path.ends_with(".rs") {
            findings.extend(sources::findings(file));
        }
        findings.extend(sources::places(file, &homes));
    }
    findings.extend(manifests::findings(&files, &member_folders(root, metadata)));
    findings.extend(links::findings(&files, |path| root.join(path).exists()));
    findings.extend(changelog(&files));
    Ok(findings)
}

fn read(root: &Path, folder: &Path, files: &mut Vec<Text>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let hidden = name.starts_with('.') && name != ".cargo" && name != ".ci";
            if !hidden && !SKIPPED.contains(&&*name) {
                read(root, &path, files)?;
            }
            continue;
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
        let known = ending.is_some_and(|ending| READ.contains(&&*ending)) || name == "run";
        // What is not UTF-8 is not text, whatever its name says.
        if known && let Ok(content) = fs::read_to_string(&path) {
            files.push(Text { path: relative(root, &path), content });
        }
    }
    Ok(())
}

fn relative(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The folders of the packages, relative to the root.
fn member_folders(root: &Path, metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifests = packages.filter_map(|package| package["manifest_path"].as_str().map(PathBuf::from));
    manifests.filter_map(|manifest| Some(relative(root, manifest.parent()?))).collect()
}

fn changelog(files: &[Text]) -> Option<String> {
    let changelog = files.iter().find(|file| file.path == "CHANGELOG.md");
    let unreleased = |file: &Text| file.content.lines().any(|line| line == "## Unreleased");
    match changelog {
        None => Some("CHANGELOG.md: there is none".to_owned()),
        Some(file) if !unreleased(file) => Some("CHANGELOG.md: no section `## Unreleased`".to_owned()),
        Some(_) => None,
    }
}

#[cfg(test)]
fn text(path: &str, content: &str) -> Text {
    Text { path: path.to_owned(), content: content.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changelog_with_room_for_the_next_release_is_required() {
        assert!(changelog(&[]).is_some_and(|finding| finding.contains("there is none")));
        assert!(changelog(&[text("CHANGELOG.md", "# Changelog\n")]).is_some());
        assert_eq!(changelog(&[text("CHANGELOG.md", "# Changelog\n\n## Unreleased\n")]), None);
    }

    #[test]
    fn sources_are_found_and_built_files_are_not() {
        let root = std::env::temp_dir().join(format!("gantry-xtask-tidy-{}", std::process::id()));
        for path in ["crates/a/src/lib.rs", "target/b.rs", ".git/c.md", ".ci/run", "README.md", "logo.png"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let mut files = Vec::new();
        read(&root, &root, &mut files).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let mut paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, [".ci/run", "README.md", "crates/a/src/lib.rs"]);
    }
}
