//! Throughput over TCP and UDP, and DNS with small and large answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::client::{Answer, Dig, Iperf3Run};
use balancer_tests::lab::server::{Dnsmasq, DnsmasqConfig, Iperf3Server};
use balancer_tests::lab::{LabConfig, Node};

use crate::every_mode;
use crate::fixture::{Mode, Network};

const IPERF3_PORT: u16 = 5201;
const BITS_PER_SECOND: u64 = 40_000_000;

/// In one packet, and in six fragments.
const DATAGRAM_LENS: [usize; 2] = [1200, 8192];

const QUERIES: usize = 40;
/// Records of 200 bytes each; dnsmasq sends up to 4096 bytes.
const LARGE_RECORDS: usize = 16;

mod iperf3 {
    use super::*;

    every_mode!(measure);
}

fn measure(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(1))?;
    let server = network.dial(IPERF3_PORT);
    let _server = Iperf3Server::start(
        network.lab.backend(0).namespace(),
        network.served(network.lab.backend(0)),
        IPERF3_PORT,
    )?;
    // Control connection and data; a probe would be taken for a client.
    let services = ["tcp", "udp"].map(|protocol| network.service(protocol, protocol, IPERF3_PORT));
    let balancer = network.balancer(&services)?;
    let watch = network.watch()?;
    let client = network.lab.client(0).namespace();
    for reverse in [false, true] {
        let tcp = Iperf3Run {
            reverse,
            bits_per_second: Some(4 * BITS_PER_SECOND),
            ..Iperf3Run::new(server)
        };
        let seen = tcp.run(client)?;
        ensure!(seen.received_bytes > 10 << 20, "{seen:?}");
        println!(
            "{mode}: tcp, reverse {reverse}: {:.1} Mbit/s, {} sent again",
            seen.bits_per_second / 1e6,
            seen.retransmits
        );
        for len in DATAGRAM_LENS {
            datagrams_arrive(&network, server, len, reverse)?;
        }
    }
    watch.judge()?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    balancer.insist_on_no_drop()
}

fn datagrams_arrive(
    network: &Network,
    server: SocketAddr,
    len: usize,
    reverse: bool,
) -> Result<()> {
    let udp = Iperf3Run {
        arguments: vec!["--length".to_owned(), len.to_string()],
        reverse,
        ..Iperf3Run::udp(server, BITS_PER_SECOND)
    };
    let seen = udp.run(network.lab.client(0).namespace())?;
    println!(
        "{}: udp of {len} bytes, reverse {reverse}: {} of {} datagrams lost",
        network.mode, seen.lost_packets, seen.packets
    );
    let expected = BITS_PER_SECOND / 8 / len as u64;
    ensure!(seen.packets > expected / 2, "{seen:?}");
    // A busy machine loses some; a path that is not there loses all.
    ensure!(seen.lost_packets * 4 <= seen.packets, "{seen:?}");
    Ok(())
}

mod dns {
    use super::*;

    every_mode!(answer_dns);
}

fn answer_dns(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(3))?;
    let start = |node: &Node| {
        let config = DnsmasqConfig {
            name: node.name().to_owned(),
            listen: [vec![network.served(node)], node.addresses().to_vec()].concat(),
            port: 53,
            records: Vec::new(),
            texts: (0..LARGE_RECORDS)
                .map(|number| ("large.lab".to_owned(), format!("{number:0200}")))
                .collect(),
        };
        Dnsmasq::start(node.namespace(), &config)
    };
    let backends = network.lab.backends();
    let _servers: Vec<Dnsmasq> = backends.iter().map(start).collect::<Result<_>>()?;
    let services = ["tcp", "udp"].map(|protocol| network.service(protocol, protocol, 53));
    let _balancer = network.balancer(&services)?;
    let watch = network.watch()?;
    let mut answers = BTreeMap::<String, usize>::new();
    let whoami = Dig::new(network.dial(53), "whoami.lab", "TXT");
    for number in 0..QUERIES {
        let answer = ask(&network, &whoami).with_context(|| format!("query {number}"))?;
        *answers.entry(answer.records.concat()).or_default() += 1;
    }
    ensure!(answers.len() == backends.len(), "only {answers:?}");
    // More than fits a packet: first cut off over UDP and asked for again over
    // TCP, then in one datagram, which is fragmented.
    let large = Dig::new(network.dial(53), "large.lab", "TXT");
    let in_one = Dig {
        buffer_len: Some(4096),
        ..large.clone()
    };
    for dig in [large, in_one] {
        let answer = ask(&network, &dig)?;
        ensure!(answer.records.len() == LARGE_RECORDS, "{answer:?}");
        ensure!(answer.over_tcp == dig.buffer_len.is_none(), "{answer:?}");
    }
    watch.judge()?;
    println!("{mode}: dns: {answers:?}");
    Ok(())
}

fn ask(network: &Network, dig: &Dig) -> Result<Answer> {
    let answer = dig.run(network.lab.client(0).namespace())?;
    let answer = answer.context("no answer")?;
    ensure!(answer.status == "NOERROR", "{answer:?}");
    Ok(answer)
}
