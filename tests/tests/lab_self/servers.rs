//! Servers live, hang, die and return; clients tell what they saw.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use balancer_tests::lab::client::{
    Curl, Dig, Downloads, HeldConnections, HttpLoad, Iperf3Run, Target, WrkRun,
};
use balancer_tests::lab::server::{Dnsmasq, DnsmasqConfig, Iperf3Server, Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, wait_for};

use crate::{LIMIT, url, web};

#[test]
fn a_load_tells_backends_sources_and_failures() {
    let config = LabConfig {
        addresses_per_client: 3,
        ..LabConfig::backends(1)
    };
    let lab = Lab::l2(config).unwrap();
    let mut server = web(&lab, 0);
    let client = lab.client(0);
    let target = SocketAddr::new(lab.backend(0).v4().into(), 80);
    let sources: Vec<IpAddr> = client
        .interface()
        .v4
        .iter()
        .map(|ip| (*ip).into())
        .collect();
    let burst = HttpLoad {
        sources,
        ..HttpLoad::burst(target, "/", 300, 10)
    };
    let report = burst.run(client.namespace()).unwrap();
    assert_eq!(
        (report.answered, report.failed),
        (300, 0),
        "{:?}",
        report.failures
    );
    assert_eq!(report.from_backend("backend0"), 300);
    assert_eq!(report.by_status[&200], 300);
    let seen: BTreeSet<_> = server
        .accesses()
        .unwrap()
        .iter()
        .map(|access| access.client.ip())
        .collect();
    assert_eq!(seen.len(), 3, "{seen:?}");

    let load = HttpLoad::new(target, "/healthz")
        .start(client.namespace())
        .unwrap();
    wait_for("answers", LIMIT, || (load.answered() > 100).then_some(())).unwrap();
    server.server.kill().unwrap();
    wait_for("failures", LIMIT, || (load.failed() > 0).then_some(())).unwrap();
    server.server.restart().unwrap();
    let so_far = load.answered();
    wait_for("answers again", LIMIT, || {
        (load.answered() > so_far).then_some(())
    })
    .unwrap();
    let report = load.stop().unwrap();
    assert!(
        report
            .failures
            .iter()
            .all(|failure| failure.at < report.elapsed)
    );
    assert!(report.latency(0.5) <= report.latency(1.0));
}

#[test]
fn a_server_can_be_ill_hang_stop_and_come_back() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let mut server = web(&lab, 0);
    let client = lab.client(0).namespace();
    let ask = || {
        let address = lab.backend(0).v4().into();
        Curl::new(url(address, "/healthz"))
            .limit(Duration::from_millis(500))
            .run(client)
            .unwrap()
    };
    assert_eq!((ask().status, ask().text().as_str()), (200, "ok\n"));
    server.set_healthy(false).unwrap();
    assert_eq!((ask().status, ask().backend()), (503, Some("backend0")));
    server.set_healthy(true).unwrap();
    server.server.pause().unwrap();
    let hanging = ask();
    assert_eq!((hanging.exit_code, hanging.status), (28, 0), "{hanging:?}");
    server.server.resume().unwrap();
    assert_eq!(ask().status, 200);
    server.server.stop().unwrap();
    assert!(!server.server.is_running());
    assert_eq!(ask().exit_code, 7);
    server.server.restart().unwrap();
    assert_eq!(ask().status, 200);
}

