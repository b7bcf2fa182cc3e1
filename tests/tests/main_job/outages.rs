//! The wrong configurations behind five real outages, as files. Each is
//! refused before it is a revision, and so before a packet is sent by it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, Node};

use crate::apply::history;
use crate::fixture::{HTTP_PROBE, Service, balancer, l2, load, stop_unharmed, v4, wait_answers};

/// What proves that a server is one of the service's.
const PROOF: &str = "identity = { header = { name = \"x-service\", value = \"web\" } }\n";

/// A web server that says of which service it is.
fn server(node: &Node, service: &str) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    config.directives = format!("add_header X-Service {service};");
    Nginx::start(node.namespace(), &config)
}

struct Outages<'a> {
    balancer: Balancer<'a>,
    text: String,
}

impl Outages<'_> {
    /// Applies a file and insists that it is refused by these rules, and that
    /// nothing has changed.
    fn refused(&self, outage: &str, text: &str, rules: &[&str]) -> Result<()> {
        ensure!(text != self.text, "{outage}: the file is the good one");
        self.balancer.write_services(&["eth0"], text)?;
        let file = self.balancer.config();
        let file = file.to_str().context("a path that is no text")?;
        let before = self.balancer.succeed(&["show", "--config"])?;
        let output = self.balancer.command(&["apply", "--yes", file])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "{outage}: {output:?}");
        for rule in rules {
            let finding = format!("error[{rule}]");
            ensure!(said.contains(&finding), "{outage}: no {finding} in\n{said}");
        }
        ensure!(history(&self.balancer)?.revisions.len() == 1, "{outage}");
        ensure!(self.balancer.succeed(&["show", "--config"])? == before);
        println!("{outage}: refused by {}", rules.join(", "));
        Ok(())
    }

    /// The file with a weight for each of the first backends.
    fn weighted(&self, weights: &[u16]) -> String {
        let mut text = self.text.clone();
        for (at, weight) in weights.iter().enumerate() {
            let name = format!("name = \"backend{at}\"\n");
            text = text.replace(&name, &format!("{name}weight = {weight}\n"));
        }
        text
    }
}

/// Everybody's address of a backend that is none of the service's.
fn instead(lab: &Lab, text: &str, at: usize, other: IpAddr) -> String {
    let address = |ip: IpAddr| format!("address = \"{ip}\"");
    text.replace(&address(lab.backend(at).v4().into()), &address(other))
}

#[test]
fn configurations_of_five_outages_are_refused_before_a_packet() -> Result<()> {
    let lab = l2(6)?;
    let (own, foreign) = lab.backends().split_at(4);
    let _servers: Vec<Nginx> = own
        .iter()
        .map(|it| server(it, "web"))
        .collect::<Result<_>>()?;
    let _others: Vec<Nginx> = foreign[..1]
        .iter()
        .map(|it| server(it, "intranet"))
        .collect::<Result<_>>()?;
    let probe = format!("{HTTP_PROBE}{PROOF}");
    let service = Service {
        health: probe.leak(),
        ..Service::web(lab.vip_v4(), "l2", v4(own))
    };
    let text = service.toml();
    let outages = Outages {
        balancer: balancer(&lab, &text)?,
        text: text.clone(),
    };
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;

    // Traffic was spread unevenly, and the servers were overwhelmed.
    let coarse = format!(
        "table_size = 101\n{}",
        outages.weighted(&[60000, 40000, 9, 9])
    );
    outages.refused("uneven distribution", &coarse, &["table-share"])?;
    // Requests were routed to servers that could not answer them.
    let dead: IpAddr = foreign[1].v4().into();
    let misrouted = instead(&lab, &text, 3, dead);
    outages.refused("improper routing", &misrouted, &["unproven-backend"])?;
    // One server got the majority of the traffic.
    let lopsided = outages.weighted(&[1000, 1, 1, 1]);
    outages.refused("one server has it all", &lopsided, &["blast-radius"])?;
    // A routine update sent everything to a single server.
    let routine = outages.weighted(&[100, 0, 0, 0]);
    outages.refused("routine update", &routine, &["blast-radius"])?;
    // The wrong set of servers: healthy, and of another service.
    let wrong = instead(&lab, &text, 3, foreign[0].v4().into());
    outages.refused("wrong servers", &wrong, &["unproven-backend"])?;
    let own: Vec<String> = own.iter().map(|it| format!("\"{}/32\"", it.v4())).collect();
    let pool = format!(
        "forward = \"l2\"\nallowed_backends = [{}]\n",
        own.join(", ")
    );
    let fenced = wrong.replace("forward = \"l2\"\n", &pool);
    outages.refused(
        "wrong servers, with a pool",
        &fenced,
        &["backend-outside-pool"],
    )?;

    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}
