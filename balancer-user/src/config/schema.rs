//! A JSON Schema of the file, for editors: what the reader itself says.
//!
//! Nothing here names a key. The reader is handed a file that begins empty
//! and tells which keys it knows, what each takes and which must be there;
//! those are put in, and it is asked again, until it has no more to say. So
//! the schema knows exactly the reader's keys and limits.
//!
//! What a key is for is told by the document of the keys. It refuses nothing that the reader takes. What depends on several keys at
//! once is left to `balancer check`.

mod about;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::parse::{Trait, traits};

/// A value of a type that no key takes.
const NOBODYS: &str = "1979-05-27";

/// What is known of a key, or of the file.
#[derive(Debug, Default)]
struct Node {
    kind: Kind,
    /// What its reader says of the value.
    schema: Map<String, Value>,
    is_required: bool,
}

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Value,
    Table(BTreeMap<&'static str, Node>),
    /// An array of tables, at most so many.
    Tables(usize, BTreeMap<&'static str, Node>),
}

impl Node {
    fn table() -> Self {
        Self {
            kind: Kind::Table(BTreeMap::new()),
            ..Self::default()
        }
    }

    fn keys(&mut self) -> Option<&mut BTreeMap<&'static str, Node>> {
        match &mut self.kind {
            Kind::Value => None,
            Kind::Table(keys) | Kind::Tables(_, keys) => Some(keys),
        }
    }

    /// The node at a path such as `service[0].port`.
    fn find(&mut self, path: &str) -> Option<&mut Self> {
        let mut node = self;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            let name = step.split('[').next().unwrap_or(step);
            node = node.keys()?.get_mut(name)?;
        }
        Some(node)
    }

    fn is_open_list(&self) -> bool {
        self.schema.get("type") == Some(&json!("array")) && !self.schema.contains_key("items")
    }

    /// Learns what the reader said; whether that was news.
    fn learn(&mut self, said: Trait) -> bool {
        match said {
            Trait::Keys(path, names) => {
                let Some(keys) = self.find(&path).and_then(Self::keys) else {
                    return false;
                };
                let before = keys.len();
                for name in names {
                    keys.entry(name).or_default();
                }
                keys.len() > before
            }
            Trait::Table(path) => self.becomes(&path, Kind::Table(BTreeMap::new())),
            Trait::Tables(path, max) => self.becomes(&path, Kind::Tables(max, BTreeMap::new())),
            Trait::Required(path) => {
                // Told of a table that is still empty; later it would be about
                // what else is there.
                let Some((parent, _)) = path.rsplit_once('.') else {
                    return self.require(&path);
                };
                let is_new = |node: &Node| match &node.kind {
                    Kind::Table(keys) | Kind::Tables(_, keys) => {
                        keys.values().all(|key| key.schema.is_empty())
                    }
                    Kind::Value => false,
                };
                let parent = self.find(parent);
                if !parent.is_some_and(|node| is_new(node)) {
                    return false;
                }
                self.require(&path)
            }
            Trait::Value(path, schema) => self.describe(&path, schema),
        }
    }

    fn becomes(&mut self, path: &str, kind: Kind) -> bool {
        match self.find(path) {
            Some(node) if matches!(node.kind, Kind::Value) => {
                node.kind = kind;
                true
            }
            _ => false,
        }
    }

    fn require(&mut self, path: &str) -> bool {
        match self.find(path) {
            Some(node) if !node.is_required => {
                node.is_required = true;
                true
            }
            _ => false,
        }
    }

    /// The first word about a value counts, and after a list's that about its
    /// entries: readers call more general ones.
    fn describe(&mut self, path: &str, schema: Value) -> bool {
        let (Some(node), Value::Object(schema)) = (self.find(path), schema) else {
            return false;
        };
        if node.schema.is_empty() {
            node.schema = schema;
            return true;
        }
        if node.is_open_list() && schema.get("type") != Some(&json!("array")) {
            node.schema.insert("items".to_owned(), schema.into());
            return true;
        }
        false
    }

    /// The file to ask with next.
    fn probe(&self) -> String {
        let mut text = String::new();
        if let Kind::Table(keys) = &self.kind {
            for (name, node) in keys {
                // Writing to a `String` cannot fail.
                let _ = writeln!(text, "{name} = {}", node.inline());
            }
        }
        text
    }

    fn inline(&self) -> String {
        let table = |keys: &BTreeMap<&'static str, Node>| {
            let pairs = keys
                .iter()
                .map(|(name, node)| format!("{name} = {}", node.inline()));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        };
        match &self.kind {
            Kind::Value if self.is_open_list() => format!("[{NOBODYS}]"),
            Kind::Value => NOBODYS.to_owned(),
            Kind::Table(keys) => table(keys),
            Kind::Tables(_, keys) => format!("[{}]", table(keys)),
        }
    }

    /// `path` is that of the node, for what is said of it elsewhere.
    fn to_schema(&self, path: &str, about: &HashMap<String, String>) -> Map<String, Value> {
        let mut schema = self.schema.clone();
        if let Some(text) = about.get(path) {
            let takes = schema.get("description").and_then(Value::as_str);
            let text = match takes {
                Some(takes) => format!("{text}\n\nTakes {takes}."),
                None => text.clone(),
            };
            schema.insert("description".to_owned(), text.into());
        }
        match &self.kind {
            Kind::Value => {}
            Kind::Table(keys) => schema.extend(table_schema(path, keys, about)),
            Kind::Tables(max, keys) => {
                schema.insert("type".to_owned(), json!("array"));
                schema.insert("maxItems".to_owned(), json!(max));
                let item = table_schema(path, keys, about);
                schema.insert("items".to_owned(), item.into());
            }
        }
        schema
    }
}

