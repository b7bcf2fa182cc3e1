//! Web traffic over TCP in every forwarding mode and family.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Decap;
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::server::{Access, Nginx, download_pattern};
use balancer_tests::lab::{Lab, LabConfig, link, wait_for};

use crate::LIMIT;
use crate::fixture::{Service, balancer, get_well, v4, v6, web_servers};

const REQUESTS: usize = 60;
const DOWNLOAD_LEN: usize = 4 << 20;
const UPLOAD_LEN: usize = 1 << 20;

#[test]
fn l2_serves_an_ipv4_service() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(3))?;
    serve(&lab, &Service::web_l2(&lab))
}

#[test]
fn l2_serves_an_ipv6_service() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(3))?;
    serve(&lab, &Service::web(lab.vip_v6(), "l2", v6(lab.backends())))
}

#[test]
fn ipip_carries_ipv4_in_ipv4() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(3))?;
    let service = Service::web(lab.vip_v4(), "ipip", v4(lab.backends()));
    serve_tunnelled(&lab, &service)
}

#[test]
fn ipip_carries_ipv6_in_ipv6() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(3))?;
    let service = Service::web(lab.vip_v6(), "ipip", v6(lab.backends()));
    serve_tunnelled(&lab, &service)
}

#[test]
fn ipip_carries_ipv4_in_ipv6() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(3))?;
    let service = Service::web(lab.vip_v4(), "ipip", v6(lab.backends()));
    serve_tunnelled(&lab, &service)
}

#[test]
fn ipip_carries_ipv6_in_ipv4() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(3))?;
    let service = Service::web(lab.vip_v6(), "ipip", v4(lab.backends()));
    serve_tunnelled(&lab, &service)
}

fn serve_tunnelled(lab: &Lab, service: &Service) -> Result<()> {
    let _decaps = decaps(lab)?;
    serve(lab, service)
}

/// `balancer decap` on every backend, for tunnels of the lab's balancer alone.
pub(crate) fn decaps(lab: &Lab) -> Result<Vec<Decap>> {
    let back = &lab.balancer().interfaces()[1];
    let sources: [IpAddr; 2] = [back.v4[0].into(), back.v6[0].into()];
    lab.backends()
        .iter()
        .map(|backend| Decap::start(backend.namespace(), "eth0", &sources))
        .collect()
}

fn serve(lab: &Lab, service: &Service) -> Result<()> {
    let servers = web_servers(lab)?;
    let balancer = balancer(lab, &service.toml())?;
    requests_reach_every_backend(lab, service, &servers)?;
    replies_bypass_the_balancer(lab, service)?;
    upload_arrives_whole(lab, service, &servers)?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

fn requests_reach_every_backend(lab: &Lab, service: &Service, servers: &[Nginx]) -> Result<()> {
    let client = lab.client(0);
    let own: IpAddr = if service.address.is_ipv4() {
        client.v4().into()
    } else {
        client.v6().into()
    };
    let mut answered = BTreeSet::new();
    for _ in 0..REQUESTS {
        let response = get_well(lab, service.dial())?;
        ensure!(
            response.header("x-client") == Some(own.to_string().as_str()),
            "{response:?}"
        );
        answered.extend(response.backend().map(str::to_owned));
    }
    ensure!(
        answered.len() == servers.len(),
        "only {answered:?} answered"
    );
    // A server logs a request when the client has its answer already.
    let logged = wait_for("all requests in the logs", LIMIT, || {
        let logged = requests_logged(servers).ok()?;
        (logged.len() >= REQUESTS).then_some(logged)
    })?;
    let expected = |access: &&Access| access.client.ip() == own && access.server == service.dial();
    ensure!(
        logged.iter().filter(expected).count() == REQUESTS,
        "{logged:?}"
    );
    Ok(())
}

/// All requests but those of probes.
fn requests_logged(servers: &[Nginx]) -> Result<Vec<Access>> {
    let mut logged = Vec::new();
    for server in servers {
        logged.extend(server.accesses()?);
    }
    logged.retain(|access| access.path == "/");
    Ok(logged)
}

fn replies_bypass_the_balancer(lab: &Lab, service: &Service) -> Result<()> {
    let before = crossed(lab)?;
    let response = Curl::get(service.dial(), "/download").run(lab.client(0).namespace())?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(
        response.body == download_pattern(DOWNLOAD_LEN),
        "the download is damaged"
    );
    let bytes = crossed(lab)? - before;
    println!(
        "{} {}: {bytes} bytes crossed the balancer during a download of {DOWNLOAD_LEN}",
        service.forward, service.address
    );
    ensure!(
        bytes < DOWNLOAD_LEN as u64 / 4,
        "{bytes} bytes of the reply crossed the balancer"
    );
    Ok(())
}

pub(crate) fn upload_arrives_whole(lab: &Lab, service: &Service, servers: &[Nginx]) -> Result<()> {
    let scratch = Scratch::create("upload")?;
    let path = scratch.path().join("file");
    let sent = download_pattern(UPLOAD_LEN);
    fs::write(&path, &sent)?;
    let before = crossed(lab)?;
    let upload = Curl::get(service.dial(), "/upload/file")
        .args(["--upload-file", &path.to_string_lossy()])
        .run(lab.client(0).namespace())?;
    // The second is of one that was there.
    ensure!(matches!(upload.status, 201 | 204), "{upload:?}");
    let taker = upload.backend().context("nobody says who took it")?;
    let index = lab
        .backends()
        .iter()
        .position(|node| node.name() == taker)
        .context("somebody unknown took it")?;
    ensure!(
        servers[index].uploaded("file")? == sent,
        "the upload is damaged"
    );
    // The other direction crosses it, so these counters do count.
    let bytes = crossed(lab)? - before;
    ensure!(bytes > UPLOAD_LEN as u64, "only {bytes} bytes crossed");
    Ok(())
}

/// Bytes that all interfaces of the balancer have received and sent.
fn crossed(lab: &Lab) -> Result<u64> {
    let balancer = lab.balancer();
    balancer
        .interfaces()
        .iter()
        .map(|interface| {
            let counters = link::counters(balancer.namespace(), &interface.name)?;
            Ok(counters.rx_bytes + counters.tx_bytes)
        })
        .sum()
}
