//! Rules about Rust sources, and about paths of a machine in any text.

use std::path::Path;

use super::Text;

/// A file is one idea; past this many lines it is likely two.
const LINES_MAX: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "misc"];

/// What must not be left in a source, and why. Written in parts, so that this file does not hold them.
const LEFT_OVERS: &[(&str, &str)] = &[
    (concat!("to", "do!("), "is unfinished work"),
    (concat!("unimple", "mented!("), "is unfinished work"),
    (concat!("#[ig", "nore"), "hides a test; a long one asks for `GANTRY_TEST_FULL` instead"),
];

pub(super) fn findings(file: &Text) -> Vec<String> {
    let Text { path, content } = file;
    let mut findings = Vec::new();
    for (number, line) in content.lines().enumerate() {
        for (pattern, why) in LEFT_OVERS.iter().filter(|(pattern, _)| line.contains(pattern)) {
            findings.push(format!("{path}:{}: `{pattern}` {why}", number + 1));
        }
    }
    let lines = content.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{path}: {lines} lines, at most {LINES_MAX}: is it one idea?"));
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.last() == Some(&"mod.rs") {
        findings.push(format!("{path}: modules are `foo.rs` beside `foo/`, not `foo/mod.rs`"));
    }
    let modules = parts.iter().map(|part| part.strip_suffix(".rs").unwrap_or(part));
    for name in modules.filter(|name| EMPTY_NAMES.contains(name)) {
        findings.push(format!("{path}: `{name}` says nothing about what is inside"));
    }
    let opens = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    if opens && !content.starts_with("//!") {
        findings.push(format!("{path}: begins without `//!` docs that say what the crate is for"));
    }
    findings
}

/// The places of this machine that must not be written down: the checkout and the home folder.
pub(super) fn own_places(root: &Path) -> Vec<String> {
    let home = std::env::var_os("HOME").map(|home| home.to_string_lossy().into_owned());
    let mut places = vec![root.to_string_lossy().into_owned()];
    places.extend(home.filter(|home| home.len() > 1));
    places.extend([concat!("/ho", "me/").to_owned(), concat!("/Us", "ers/").to_owned()]);
    places
}

pub(super) fn places(file: &Text, places: &[String]) -> Vec<String> {
    let lines = file.content.lines().enumerate();
    let named = |line: &str| places.iter().any(|place| is_place(line, place));
    lines
        .filter(|(_, line)| named(line))
        .map(|(number, _)| format!("{}:{}: names a folder of one machine", file.path, number + 1))
        .collect()
}

/// Whether `place` stands in `line` as a path from the root on, and not as a part of another word.
fn is_place(line: &str, place: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    line.match_indices(place).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + place.len()..]);
        !before.ends_with(|c| part_of_word(c) || c == '}')
            && (place.ends_with('/') || !after.starts_with(part_of_word))
    })
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    fn check(path: &str, content: &str) -> String {
        findings(&text(path, content)).join("\n")
    }

    #[test]
    fn left_overs_are_found_with_their_line() {
        for (pattern, _) in LEFT_OVERS {
            let found = check("crates/a/src/b.rs", &format!("fn f() {{\n    {pattern}\n}}\n"));
            assert!(found.starts_with("crates/a/src/b.rs:2: "), "{found}");
        }
        assert_eq!(check("crates/a/src/b.rs", "/// Panics where `todo` is left.\nfn f() {}\n"), "");
    }

    #[test]
    fn modules_have_names_and_no_mod_rs() {
        assert!(check("crates/a/src/b/mod.rs", "").contains("not `foo/mod.rs`"));
        for path in ["crates/a/src/utils.rs", "crates/a/src/common/b.rs", "crates/a/tests/helpers.rs"] {
            assert!(check(path, "").contains("says nothing"), "{path}");
        }
        assert_eq!(check("crates/a/src/mode.rs", ""), "");
    }

    #[test]
    fn a_crate_begins_with_docs() {
        assert!(check("crates/a/src/lib.rs", "mod b;\n").contains("begins without"));
        assert_eq!(check("crates/a/src/lib.rs", "//! What it is for.\n"), "");
    }

    #[test]
    fn a_file_has_a_bound() {
        assert_eq!(check("crates/a/src/b.rs", &"\n".repeat(LINES_MAX)), "");
        assert!(check("crates/a/src/b.rs", &"\n".repeat(LINES_MAX + 1)).contains("one idea"));
    }

    #[test]
    fn places_of_a_machine_are_found_and_routes_are_not() {
        let home = concat!("/ho", "me/").to_owned();
        let listed = [home.clone(), "/ro0t".to_owned()];
        let found = |line: &str| !places(&text("a.md", line), &listed).is_empty();
        assert!(found(&format!("see {home}someone/x")));
        assert!(found("cd /ro0t/x"));
        assert!(found("`/ro0t`"));
        assert!(found(&format!("file://{home}someone")));
        assert!(!found("GET /api/ro0t"));
        assert!(!found("{base}/ro0t"));
        assert!(!found("/ro0ts"));
        assert!(!found(&format!("https://example.org{home}page")));
    }
}
