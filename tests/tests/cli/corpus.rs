//! Wrong files and files that are just right, each with all that `balancer
//! check` finds: its level, rule, line and column stand in the file's first
//! lines. Rules about the step from what runs, and about the host, need both:
//! their cases are the tests of `plan` and the suite `live`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use balancer_user::config::check::rules::{ALL, Section};
use serde_json::Value;

use super::{balancer, run};

/// Wrong files that there are at least.
const LEAST: usize = 60;

fn files(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/check")
        .join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// What the first lines of a file say, such as `error[capacity] 30:29`.
fn expected(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("# finds: "));
    let mut findings: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!findings.is_empty(), "the file does not say what is found");
    findings.retain(|finding| finding != "nothing");
    findings.sort();
    findings
}

fn found(file: &Path) -> Vec<String> {
    let ran = run(balancer(&[
        "check",
        "--format",
        "json",
        file.to_str().unwrap(),
    ]));
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let mut findings: Vec<String> = findings
        .filter(|finding| finding["allowed"].is_null())
        .map(|finding| {
            let place = match (finding["line"].as_u64(), finding["column"].as_u64()) {
                (Some(line), Some(column)) => format!("{line}:{column}"),
                _ => "no place".to_owned(),
            };
            let (level, rule) = (&finding["level"], &finding["rule"]);
            format!(
                "{}[{}] {place}",
                level.as_str().unwrap(),
                rule.as_str().unwrap()
            )
        })
        .collect();
    findings.sort();
    let errors = findings.iter().any(|finding| finding.starts_with("error"));
    assert_eq!(ran.code, Some(i32::from(errors)), "{}", file.display());
    findings
}

#[test]
fn every_file_has_exactly_the_findings_that_it_says() {
    let wrong = files("wrong");
    assert!(wrong.len() >= LEAST, "{} wrong files", wrong.len());
    for file in wrong.iter().chain(&files("right")) {
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(found(file), expected(&text), "{}", file.display());
    }
}

#[test]
fn every_rule_about_a_file_is_broken_by_one() {
    let broken: BTreeSet<String> = files("wrong")
        .iter()
        .flat_map(|file| expected(&fs::read_to_string(file).unwrap()))
        .filter_map(|finding| Some(finding.split(['[', ']']).nth(1)?.to_owned()))
        .collect();
    let of_a_file = |section: Section| {
        matches!(
            section,
            Section::File | Section::Shape | Section::Distribution
        )
    };
    for rule in ALL.iter().filter(|rule| of_a_file(rule.section)) {
        // It compares two tables, so it is a rule about the step.
        if rule.id == "churn" {
            continue;
        }
        assert!(broken.contains(rule.id), "no file breaks {}", rule.id);
    }
}

#[test]
fn files_of_the_documents_pass() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sample = workspace.join("deploy/balancer.toml");
    let ran = run(balancer(&[
        "check",
        "--deny",
        "warnings",
        sample.to_str().unwrap(),
    ]));
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
}
