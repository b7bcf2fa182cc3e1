//! Reads a configuration file: strictly, and with all its faults at once.
//!
//! The text is parsed into tables that know their bytes, then walked with a
//! small reader of ours (`fields`). What is wrong becomes a finding with
//! its place; a [`Config`] comes out only if nothing is. How the parts fit
//! together is left to [`super::check`].

mod addresses;
pub mod apply;
pub mod defaults;
mod endpoints;
mod fields;
mod health;
mod node;
mod pieces;
mod ports;
mod probes;
mod quic;
mod service;
mod sink;
mod sources;
mod values;
mod webhook;

use std::collections::HashSet;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::check::rules;
use super::diagnostic::{Finding, Level};
use super::model::Config;
use super::spans::Spans;
use super::wording::ticked;
pub(super) use addresses::unusable;
use fields::{Fields, Names, Path, Step};
use sink::Sink;
pub(super) use sink::Trait;
use values::integer;

/// Most services of a file.
pub const MAX_SERVICES: usize = 4096;
/// Numbers of revisions: TOML's integers have a sign.
const REVISIONS: RangeInclusive<u64> = 1..=i64::MAX as u64;
/// Most backends of a service.
pub const MAX_BACKENDS: usize = 4095;

/// What reading a text gave.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The configuration, if the text has no fault.
    pub config: Option<Config>,
    /// Where its parts stand.
    pub spans: Spans,
    /// The parts without a fault, where the text has one elsewhere, and where
    /// they stand: the check has something to say of them, too.
    pub sound: Option<(Config, Spans)>,
    /// The faults.
    pub findings: Vec<Finding>,
}

/// Reads a configuration from TOML.
pub fn parse(source: &str) -> Parsed {
    pieces::parse(source).unwrap_or_else(|| whole(source))
}

/// Reads it with all of its tables in memory.
fn whole(source: &str) -> Parsed {
    let (document, errors) = DeTable::parse_recoverable(source);
    let mut sink = Sink::default();
    let mut spans = Spans::default();
    let syntax = syntax_findings(source, &errors);
    let mut read = None;
    if !structure_is_lost(source, &syntax) {
        read = file(document.get_ref(), &mut spans, &mut sink);
    }
    let mut findings = sink.findings;
    if !syntax.is_empty() {
        drop_followers(source, &syntax, &mut findings);
    }
    let may_be_sound = syntax.is_empty();
    findings.extend(syntax);
    let mut sound = None;
    if findings.iter().any(is_error) {
        // A line that is no TOML may be missing anywhere.
        let read = read.take().filter(|_| may_be_sound);
        sound = read.and_then(|read| read.without_faults(&spans));
    }
    Parsed {
        config: read.map(|read| read.config),
        spans,
        sound,
        findings,
    }
}

fn is_error(finding: &Finding) -> bool {
    finding.level == Level::Error
}

/// A file with what could be read of it.
struct ReadFile {
    config: Config,
    /// The index of each service in the file, and whether it has no fault.
    services: Vec<(usize, bool)>,
    /// Whether the node has none.
    is_node_sound: bool,
}

impl ReadFile {
    /// Only the services without a fault; nothing if the node has one, as
    /// much depends on it.
    fn without_faults(mut self, spans: &Spans) -> Option<(Config, Spans)> {
        let mut spans_left = Spans {
            services: Vec::new(),
            ..spans.clone()
        };
        let mut left = Vec::new();
        for (service, (index, is_sound)) in self.config.services.into_iter().zip(self.services) {
            if is_sound {
                left.push(service);
                spans_left.services.push(spans.services[index].clone());
            }
        }
        self.config.services = left;
        (self.is_node_sound && !self.config.services.is_empty())
            .then_some((self.config, spans_left))
    }
}

/// What the readers look for in a text, whatever is wrong with it.
pub(super) fn traits(source: &str) -> Vec<Trait> {
    let (document, _) = DeTable::parse_recoverable(source);
    let mut sink = Sink {
        traits: Some(Vec::new()),
        ..Sink::default()
    };
    file(document.get_ref(), &mut Spans::default(), &mut sink);
    sink.traits.unwrap_or_default()
}

