//! Links between documents: each leads to a file that is there, and to a heading that is in it.

use super::Text;

/// `exists` answers for any path relative to the root.
pub(super) fn findings(files: &[Text], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, link) in links(&file.content) {
            if let Some(why) = broken(files, &exists, &file.path, link) {
                findings.push(format!("{}:{number}: the link `{link}` leads to {why}", file.path));
            }
        }
    }
    findings
}

fn broken(files: &[Text], exists: &impl Fn(&str) -> bool, from: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let path = if path.is_empty() { Some(from.to_owned()) } else { resolve(from, path) };
    let Some(path) = path.filter(|path| exists(path)) else { return Some("nothing".to_owned()) };
    let target = files.iter().find(|file| file.path == path && path.ends_with(".md"))?;
    let heading = heading?;
    let known = headings(&target.content).iter().any(|known| known == heading);
    (!known).then(|| format!("no heading of {path}"))
}

/// The path that `link` means in the file `from`; `None` where it leaves the checkout.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The lines that are text and not code.
fn prose(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    markdown.lines().enumerate().filter_map(move |(number, line)| {
        if line.trim_start().starts_with("```") {
            code = !code;
            return None;
        }
        (!code).then_some((number + 1, line))
    })
}

/// The targets of `[text](target)` with their lines.
fn links(markdown: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose(markdown) {
        // Every other piece between backticks is code.
        for text in line.split('`').step_by(2) {
            let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
            // A target may be followed by a title: `(path "title")`.
            links.extend(targets.filter_map(|target| Some((number, target.split_whitespace().next()?))));
        }
    }
    links
}

/// The anchors of a document's headings, as the usual renderers make them.
fn headings(markdown: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in prose(markdown) {
        let text = line.trim_start_matches('#');
        if text.len() == line.len() || !text.starts_with(' ') {
            continue;
        }
        let kept = text.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
        let repeated = anchors.iter().filter(|known| known.as_str() == anchor).count();
        anchors.push(if repeated > 0 { format!("{anchor}-{repeated}") } else { anchor });
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::super::text;
    use super::*;

    fn check(line: &str) -> Vec<String> {
        let files = [
            text("docs/a.md", &format!("# Start\n{line}\n")),
            text("docs/b.md", "# One `code` thing: here\n## Two\n## Two\n```\n# no heading\n```\n"),
            text("LICENSE.md", ""),
        ];
        findings(&files, |path| path == "docs" || files.iter().any(|file| file.path == path))
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        for line in [
            "[b](b.md) and [license](../LICENSE.md)",
            "[`code`](./b.md#one-code-thing-here)",
            "[twice](b.md#two-1) [here](#start) [folder](../docs)",
            "[out](https://example.org/x) `[code](nowhere)` [title](b.md \"A title\")",
            "```\n[code](nowhere)\n```",
        ] {
            assert_eq!(check(line), Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        assert_eq!(check("x [c](c.md)"), ["docs/a.md:2: the link `c.md` leads to nothing"]);
        assert_eq!(check("[`c`](c.md)"), ["docs/a.md:2: the link `c.md` leads to nothing"]);
        for line in ["[out](../../x)", "[b](b.md#three)", "[b](b.md#no-heading)", "![picture](no.png)"] {
            assert_eq!(check(line).len(), 1, "{line}");
        }
    }
}