fn table_schema(
    path: &str,
    keys: &BTreeMap<&'static str, Node>,
    about: &HashMap<String, String>,
) -> Map<String, Value> {
    let path_of = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let properties: Map<String, Value> = keys
        .iter()
        .map(|(name, node)| {
            let schema = node.to_schema(&path_of(name), about);
            ((*name).to_owned(), schema.into())
        })
        .collect();
    let required: BTreeSet<&str> = keys
        .iter()
        .filter(|(_, node)| node.is_required)
        .map(|(name, _)| *name)
        .collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("required".to_owned(), json!(required));
    schema
}

/// The JSON Schema (draft 7) of the configuration file.
pub fn schema() -> Value {
    let root = learn();
    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        json!("http://json-schema.org/draft-07/schema#"),
    );
    schema.insert("title".to_owned(), json!("Configuration of the balancer"));
    schema.extend(root.to_schema("", &about::descriptions()));
    schema.into()
}

fn learn() -> Node {
    let mut root = Node::table();
    // Ends as tables and keys are finite, and nothing is learned twice.
    loop {
        let mut news = false;
        for said in traits(&root.probe()) {
            news |= root.learn(said);
        }
        if !news {
            return root;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values of the file that no reader has described.
    fn undescribed(path: &str, node: &Node, found: &mut Vec<String>) {
        match &node.kind {
            Kind::Value if node.schema.is_empty() || node.is_open_list() => {
                found.push(path.to_owned());
            }
            Kind::Value => {}
            Kind::Table(keys) | Kind::Tables(_, keys) => {
                for (name, node) in keys {
                    undescribed(&format!("{path}.{name}"), node, found);
                }
            }
        }
    }

    #[test]
    fn every_reader_says_what_it_takes() {
        let mut found = Vec::new();
        undescribed("", &learn(), &mut found);
        assert_eq!(found, [""; 0]);
    }

    fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
        schema
            .pointer(path)
            .unwrap_or_else(|| panic!("no {path} in {schema:#}"))
    }

    #[test]
    fn tables_lists_and_limits_are_those_of_the_reader() {
        let schema = schema();
        let node = at(&schema, "/properties/node");
        assert_eq!(at(node, "/required"), &json!(["interfaces"]));
        let interfaces = at(node, "/properties/interfaces");
        assert_eq!(at(interfaces, "/maxItems"), 64);
        assert_eq!(
            at(interfaces, "/items"),
            &json!({ "type": "string", "minLength": 1, "maxLength": 15 })
        );
        assert_eq!(
            at(node, "/properties/xdp_mode/enum"),
            &json!(["auto", "native", "generic"])
        );
        let resync = at(node, "/properties/resync_interval/description");
        let resync = resync.as_str().unwrap();
        let takes = "Takes a duration from 1s to 1h, such as \"500ms\" or \"5m\".";
        assert!(resync.ends_with(takes), "{resync}");
        assert!(resync.contains("Default: `\"30s\"`."), "{resync}");
        let service = at(&schema, "/properties/service/items");
        assert_eq!(
            at(service, "/required"),
            &json!(["address", "forward", "name", "port", "protocol"])
        );
        let proof = at(service, "/properties/health/properties/identity");
        assert_eq!(at(proof, "/maxProperties"), 1);
        assert_eq!(
            at(proof, "/properties/header/required"),
            &json!(["name", "value"])
        );
        let weight = at(service, "/properties/backend/items/properties/weight");
        assert_eq!(at(weight, "/type"), "integer");
        assert_eq!([at(weight, "/minimum"), at(weight, "/maximum")], [0, 65535]);
    }

    #[test]
    fn what_the_schema_knows_the_reader_reads_and_the_other_way_round() {
        // A key that the schema has and the reader has not would be named by
        // `unknown-key`; one that only the reader has is told by `Trait::Keys`.
        let root = learn();
        let findings = super::super::parse::parse(&root.probe()).findings;
        let unknown: Vec<_> = findings
            .iter()
            .filter(|finding| finding.message.contains("nothing reads the key"))
            .collect();
        assert_eq!(unknown, [] as [&crate::config::diagnostic::Finding; 0]);
        let mut root = root;
        for said in traits(&root.probe()) {
            let text = format!("{said:?}");
            assert!(!root.learn(said), "{text}");
        }
    }
}
