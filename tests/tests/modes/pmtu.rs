//! Path-MTU discovery, end to end: large transfers through a way that is
//! narrower than the client's link, and what the ends have learnt of it.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::server::download_pattern;
use balancer_tests::lab::{LabConfig, Node, link};

use crate::every_routed_mode;
use crate::fixture::{DOWNLOAD_LEN, Mode, Network};

const NARROW_MTU: u32 = 1400;
const UPLOAD_LEN: usize = 4 << 20;

mod from_the_balancer {
    use super::*;

    every_routed_mode!(uploads_fit_the_balancers_own_way);
}

fn uploads_fit_the_balancers_own_way(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig {
        back_mtu: Some(NARROW_MTU),
        ..LabConfig::backends(1)
    })?;
    let _servers = network.web_servers()?;
    let _balancer = network.balancer(&[network.web()])?;
    let watch = network.watch()?;
    let client = network.lab.client(0);
    ensure!(learnt(client, network.vip())?.is_none());
    upload(&network, client)?;
    let expected = NARROW_MTU - mode.overhead_len();
    let learnt = learnt(client, network.vip())?;
    ensure!(learnt == Some(expected), "{learnt:?}, not {expected}");
    watch.judge()
}

mod behind_a_router {
    use super::*;

    every_routed_mode!(both_directions_fit_a_link_behind_a_router);
}

fn both_directions_fit_a_link_behind_a_router(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig {
        // A path that is known shows in the segments asked for, so each
        // direction has a client of its own.
        clients: 2,
        narrow_mtu: Some(NARROW_MTU),
        ..LabConfig::backends(1)
    })?;
    let _servers = network.web_servers()?;
    let _balancer = network.balancer(&[network.web()])?;
    let watch = network.watch()?;
    let [uploader, downloader] = [0, 1].map(|index| network.lab.client(index));
    ensure!(learnt(uploader, network.vip())?.is_none());
    upload(&network, uploader)?;
    let expected = NARROW_MTU - mode.overhead_len();
    let of_client = learnt(uploader, network.vip())?;
    ensure!(of_client == Some(expected), "{of_client:?}, not {expected}");

    let backend = network.lab.backend(0);
    let seen = network.seen_as(downloader);
    ensure!(learnt(backend, seen)?.is_none());
    let get = Curl::get(network.dial(80), "/download").limit(Duration::from_secs(20));
    let response = get.run(downloader.namespace())?;
    ensure!(
        response.body == download_pattern(DOWNLOAD_LEN),
        "{} bytes came: {}",
        response.body.len(),
        response.message
    );
    let of_backend = learnt(backend, seen)?;
    ensure!(of_backend == Some(NARROW_MTU), "{of_backend:?}");
    watch.judge()
}

fn upload(network: &Network, client: &Node) -> Result<()> {
    let scratch = Scratch::create("upload")?;
    let path = scratch.path().join("file");
    fs::write(&path, download_pattern(UPLOAD_LEN))?;
    let put = Curl::get(network.dial(80), "/upload/file");
    let put = put.args(["--upload-file", &path.to_string_lossy()]);
    let response = put.limit(Duration::from_secs(20)).run(client.namespace())?;
    ensure!([201, 204].contains(&response.status), "{response:?}");
    Ok(())
}

fn learnt(node: &Node, to: IpAddr) -> Result<Option<u32>> {
    link::learnt_mtu(node.namespace(), to)
}