#[test]
fn wrk_iperf3_and_dig_report() {
    let lab = Lab::routed(LabConfig::backends(1)).unwrap();
    let (client, backend) = (lab.client(0).namespace(), lab.backend(0));
    let _web = web(&lab, 0);
    for address in backend.addresses() {
        let run = WrkRun {
            seconds: 1,
            ..WrkRun::new(SocketAddr::new(address, 80), "/")
        };
        let report = run.run(client).unwrap();
        assert!(
            report.requests > 0 && report.p50_micros <= report.max_micros,
            "{report:?}"
        );
        assert_eq!(report.errors(), 0, "{report:?}");

        let _iperf3 = Iperf3Server::start(backend.namespace(), address, 5201).unwrap();
        let server = SocketAddr::new(address, 5201);
        let tcp = Iperf3Run::new(server).run(client).unwrap();
        assert!(
            tcp.received_bytes > 0 && tcp.bits_per_second > 0.0,
            "{tcp:?}"
        );
        let udp = Iperf3Run::udp(server, 1_000_000).run(client).unwrap();
        assert!(udp.packets > 0 && udp.lost_packets < udp.packets, "{udp:?}");

        let config = DnsmasqConfig {
            name: backend.name().to_owned(),
            listen: vec![address],
            port: 53,
            records: vec![("www.lab".to_owned(), "192.0.2.80".parse().unwrap())],
            texts: Vec::new(),
        };
        let _dns = Dnsmasq::start(backend.namespace(), &config).unwrap();
        let server = SocketAddr::new(address, 53);
        for tcp in [false, true] {
            let query = Dig {
                tcp,
                ..Dig::new(server, "www.lab", "A")
            };
            let answer = query.run(client).unwrap().expect("an answer");
            assert_eq!(
                (answer.status.as_str(), answer.records[0].as_str()),
                ("NOERROR", "192.0.2.80")
            );
        }
        let who = Dig::new(server, "whoami.lab", "TXT")
            .run(client)
            .unwrap()
            .expect("an answer");
        assert_eq!(who.records, ["\"backend0\""]);
        let nobody = Dig {
            seconds: 1,
            ..Dig::new(SocketAddr::new(address, 54), "www.lab", "A")
        };
        assert_eq!(nobody.run(client).unwrap(), None);
    }
}

/// A server that sends `/slow`, four mebibytes, at one a second.
fn slow_web(lab: &Lab) -> (Nginx, Target) {
    let backend = lab.backend(0);
    let mut config = NginxConfig::new(backend.name(), &backend.addresses(), 80);
    config.directives =
        "location = /slow { set $limit_rate 1m; rewrite ^ /download last; }".to_owned();
    let server = Nginx::start(backend.namespace(), &config).unwrap();
    let interface = lab.client(0).interface();
    let target = Target {
        server: SocketAddr::new(backend.v6().into(), 80),
        sources: interface.v6.iter().map(|ip| (*ip).into()).collect(),
    };
    (server, target)
}

#[test]
fn held_connections_and_downloads_tell_when_they_break() {
    let lab = Lab::l2(LabConfig {
        addresses_per_client: 3,
        ..LabConfig::backends(1)
    });
    let lab = lab.unwrap();
    let (mut server, target) = slow_web(&lab);
    let client = lab.client(0).namespace();
    let mut held = HeldConnections::open(client, &target, 60).unwrap();
    assert_eq!(held.by_backend(), [("backend0".to_owned(), 60)].into());
    assert_eq!(held.ask_again().unwrap(), []);
    // nginx writes its log after the answer.
    let logged = || server.accesses().ok().filter(|seen| seen.len() >= 120);
    let seen = wait_for("120 lines of the log", LIMIT, logged).unwrap();
    let clients: BTreeSet<_> = seen.iter().map(|access| access.client).collect();
    assert_eq!((seen.len(), clients.len()), (120, 60), "not held");
    let whole = Downloads::start(client, &target, "/slow", 4 << 20, 3).unwrap();
    assert_eq!((whole.running(), whole.by_backend()["backend0"]), (3, 3));
    whole.advance(4 << 20, 2 * LIMIT).unwrap();
    assert_eq!((whole.running(), whole.by_backend()["backend0"]), (0, 3));
    assert_eq!(whole.broken(), []);

    let cut = Downloads::start(client, &target, "/slow", 4 << 20, 3).unwrap();
    assert_eq!(cut.running(), 3);
    server.server.kill().unwrap();
    cut.advance(4 << 20, LIMIT).unwrap();
    assert_eq!((cut.by_backend().len(), cut.broken().len()), (0, 3));
    assert_eq!(cut.broken()[0].backend, "backend0");
    server.server.restart().unwrap();
    assert_eq!(held.ask_again().unwrap().len(), 60);
}

#[test]
fn download_of_other_bytes_is_a_broken_one() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let (server, target) = slow_web(&lab);
    let mut bytes = balancer_tests::lab::server::download_pattern(4 << 20);
    bytes[3 << 20] ^= 1;
    std::fs::write(server.server.directory().join("download"), bytes).unwrap();
    let client = lab.client(0).namespace();
    let downloads = Downloads::start(client, &target, "/slow", 4 << 20, 1).unwrap();
    downloads.advance(4 << 20, 2 * LIMIT).unwrap();
    let broken = downloads.broken();
    assert_eq!((downloads.by_backend().len(), broken.len()), (0, 1));
    assert!(broken[0].error.contains("damaged"), "{broken:?}");
}
