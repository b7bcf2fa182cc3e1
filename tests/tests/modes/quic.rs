//! QUIC: transfers through every mode, by two implementations.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::lab::client::{Ngtcp2Run, QuicClient};
use balancer_tests::lab::server::{Ngtcp2Server, QuicConfig, QuicServer, download_pattern};
use balancer_tests::lab::{LabConfig, Node};

use crate::every_mode;
use crate::fixture::{Mode, Network};

const PORT: u16 = 443;
/// So many that no backend is left out by chance: one in 60,000 runs.
const CONNECTIONS: usize = 30;
const TRANSFER_LEN: usize = 256 << 10;
/// Long enough to be under way when its client moves.
const DOWNLOAD_LEN: usize = 1 << 20;

every_mode!(exchange);

fn exchange(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(3))?;
    let start = |node: &Node| {
        let config = QuicConfig {
            name: node.name().to_owned(),
            listen: SocketAddr::new(mode.vip.any(), PORT),
            server_id: None,
        };
        QuicServer::start(node.namespace(), &config)
    };
    let servers: Vec<QuicServer> = network
        .lab
        .backends()
        .iter()
        .map(start)
        .collect::<Result<_>>()?;
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
