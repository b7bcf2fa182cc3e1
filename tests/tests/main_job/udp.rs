//! UDP services: DNS, and iperf3 over a pair of services.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::client::{Dig, Iperf3Run};
use balancer_tests::lab::server::Iperf3Server;
use balancer_tests::lab::{Lab, LabConfig, wait_for};

use crate::LIMIT;
use crate::fixture::{Service, balancer, dns_servers, v4, v6};
use crate::forwarding::decaps;

const QUERIES: usize = 100;

/// The servers take TCP on the same port.
const TCP_PROBE: &str = "kind = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"190ms\"\n";

#[test]
fn dns_is_answered_in_l2_over_ipv4() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(3))?;
    answer_dns(&lab, lab.vip_v4().into(), "l2", v4(lab.backends()))
}

#[test]
fn dns_is_answered_in_l2_over_ipv6() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(3))?;
    answer_dns(&lab, lab.vip_v6().into(), "l2", v6(lab.backends()))
}

#[test]
fn dns_is_answered_through_tunnels_of_every_pair_of_families() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(3))?;
    let _decaps = decaps(&lab)?;
    let vips = [IpAddr::from(lab.vip_v4()), lab.vip_v6().into()];
    for vip in vips {
        for backends in [v4(lab.backends()), v6(lab.backends())] {
            answer_dns(&lab, vip, "ipip", backends)?;
        }
    }
    Ok(())
}

fn answer_dns(
    lab: &Lab,
    vip: IpAddr,
    forward: &'static str,
    backends: Vec<(String, IpAddr)>,
) -> Result<()> {
    let servers = dns_servers(lab, vip)?;
    let service = Service {
        name: "dns",
        port: 53,
        protocol: "udp",
        health: TCP_PROBE,
        ..Service::web(vip, forward, backends)
    };
    let balancer = balancer(lab, &service.toml())?;
    let mut answers = BTreeMap::<String, usize>::new();
    for number in 0..QUERIES {
        // Each dig has a socket, and with it a source port, of its own.
        let answer = Dig::new(service.dial(), "whoami.lab", "TXT")
            .run(lab.client(0).namespace())?
            .with_context(|| format!("no answer to query {number}; so far {answers:?}"))?;
        ensure!(answer.status == "NOERROR", "{answer:?}");
        *answers.entry(answer.records.concat()).or_default() += 1;
    }
    println!("dns in {forward} at {vip}: {answers:?}");
    ensure!(answers.len() == lab.backends().len(), "only {answers:?}");
    // The servers saw the client itself, not the balancer.
    let [own_v4, own_v6] = lab.client(0).addresses();
    let client = if vip.is_ipv4() { own_v4 } else { own_v6 };
    let from = format!("whoami.lab from {client}");
    wait_for("all queries in the servers' logs", LIMIT, || {
        let logs = servers.iter().map(|it| it.server.log());
        let seen: usize = logs.map(|log| log.matches(&from).count()).sum();
        (seen == QUERIES).then_some(())
    })?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

#[test]
fn a_pair_of_services_carries_iperf3_with_its_datagrams() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(1))?;
    let server = SocketAddr::new(lab.vip_v4().into(), 5201);
    let _server = Iperf3Server::start(lab.backend(0).namespace(), server.ip(), server.port())?;
    // A probe would be taken for a client, of which iperf3 serves one at a time.
    let control = Service {
        name: "iperf3-control",
        port: server.port(),
        health: "",
        ..Service::web_l2(&lab)
    };
    let data = Service {
        name: "iperf3-data",
        protocol: "udp",
        ..control.clone()
    };
    let text = [control.toml(), data.toml()].join("\n");
    let balancer = balancer(&lab, &text)?;
    let run = Iperf3Run {
        seconds: 2,
        ..Iperf3Run::udp(server, 20_000_000)
    };
    let seen = run.run(lab.client(0).namespace())?;
    println!(
        "iperf3 over udp: {} of {} datagrams lost, {:.1} Mbit/s",
        seen.lost_packets,
        seen.packets,
        seen.bits_per_second / 1e6
    );
    ensure!(seen.packets > 1000, "{seen:?}");
    // The queues of a busy machine's links lose some; the balancer none.
    ensure!(seen.lost_packets * 4 <= seen.packets, "{seen:?}");
    balancer.insist_on_no_drop()
}
