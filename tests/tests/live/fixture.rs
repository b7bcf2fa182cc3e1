//! A file, the check of it in a lab's balancer, and what it has to find.

use std::fmt;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::binary;
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::{Lab, Namespace, process};
use serde::Deserialize;

use crate::LIMIT;

/// Rules that look at the host.
const LIVE: [&str; 10] = [
    "missing-interface",
    "neighbour",
    "mtu",
    "xdp-mode",
    "foreign-xdp",
    "offloads",
    "rp-filter",
    "vip-answered-elsewhere",
    "backend-vip",
    "peer-digest",
];

/// A probe, where a test needs one.
pub(crate) const PROBE: &str = "[service.health]\nkind = \"tcp\"\n";

/// A finding as `--json` has it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Finding {
    pub(crate) rule: String,
    pub(crate) level: String,
    pub(crate) message: String,
    pub(crate) line: Option<usize>,
    pub(crate) column: Option<usize>,
}

#[derive(Deserialize)]
struct Report {
    findings: Vec<Finding>,
}

/// What a check has to find: the rule, its level and the value it points at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) rule: &'a str,
    pub(crate) level: &'a str,
    /// The text at whose beginning the finding stands; once in the file.
    pub(crate) at: &'a str,
    /// What its message holds.
    pub(crate) says: &'a str,
}

/// A file with one service on a lab's first service address.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) interfaces: Vec<String>,
    /// More keys of `[node]`.
    pub(crate) node: String,
    pub(crate) address: IpAddr,
    pub(crate) protocol: &'static str,
    pub(crate) forward: &'static str,
    /// Tables of the service.
    pub(crate) tables: String,
    /// Addresses, and what else stands in the backend's table.
    pub(crate) backends: Vec<(IpAddr, &'static str)>,
}

impl File {
    pub(crate) fn new(address: impl Into<IpAddr>, forward: &'static str, lab: &Lab) -> Self {
        let address = address.into();
        let of = |node: &balancer_tests::lab::Node| match address {
            IpAddr::V4(_) => (node.v4().into(), ""),
            IpAddr::V6(_) => (node.v6().into(), ""),
        };
        Self {
            interfaces: vec!["eth0".to_owned()],
            node: String::new(),
            address,
            protocol: "tcp",
            forward,
            tables: String::new(),
            backends: lab.backends().iter().map(of).collect(),
        }
    }

    /// On a lab's first IPv4 service address.
    pub(crate) fn v4(lab: &Lab, forward: &'static str) -> Self {
        Self::new(lab.vip_v4(), forward, lab)
    }

    /// On a lab's first IPv6 service address.
    pub(crate) fn v6(lab: &Lab, forward: &'static str) -> Self {
        Self::new(lab.vip_v6(), forward, lab)
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            interfaces,
            node,
            address,
            protocol,
            forward,
            tables,
            ..
        } = self;
        // A balancer of this machine's is no business of the lab's.
        let pins = match node.contains("pin_dir") {
            true => "",
            false => "pin_dir = \"/sys/fs/bpf/none-of-ours\"\n",
        };
        write!(
            f,
            "[node]\ninterfaces = {interfaces:?}\n{pins}{node}\n[[service]]\nname = \"web\"\n\
             address = \"{address}\"\nport = 80\nprotocol = \"{protocol}\"\n\
             forward = \"{forward}\"\nfail_open_below = 0.0\n{tables}"
        )?;
        for (index, (address, more)) in self.backends.iter().enumerate() {
            write!(
                f,
                "\n[[service.backend]]\nname = \"b{index}\"\naddress = \"{address}\"\n{more}"
            )?;
        }
        Ok(())
    }
}

/// What `check --live` finds in a namespace by the live rules. Its exit code
/// is compared with what it prints.
pub(crate) fn check(namespace: &Namespace, file: &File) -> Result<Vec<Finding>> {
    let directory = Scratch::create("live")?;
    let path = directory.path().join("balancer.toml");
    fs::write(&path, file.to_string())?;
    let mut command = namespace.command(&binary().to_string_lossy());
    command.args(["check", "--live", "--json"]).arg(&path);
    let output = process::run(command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.is_empty(), "{said}");
    let report: Report = serde_json::from_slice(&output.stdout).context("no report")?;
    let failed = report.findings.iter().any(|it| it.level == "error");
    ensure!(output.status.code() == Some(failed.into()), "{output:?}");
    let is_live = |finding: &Finding| LIVE.contains(&finding.rule.as_str());
    Ok(report.findings.into_iter().filter(is_live).collect())
}

/// Insists on exactly these findings, in the order of their places.
pub(crate) fn expect(namespace: &Namespace, file: &File, expected: &[Expected<'_>]) -> Result<()> {
    compare(&check(namespace, file)?, file, expected)
}

/// As [`expect`], in a lab in which no server runs, so that none answers.
pub(crate) fn expect_without_servers(
    namespace: &Namespace,
    file: &File,
    expected: &[Expected<'_>],
) -> Result<()> {
    let mut found = check(namespace, file)?;
    found.retain(|it| it.rule != "backend-vip");
    compare(&found, file, expected)
}

/// Insists on exactly these findings of what was found.
pub(crate) fn compare(found: &[Finding], file: &File, expected: &[Expected<'_>]) -> Result<()> {
    ensure!(
        found.len() == expected.len(),
        "not {} findings: {found:#?}\nin:\n{file}",
        expected.len()
    );
    let text = file.to_string();
    for (found, expected) in found.iter().zip(expected) {
        ensure!(
            found.rule == expected.rule && found.level == expected.level,
            "{found:?} is not {expected:?}"
        );
        let message = &found.message;
        ensure!(message.contains(expected.says), "{message}: {expected:?}");
        let (line, column) = position(&text, expected.at)?;
        ensure!(
            (found.line, found.column) == (Some(line), Some(column)),
            "{found:?} is not at {line}:{column}, {expected:?}, of:\n{text}"
        );
    }
    Ok(())
}

/// Line and column, from 1, of a text that stands in another once.
fn position(text: &str, what: &str) -> Result<(usize, usize)> {
    let mut places = text.match_indices(what);
    let (at, _) = places.next().with_context(|| format!("no {what}"))?;
    ensure!(places.next().is_none(), "{what} more than once in:\n{text}");
    let before = &text[..at];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Ok((
        before.matches('\n').count() + 1,
        text[start..at].chars().count() + 1,
    ))
}

/// Runs a program in a namespace and insists that it succeeds.
pub(crate) fn run(namespace: &Namespace, program: &str, arguments: &str) -> Result<()> {
    let mut command = namespace.command(program);
    command.args(arguments.split_whitespace());
    let output = process::run(command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments}: {said}");
    Ok(())
}
