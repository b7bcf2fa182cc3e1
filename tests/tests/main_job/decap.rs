//! The backend's command on a wire: tunnel packets made by hand reach a
//! socket of the host, and the command says what it did.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Decap;
use balancer_tests::frames::{Gue, Packet, Tunnel};
use balancer_tests::lab::raw::RawSocket;
use balancer_tests::lab::{Mac, Namespace, link};
use serde_json::Value;

use crate::LIMIT;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const BACKEND: Mac = Mac([2, 0, 0, 0, 7, 2]);
const CE: u8 = 0b11;

/// A sender and a backend that has the VIP on `lo`, joined by a link.
struct Wire {
    sender: Namespace,
    backend: Namespace,
}

impl Wire {
    fn build() -> Result<Self> {
        let id = std::process::id();
        let sender = Namespace::create(&format!("decap-sender-{id}"))?;
        let backend = Namespace::create(&format!("decap-backend-{id}"))?;
        let end = |namespace, mac| link::End {
            namespace,
            name: "eth0",
            mac,
            mtu: 1500,
        };
        link::veth(
            &end(&sender, Mac([2, 0, 0, 0, 7, 1])),
            &end(&backend, BACKEND),
        )?;
        for namespace in [&sender, &backend] {
            link::up(namespace, "lo")?;
            link::up(namespace, "eth0")?;
        }
        link::add_address(&backend, "eth0", "198.51.100.2".parse()?, 24)?;
        link::add_address(&backend, "lo", VIP.into(), 32)?;
        // Replies need no way back, but a client's address needs a route.
        link::add_route(
            &backend,
            &link::Route {
                to: Ipv4Addr::UNSPECIFIED.into(),
                prefix_len: 0,
                via: Some("198.51.100.1".parse()?),
                interface: None,
                mtu: None,
            },
        )?;
        Ok(Self { sender, backend })
    }

    /// A datagram of a client to the VIP, in a tunnel.
    fn tunnel(source: &str, destination: &str, payload_len: usize) -> Result<Tunnel> {
        let client: SocketAddr = "203.0.113.1:40000".parse()?;
        let packet = Packet {
            payload_len,
            ..Packet::udp(client, SocketAddr::new(VIP.into(), 53))
        };
        let inner = packet.build()[14..].to_vec();
        let mut tunnel = Tunnel::ipip(source.parse()?, destination.parse()?, inner);
        tunnel.ethernet[..6].copy_from_slice(&BACKEND.0);
        Ok(tunnel)
    }
}

#[test]
fn datagrams_in_gue_and_ipip_reach_a_socket_of_the_backend() -> Result<()> {
    let wire = Wire::build()?;
    let socket = wire
        .backend
        .run(|| UdpSocket::bind((VIP, 53)))?
        .context("no socket on the VIP")?;
    socket.set_read_timeout(Some(LIMIT))?;
    let options = ["--source", "10.9.0.0/16", "--source", "fd99::9", "--json"];
    let mut decap = Decap::start_with(&wire.backend, "eth0", &options)?;
    let raw = RawSocket::open(&wire.sender, "eth0")?;

    let (v4, v6) = (("10.9.4.7", "198.51.100.2"), ("fd99::9", "fd00::7"));
    let mut len = 30;
    for (source, destination) in [v4, v6] {
        for gue in [
            None,
            Some(Gue::direct()),
            Some(Gue::with_header(&[0, 4, 0, 0])),
        ] {
            // Before each a stranger's and one that congestion took; what the
            // socket gets next must be neither.
            let strange = Wire::tunnel("10.8.0.1", "198.51.100.2", 1)?;
            raw.send(&strange.build())?;
            let mut tunnel = Wire::tunnel(source, destination, len)?;
            tunnel.gue = gue;
            let marked = Tunnel {
                traffic_class: CE,
                ..tunnel.clone()
            };
            raw.send(&marked.build())?;
            raw.send(&tunnel.build())?;
            let mut datagram = [0; 2048];
            let (got, from) = socket.recv_from(&mut datagram)?;
            ensure!(got == len, "{got} bytes instead of {len}");
            ensure!(from.ip() == IpAddr::from([203, 0, 113, 1]), "{from}");
            ensure!(datagram[..got] == tunnel.inner[28..]);
            len += 111;
        }
    }

    let status = decap.process().stop(LIMIT)?;
    let log = decap.process().log();
    ensure!(status.success(), "{log}");
    let last = log.lines().last().context("no output")?;
    let report: Value = serde_json::from_str(last).with_context(|| log.clone())?;
    ensure!(report["interface"] == "eth0", "{report}");
    ensure!(report["packets"] == 6, "{report}");
    for (name, packets) in [
        ("ipip_4in4", 1),
        ("gue_4in4", 2),
        ("ipip_4in6", 1),
        ("gue_4in6", 2),
    ] {
        ensure!(
            count(&report, "forms", name)? == packets,
            "{name}: {report}"
        );
    }
    ensure!(
        count(&report, "refusals", "untrusted_source")? == 6,
        "{report}"
    );
    ensure!(count(&report, "refusals", "ecn_drop")? == 6, "{report}");
    Ok(())
}

fn count(report: &Value, list: &str, name: &str) -> Result<u64> {
    let list = report[list].as_array().context("no list")?;
    let entry = list.iter().find(|entry| entry["name"] == name);
    let packets = entry.and_then(|entry| entry["packets"].as_u64());
    packets.with_context(|| format!("no {name}: {report}"))
}
