//! Links between the documents: every relative one leads to a file.

use std::path::Path;

use super::Finding;

/// Findings for the links of one Markdown file at `path`, relative to `root`.
pub(super) fn check(root: &Path, path: &str, text: &str) -> Vec<Finding> {
    let here = root.join(path);
    let dir = here.parent().unwrap_or(root);
    let mut findings = Vec::new();
    for (line, target) in targets(text) {
        let file = target.split('#').next().unwrap_or_default();
        if is_elsewhere(target) || file.is_empty() {
            continue;
        }
        let leads_to = match file.strip_prefix('/') {
            Some(from_root) => root.join(from_root),
            None => dir.join(file),
        };
        if !leads_to.exists() {
            let text = format!("link to `{file}` leads nowhere; paths are relative to this file");
            findings.push(Finding {
                path: path.to_owned(),
                line,
                text,
            });
        }
    }
    findings
}

/// Not for us to follow: `https:`, `mailto:` and the like.
fn is_elsewhere(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || it == '+')
    })
}

/// Line and target of each `[text](target)` and `[name]: target` outside code.
fn targets(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            found.extend(
                targets_in_line(line)
                    .into_iter()
                    .map(|target| (number, target)),
            );
        }
    }
    found
}

fn targets_in_line(line: &str) -> Vec<&str> {
    if let Some((name, target)) = line.split_once("]: ")
        && name.starts_with('[')
    {
        return target.split_whitespace().take(1).collect();
    }
    let mut found = Vec::new();
    // Every second piece between backticks is code.
    let mut before = "";
    for (index, piece) in line.split('`').enumerate() {
        if index % 2 == 1 {
            continue;
        }
        // "[`code`](target)": the bracket closes at the start of a piece.
        let mut rest = piece;
        while let Some((text, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else {
                break;
            };
            if text.contains('[') || before.contains('[') {
                found.extend(target.split_whitespace().take(1));
            }
            rest = tail;
        }
        before = piece;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_code_is_not() {
        for (line, expected) in [
            ("see [a](b.md) and [c](d.md#e)", vec!["b.md", "d.md#e"]),
            ("[`run`](run.md \"title\")", vec!["run.md"]),
            ("[name]: other.md", vec!["other.md"]),
            ("`[a](b.md)` is no link", vec![]),
            ("an index[3] (or so)", vec![]),
        ] {
            assert_eq!(targets_in_line(line), expected, "{line}");
        }
        assert_eq!(targets("```\n[a](b)\n```\n[c](d)\n"), [(4, "d")]);
    }

    #[test]
    fn only_relative_links_that_lead_nowhere_are_findings() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docs")).unwrap();
        std::fs::write(dir.path().join("README.md"), "").unwrap();
        let text = "[a](../README.md#top) [b](/README.md) [c](https://x.example/y) [d](#e)\n\
                    [f](README.md)\n";
        let findings = check(dir.path(), "docs/a.md", text);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].line, 2);
    }
}
