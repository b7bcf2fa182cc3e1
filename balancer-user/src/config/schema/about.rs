//! What docs/configuration.md says of each key, for an editor's tooltips.
//!
//! Its tables stand below a heading with the table's name, and have a key in
//! the first column, its default in the third and what follows from it in the
//! last.

use std::collections::HashMap;

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

/// Descriptions of keys by path, such as `service.health.kind`.
pub(super) fn descriptions() -> HashMap<String, String> {
    read(DOCUMENT)
}

fn read(document: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut table = None;
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = table_of(heading);
        }
        let Some((table, (key, text))) = table.as_deref().zip(row(line)) else {
            continue;
        };
        let path = match table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        };
        found.entry(path).or_insert(text);
    }
    found
}

/// The table that a heading is about: `[node]`, `[[service]]`, or the file.
fn table_of(heading: &str) -> Option<String> {
    if heading.starts_with("Above all") {
        return Some(String::new());
    }
    let name = heading.strip_prefix('`')?.split('`').next()?;
    let name = name.trim_matches(['[', ']']);
    Some(name.to_owned())
}

/// Key and description of a row; others have no key, or fewer columns.
fn row(line: &str) -> Option<(&str, String)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let ["", key, _, default, .., consequence, ""] = &cells[..] else {
        return None;
    };
    let key = key.strip_prefix('`')?.strip_suffix('`')?;
    let default = match *default {
        "" | "required" => String::new(),
        default => format!("Default: {default}."),
    };
    let mut sentences = vec![without_links(consequence), default];
    sentences.retain(|sentence| !sentence.is_empty());
    let text = sentences.join(match consequence.ends_with('.') {
        true => " ",
        false => ". ",
    });
    Some((key, text))
}

/// `[text](target)` as `text`: what is shown stands nowhere near its target.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let parts = link
            .split_once("](")
            .and_then(|(shown, target)| Some((shown, target.split_once(')')?.1)));
        plain.push_str(before);
        match parts {
            Some((shown, after)) => {
                plain.push_str(shown);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_below_a_table_s_heading_describe_its_keys() {
        let found = read(
            "## Above all tables\n| `a` | integer | required | 1 to 2 | What of it |\n\
             ## `[[service.backend]]`: one server\n\
             | key | type | default | limits | consequence |\n|---|---|---|---|---|\n\
             | `b` | text | `\"x\"` | | See [this](that.md), or [not] |\n\
             | `c` | boolean | `false` | |  |\n| `d` | fewer |\n\
             ## How it is\n| `e` | text | none | | Not a key |\n",
        );
        let expected = [
            ("a", "What of it"),
            ("service.backend.b", "See this, or [not]. Default: `\"x\"`."),
            ("service.backend.c", "Default: `false`."),
        ];
        let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(found, HashMap::from(expected));
    }

    #[test]
    fn document_describes_keys_of_every_table() {
        let found = descriptions();
        for path in [
            "node.interfaces",
            "service.port",
            "service.source_limit.burst",
            "service.quic.server_id_offset",
            "service.health.ca_file",
            "service.backend.weight",
        ] {
            assert!(found.contains_key(path), "{path}: {found:#?}");
        }
    }
}
