//! `balancer explain`: which backend a flow gets, and why.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;
use balancer_common::layout::Member;
use clap::ValueEnum;
use clap::error::ErrorKind;

use super::trace::tables::Tables;
use super::{Exit, bad_usage, block_on, file, output, require_root};
use crate::api::client::Client;
use crate::api::types::{ExplainRequest, ExplainedBackend, Explanation, Transport};
use crate::config::model::{Config, Service};
use crate::dataplane::shadow::Recorded;
use crate::dataplane::trial::Trial;
use crate::explain::{self, Known};

/// Show which backend a flow gets now, and why
///
/// The kernel program itself answers: a private copy of it, over the tables
/// that are in force and with what is recorded of this flow. Nothing is sent,
/// and neither counters nor records of the running balancer notice. Of TCP it
/// is asked for a SYN and for a later segment, as a flow that is new and one
/// that goes on may have two backends while a slot is in change.
///
/// With --config no daemon is asked: the answer is what the flow would get
/// from a balancer that has just started with that file and found every
/// backend up. Nothing is recorded there of any flow.
///
/// Exits with 0 once it is known what becomes of the flow, also if it is
/// dropped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's address and port: `203.0.113.9:51000`, `[2001:db8::9]:51000`
    #[arg(long, value_name = "ADDRESS:PORT")]
    src: SocketAddr,

    /// The address and port that it dials
    #[arg(long, value_name = "ADDRESS:PORT")]
    dst: SocketAddr,

    /// The transport protocol
    #[arg(long, value_enum)]
    proto: Proto,

    /// Ask a private copy with this file's tables, and not the running balancer
    ///
    /// Needs root, as it loads a program into the kernel.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let request = ExplainRequest {
        source: args.src,
        destination: args.dst,
        protocol: match args.proto {
            Proto::Tcp => Transport::Tcp,
            Proto::Udp => Transport::Udp,
        },
    };
    if let Err(error) = explain::check(&request) {
        return Ok(bad_usage(ErrorKind::ValueValidation, error));
    }
    let explanation = match &args.config {
        Some(path) => of_file(&request, path)?,
        None => block_on(client.explain(&request))??,
    };
    if args.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&render(&explanation))?;
    }
    Ok(Exit::Done)
}

fn of_file(request: &ExplainRequest, path: &Path) -> anyhow::Result<Explanation> {
    require_root("explain --config", "loads a program into the kernel")?;
    let examined = file::load(path)?;
    if !examined.report.findings().is_empty() {
        file::show_findings(&examined);
    }
    let Some(config) = examined.config else {
        bail!("{} cannot be read as a configuration", path.display());
    };
    let tables = block_on(Tables::build(&config))?;
    let mut trial = Trial::load(&tables.named().state)?;
    let known = File {
        config: &config,
        tables: &tables,
    };
    let name = path.display().to_string();
    let explanation = explain::explain(request, &name, tables.named(), &known, |frame, _| {
        Ok((trial.run(frame)?, Recorded::default()))
    })?;
    Ok(explanation)
}

/// What is known with a file and no daemon.
struct File<'a> {
    config: &'a Config,
    tables: &'a Tables,
}

impl Known for File<'_> {
    fn service(&self, name: &str) -> Option<&Service> {
        self.config.service(name)
    }

    fn backend(&self, service: &Service, name: &str) -> Option<ExplainedBackend> {
        let backend = service.backend(name)?;
        let seat = self.tables.seat(&service.name, name)?;
        let member = self.tables.member(&service.name, name)?;
        let slot_count = f64::from(self.config.node.table_size);
        Some(ExplainedBackend {
            backend: name.to_owned(),
            address: backend.address,
            state: match (backend.drain, backend.weight) {
                (true, _) => "draining",
                (false, 0) => "disabled",
                (false, _) => "assumed up",
            }
            .to_owned(),
            last_failure: None,
            next_hop: match member.flags & Member::RESOLVED {
                0 => "unknown on this host",
                _ => "resolved",
            }
            .to_owned(),
            weight: backend.weight,
            slot_count: seat.slot_count,
            share_expected: f64::from(seat.slot_count) / slot_count,
        })
    }
}

/// The answer, and then the reasons.
fn render(explanation: &Explanation) -> String {
    let flow = &explanation.flow;
    let mut text = format!(
        "{} {} -> {}: {}\n",
        match flow.protocol {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        },
        flow.source,
        flow.destination,
        headline(explanation)
    );
    for reason in &explanation.because {
        text.push_str(&format!("  {reason}\n"));
    }
    for packet in &explanation.packets {
        let backend = packet.backend.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "  the kernel program on a {}: {} {}, backend {backend}\n",
            packet.packet, packet.verdict, packet.reason
        ));
    }
    text
}

fn headline(explanation: &Explanation) -> String {
    let goes = |at: usize| {
        let packet = explanation.packets.get(at)?;
        Some(match &packet.backend {
            Some(backend) => format!("goes to {backend}"),
            None if packet.verdict == "pass" => "passes up the host's stack".to_owned(),
            None => format!("is dropped ({})", packet.reason),
        })
    };
    match (goes(0), goes(1)) {
        (Some(new), Some(old)) if new != old => {
            format!("a new connection {new}, one that exists {old}")
        }
        (Some(only), _) => only,
        (None, _) => "nothing is known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ExplainedPacket;

    fn explanation(packets: &[(&str, &str, Option<&str>)]) -> Explanation {
        let packets = packets
            .iter()
            .map(|(packet, reason, backend)| ExplainedPacket {
                packet: (*packet).to_owned(),
                verdict: match (backend, *reason) {
                    (Some(_), _) => "tx".to_owned(),
                    (None, "no_service") => "pass".to_owned(),
                    (None, _) => "drop".to_owned(),
                },
                reason: (*reason).to_owned(),
                backend: backend.map(str::to_owned),
            });
        Explanation {
            flow: ExplainRequest {
                source: "203.0.113.9:51000".parse().unwrap(),
                destination: "192.0.2.10:443".parse().unwrap(),
                protocol: Transport::Tcp,
            },
            tables: "running".to_owned(),
            packets: packets.collect(),
            service: Some("web".to_owned()),
            slot: None,
            records: Vec::new(),
            backends: Vec::new(),
            because: vec!["why".to_owned()],
        }
    }

    #[test]
    fn first_line_is_the_answer_and_tells_two_apart() {
        let one = explanation(&[
            ("syn", "forwarded", Some("web-1")),
            ("segment", "forwarded", Some("web-1")),
        ]);
        assert_eq!(
            render(&one),
            "tcp 203.0.113.9:51000 -> 192.0.2.10:443: goes to web-1\n  why\n  \
             the kernel program on a syn: tx forwarded, backend web-1\n  \
             the kernel program on a segment: tx forwarded, backend web-1\n"
        );
        let two = explanation(&[
            ("syn", "forwarded", Some("web-1")),
            ("segment", "forwarded", Some("web-3")),
        ]);
        assert_eq!(
            headline(&two),
            "a new connection goes to web-1, one that exists goes to web-3"
        );
    }

    #[test]
    fn what_goes_to_no_backend_says_where_it_goes() {
        let dropped = explanation(&[("syn", "source_denied", None)]);
        assert_eq!(headline(&dropped), "is dropped (source_denied)");
        let passed = explanation(&[("syn", "no_service", None)]);
        assert_eq!(headline(&passed), "passes up the host's stack");
    }
}
