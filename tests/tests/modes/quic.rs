//! QUIC: transfers through every mode, by two implementations.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::lab::client::{Ngtcp2Run, QuicClient};
use balancer_tests::lab::quic::ServerId;
use balancer_tests::lab::server::{Ngtcp2Server, QuicConfig, QuicServer, download_pattern};
use balancer_tests::lab::{LabConfig, Node};

use crate::every_mode;
use crate::fixture::{Mode, Network, Service};

const PORT: u16 = 443;
/// So many that no backend is left out by chance: one in 60,000 runs.
const CONNECTIONS: usize = 30;
const TRANSFER_LEN: usize = 256 << 10;
/// Connections that move: so many and more, until each backend has one.
const MOVERS: usize = 10;
/// More are not tried: one in a billion runs needs them.
const MOST_MOVERS: usize = 60;
const SERVER_ID_OFFSET: usize = 2;
/// Long enough to be under way when its client moves.
const DOWNLOAD_LEN: usize = 1 << 20;

every_mode!(exchange);

fn exchange(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(3))?;
    let servers = servers(&network, |_| None)?;
    let _balancer = network.balancer(&[network.service("quic", "udp", PORT)])?;
    let watch = network.watch()?;
    let mut answered = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        let client = connect(&network)?;
        let answer = client.exchange(TRANSFER_LEN, TRANSFER_LEN)?;
        // The port is the client's where the address is.
        let has_port = answer.client.port() == client.port()?;
        let seen = answer.client.ip();
        ensure!(
            network.is_seen_as(network.client(), seen) && (has_port || seen != network.client()),
            "{answer:?}"
        );
        answered.insert(answer.backend);
    }
    ensure!(answered.len() == servers.len(), "only {answered:?}");
    let connections: u64 = servers.iter().map(QuicServer::connections).sum();
    ensure!(connections == CONNECTIONS as u64, "{connections}");
    watch.judge()
}

fn connect(network: &Network) -> Result<QuicClient> {
    QuicClient::connect(network.lab.client(0).namespace(), None, network.dial(PORT))
}

fn servers(
    network: &Network,
    server_id: impl Fn(usize) -> Option<ServerId>,
) -> Result<Vec<QuicServer>> {
    let start = |(index, node): (usize, &Node)| {
        let config = QuicConfig {
            name: node.name().to_owned(),
            listen: SocketAddr::new(network.mode.vip.any(), PORT),
            server_id: server_id(index),
        };
        QuicServer::start(node.namespace(), &config)
    };
    let backends = network.lab.backends().iter().enumerate();
    backends.map(start).collect()
}

mod by_server_id {
    use super::*;

    every_mode!(clients_move_and_keep_their_backend);
}

fn clients_move_and_keep_their_backend(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig {
        addresses_per_client: 3,
        ..LabConfig::backends(3)
    })?;
    let servers = servers(&network, |index| {
        Some(ServerId {
            offset: SERVER_ID_OFFSET,
            id: server_id(index).to_vec(),
            cid_len: 12,
        })
    })?;
    let service = Service {
        server_ids: Some((SERVER_ID_OFFSET, (0..3).map(server_id).collect())),
        ..network.service("quic", "udp", PORT)
    };
    let balancer = network.balancer(&[service])?;
    let watch = network.watch()?;
    let (mut clients, mut homes) = (Vec::new(), Vec::new());
    while clients.len() < MOVERS || homes.iter().collect::<BTreeSet<_>>().len() < servers.len() {
        ensure!(clients.len() < MOST_MOVERS, "only {homes:?}");
        let client = connect(&network)?;
        homes.push(client.exchange(1000, 1000)?.backend);
        clients.push(client);
    }
    for (client, home) in clients.iter().zip(&homes) {
        for source in network.sources() {
            client.rebind(Some(source))?;
            let answer = client.exchange(TRANSFER_LEN, 1000)?;
            ensure!(answer.backend == *home, "{home} had it: {answer:?}");
        }
        let answer = client.download_moving(DOWNLOAD_LEN, TRANSFER_LEN, None)?;
        ensure!(answer.backend == *home, "{home} had it: {answer:?}");
    }
    // The hash would send many of them elsewhere now.
    for change in [
        ["weight", "quic", "backend0", "1000"].as_slice(),
        &["drain", "quic", "backend1"],
    ] {
        balancer.succeed(&[&["backend"], change].concat())?;
        for (client, home) in clients.iter().zip(&homes) {
            client.rebind(None)?;
            let answer = client.exchange(1000, 1000)?;
            ensure!(answer.backend == *home, "{home} had it: {answer:?}");
        }
    }
    let connections: u64 = servers.iter().map(QuicServer::connections).sum();
    ensure!(connections == clients.len() as u64, "{connections}");
    homes.sort();
    println!("{mode}: homes of clients that moved: {homes:?}");
    watch.judge()
}

fn server_id(index: usize) -> [u8; 2] {
    [0xb0, index as u8]
}

mod packaged {
    use super::*;

    every_mode!(download_by_ngtcp2);
}

/// With one backend, a client may move: the hash has no choice.
fn download_by_ngtcp2(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(1))?;
    let backend = network.lab.backend(0).namespace();
    let listen = SocketAddr::new(mode.vip.any(), PORT);
    let _server = Ngtcp2Server::start(backend, listen, DOWNLOAD_LEN)?;
    let _balancer = network.balancer(&[network.service("quic", "udp", PORT)])?;
    let watch = network.watch()?;
    for migrate_after in [None, Some(Duration::from_millis(5))] {
        let run = Ngtcp2Run {
            migrate_after,
            ..Ngtcp2Run::new(network.dial(PORT), "/download")
        };
        let body = run.run(network.lab.client(0).namespace())?;
        ensure!(
            body == download_pattern(DOWNLOAD_LEN),
            "a download of {} bytes is damaged",
            body.len()
        );
    }
    watch.judge()
}
