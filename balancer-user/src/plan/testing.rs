//! A running configuration of four web servers and a name server, and what
//! its tables are.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::{Base, Held, Plan, Proofs, findings, make};
use crate::change::TableMemo;
use crate::config::diagnostic::Report;
use crate::config::model::{Config, Seed};
use crate::config::{Examined, examine};
use crate::desired::{Builder, World};
use crate::health;
use crate::probe::scheduler::TargetSpec;

pub(super) const FILE: &str = r#"[node]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "ipip"
fail_open_below = 0

[service.health]
kind = "http"
identity = { body = "web" }

[[service.backend]]
name = "web-1"
address = "10.0.0.11"

[[service.backend]]
name = "web-2"
address = "10.0.0.12"

[[service.backend]]
name = "web-3"
address = "10.0.0.13"

[[service.backend]]
name = "web-4"
address = "10.0.0.14"

[[service]]
name = "dns"
address = "192.0.2.11"
port = 53
protocol = "udp"
forward = "l2"
fail_open_below = 0

[service.health]
kind = "tcp"

[[service.backend]]
name = "dns-1"
address = "10.0.1.1"

[[service.backend]]
name = "dns-2"
address = "10.0.1.2"
"#;

/// What has to stand behind `web-N`'s address to be another backend.
pub(super) const FIFTH: &str = "[[service.backend]]\nname = \"web-5\"\naddress = \"10.0.0.15\"\n";

pub(super) fn examined(text: &str) -> Examined {
    examine("new.toml", text, None)
}

pub(super) fn config(text: &str) -> Config {
    let examined = examined(text);
    let shown = examined.report.render(false);
    examined.config.expect(&shown)
}

/// [`FILE`] with one text replaced; the text must be there exactly once.
pub(super) fn with(from: &str, to: &str) -> String {
    assert_eq!(FILE.matches(from).count(), 1, "{from:?}");
    FILE.replacen(from, to, 1)
}

/// What runs: all are up but `down`, and each TCP backend gets 100 new flows
/// a second.
pub(super) fn base(text: &str, down: &[&str]) -> Base {
    let config = config(text);
    let state = |spec: &TargetSpec| match down.contains(&spec.id.backend.as_str()) {
        true => health::State::Down,
        false => health::State::Up,
    };
    let health: BTreeMap<_, _> = TargetSpec::from_services(&config.services)
        .into_iter()
        .map(|spec| (spec.id.clone(), state(&spec)))
        .collect();
    let world = World {
        health: health.clone(),
        ..World::default()
    };
    let mut builder = Builder::default();
    builder.build(&config, &Seed([7; 16]), &world, Instant::now());
    let held: HashMap<String, Held> = config
        .services
        .iter()
        .filter_map(|service| {
            let held = Held::of(&builder, service, |_| 100.0)?;
            Some((service.name.clone(), held))
        })
        .collect();
    Base {
        revision: Some(41),
        config: Some(config),
        health,
        held,
        drains: Vec::new(),
    }
}

/// The plan of a step from [`FILE`], all of it up, to another text.
pub(super) fn plan_to(text: &str) -> Plan {
    let tables = TableMemo::default();
    make(&base(FILE, &[]), &config(text), &Proofs::new(), &tables)
}

/// What the rules find about a step to a text; nothing else is looked at.
pub(super) fn found(base: &Base, text: &str, proofs: &Proofs) -> Report {
    let examined = examined(text);
    let candidate = config(text);
    let plan = make(base, &candidate, proofs, &TableMemo::default());
    let findings = findings(base, &candidate, &examined.spans, &plan, proofs);
    Report::new("new.toml", text, findings)
}
