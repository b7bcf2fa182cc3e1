//! Who reaches whom, with what size, and by which way.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::{Curl, fetch};
use balancer_tests::lab::server::download_pattern;
use balancer_tests::lab::{
    BackendXdp, Lab, LabConfig, Namespace, Node, Replies, link, offload, process, wait_for,
};

use crate::{LIMIT, labs, url, web};

/// Sends one datagram to a node; a reply is not expected.
fn send_datagram(from: &Node, to: IpAddr) {
    let bound: SocketAddr = match to {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let sent = from.namespace().run(|| {
        let socket = std::net::UdpSocket::bind(bound)?;
        socket.set_broadcast(true)?;
        socket.send_to(b"hello", (to, 9))
    });
    sent.unwrap().unwrap();
}

#[test]
fn clients_reach_backends_in_both_topologies_and_families() {
    for lab in labs(&LabConfig {
        clients: 2,
        ..LabConfig::default()
    }) {
        let servers = [web(&lab, 0), web(&lab, 1)];
        for (backend, server) in lab.backends().iter().zip(&servers) {
            for (client, from) in lab
                .clients()
                .iter()
                .flat_map(|client| client.addresses().map(|ip| (client, ip)))
            {
                let to = backend
                    .addresses()
                    .into_iter()
                    .find(|ip| ip.is_ipv4() == from.is_ipv4());
                let to = to.unwrap();
                let response = fetch(client.namespace(), url(to, "/")).unwrap();
                assert_eq!(response.status, 200);
                assert_eq!(response.text(), format!("{} {from}\n", backend.name()));
                assert_eq!(response.backend(), Some(backend.name()));
                assert_eq!(response.local.unwrap().ip(), from);
                let seen = server.accesses().unwrap().pop().unwrap();
                assert_eq!(Some(seen.client), response.local);
                assert_eq!(Some(seen.server), response.remote);
            }
        }
    }
}

#[test]
fn service_addresses_lead_to_the_balancer_and_nobody_answers() {
    for lab in labs(&LabConfig::default()) {
        let _servers = [web(&lab, 0), web(&lab, 1)];
        let name = &lab.balancer().interface().name;
        for vip in lab.vips() {
            let before = link::counters(lab.balancer().namespace(), name).unwrap();
            let asked = Curl::new(url(vip, "/")).limit(Duration::from_millis(500));
            let response = asked.run(lab.client(0).namespace()).unwrap();
            assert_ne!(response.exit_code, 0, "{vip} answered: {}", response.text());
            let after = link::counters(lab.balancer().namespace(), name).unwrap();
            assert!(
                after.rx_packets > before.rx_packets,
                "{vip} did not lead to the balancer"
            );
        }
    }
}

#[test]
fn full_sized_packets_fit_with_an_outer_header_in_front() {
    for lab in labs(&LabConfig::default()) {
        assert_eq!(lab.client(0).interface().mtu, 1500);
        let towards_backends = lab.balancer().interfaces().last().unwrap();
        assert_eq!(
            (towards_backends.mtu, lab.backend(0).interface().mtu),
            (1600, 1600)
        );
        // 1540 bytes of IPv4, unfragmented: a full packet inside IPv6.
        let mut ping = lab.balancer().namespace().command("ping");
        ping.args(["-c", "1", "-W", "5", "-M", "do", "-s", "1512"]);
        ping.arg(lab.backend(0).v4().to_string());
        let output = process::run(ping, LIMIT).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn large_transfers_survive_in_both_directions() {
    for lab in labs(&LabConfig::default()) {
        let server = web(&lab, 0);
        let client = lab.client(0).namespace();
        for address in lab.backend(0).addresses() {
            let response = fetch(client, url(address, "/download")).unwrap();
            assert!(
                response.body == download_pattern(4 << 20),
                "the download is damaged"
            );
            let file = Scratch::create("upload").unwrap();
            let path = file.path().join("file");
            let bytes = download_pattern(1 << 20);
            fs::write(&path, &bytes).unwrap();
            let upload = Curl::new(url(address, "/upload/file"));
            let upload = upload.args(["--upload-file", path.to_str().unwrap()]);
            let response = upload.run(client).unwrap();
            assert!((200..300).contains(&response.status), "{response:?}");
            assert!(
                server.uploaded("file").unwrap() == bytes,
                "the upload is damaged"
            );
        }
    }
}

#[test]
fn offloads_are_off_on_every_interface() {
    let config = LabConfig {
        backend_xdp: BackendXdp::Pass,
        ..LabConfig::default()
    };
    for lab in labs(&config) {
        for node in lab.nodes() {
            for interface in node.interfaces() {
                let on = offload::enabled(node.namespace(), &interface.name).unwrap();
                assert!(on.is_empty(), "{} {}: {on:?}", node.name(), interface.name);
            }
        }
    }
}

#[test]
fn replies_go_through_the_balancer_when_asked_to() {
    let config = LabConfig {
        replies: Replies::ViaBalancer,
        ..LabConfig::default()
    };
    for lab in labs(&config) {
        let before = lab.balancer().interfaces().last().unwrap();
        let count = || {
            link::counters(lab.balancer().namespace(), &before.name)
                .unwrap()
                .rx_bytes
        };
        let start = count();
        for client in lab.client(0).addresses() {
            send_datagram(lab.backend(0), client);
        }
        wait_for("both datagrams at the balancer", LIMIT, || {
            (count() > start + 80).then_some(())
        })
        .unwrap();
    }
}

#[test]
fn commands_in_a_namespace_keep_their_mounts_and_so_bpffs() {
    let namespace = Namespace::create(&format!("blb{}-bpffs", std::process::id())).unwrap();
    let of = |mut command: Command, kind: &str| {
        command.arg(format!("/proc/self/ns/{kind}"));
        process::run(command, LIMIT).unwrap().stdout
    };
    let (inside, outside) = (
        |kind| of(namespace.command("readlink"), kind),
        |kind| of(Command::new("readlink"), kind),
    );
    assert_eq!(inside("mnt"), outside("mnt"));
    assert_ne!(inside("net"), outside("net"));
}

#[test]
fn sysctls_belong_to_the_namespace() {
    let one = Namespace::create(&format!("blb{}-sysctl", std::process::id())).unwrap();
    let two = Namespace::create(&format!("blb{}-sysctl2", std::process::id())).unwrap();
    one.set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    two.set_sysctl("net.ipv4.ip_forward", "0").unwrap();
    assert_eq!(one.sysctl("net.ipv4.ip_forward").unwrap(), "1");
    assert_eq!(two.sysctl("net.ipv4.ip_forward").unwrap(), "0");
}

#[test]
fn narrow_link_teaches_its_mtu_to_whoever_sends_across() {
    let config = LabConfig {
        // A path that is known shows in the segments asked for, so each
        // direction has a client of its own.
        clients: 2,
        narrow_mtu: Some(1400),
        ..LabConfig::backends(1)
    };
    let lab = Lab::routed(config).unwrap();
    let server = web(&lab, 0);
    let [uploader, downloader] = [0, 1].map(|index| lab.client(index));
    let backend = lab.backend(0);
    let file = Scratch::create("upload").unwrap();
    let path = file.path().join("file");
    fs::write(&path, download_pattern(1 << 20)).unwrap();
    for (address, client) in backend.addresses().into_iter().zip(downloader.addresses()) {
        let learnt = |node: &Node, to| link::learnt_mtu(node.namespace(), to).unwrap();
        assert_eq!(learnt(uploader, address), None);
        let upload = Curl::new(url(address, "/upload/file"));
        let upload = upload.args(["--upload-file", path.to_str().unwrap()]);
        let status = upload.run(uploader.namespace()).unwrap().status;
        assert!((200..300).contains(&status), "{status}");
        assert!(server.uploaded("file").unwrap() == download_pattern(1 << 20));
        assert_eq!(learnt(uploader, address), Some(1400));

        assert_eq!(learnt(backend, client), None);
        let response = fetch(downloader.namespace(), url(address, "/download")).unwrap();
        assert!(response.body == download_pattern(4 << 20));
        assert_eq!(learnt(backend, client), Some(1400));
    }
}
