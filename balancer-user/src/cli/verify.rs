//! `balancer verify`: the kernel against the running configuration.

use super::{Exit, block_on, output, units};
use crate::api::client::Client;
use crate::api::types::Verification;

/// Compare what the kernel holds with the running configuration
///
/// Compared are the tables that packets are forwarded by, slot by slot, the
/// backends' entries, the lists of sources, the program on each interface and
/// the pins that a restart needs. The daemon does the same every second, a
/// part of large tables at a time; this looks at all of it now.
///
/// What differs was written by something else, or lost. With
/// `node.repair_drift`, the default, it is written anew at once, without a
/// packet in between; a program of somebody else stays on its interface.
///
/// Where the file says `repair_drift = false`, differences stay until somebody
/// has looked at them: `--repair` writes them anew.
///
/// Exits with 1 if anything differs, also if it could be repaired.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    /// Write anew what differs, also where `node.repair_drift` is false
    ///
    /// Needs the right to change; the comparison needs that to read only.
    #[arg(long)]
    repair: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let verification = match args.repair {
        true => block_on(client.repair())??,
        false => block_on(client.verify())??,
    };
    if args.json {
        output::print_json(&verification)?;
    } else {
        output::print(&render(&verification))?;
    }
    Ok(match verification.is_right {
        true => Exit::Done,
        false => Exit::Findings,
    })
}

fn render(verification: &Verification) -> String {
    let mut text = String::new();
    for finding in &verification.findings {
        text.push_str(&format!("error[{}]: {finding}\n", finding.rule));
    }
    for earlier in &verification.repaired {
        let ago = units::ago(earlier.ago_seconds);
        text.push_str(&format!("found {ago} ago: {}\n", earlier.finding));
    }
    if !verification.is_right && !verification.repairs {
        text.push_str("nothing was repaired: node.repair_drift is false; `balancer verify --repair` does it\n");
    }
    let program = match verification.program_id {
        Some(id) => format!("program {id}"),
        None => "no program".to_owned(),
    };
    let on = match verification.interfaces.as_slice() {
        [] => "no interface".to_owned(),
        interfaces => interfaces.join(", "),
    };
    text.push_str(&format!(
        "{}: {} with {}, {program} on {on}, compared in {:.1} ms\n",
        match verification.is_right {
            true => "right",
            false => "not right",
        },
        units::counted(verification.services as u64, "service"),
        units::counted(verification.slots, "slot"),
        verification.duration_micros as f64 / 1000.0,
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{DriftFinding, RepairedDrift};

    fn finding(is_repaired: bool) -> DriftFinding {
        DriftFinding {
            rule: "kernel-drift".to_owned(),
            what: "slots".to_owned(),
            service: Some("web".to_owned()),
            backend: Some("web-1".to_owned()),
            slots: Some((100, 120)),
            interface: None,
            expected: "web-1".to_owned(),
            seen: "web-3".to_owned(),
            is_repaired,
        }
    }

    fn verification() -> Verification {
        Verification {
            is_right: true,
            repairs: true,
            services: 1,
            slots: 1009,
            program_id: Some(41),
            interfaces: vec!["eth0".to_owned()],
            duration_micros: 2100,
            ..Verification::default()
        }
    }

    #[test]
    fn all_right_is_one_line() {
        assert_eq!(
            render(&verification()),
            "right: 1 service with 1.0k slots, program 41 on eth0, compared in 2.1 ms\n"
        );
    }

    #[test]
    fn difference_says_where_what_was_written_and_what_is_there() {
        let text = render(&Verification {
            is_right: false,
            repairs: false,
            findings: vec![finding(false)],
            ..verification()
        });
        assert!(
            text.starts_with(
                "error[kernel-drift]: service web: slots 100 to 120: expected web-1, the kernel \
                 has web-3\nnothing was repaired: node.repair_drift is false; \
                 `balancer verify --repair` does it\nnot right: "
            ),
            "{text}"
        );
        let text = render(&Verification {
            repaired: vec![RepairedDrift {
                ago_seconds: 12,
                finding: finding(true),
            }],
            ..verification()
        });
        assert!(
            text.starts_with("found 12s ago: service web: slots 100"),
            "{text}"
        );
        assert!(text.contains("; repaired\nright: "), "{text}");
    }
}
