//! Rules about what the network answers: vip-answered-elsewhere and
//! backend-vip.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, Decap};
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, Node, link, wait_for};

use crate::LIMIT;
use crate::fixture::{Expected, File, check, expect, run};

/// A web server of a backend on all its addresses.
fn server(node: &Node) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec!["0.0.0.0:80".parse()?, "[::]:80".parse()?];
    Nginx::start(node.namespace(), &config)
}

fn servers(lab: &Lab) -> Result<Vec<Nginx>> {
    lab.backends().iter().map(server).collect()
}

fn decaps(lab: &Lab) -> Result<Vec<Decap>> {
    let sources: Vec<IpAddr> = lab
        .balancer()
        .interfaces()
        .iter()
        .flat_map(|interface| {
            let v4 = interface.v4.iter().map(|it| IpAddr::V4(*it));
            v4.chain(interface.v6.iter().map(|it| IpAddr::V6(*it)))
        })
        .collect();
    let decap = |node: &Node| Decap::start(node.namespace(), "eth0", &sources);
    lab.backends().iter().map(decap).collect()
}

/// The place of a backend's address in a file.
fn of(address: IpAddr) -> String {
    format!("\"{address}\"")
}

#[test]
fn l2_backend_without_the_service_address_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(3))?;
    let _servers = servers(&lab)?;
    let namespace = lab.balancer().namespace();
    for (file, vip) in [
        (File::v4(&lab, "l2"), IpAddr::V4(lab.vip_v4())),
        (File::v6(&lab, "l2"), IpAddr::V6(lab.vip_v6())),
    ] {
        expect(namespace, &file, &[])?;
        let wrong = lab.backend(1).namespace();
        link::remove_address(wrong, link::LOOPBACK, vip)?;
        let address = of(file.backends[1].0);
        let says =
            format!("service web: backend b1 does not answer a SYN to {vip} that comes by l2");
        let silent = Expected {
            rule: "backend-vip",
            level: "error",
            at: &address,
            says: &says,
        };
        expect(namespace, &file, &[silent])?;
        let prefix_len = if vip.is_ipv4() { 32 } else { 128 };
        link::add_address(wrong, link::LOOPBACK, vip, prefix_len)?;
        expect(namespace, &file, &[])?;
    }
    Ok(())
}

#[test]
fn server_that_does_not_listen_on_the_service_address_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    let _right = server(lab.backend(0))?;
    // Well and probed, but only under its own address.
    let own = [lab.backend(1).v4().into()];
    let _wrong = Nginx::start(
        lab.backend(1).namespace(),
        &NginxConfig::new("backend1", &own, 80),
    )?;
    let mut file = File::v4(&lab, "l2");
    let address = of(file.backends[1].0);
    let says = format!(
        "service web: backend b1 refuses connections to {}:80",
        lab.vip_v4()
    );
    let refused = Expected {
        rule: "backend-vip",
        level: "error",
        at: &address,
        says: &says,
    };
    expect(namespace, &file, &[refused])?;
    file.backends[1].1 = "weight = 0\n";
    let unused = Expected {
        level: "warning",
        ..refused
    };
    expect(namespace, &file, &[unused])
}

#[test]
fn tunnel_backend_that_does_not_unwrap_is_found() -> Result<()> {
    let lab = Lab::routed(LabConfig {
        backend_mtu: 1600,
        ..LabConfig::backends(2)
    })?;
    let _servers = servers(&lab)?;
    let namespace = lab.balancer().namespace();
    // Each family in each, by both tunnels.
    let mut crossed = File::v4(&lab, "ipip");
    crossed.backends = lab
        .backends()
        .iter()
        .map(|it| (it.v6().into(), ""))
        .collect();
    let files = [
        File::v4(&lab, "ipip"),
        File::v6(&lab, "ipip"),
        File::v4(&lab, "gue"),
        File::v6(&lab, "gue"),
        crossed,
    ];
    let decaps = decaps(&lab)?;
    for file in &files {
        expect(namespace, file, &[])?;
    }
    drop(decaps);
    for file in &files {
        let places = [of(file.backends[0].0), of(file.backends[1].0)];
        let says = format!("to {} that comes by {}", file.address, file.forward);
        let silent = places.each_ref().map(|place| Expected {
            rule: "backend-vip",
            level: "error",
            at: place,
            says: &says,
        });
        expect(namespace, file, &silent)?;
    }
    Ok(())
}

