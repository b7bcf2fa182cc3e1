//! What differs between two configurations, by meaning and not by text.
//!
//! Both are read as trees in which services and backends are found by name,
//! so that their order, comments and layout are no difference.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Value;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where, such as `service web, backend web-1, weight`.
    pub path: String,
    /// What was there; none if nothing was, or a key had its default.
    pub before: Option<String>,
    /// What is there now, likewise.
    pub after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "+ {path} = {after}"),
            (Some(before), None) => write!(f, "- {path} = {before}"),
            (Some(before), Some(after)) => write!(f, "~ {path} = {before} -> {after}"),
            (None, None) => write!(f, "  {path}"),
        }
    }
}

/// All differences from one configuration to another, by path.
///
/// # Errors
/// What is no TOML.
pub fn diff(before: &str, after: &str) -> Result<Vec<Difference>, String> {
    let mut leaves = BTreeMap::new();
    for (leaf, value) in leaves_of(before)? {
        leaves.insert(leaf, (Some(value), None));
    }
    for (leaf, value) in leaves_of(after)? {
        leaves.entry(leaf).or_insert((None, None)).1 = Some(value);
    }
    let differs = leaves
        .into_iter()
        .filter(|(_, (before, after))| before != after);
    Ok(differs
        .map(|(path, (before, after))| Difference {
            path: path.join(", "),
            before,
            after,
        })
        .collect())
}

fn leaves_of(text: &str) -> Result<Vec<(Vec<String>, String)>, String> {
    let table: toml::Table = text
        .parse()
        .map_err(|error| format!("the configuration cannot be read: {error}"))?;
    let mut leaves = Vec::new();
    walk(&mut Vec::new(), &Value::Table(table), &mut leaves);
    Ok(leaves)
}

fn walk(path: &mut Vec<String>, value: &Value, leaves: &mut Vec<(Vec<String>, String)>) {
    let mut below = |step: String, value: &Value, leaves: &mut Vec<_>| {
        path.push(step);
        walk(path, value, leaves);
        path.pop();
    };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                match value {
                    Value::Array(items) if items.iter().any(Value::is_table) => {
                        for (index, item) in items.iter().enumerate() {
                            below(named(key, index, item), item, leaves);
                        }
                    }
                    _ => below(key.clone(), value, leaves),
                }
            }
        }
        Value::String(text) => leaves.push((path.clone(), format!("{text:?}"))),
        other => leaves.push((path.clone(), other.to_string())),
    }
}

/// `service web` for an item that has a name, `service 3` for one without.
fn named(key: &str, index: usize, item: &Value) -> String {
    match item.get("name").and_then(Value::as_str) {
        Some(name) => format!("{key} {name}"),
        None => format!("{key} {}", index + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
[node]
interfaces = ["eth0"]
[[service]]
name = "web"
port = 80
[[service.backend]]
name = "a"
weight = 100
[[service.backend]]
name = "b"
"#;

    fn lines(after: &str) -> Vec<String> {
        let differences = diff(BEFORE, after).unwrap();
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn order_and_comments_are_no_difference() {
        let after = r#"
# The other way round.
[[service]]
port = 80
name = "web"
[[service.backend]]
name = "b"
[[service.backend]]
name = "a"
weight = 100
[node]
interfaces = ["eth0"]
"#;
        assert_eq!(lines(after), Vec::<String>::new());
    }

    #[test]
    fn difference_is_named_by_service_and_backend() {
        let after = BEFORE
            .replace("weight = 100", "weight = 200\nzone = \"x\"")
            .replace("name = \"b\"", "name = \"c\"")
            .replace("[\"eth0\"]", "[\"eth0\", \"eth1\"]");
        assert_eq!(
            lines(&after),
            [
                "~ node, interfaces = [\"eth0\"] -> [\"eth0\", \"eth1\"]",
                "~ service web, backend a, weight = 100 -> 200",
                "+ service web, backend a, zone = \"x\"",
                "- service web, backend b, name = \"b\"",
                "+ service web, backend c, name = \"c\"",
            ]
        );
    }
}
