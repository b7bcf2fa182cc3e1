//! QUIC between the lab's own ends, between ngtcp2's, and after a move.

use std::net::SocketAddr;
use std::time::Duration;

use balancer_tests::lab::client::{Ngtcp2Run, QuicClient};
use balancer_tests::lab::quic::ServerId;
use balancer_tests::lab::server::{Ngtcp2Server, QuicConfig, QuicServer, download_pattern};
use balancer_tests::lab::{Lab, LabConfig, wait_for};

use crate::LIMIT;

const PORT: u16 = 443;

fn server(lab: &Lab, listen: SocketAddr) -> QuicServer {
    let config = QuicConfig {
        name: "backend0".to_owned(),
        listen,
        server_id: Some(ServerId {
            offset: 1,
            id: vec![0xb0, 0x0b],
            cid_len: 12,
        }),
    };
    QuicServer::start(lab.backend(0).namespace(), &config).unwrap()
}

#[test]
fn connection_outlives_a_new_port_and_a_new_address() {
    let lab = Lab::l2(LabConfig {
        addresses_per_client: 2,
        ..LabConfig::backends(1)
    });
    let lab = lab.unwrap();
    let client = lab.client(0);
    for (ip, other) in [
        (lab.backend(0).v4().into(), client.interface().v4[1].into()),
        (lab.backend(0).v6().into(), client.interface().v6[1].into()),
    ] {
        let server = server(&lab, SocketAddr::new(ip, PORT));
        let quic = QuicClient::connect(client.namespace(), None, SocketAddr::new(ip, PORT));
        let quic = quic.unwrap();
        let first = quic.exchange(1 << 20, 2 << 20).unwrap();
        assert_eq!(
            (first.backend.as_str(), first.upload_len),
            ("backend0", 1 << 20)
        );
        quic.rebind(None).unwrap();
        let second = quic.exchange(1000, 1000).unwrap();
        assert_eq!(second.client.ip(), first.client.ip());
        assert_ne!(second.client.port(), first.client.port());
        let third = quic.download_moving(4 << 20, 1 << 20, Some(other)).unwrap();
        assert_eq!(third.client, SocketAddr::new(other, quic.port().unwrap()));
        // The client may have its last byte before the server has counted it.
        let counted = || (server.exchanges() >= 3).then_some(());
        wait_for("the third exchange", LIMIT, counted).unwrap();
        assert_eq!((server.connections(), server.exchanges()), (1, 3));
    }
}

#[test]
fn server_that_crashed_leaves_its_clients_without_an_answer() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let listen = SocketAddr::new(lab.backend(0).v4().into(), PORT);
    let first = server(&lab, listen);
    let quic = QuicClient::connect(lab.client(0).namespace(), None, listen).unwrap();
    quic.exchange(0, 10).unwrap();
    drop(first);
    // A new one is no stand-in: it has none of the connection's keys.
    let second = server(&lab, listen);
    assert!(quic.exchange(0, 10).is_err());
    assert_eq!((second.connections(), second.exchanges()), (0, 0));
}

#[test]
fn ngtcp2_downloads_and_moves() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    for ip in lab.backend(0).addresses() {
        let listen = SocketAddr::new(ip, PORT);
        let len = 1 << 20;
        let mut server = Ngtcp2Server::start(lab.backend(0).namespace(), listen, len).unwrap();
        let still = Ngtcp2Run::new(listen, "/download");
        let moving = Ngtcp2Run {
            migrate_after: Some(Duration::from_millis(5)),
            ..still.clone()
        };
        for run in [still, moving] {
            let body = run.run(lab.client(0).namespace()).unwrap();
            assert!(body == download_pattern(len), "the download is damaged");
        }
        assert!(server.server.is_running());
    }
    let nobody = SocketAddr::new(lab.backend(0).v4().into(), PORT + 1);
    let nobody = Ngtcp2Run {
        limit: LIMIT,
        ..Ngtcp2Run::new(nobody, "/download")
    };
    assert!(nobody.run(lab.client(0).namespace()).is_err());
}
