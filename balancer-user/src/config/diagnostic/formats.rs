//! Findings as JSON and as SARIF, for programs.

use std::collections::BTreeSet;
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::super::check::rules;
use super::{Finding, Report};

impl Report {
    /// `{file, errors, warnings, allowed, findings: [...]}`; a finding is
    /// `{rule, level, message, file, line, column, end_line, end_column,
    /// path, help, allowed, related}`, `null` where there is none.
    pub fn to_json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| self.finding_json(finding))
            .collect();
        json!({
            "file": self.source_name,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "allowed": self.allowed(),
            "findings": findings,
        })
    }

    fn finding_json(&self, finding: &Finding) -> Value {
        let start = self.position(finding);
        let end = finding
            .span
            .as_ref()
            .map(|span| self.lines.position(&self.text, span.end));
        let related: Vec<Value> = finding
            .related
            .iter()
            .map(|related| {
                let (line, column) = self.lines.position(&self.text, related.span.start);
                json!({ "line": line, "column": column, "label": related.label })
            })
            .collect();
        json!({
            "rule": finding.rule,
            "level": finding.level.name(),
            "message": finding.message,
            "file": self.source_name,
            "line": start.map(|(line, _)| line),
            "column": start.map(|(_, column)| column),
            "end_line": end.map(|(line, _)| line),
            "end_column": end.map(|(_, column)| column),
            "path": finding.path,
            "help": finding.help,
            "allowed": finding.allowed,
            "related": related,
        })
    }

    /// A SARIF 2.1.0 log with one run, as code-scanning services read it.
    pub fn to_sarif(&self) -> Value {
        let used: BTreeSet<&str> = self.findings.iter().map(|finding| finding.rule).collect();
        let rules: Vec<Value> = rules::ALL
            .iter()
            .filter(|rule| used.contains(rule.id))
            .map(|rule| {
                json!({
                    "id": rule.id,
                    "shortDescription": { "text": rule.summary },
                    "fullDescription": { "text": rule.explanation },
                    "defaultConfiguration": { "level": rule.level.name() },
                })
            })
            .collect();
        let results: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| self.finding_sarif(finding))
            .collect();
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "balancer",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                }},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }],
        })
    }

    fn finding_sarif(&self, finding: &Finding) -> Value {
        let text = match &finding.help {
            Some(help) => format!("{} (help: {help})", finding.message),
            None => finding.message.clone(),
        };
        let mut result = Map::new();
        result.insert("ruleId".into(), finding.rule.into());
        result.insert("level".into(), finding.level.name().into());
        result.insert("message".into(), json!({ "text": text }));
        let mut location = self.location_sarif(finding.span.as_ref());
        if !finding.path.is_empty() {
            location["logicalLocations"] = json!([{ "fullyQualifiedName": finding.path }]);
        }
        result.insert("locations".into(), json!([location]));
        if !finding.related.is_empty() {
            let related: Vec<Value> = finding
                .related
                .iter()
                .map(|related| {
                    let mut location = self.location_sarif(Some(&related.span));
                    location["message"] = json!({ "text": related.label });
                    location
                })
                .collect();
            result.insert("relatedLocations".into(), related.into());
        }
        if let Some(reason) = &finding.allowed {
            let suppression = json!([{ "kind": "inSource", "justification": reason }]);
            result.insert("suppressions".into(), suppression);
        }
        result.into()
    }

    fn location_sarif(&self, span: Option<&Range<usize>>) -> Value {
        let mut physical = json!({ "artifactLocation": { "uri": uri(&self.source_name) } });
        if let Some(span) = span {
            let (line, column) = self.lines.position(&self.text, span.start);
            let (end_line, end_column) = self.lines.position(&self.text, span.end);
            physical["region"] = json!({
                "startLine": line,
                "startColumn": column,
                "endLine": end_line,
                "endColumn": end_column,
            });
        }
        json!({ "physicalLocation": physical })
    }
}

/// A file name as a URI reference (RFC 3986): what is not unreserved is
/// percent-encoded, `/` stays.
fn uri(name: &str) -> String {
    let mut uri = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}
