//! Rules about `Cargo.toml`: read line by line, since what matters here always stands at the start of one.

use super::Text;

/// `folders` are those of the packages, relative to the root.
pub(super) fn findings(files: &[Text], folders: &[String]) -> Vec<String> {
    let manifest_of = |folder: &String| format!("{folder}/Cargo.toml");
    let paths: Vec<String> = folders.iter().map(manifest_of).collect();
    let members: Vec<&Text> = files.iter().filter(|file| paths.contains(&file.path)).collect();
    let root = files.iter().find(|file| file.path == "Cargo.toml");

    let mut findings = Vec::new();
    for name in root.iter().flat_map(|root| shared_dependencies(&root.content)) {
        if !members.iter().any(|member| inherits(&member.content, name)) {
            findings.push(format!("Cargo.toml: no package uses the dependency `{name}`"));
        }
    }
    for member in members {
        if !member.content.contains("[lints]\nworkspace = true") {
            findings.push(format!("{}: does not inherit the lints of the workspace", member.path));
        }
        for (number, name) in own_versions(&member.content) {
            let path = &member.path;
            findings
                .push(format!("{path}:{number}: `{name}` does not inherit its version from the workspace"));
        }
    }
    findings
}

/// The lines of a manifest with the section that each stands in.
fn lines(manifest: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut section = "";
    manifest.lines().enumerate().filter_map(move |(number, line)| {
        match line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            Some((name, _)) => {
                section = name;
                None
            }
            None => Some((number + 1, section, line)),
        }
    })
}

/// The key that a line sets: `tokio` of `tokio.workspace = true` and of `tokio = { … }`.
fn key(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')?;
    let (name, rest) = line.split_at(end);
    (!name.is_empty() && rest.contains('=')).then_some((name, rest))
}

fn shared_dependencies(manifest: &str) -> Vec<&str> {
    let of_section = lines(manifest).filter(|(_, section, _)| *section == "workspace.dependencies");
    of_section.filter_map(|(_, _, line)| Some(key(line)?.0)).collect()
}

/// The dependencies of a member: line number, name, and whether the version is the workspace's. One on
/// itself, for features that only its tests turn on, has none.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let own = lines(manifest).filter(|(_, section, _)| section.ends_with("dependencies"));
    own.filter_map(|(number, _, line)| {
        let (name, rest) = key(line)?;
        (!rest.contains("path = \".\"")).then(|| (number, name, rest.contains("workspace = true")))
    })
}

fn inherits(manifest: &str, name: &str) -> bool {
    dependencies(manifest).any(|(_, dependency, inherited)| inherited && dependency == name)
}

fn own_versions(manifest: &str) -> Vec<(usize, &str)> {
    let own = dependencies(manifest).filter(|(_, _, inherited)| !inherited);
    own.map(|(number, name, _)| (number, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = []\n\n[workspace.dependencies]\n# Why.\nserde = \"1\"\n\
                        tokio = { version = \"1\" }\n\n[profile.dev]\ndebug = 1\n";

    fn check(member: &str) -> String {
        let files = [text("Cargo.toml", ROOT), text("crates/a/Cargo.toml", member)];
        findings(&files, &["crates/a".to_owned()]).join("\n")
    }

    #[test]
    fn every_shared_dependency_is_used() {
        let both = "[dependencies]\nserde.workspace = true\n\n[dev-dependencies]\n\
                    tokio = { workspace = true, features = [\"rt\"] }\n\n[lints]\nworkspace = true\n";
        assert_eq!(check(both), "");
        let one = "[dependencies]\nserde.workspace = true\n\n[lints]\nworkspace = true\n";
        assert_eq!(check(one), "Cargo.toml: no package uses the dependency `tokio`");
    }

    #[test]
    fn versions_and_lints_are_inherited() {
        let found = check("[dependencies]\nserde = \"1\"\ntokio.workspace = true\n");
        assert!(found.contains("crates/a/Cargo.toml:2: `serde` does not inherit its version"), "{found}");
        assert!(found.contains("no package uses the dependency `serde`"), "{found}");
        assert!(found.contains("does not inherit the lints"), "{found}");
        let on_itself = "[dependencies]\nserde.workspace = true\ntokio.workspace = true\n\n\
                         [dev-dependencies]\na = { path = \".\" }\n\n[lints]\nworkspace = true\n";
        assert_eq!(check(on_itself), "");
    }
}
