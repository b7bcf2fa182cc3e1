//! A small reader for the tables of a TOML file, which collects faults.
//!
//! Every fault becomes a finding at its bytes and reading goes on, so that
//! one run reports them all. A reader hands back `None` for a value it has
//! reported; callers never report it again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::Range;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::check::rules::{self, Rule};
use super::super::diagnostic::Finding;
use super::super::spans::TableSpans;
use super::super::wording::{nearest, ticked};
use super::sink::{Sink, Trait};

/// A value with its place.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// Where a table stands in the configuration; a list through the stack, so
/// that a faultless file pays nothing for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    pub(super) parent: Option<&'a Path<'a>>,
    pub(super) step: Step<'a>,
}

/// The last step of a [`Path`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// The file.
    Root,
    /// A table that is there once.
    Table(&'static str),
    /// One of several tables, by its name.
    Named(&'static str, &'a str),
    /// One of several tables without a usable name, from 0.
    Nth(&'static str, usize),
}

impl Path<'_> {
    /// `service.web.backend.web-1.weight`.
    pub(super) fn dotted(&self, key: &str) -> String {
        let mut path = self.parent.map(|up| up.dotted("")).unwrap_or_default();
        let step = match self.step {
            Step::Root => String::new(),
            Step::Table(name) => name.to_owned(),
            Step::Named(kind, name) => format!("{kind}.{name}"),
            Step::Nth(kind, index) => format!("{kind}[{index}]"),
        };
        for part in [step.as_str(), key] {
            if !path.is_empty() && !part.is_empty() {
                path.push('.');
            }
            path.push_str(part);
        }
        path
    }

    fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }
}

impl fmt::Display for Path<'_> {
    /// `service web, backend web-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent.filter(|parent| !parent.is_root()) {
            write!(f, "{parent}, ")?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Table(name) => f.write_str(name),
            Step::Named(kind, name) => write!(f, "{kind} {name}"),
            Step::Nth(kind, index) => write!(f, "{kind} number {}", index + 1),
        }
    }
}

/// How [`Field::wrong_type`] is told that a table is wanted.
const A_TABLE: &str = "a table";

/// Takes faults about one key.
pub(super) struct Field<'a> {
    pub(super) key: &'static str,
    path: &'a Path<'a>,
    sink: &'a mut Sink,
}

impl Field<'_> {
    /// Says what the reader takes, as a JSON Schema. Limits that depend on
    /// other keys are left out.
    pub(super) fn takes(&mut self, schema: impl FnOnce() -> Json) {
        let (path, key) = (self.path, self.key);
        self.sink.note(|| Trait::Value(path.dotted(key), schema()));
    }

    /// Says that the value is a table.
    fn takes_table(&mut self) {
        let (path, key) = (self.path, self.key);
        self.sink.note(|| Trait::Table(path.dotted(key)));
    }

    /// Reports a fault of `rule`; `text` follows the name of the object.
    pub(super) fn report(
        &mut self,
        rule: &'static Rule,
        span: Range<usize>,
        text: impl fmt::Display,
        help: impl Into<String>,
    ) {
        let message = if self.path.is_root() {
            text.to_string()
        } else {
            format!("{}: {text}", self.path)
        };
        self.sink.push(
            Finding::new(rule, self.path.dotted(self.key), message)
                .at(Some(span))
                .help(help),
        );
    }

    /// Reports a value that the key does not take.
    pub(super) fn bad(
        &mut self,
        value: &Value<'_>,
        text: impl fmt::Display,
        help: impl Into<String>,
    ) {
        let text = format!("`{}` {text}", self.key);
        self.report(&rules::BAD_VALUE, value.span(), text, help);
    }

    /// Reports a value of a wrong type.
    pub(super) fn wrong_type(&mut self, value: &Value<'_>, wanted: &str, help: impl Into<String>) {
        if wanted == A_TABLE {
            self.takes_table();
        }
        let found = match value.get_ref() {
            DeValue::Integer(_) => "an integer",
            DeValue::Array(_) => "an array",
            DeValue::String(_) => "a string",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Table(_) => "a table",
        };
        let text = format!("`{}` is {found}, wanted {wanted}", self.key);
        self.report(&rules::WRONG_TYPE, value.span(), text, help);
    }
}

