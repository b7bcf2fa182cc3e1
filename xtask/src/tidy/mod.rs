//! `tidy`: the conventions that a text search can enforce.
//!
//! [`source`] splits a Rust file into code, comments and tests, so that a rule
//! about code does not stumble over a comment or a string; [`rules`] holds the
//! table of words and where they may stand; [`links`] follows the links of the
//! documentation. A finding names file, line, rule and reason. There is no way
//! to silence one in place: the tables are the one list of exceptions.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

mod links;
mod rules;
mod source;

use source::Source;

/// Files that have to be there, and why.
const REQUIRED: &[(&str, &str)] = &[
    ("LICENSE-MIT", "every crate names the MIT licence"),
    ("LICENSE-APACHE", "every crate names the Apache licence"),
];

/// Directories that hold nothing of ours, or what fuzzing is fed and finds:
/// any bytes, spoilt on purpose.
const SKIPPED_DIRS: &[&str] = &[".git", "artifacts", "corpus", "seeds", "target"];

/// Endings of files whose lines are looked at.
const TEXT_EXTENSIONS: &[&str] = &["md", "rs", "service", "sh", "toml", "yaml", "yml"];

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Looks at every file and prints what it finds.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut texts = Vec::new();
    for path in text_files(workspace.root())? {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: is no readable text", path.display()))?;
        texts.push((workspace.display(&path), text));
    }
    let mut findings = examine(workspace.root(), &texts);
    for (file, why) in REQUIRED {
        if !workspace.path(file).is_file() {
            let text = format!("is missing: {why}");
            findings.push(Finding {
                path: (*file).to_owned(),
                line: 1,
                text,
            });
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!(
            "{} findings in {} files looked at",
            findings.len(),
            texts.len()
        );
    }
    Ok(())
}

/// All findings in files given by path, relative to `root`, and text.
fn examine(root: &Path, texts: &[(String, String)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for (path, text) in texts {
        findings.extend(rules::check_text(path, text));
        if path.ends_with(".rs") {
            sources.push(Source::parse(path, text));
        } else if path.ends_with(".md") {
            findings.extend(links::check(root, path, text));
        }
    }
    // Whether a file is for tests only is said where it is declared.
    let test_modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        source.mark_if_among(&test_modules);
        findings.extend(rules::check_rust(source));
    }
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings
}

/// The text files of the tree, in order of their names.
fn text_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
        for entry in entries {
            let entry = entry.with_context(|| dir.display().to_string())?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = entry.file_name();
            if kind.is_dir() && !SKIPPED_DIRS.iter().any(|skipped| name == *skipped) {
                dirs.push(path);
            } else if kind.is_file() && is_text(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn is_text(path: &Path) -> bool {
    let in_ci = path
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|dir| dir == ".ci");
    let extension = path
        .extension()
        .and_then(|it| it.to_str())
        .unwrap_or_default();
    in_ci || TEXT_EXTENSIONS.contains(&extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_reads_as_editors_expect() {
        let finding = Finding {
            path: "a/b.rs".into(),
            line: 7,
            text: "no".into(),
        };
        assert_eq!(finding.to_string(), "a/b.rs:7: no");
    }

    fn places(texts: &[(&str, &str)]) -> Vec<String> {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        let texts: Vec<(String, String)> = texts.iter().map(own).collect();
        let findings = examine(Path::new("/"), &texts);
        findings
            .iter()
            .map(|it| format!("{}:{}", it.path, it.line))
            .collect()
    }

    #[test]
    fn findings_come_in_order_of_files_and_lines() {
        let unwrap = "fn a() {\n    b.unwrap();\t\n    dbg!(1);\n}\n";
        assert_eq!(
            places(&[("x/b.rs", "dbg!(1);\n"), ("x/a.rs", unwrap)]),
            ["x/a.rs:2", "x/a.rs:2", "x/a.rs:2", "x/a.rs:3", "x/b.rs:1"]
        );
    }

    #[test]
    fn file_declared_for_tests_is_held_to_the_rules_of_tests() {
        let unwrap = ("x/src/fake.rs", "fn a() { b.unwrap() }\n");
        assert_eq!(
            places(&[unwrap, ("x/src/lib.rs", "mod fake;\n")]),
            ["x/src/fake.rs:1"]
        );
        let for_tests = ("x/src/lib.rs", "#[cfg(test)]\nmod fake;\n");
        assert_eq!(places(&[unwrap, for_tests]), [] as [&str; 0]);
    }

    #[test]
    fn build_output_and_seeds_are_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        for file in [
            "src/a.rs",
            "target/b.rs",
            ".git/c.md",
            "fuzz/seeds/config/d.toml",
            ".ci/run",
            "picture.png",
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let files = text_files(dir.path()).unwrap();
        assert_eq!(
            files,
            [dir.path().join(".ci/run"), dir.path().join("src/a.rs")]
        );
    }
}
