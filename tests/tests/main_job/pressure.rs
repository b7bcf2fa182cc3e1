//! A flow table that is nearly full is named while it is, and no longer.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use balancer_tests::lab::{Lab, LabConfig};

use crate::LIMIT;
use crate::fixture::{Service, balancer, v4, web_servers};

const RECORDS: u32 = 8192;
const ADDRESSES: u8 = 10;

/// Two packets of each flow: the first one alone makes no lasting record.
fn send(lab: &Lab, to: SocketAddr, flows: usize) -> Result<()> {
    let client = lab.client(0);
    let sources: Vec<IpAddr> = client
        .interface()
        .v4
        .iter()
        .map(|it| (*it).into())
        .collect();
    client.namespace().run(|| {
        for (at, port) in (0..flows).zip(10_000_u16..) {
            let own = SocketAddr::new(sources[at % sources.len()], port);
            let socket = UdpSocket::bind(own)?;
            socket.send_to(b"one", to)?;
            socket.send_to(b"two", to)?;
        }
        Ok(())
    })?
}

#[test]
fn flow_table_that_is_nearly_full_is_named_until_its_flows_are_idle() -> Result<()> {
    let lab = Lab::l2(LabConfig {
        addresses_per_client: ADDRESSES,
        ..LabConfig::backends(2)
    })?;
    let _servers = web_servers(&lab)?;
    let games = Service {
        name: "games",
        port: 7777,
        protocol: "udp",
        health: "kind = \"tcp\"\nport = 80\ninterval = \"200ms\"\ntimeout = \"190ms\"\n",
        ..Service::web(lab.vip_v4(), "l2", v4(lab.backends()))
    };
    let recorded = games.toml().replacen(
        "protocol = \"udp\"\n",
        "protocol = \"udp\"\naffinity = \"flow\"\nflow_idle_timeout = \"8s\"\n",
        1,
    );
    let text = format!("flow_table_size = {RECORDS}\n{recorded}");
    let balancer = balancer(&lab, &text)?;
    let is_named = |problems: &[String]| {
        let mut named = problems.iter().filter(|it| it.contains("map-capacity"));
        named.next().cloned()
    };
    send(&lab, games.dial(), RECORDS as usize / 2)?;
    balancer.wait_status("half of the flows", LIMIT, |status| {
        let flows = status.services.first()?.backends.iter().map(|it| it.flows);
        (flows.sum::<u64>() >= u64::from(RECORDS) / 2).then_some(())
    })?;
    ensure!(is_named(&balancer.status()?.problems).is_none());
    let named = balancer.wait_status("a flow table that is nearly full", LIMIT, |status| {
        // They are to live while they are counted.
        send(&lab, games.dial(), RECORDS as usize * 2).ok()?;
        is_named(&status.problems)
    })?;
    ensure!(
        named.contains("the flow table holds") && named.contains(&format!("of {RECORDS}")),
        "{named}"
    );
    balancer.wait_status("a flow table with room", LIMIT, |status| {
        is_named(&status.problems).is_none().then_some(())
    })?;
    ensure!(
        balancer.log().contains("has room again"),
        "{}",
        balancer.log()
    );
    Ok(())
}
