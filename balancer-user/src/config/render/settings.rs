//! Single settings of a configuration, and which of them differ.
//!
//! They are read off the text that a file of it would be, defaults written
//! out: no setting that a file can make is forgotten here, and the order of
//! services and backends, comments and layout are no difference.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::model::{Apply, Backend, Node, Service};
use super::Text;

/// A setting that two configurations have different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingChange {
    /// Its key, such as `drain_timeout` or `health.interval`.
    pub key: String,
    /// What a file says or would say; none if it says nothing.
    pub before: Option<String>,
    /// Likewise, afterwards.
    pub after: Option<String>,
}

/// Stands for a value that nobody is to see.
const HIDDEN: &str = "(secret)";

/// Settings of the node that differ; the seed's value is not shown.
pub fn of_nodes(before: &Node, after: &Node) -> Vec<SettingChange> {
    if before == after {
        return Vec::new();
    }
    let mut changes = changes(|text| text.node(before), |text| text.node(after));
    let is_secret = |change: &&mut SettingChange| {
        // A receiver's URL may be all that it takes to write there.
        change.key == "seed" || change.key.starts_with("webhook ") && change.key.ends_with(".url")
    };
    for change in changes.iter_mut().filter(is_secret) {
        for value in [&mut change.before, &mut change.after] {
            *value = value.take().map(|_| HIDDEN.to_owned());
        }
    }
    changes
}

/// Settings of how a change comes into force that differ.
pub fn of_apply(before: &Apply, after: &Apply) -> Vec<SettingChange> {
    if before == after {
        return Vec::new();
    }
    changes(|text| text.apply(before), |text| text.apply(after))
}

/// Settings of a service that differ, those of its backends apart.
pub fn of_services(before: &Service, after: &Service) -> Vec<SettingChange> {
    changes(
        |text| text.service_alone(before),
        |text| text.service_alone(after),
    )
}

/// Settings of a backend that differ.
pub fn of_backends(before: &Backend, after: &Backend) -> Vec<SettingChange> {
    if before == after {
        return Vec::new();
    }
    changes(|text| text.backend(before), |text| text.backend(after))
}

fn changes(before: impl FnOnce(&mut Text), after: impl FnOnce(&mut Text)) -> Vec<SettingChange> {
    let mut before = settings(before);
    let mut changes = Vec::new();
    for (key, after) in settings(after) {
        let before = before.remove(&key);
        if before.as_ref() != Some(&after) {
            changes.push(SettingChange {
                key,
                before,
                after: Some(after),
            });
        }
    }
    let gone = before.into_iter().map(|(key, before)| SettingChange {
        key,
        before: Some(before),
        after: None,
    });
    changes.extend(gone);
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// The keys and values of what was written. A line holds one key, as the
/// ends of lines inside of a value are escaped.
fn settings(write: impl FnOnce(&mut Text)) -> BTreeMap<String, String> {
    let mut text = Text {
        with_defaults: true,
        ..Text::default()
    };
    write(&mut text);
    let mut settings = BTreeMap::new();
    let mut table = String::new();
    for line in text.written.lines() {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_matches(['[', ']']);
            // A table below the one that was asked for: `service.health`.
            table = match header.split_once('.') {
                Some((_, below)) if below != "backend" => below.to_owned(),
                _ => String::new(),
            };
        } else if let Some((key, value)) = line.split_once(" = ") {
            if table == "webhook" && key == "name" {
                // There may be several; the name stands first.
                table = format!("webhook {}", value.trim_matches('"'));
            }
            let key = match table.as_str() {
                "" => key.to_owned(),
                table => format!("{table}.{key}"),
            };
            settings.insert(key, value.to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{SAMPLE, examined, spoiled};
    use super::*;

    fn lines(changes: &[SettingChange]) -> Vec<String> {
        let shown = |value: &Option<String>| value.clone().unwrap_or("unset".to_owned());
        changes
            .iter()
            .map(|it| format!("{} {} -> {}", it.key, shown(&it.before), shown(&it.after)))
            .collect()
    }

    fn services(text: &str) -> Vec<Service> {
        examined(text).config.unwrap().services
    }

    #[test]
    fn differences_have_their_defaults_and_know_their_table() {
        let before = services(SAMPLE);
        for (from, to, expected) in [
            (
                "drain_timeout = \"1m\"\n",
                "",
                "drain_timeout \"1m\" -> \"5m\"",
            ),
            ("rise = 3\n", "", "health.rise 3 -> 2"),
            (
                "identity = { certificate = \"web.example\" }",
                "identity = { body = \"a = b\" }",
                "health.identity { certificate = \"web.example\" } -> { body = \"a = b\" }",
            ),
            (
                "fail_open_below = 0.3\n",
                "",
                "fail_open_below 0.3 -> unset",
            ),
        ] {
            let after = services(&spoiled(from, to));
            assert_eq!(lines(&of_services(&before[0], &after[0])), [expected]);
            assert_eq!(of_services(&before[1], &after[1]), []);
        }
        let after = services(&spoiled("weight = 90", "weight = 100"));
        let (before, after) = (&before[0].backends, &after[0].backends);
        assert_eq!(
            lines(&of_backends(&before[0], &after[0])),
            ["weight 90 -> 100"]
        );
        assert_eq!(of_backends(&before[1], &after[1]), []);
    }

    #[test]
    fn way_of_a_change_has_its_defaults_too() {
        let before = examined(SAMPLE).config.unwrap().apply;
        let after = Apply {
            stages: vec![7, 100],
            hold: std::time::Duration::from_secs(77),
            ..before.clone()
        };
        let unset = super::super::defaults::apply();
        let changes = of_apply(&unset, &after);
        let keys: Vec<&str> = changes.iter().map(|it| it.key.as_str()).collect();
        assert!(
            keys.contains(&"stages") && keys.contains(&"hold"),
            "{keys:?}"
        );
        assert!(
            changes
                .iter()
                .all(|it| it.before.is_some() && it.after.is_some())
        );
        assert_eq!(of_apply(&before, &before), []);
    }

    #[test]
    fn webhooks_are_told_apart_and_their_urls_are_not_shown() {
        let before = examined(SAMPLE).config.unwrap().node;
        let after = spoiled("http://10.0.0.9:9093", "http://10.0.0.8:9093");
        let after = after.replace("timeout = \"1500ms\"", "timeout = \"3s\"");
        let after = examined(&after).config.unwrap().node;
        assert_eq!(
            lines(&of_nodes(&before, &after)),
            [
                "webhook chat.timeout \"1s 500ms\" -> \"3s\"",
                "webhook on-call.url (secret) -> (secret)"
            ]
        );
    }

    #[test]
    fn seed_of_the_node_is_not_shown() {
        let before = examined(SAMPLE).config.unwrap().node;
        let after = spoiled("000102030405060708090a0b0c0d0e0f", &"ab".repeat(16));
        let after = examined(&after).config.unwrap().node;
        assert_eq!(
            lines(&of_nodes(&before, &after)),
            ["seed (secret) -> (secret)"]
        );
    }
}