fn file(table: &DeTable<'_>, spans: &mut Spans, sink: &mut Sink) -> Option<ReadFile> {
    let root = Path {
        parent: None,
        step: Step::Root,
    };
    let known = ["based_on", "node", "apply", "service"];
    let mut fields = Fields::new(table, 0..0, root, &known, sink);
    let based_on = fields.optional("based_on", integer(REVISIONS));
    let node_value = fields.value("node");
    if node_value.is_none() {
        let help = "add `[node]` with `interfaces = [\"eth0\"]`";
        fields.missing("node", help);
    }
    let mut node = None;
    let mut is_node_sound = true;
    if let Some(value) = node_value {
        if let Some(table) = value.get_ref().as_table() {
            let (path, sink) = fields.inner();
            let faults = sink.faults;
            (node, spans.node) = node::node(table, value.span(), path, sink);
            is_node_sound = sink.faults == faults;
        } else {
            let help = "write it as `[node]`";
            fields.field("node").wrong_type(value, "a table", help);
        }
    }
    let apply = apply::apply(&mut fields);
    let tables = fields.tables("service", MAX_SERVICES);
    let (path, sink) = fields.inner();
    let mut services = Vec::with_capacity(tables.len());
    let mut found = Vec::with_capacity(tables.len());
    let mut names = Names::default();
    for (index, (table, header)) in tables.into_iter().enumerate() {
        let faults = sink.faults;
        let (service, service_spans) =
            service::service(table, header, index, path, &mut names, sink);
        if let Some(service) = service {
            services.push(service);
            found.push((index, sink.faults == faults));
        }
        spans.services.push(service_spans);
    }
    spans.top = fields.into_spans();
    let config = Config {
        based_on,
        node: node?,
        apply,
        services,
    };
    Some(ReadFile {
        config,
        services: found,
        is_node_sound,
    })
}

/// One finding for each line with a syntax error: the parser's second
/// complaint about a line mostly follows from its first.
fn syntax_findings(source: &str, errors: &[toml::de::Error]) -> Vec<Finding> {
    let mut lines = HashSet::new();
    let mut errors: Vec<_> = errors
        .iter()
        .map(|error| (error.span().unwrap_or(0..0), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut findings = Vec::new();
    for (span, message) in errors {
        if !lines.insert(line_start(source, span.start)) {
            continue;
        }
        let (message, help) = if message == "duplicate key" {
            let key = source.get(span.clone()).unwrap_or_default();
            let message = format!("the key {} is here a second time", ticked(key));
            (message, "keep one of them".to_owned())
        } else if span.is_empty() && message.starts_with("string values must be quoted") {
            let help = "write one after `=`, or remove the key";
            ("a value is missing".to_owned(), help.to_owned())
        } else {
            explained(message)
        };
        findings.push(
            Finding::new(&rules::SYNTAX, "", message)
                .at(Some(span))
                .help(help),
        );
    }
    findings
}

/// The parser's message as message and way out.
fn explained(message: &str) -> (String, String) {
    match message.split_once(", expected ") {
        Some((fault, "literal string")) => (fault.to_owned(), "put it in quotes".to_owned()),
        Some((fault, "nothing")) => (fault.to_owned(), "remove it".to_owned()),
        Some((fault, expected)) => (fault.to_owned(), format!("expected {expected}")),
        None => (message.to_owned(), "see https://toml.io".to_owned()),
    }
}

/// Whether a syntax error leaves open which key belongs to which table: a
/// broken header, or a bracket without its partner that swallows lines.
fn structure_is_lost(source: &str, syntax: &[Finding]) -> bool {
    syntax.iter().any(|finding| {
        let start = finding.span.as_ref().map_or(0, |span| span.start);
        let line = &source[line_start(source, start)..];
        let unpaired = ["array", "inline table", "unclosed", "multi-line"];
        line.trim_start().starts_with(['[', ']', '}'])
            || unpaired.iter().any(|word| finding.message.contains(word))
    })
}

/// Drops findings that may only follow from a syntax error: those on its
/// line, and missing keys, which it may have swallowed.
fn drop_followers(source: &str, syntax: &[Finding], findings: &mut Vec<Finding>) {
    let line_of = |finding: &Finding| {
        let start = finding.span.as_ref().map_or(0, |span| span.start);
        line_start(source, start)
    };
    let broken: HashSet<usize> = syntax.iter().map(line_of).collect();
    findings.retain(|finding| {
        finding.rule != rules::MISSING_KEY.id && !broken.contains(&line_of(finding))
    });
}

fn line_start(source: &str, offset: usize) -> usize {
    let before = &source[..source.floor_char_boundary(offset)];
    before.rfind('\n').map_or(0, |newline| newline + 1)
}

#[cfg(test)]
mod tests;
