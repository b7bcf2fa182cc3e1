//! Tagged frames, made by hand: the kernel here has no VLAN interfaces.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use balancer_tests::frames::Packet;
use balancer_tests::lab::capture::Capture;
use balancer_tests::lab::raw::RawSocket;
use balancer_tests::lab::{LabConfig, offload};

use crate::LIMIT;
use crate::fixture::{Family, Forward, Mode};

#[test]
fn ipv4_frames_keep_their_tags() -> Result<()> {
    keep_tags(Family::V4)
}

#[test]
fn ipv6_frames_keep_their_tags() -> Result<()> {
    keep_tags(Family::V6)
}

fn keep_tags(family: Family) -> Result<()> {
    let mode = Mode {
        forward: Forward::L2,
        vip: family,
        backends: family,
    };
    let network = mode.lab(LabConfig::backends(1))?;
    let (lab, web) = (&network.lab, network.service("web", "tcp", 80));
    for port in ["client0", "balancer", "backend0"] {
        offload::keep_tags(lab.switch().namespace(), port)?;
    }
    let balancer = network.balancer(&[web])?;
    let capture = Capture::start(lab.backend(0).namespace(), "eth0", "")?;
    let socket = RawSocket::open(lab.client(0).namespace(), "eth0")?;
    let (client, own) = (network.client(), lab.client(0).mac());
    let mut sent = 0;
    for vlans in [vec![], vec![0x2007], vec![0x0005, 0x0fff]] {
        let source = SocketAddr::new(client, 4000 + vlans.len() as u16);
        let packet = Packet {
            ethernet: ethernet(lab.balancer().mac().0, own.0),
            vlans,
            ..Packet::tcp(source, network.dial(80))
        };
        // Nothing but the Ethernet addresses may change.
        let expected = Packet {
            ethernet: ethernet(lab.backend(0).mac().0, lab.balancer().mac().0),
            ..packet.clone()
        };
        socket.send(&packet.build())?;
        let what = format!("the frame with tags {:#06x?}", packet.vlans);
        let expected = expected.build();
        capture.wait_frame(&what, LIMIT, |seen| (seen == expected).then_some(()))?;
        sent += 1;
    }
    let forwarded = balancer.status()?.reasons["forwarded"];
    ensure!(forwarded >= sent, "{forwarded} of {sent}");
    Ok(())
}

fn ethernet(to: [u8; 6], from: [u8; 6]) -> [u8; 12] {
    let mut both = [0; 12];
    both[..6].copy_from_slice(&to);
    both[6..].copy_from_slice(&from);
    both
}

#[test]
fn answers_to_tagged_echo_requests_are_tagged() -> Result<()> {
    let mode = Mode {
        forward: Forward::L2,
        vip: Family::V4,
        backends: Family::V4,
    };
    let network = mode.lab(LabConfig::backends(1))?;
    let lab = &network.lab;
    for port in ["client0", "balancer"] {
        offload::keep_tags(lab.switch().namespace(), port)?;
    }
    let _balancer = network.balancer(&[network.service("web", "tcp", 80)])?;
    let capture = Capture::start(lab.client(0).namespace(), "eth0", "")?;
    let socket = RawSocket::open(lab.client(0).namespace(), "eth0")?;
    let (IpAddr::V4(from), IpAddr::V4(to)) = (network.client(), network.vip()) else {
        unreachable!("both are IPv4");
    };
    let request = echo_request(
        ethernet(lab.balancer().mac().0, lab.client(0).mac().0),
        [from.octets(), to.octets()],
    );
    socket.send(&request)?;
    capture.wait_frame("the answer with both tags", LIMIT, |seen| {
        let is_answer = seen.len() == request.len()
            && seen[..6] == lab.client(0).mac().0
            && seen[12..20] == request[12..20]
            && seen[34..38] == to.octets()
            && seen[42] == 0;
        is_answer.then_some(())
    })?;
    capture.judge()?;
    Ok(())
}

/// An echo request with two tags.
fn echo_request(ethernet: [u8; 12], [from, to]: [[u8; 4]; 2]) -> Vec<u8> {
    use balancer_tests::model::forward::checksum;
    let mut header = [0; 20];
    header[..10].copy_from_slice(&[0x45, 0, 0, 36, 0, 1, 0, 0, 64, 1]);
    header[12..16].copy_from_slice(&from);
    header[16..].copy_from_slice(&to);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    let mut echo = [8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    let sum = checksum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);
    let tags = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0];
    [&ethernet[..], &tags, &header, &echo].concat()
}
