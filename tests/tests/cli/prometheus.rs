//! What lies in `deploy` for Prometheus and Grafana: rules that are valid and
//! fire where they have to, and a dashboard that asks for what there is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use balancer_user::metrics::families::{self, Kind};
use serde_json::{Value, json};

use super::Scratch;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

fn promtool(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.expect("promtool is there; see `cargo xtask setup`");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap()
}

/// Names of samples of ours in an expression.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !is_part(c));
    let ours = words.filter(|it| it.starts_with("balancer_") || it.contains(":balancer_"));
    ours.map(str::to_owned).collect()
}

/// Names that there are: samples, and what the rules record.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for family in families::all() {
        known.insert(family.name.to_owned());
        if family.kind == Kind::Histogram {
            for suffix in ["bucket", "sum", "count"] {
                known.insert(format!("{}_{suffix}", family.name));
            }
        }
    }
    let rules = read("prometheus/balancer.rules.yml");
    let recorded = rules
        .lines()
        .filter_map(|it| it.trim().strip_prefix("- record: "));
    known.extend(recorded.map(str::to_owned));
    known
}

#[test]
fn rules_are_valid_and_fire_for_the_faults_of_past_outages_alone() {
    promtool(
        &["check", "rules"],
        &deploy("prometheus/balancer.rules.yml"),
    );
    let said = promtool(
        &["test", "rules"],
        &deploy("prometheus/balancer.rules.test.yml"),
    );
    assert!(said.contains("SUCCESS"), "{said}");
}

#[test]
fn rules_and_their_tests_ask_for_metrics_that_there_are() {
    let known = known();
    for file in [
        "prometheus/balancer.rules.yml",
        "prometheus/balancer.rules.test.yml",
    ] {
        let text = read(file);
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        for line in lines.filter(|line| !line.contains("name: ")) {
            for name in names(line) {
                assert!(known.contains(&name), "{file}: no metric {name}: {line}");
            }
        }
    }
}

#[test]
fn dashboard_asks_for_metrics_that_there_are_in_words_that_are_valid() {
    let dashboard: Value = serde_json::from_str(&read("grafana/balancer.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|it| it["targets"].as_array());
    let expressions: Vec<&str> = targets
        .flatten()
        .map(|it| it["expr"].as_str().unwrap())
        .collect();
    assert!(expressions.len() > 20);
    let known = known();
    let mut rules = Vec::new();
    for (number, expression) in expressions.iter().enumerate() {
        let names = names(expression);
        for name in &names {
            assert!(known.contains(name), "no metric {name}: {expression}");
        }
        assert!(
            !names.is_empty() || expression.contains("process_"),
            "{expression}"
        );
        rules.push(json!({ "record": format!("panel:number{number}"), "expr": expression }));
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for variable in variables.iter().filter(|it| it["type"] == "query") {
        for name in names(variable["definition"].as_str().unwrap()) {
            assert!(known.contains(&name), "no metric {name}");
        }
    }
    // Every panel has a title, and no two lie on each other.
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(panel["title"].is_string());
        assert!(places.insert(panel["gridPos"].to_string()), "{panel}");
    }
    let scratch = Scratch::new();
    let rules = json!({ "groups": [{ "name": "panels", "rules": rules }] });
    let file = scratch.file("panels.yml", rules.to_string());
    promtool(&["check", "rules"], Path::new(&file));
}