#[test]
fn connections_that_are_taken_are_reset_and_a_running_balancer_sees_none() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let servers = servers(&lab)?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "l2");
    let text = file.to_string();
    let (_, services) = text.split_once("\n[[service]]").context("no service")?;
    let balancer = Balancer::start(namespace, &["eth0"], &format!("[[service]]{services}"))?;
    file.node = format!("pin_dir = {:?}\n", balancer.pin_dir());
    expect(namespace, &file, &[])?;
    let status = balancer.status()?;
    let flows: u64 = status.services[0].backends.iter().map(|it| it.flows).sum();
    ensure!(flows == 0, "{status:?}");
    for node in lab.backends() {
        wait_for("no connection half open", LIMIT, || {
            let mut command = node.namespace().command("ss");
            command.args(["-Htan", "state", "syn-recv", "state", "established"]);
            let output = balancer_tests::lab::process::run(command, LIMIT).ok()?;
            output.stdout.is_empty().then_some(())
        })?;
    }
    drop(servers);
    Ok(())
}

#[test]
fn datagram_service_is_pinged_and_its_silence_is_a_warning() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    for mut file in [File::v4(&lab, "l2"), File::v6(&lab, "l2")] {
        file.protocol = "udp";
        expect(namespace, &file, &[])?;
        let vip = file.address;
        link::remove_address(lab.backend(0).namespace(), link::LOOPBACK, vip)?;
        let address = of(file.backends[0].0);
        let says = format!("service web: backend b0 does not answer a ping to {vip}");
        let silent = Expected {
            rule: "backend-vip",
            level: "warning",
            at: &address,
            says: &says,
        };
        expect(namespace, &file, &[silent])?;
    }
    Ok(())
}

#[test]
fn backend_that_answers_arp_for_the_service_address_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let _servers = servers(&lab)?;
    let namespace = lab.balancer().namespace();
    let file = File::v4(&lab, "l2");
    expect(namespace, &file, &[])?;
    let wrong = lab.backend(1);
    wrong
        .namespace()
        .set_sysctl("net.ipv4.conf.all.arp_ignore", "0")?;
    let vip = of(lab.vip_v4().into());
    let says = format!(
        "service web: {} is answered for on eth0 by backend b1 ({})",
        lab.vip_v4(),
        wrong.mac()
    );
    let answered = Expected {
        rule: "vip-answered-elsewhere",
        level: "error",
        at: &vip,
        says: &says,
    };
    expect(namespace, &file, &[answered])?;
    wrong
        .namespace()
        .set_sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
    expect(namespace, &file, &[])
}

#[test]
fn stranger_with_the_service_address_is_found_in_both_families() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let _servers = servers(&lab)?;
    let namespace = lab.balancer().namespace();
    let stranger = lab.client(0);
    for (file, prefix_len) in [(File::v4(&lab, "l2"), 24), (File::v6(&lab, "l2"), 64)] {
        link::add_address(stranger.namespace(), "eth0", file.address, prefix_len)?;
        let vip = of(file.address);
        let says = format!(
            "service web: {} is answered for on eth0 by {}",
            file.address,
            stranger.mac()
        );
        let answered = Expected {
            rule: "vip-answered-elsewhere",
            level: "error",
            at: &vip,
            says: &says,
        };
        expect(namespace, &file, &[answered])?;
        link::remove_address(stranger.namespace(), "eth0", file.address)?;
        expect(namespace, &file, &[])?;
        // This host's own claim is none against it.
        link::add_address(namespace, "eth0", file.address, prefix_len)?;
        let found = check(namespace, &file)?;
        ensure!(found.is_empty(), "{found:?}");
        link::remove_address(namespace, "eth0", file.address)?;
    }
    Ok(())
}

#[test]
fn small_segments_that_the_backends_ask_for_make_up_for_a_narrow_way() -> Result<()> {
    let lab = Lab::routed(LabConfig {
        back_mtu: Some(1500),
        ..LabConfig::backends(1)
    })?;
    let _servers = servers(&lab)?;
    let _decaps = decaps(&lab)?;
    let namespace = lab.balancer().namespace();
    let file = File::v4(&lab, "ipip");
    let address = of(file.backends[0].0);
    let costly = Expected {
        rule: "mtu",
        level: "warning",
        at: &address,
        says: "longer packets than 1480 bytes",
    };
    let announce = |mss: u32| {
        let gateway = "route replace default via 10.4.0.1";
        run(
            lab.backend(0).namespace(),
            "ip",
            "route flush root 10.2.0.0/16",
        )?;
        run(
            lab.backend(0).namespace(),
            "ip",
            &format!("{gateway} advmss {mss}"),
        )
    };
    announce(1441)?;
    expect(namespace, &file, &[costly])?;
    announce(1440)?;
    expect(namespace, &file, &[])
}