/// Reads one table.
pub(super) struct Fields<'t, 's> {
    table: &'t DeTable<'t>,
    path: Path<'s>,
    header: Range<usize>,
    values: Vec<(&'static str, Range<usize>)>,
    sink: &'s mut Sink,
}

impl<'t, 's> Fields<'t, 's> {
    /// Starts to read a table and reports the keys that are not `known`.
    pub(super) fn new(
        table: &'t DeTable<'t>,
        header: Range<usize>,
        path: Path<'s>,
        known: &[&'static str],
        sink: &'s mut Sink,
    ) -> Self {
        sink.note(|| Trait::Keys(path.dotted(""), known.to_vec()));
        let mut fields = Self {
            table,
            path,
            header,
            values: Vec::with_capacity(table.len()),
            sink,
        };
        for (key, _) in table {
            if !known.contains(&key.get_ref().as_ref()) {
                fields.unknown(key, known);
            }
        }
        fields
    }

    fn unknown(&mut self, key: &Spanned<toml::de::DeString<'_>>, known: &[&str]) {
        let help = match nearest(key.get_ref(), known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known keys here: {}", known.join(", ")),
        };
        let text = format!("nothing reads the key {}", ticked(key.get_ref()));
        self.field("")
            .report(&rules::UNKNOWN_KEY, key.span(), text, help);
    }

    /// Takes faults about `key`.
    pub(super) fn field(&mut self, key: &'static str) -> Field<'_> {
        Field {
            key,
            path: &self.path,
            sink: self.sink,
        }
    }

    /// The path of this table, and the sink, for reading a table inside.
    pub(super) fn inner(&mut self) -> (&Path<'s>, &mut Sink) {
        (&self.path, self.sink)
    }

    /// The table's header.
    pub(super) fn header(&self) -> Range<usize> {
        self.header.clone()
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The value of a key that may be left out.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'t Value<'t>> {
        let value = self.table.get(key)?;
        self.values.push((key, value.span()));
        Some(value)
    }

    /// Reads a key that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        reader: impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        reader(&mut self.field(key), value)
    }

    /// Reads a key that must be there; `example` goes into the way out.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        reader: impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, format!("add `{example}`"));
        }
        self.optional(key, reader)
    }

    /// Reports a key that is not there.
    pub(super) fn missing(&mut self, key: &'static str, help: impl Into<String>) {
        let path = &self.path;
        self.sink.note(|| Trait::Required(path.dotted(key)));
        let header = self.header();
        let text = format!("the key `{key}` is missing");
        self.field(key)
            .report(&rules::MISSING_KEY, header, text, help);
    }

    /// Reports a key that is known but that nothing reads here.
    pub(super) fn refuse(&mut self, key: &'static str, why: &str, help: &str) {
        let Some((found, _)) = self.table.get_key_value(key) else {
            return;
        };
        let text = format!("key `{key}` {why}");
        self.field(key)
            .report(&rules::UNKNOWN_KEY, found.span(), text, help);
    }

    /// The tables of an array such as `[[service]]`, at most `max`.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        max: usize,
    ) -> Vec<(&'t DeTable<'t>, Range<usize>)> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let dotted = self.path.dotted("");
        let path = &self.path;
        self.sink.note(|| Trait::Tables(path.dotted(key), max));
        let header = if dotted.is_empty() {
            key.to_owned()
        } else {
            let table = dotted.split('.').next().unwrap_or_default();
            format!("{table}.{key}")
        };
        let help = format!("write `[[{header}]]`, once for each");
        let DeValue::Array(array) = value.get_ref() else {
            self.field(key)
                .wrong_type(value, "an array of tables", help);
            return Vec::new();
        };
        if array.len() > max {
            // The first table that is too many: there is one, see above.
            let span = array.get(max).map_or(value.span(), Spanned::span);
            let text = format!("{} `{key}` tables, limit {max}", array.len());
            let help = "spread them over several balancers";
            self.field(key).report(&rules::BAD_VALUE, span, text, help);
        }
        let mut tables = Vec::with_capacity(array.len().min(max));
        for entry in array.iter().take(max) {
            match entry.get_ref() {
                DeValue::Table(table) => tables.push((table, entry.span())),
                _ => self.field(key).wrong_type(entry, "a table", help.as_str()),
            }
        }
        tables
    }

    /// Where everything that was read stands.
    pub(super) fn into_spans(self) -> TableSpans {
        TableSpans {
            header: Some(self.header),
            values: self.values,
        }
    }
}

/// The first uses of names, to find the second ones.
#[derive(Default)]
pub(super) struct Names<'a> {
    first: HashMap<&'a str, Range<usize>>,
}

impl<'a> Names<'a> {
    /// Notes a name; `kind` says of what, `key` which key gives it. A name
    /// that is taken is reported.
    pub(super) fn claim(
        &mut self,
        (kind, key): (&'static str, &'static str),
        name: &'a str,
        span: Range<usize>,
        path: &Path<'_>,
        sink: &mut Sink,
    ) {
        let entry = match self.first.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(span);
                return;
            }
            Entry::Occupied(entry) => entry,
        };
        let named = Path {
            parent: Some(path),
            step: Step::Named(kind, name),
        };
        let message = format!("{named}: the name is already taken");
        let help = if key == "address" {
            "the address stands in for a name: name them apart, or remove one".to_owned()
        } else {
            format!("give each {kind} a name of its own")
        };
        sink.push(
            Finding::new(&rules::DUPLICATE_NAME, named.dotted(key), message)
                .at(Some(span))
                .help(help)
                .related(Some(entry.get().clone()), "first used here"),
        );
    }
}
