//! `balancer check`: everything that can be said about a file by itself, and
//! with `--live` about the host that it is for.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use clap::error::ErrorKind;
use serde_json::json;

use super::table::{Column, Table};
use super::{Exit, bad_usage, block_on, file, output};
use crate::config::Examined;
use crate::config::check::rules::{self, Rule};
use crate::config::diagnostic::Report;
use crate::config::schema::schema;
use crate::live::{self, Reach};

/// Columns of a page of text.
const PAGE: usize = 80;
/// Why findings are allowed that `--allow` names.
const REASON: &str = "--allow on the command line";

/// Check a configuration file
///
/// Looks at the file alone, unless `--live` is given: needs neither root nor a
/// running balancer, sends nothing and changes nothing. Every finding is shown at once, with its
/// place and the way out. A file with an error is refused by `run`, `reload`
/// and every change; one with warnings is not.
///
/// Exits with 1 if there is an error, or a warning with `--deny warnings`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file; `-` reads stdin
    #[arg(value_name = "FILE", required_unless_present_any = ["list", "explain", "schema"])]
    file: Option<PathBuf>,

    /// Look at this host and its network, too
    ///
    /// Interfaces and their drivers, offloads, routes, neighbours and MTUs are
    /// looked at. The segments are asked who has the services' addresses, and
    /// each backend of `l2`, `ipip` and `gue` is sent a SYN or, for UDP, a ping
    /// to the service's address, in the frame that the balancer would send; a
    /// connection that is taken is reset at once. It takes 1 or 2 seconds, and up to 4
    /// more where neighbours do not answer. Nothing is attached and nothing is
    /// changed. Run it as root on the host that the file is for; without root it
    /// says what it could not look at.
    #[arg(long)]
    live: bool,

    /// How findings are shown
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Findings of this kind count as errors for the exit code
    #[arg(long, value_name = "KIND", value_enum)]
    deny: Option<Deny>,

    /// Let findings of this rule pass; may be repeated
    ///
    /// Only for this check: `run` and `reload` still refuse the file. To
    /// accept a finding for good, write `allow` and `allow_reason` into the
    /// service.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,

    /// List all rules
    #[arg(long, conflicts_with_all = ["file", "live", "deny", "allow", "explain"])]
    list: bool,

    /// Say what a rule is for
    #[arg(long, value_name = "RULE", conflicts_with_all = ["file", "live", "deny", "allow"])]
    explain: Option<String>,

    /// Print a JSON Schema of the file, for editors
    ///
    /// It knows every key with its type, its limits and what it is for, and
    /// which keys must be there. It takes all that `check` takes; how keys fit together is for
    /// `check` to say.
    #[arg(long, conflicts_with_all = ["file", "live", "format", "json", "deny", "allow", "list", "explain"])]
    schema: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object with all findings
    Json,
    /// A SARIF 2.1.0 log, for code-scanning services
    Sarif,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings too
    Warnings,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let format = if args.json { Format::Json } else { args.format };
    if let Some(id) = &args.explain {
        return explain(id, format);
    }
    if args.schema {
        output::print_json(&schema())?;
        return Ok(Exit::Done);
    }
    let Some(path) = &args.file else {
        list(format)?;
        return Ok(Exit::Done);
    };
    if let Some(message) = args.allow.iter().find_map(|id| refusal(id)) {
        return Ok(bad_usage(ErrorKind::InvalidValue, message));
    }
    let mut examined = file::load(path)?;
    if args.live {
        look(&mut examined)?;
    }
    for id in &args.allow {
        let allowed = examined.report.allow(id, REASON);
        allowed.map_err(anyhow::Error::msg)?;
    }
    show(&examined.report, format)?;
    let denied = args.deny.is_some() && examined.report.warnings() > 0;
    if examined.report.has_errors() || denied {
        return Ok(Exit::Findings);
    }
    Ok(Exit::Done)
}

/// Adds what the live rules find, and says what they could not look at.
fn look(examined: &mut Examined) -> anyhow::Result<()> {
    let Some(config) = &examined.config else {
        output::note(format_args!(
            "note: the host is not looked at before the file can be read"
        ));
        return Ok(());
    };
    let host = block_on(live::look(config, Reach::Network))?.context("looking at the host")?;
    for what in &host.unseen {
        output::note(format_args!("note: not looked at: {what}"));
    }
    let findings = live::check(config, &examined.spans, &host);
    examined.report.extend(findings);
    Ok(())
}

fn show(report: &Report, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Text => {
            let text = report.render(output::stdout_has_color());
            output::print(&format!("{text}{}\n", report.summary()))
        }
        Format::Json => output::print_json(&report.to_json()),
        Format::Sarif => output::print_json(&report.to_sarif()),
    }
}

/// Why findings of a rule cannot be allowed, if they cannot.
fn refusal(id: &str) -> Option<String> {
    let (message, help) = rules::find_allowable(id).err()?;
    Some(format!("{message}; {help}"))
}

fn list(format: Format) -> anyhow::Result<()> {
    if format != Format::Text {
        let rules: Vec<_> = rules::ALL.iter().map(|rule| json(rule)).collect();
        return output::print_json(&rules);
    }
    let columns = [
        Column::Text("rule"),
        Column::Text("level"),
        Column::Text("about"),
        Column::Text("allowable"),
        Column::Text("finds"),
    ];
    let mut table = Table::new(&columns, false);
    for rule in rules::ALL {
        table.row([
            rule.id.to_owned(),
            rule.level.name().to_owned(),
            rule.section.name().to_owned(),
            yes_or_no(rule.allowable).to_owned(),
            rule.summary.to_owned(),
        ]);
    }
    output::print(&table.render(""))
}

fn explain(id: &str, format: Format) -> anyhow::Result<Exit> {
    let Some(rule) = rules::find(id) else {
        let message = format!("there is no rule {id:?}; {}", way_to_a_rule(id));
        return Ok(bad_usage(ErrorKind::InvalidValue, message));
    };
    if format == Format::Text {
        output::print(&explained(rule))?;
    } else {
        output::print_json(&json(rule))?;
    }
    Ok(Exit::Done)
}

/// A page on a rule, as wide as a terminal.
fn explained(rule: &Rule) -> String {
    let allowable = match rule.allowable {
        true => format!(
            "yes: `--allow {0}`, or for good `allow = [\"{0}\"]` with `allow_reason` in the \
             service",
            rule.id
        ),
        false => "no: mend what it finds".to_owned(),
    };
    format!(
        "{}: {}\n\nlevel:      {}\nlooks at:   {}\nallowable:  {allowable}\n\n{}\n",
        rule.id,
        rule.summary,
        rule.level.name(),
        rule.section.about(),
        textwrap::fill(rule.explanation, PAGE)
    )
}

fn way_to_a_rule(id: &str) -> String {
    let likeness = |rule: &Rule| strsim::jaro_winkler(rule.id, id);
    let nearest = rules::ALL
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|rule| likeness(rule) > 0.8);
    match nearest {
        Some(rule) => format!("did you mean {:?}?", rule.id),
        None => "`balancer check --list` names all rules".to_owned(),
    }
}

fn json(rule: &Rule) -> serde_json::Value {
    json!({
        "rule": rule.id,
        "level": rule.level.name(),
        "section": rule.section.name(),
        "allowable": rule.allowable,
        "summary": rule.summary,
        "explanation": rule.explanation,
    })
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
