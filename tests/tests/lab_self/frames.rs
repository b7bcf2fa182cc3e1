//! Frames made by hand arrive as they are, and captures judge what they saw.

use std::net::SocketAddr;
use std::time::Duration;

use balancer_tests::frames::{Packet, hex};
use balancer_tests::lab::capture::Capture;
use balancer_tests::lab::client::{Curl, Dig};
use balancer_tests::lab::raw::RawSocket;
use balancer_tests::lab::server::{Dnsmasq, DnsmasqConfig};
use balancer_tests::lab::{Lab, LabConfig, offload, process};

use crate::{LIMIT, url, web};

/// From the client to the backend; without a checksum, which UDP over IPv4
/// allows.
fn datagram(lab: &Lab, vlans: Vec<u16>) -> Packet {
    let (client, backend) = (lab.client(0), lab.backend(0));
    let mut ethernet = [0; 12];
    ethernet[..6].copy_from_slice(&backend.mac().0);
    ethernet[6..].copy_from_slice(&client.mac().0);
    Packet {
        ethernet,
        vlans,
        payload_len: 33,
        ..Packet::udp(
            SocketAddr::new(client.v4().into(), 4000),
            SocketAddr::new(backend.v4().into(), 4000),
        )
    }
}

#[test]
fn tags_cross_the_switch_within_the_frame() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    offload::keep_tags(lab.switch().namespace(), "backend0").unwrap();
    let capture = Capture::start(lab.backend(0).namespace(), "eth0", "").unwrap();
    let socket = RawSocket::open(lab.client(0).namespace(), "eth0").unwrap();
    for vlans in [vec![], vec![7], vec![5, 6]] {
        let frame = datagram(&lab, vlans.clone()).build();
        socket.send(&frame).unwrap();
        let what = format!("a frame with {} tags", vlans.len());
        let seen = capture.wait_frame(&what, LIMIT, |seen| (seen == frame).then_some(()));
        seen.unwrap();
    }
}

#[test]
fn capture_of_real_traffic_has_no_wrong_checksum() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let (client, backend) = (lab.client(0), lab.backend(0));
    let _web = web(&lab, 0);
    let config = DnsmasqConfig {
        name: "backend0".to_owned(),
        listen: backend.addresses().to_vec(),
        port: 53,
        records: Vec::new(),
        texts: Vec::new(),
    };
    let _dns = Dnsmasq::start(backend.namespace(), &config).unwrap();
    let captures = [client, backend].map(|it| Capture::start(it.namespace(), "eth0", "").unwrap());
    for ip in backend.addresses() {
        let got = Curl::new(url(ip, "/download")).run(client.namespace());
        assert_eq!(got.unwrap().status, 200);
        let dig = Dig::new(SocketAddr::new(ip, 53), "whoami.lab", "TXT");
        assert!(dig.run(client.namespace()).unwrap().is_some());
        let mut ping = client.namespace().command("ping");
        ping.args(["-c", "1", "-W", "5", "-s", "4000", &ip.to_string()]);
        assert!(process::run(ping, LIMIT).unwrap().status.success());
    }
    for capture in captures {
        let judged = capture.judge().unwrap();
        assert!(judged.frames > 1000, "{judged:?}");
    }
}

#[test]
fn one_damaged_frame_is_found_by_tcpdump_and_by_the_lab() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let mut frame = datagram(&lab, vec![]).build();
    let socket = RawSocket::open(lab.client(0).namespace(), "eth0").unwrap();
    // A UDP checksum that is there, and wrong.
    let checksum = 14 + 20 + 6;
    frame[checksum] = 0x12;
    let capture = Capture::start(lab.backend(0).namespace(), "eth0", "udp port 4000").unwrap();
    socket.send(&frame).unwrap();
    let seen = |capture: &Capture| {
        capture.wait_frame("the frame", LIMIT, |seen| (seen == frame).then_some(()))
    };
    seen(&capture).unwrap();
    assert_eq!(capture.tcpdump_complaints().unwrap().len(), 1);
    let error = capture.judge().unwrap_err().to_string();
    assert!(error.contains("wrong UDP checksum"), "{error}");
    assert!(error.contains(&hex(&frame)), "{error}");
}

#[test]
fn capture_without_a_frame_is_no_proof() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let capture = Capture::start(lab.backend(0).namespace(), "eth0", "tcp port 9").unwrap();
    let missed = capture.wait_frame("nothing", Duration::ZERO, |_| Some(()));
    assert!(missed.is_err());
    let error = capture.judge().unwrap_err().to_string();
    assert!(error.contains("nothing was captured"), "{error}");
}
