//! Web traffic: large transfers whose bytes are verified, and load.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::LabConfig;
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::{Curl, Response, WrkRun};
use balancer_tests::lab::server::{Nginx, download_pattern};

use crate::every_mode;
use crate::fixture::{DOWNLOAD_LEN, Mode, Network};

const UPLOAD_LEN: usize = 8 << 20;
/// Each from another port, so that all backends have their turn.
const TRANSFERS: usize = 6;
const SMALL_REQUESTS: usize = 40;

every_mode!(serve);

fn serve(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig::backends(3))?;
    let servers = network.web_servers()?;
    let web = network.web();
    let balancer = network.balancer(&[web])?;
    let watch = network.watch()?;
    let server = network.dial(80);
    requests_reach_every_backend(&network, server)?;
    for _ in 0..TRANSFERS {
        download(&network, server)?;
        upload(&network, server, &servers)?;
    }
    watch.judge()?;
    load_has_no_error(&network, server)?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

fn requests_reach_every_backend(network: &Network, server: SocketAddr) -> Result<()> {
    let mut answered = BTreeSet::new();
    for _ in 0..SMALL_REQUESTS {
        let response = ask(network, Curl::get(server, "/"))?;
        ensure!(response.status == 200, "{response:?}");
        let seen = response.header("x-client");
        ensure!(
            seen.is_some_and(|seen| {
                seen.parse()
                    .is_ok_and(|seen| network.is_seen_as(network.client(), seen))
            }),
            "{response:?}"
        );
        answered.extend(response.backend().map(str::to_owned));
    }
    let backends = network.lab.backends().len();
    ensure!(answered.len() == backends, "only {answered:?} answered");
    Ok(())
}

fn download(network: &Network, server: SocketAddr) -> Result<()> {
    let response = ask(network, Curl::get(server, "/download"))?;
    ensure!(
        response.status == 200 && response.body == download_pattern(DOWNLOAD_LEN),
        "a download of {} bytes is damaged: status {}, {}",
        response.body.len(),
        response.status,
        response.message
    );
    Ok(())
}

fn upload(network: &Network, server: SocketAddr, servers: &[Nginx]) -> Result<()> {
    let scratch = Scratch::create("upload")?;
    let path = scratch.path().join("file");
    let sent = download_pattern(UPLOAD_LEN);
    fs::write(&path, &sent)?;
    let put = Curl::get(server, "/upload/file").args(["--upload-file", &path.to_string_lossy()]);
    let response = ask(network, put)?;
    // 201 for a file that is new, 204 for one that is replaced.
    ensure!([201, 204].contains(&response.status), "{response:?}");
    let taker = response.backend().context("nobody says who took it")?;
    let backends = network.lab.backends();
    let index = backends.iter().position(|node| node.name() == taker);
    let taken = servers[index.context("somebody unknown took it")?].uploaded("file")?;
    ensure!(taken == sent, "an upload to {taker} is damaged");
    Ok(())
}

fn ask(network: &Network, request: Curl) -> Result<Response> {
    request
        .limit(Duration::from_secs(20))
        .run(network.lab.client(0).namespace())
}

fn load_has_no_error(network: &Network, server: SocketAddr) -> Result<()> {
    for reconnect in [false, true] {
        let run = WrkRun {
            reconnect,
            ..WrkRun::new(server, "/")
        };
        let report = run.run(network.lab.client(0).namespace())?;
        println!(
            "{}: {:.0} requests/s, connections stay: {}, {} errors",
            network.mode,
            report.requests_per_second(),
            !reconnect,
            report.errors()
        );
        ensure!(report.errors() == 0 && report.requests > 500, "{report:?}");
    }
    Ok(())
}
