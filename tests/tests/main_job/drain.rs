//! A drained backend gets nothing new and keeps what it has.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::server::download_pattern;
use balancer_tests::lab::{Lab, Process, wait_for};

use crate::LIMIT;
use crate::fixture::{Api, SLOW_DOWNLOAD, Service, balancer, burst, l2, web_servers};

const DOWNLOAD_LEN: usize = 4 << 20;
/// Source ports of the downloads; each is hashed to some backend.
const PORTS: std::ops::Range<u16> = 20_001..20_009;

#[test]
fn drained_backend_keeps_its_downloads_and_gets_nothing_new() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let api = Api::new(&balancer)?;
    let mut downloads: Vec<Download> = PORTS
        .map(|port| Download::start(&lab, &service, port))
        .collect::<Result<_>>()?;
    let backends: Vec<String> = downloads
        .iter_mut()
        .map(Download::wait_begun)
        .collect::<Result<_>>()?;
    let drained = backends[0].as_str();
    let kept = backends.iter().filter(|it| *it == drained).count();

    balancer.succeed(&["backend", "drain", "web", drained])?;
    let before = api.backend("web", drained)?;
    ensure!(before.state == "draining", "{before:?}");
    burst(&lab, service.dial(), 1000)?;
    for download in &mut downloads {
        let ended = download.process.exit_status();
        ensure!(ended.is_none(), "{ended:?}: {}", download.process.log());
    }
    for download in &mut downloads {
        download.wait_whole()?;
    }
    let after = api.backend("web", drained)?;
    println!(
        "{kept} of {} downloads went on through the drain of {drained}: {} packets, {} new flows",
        PORTS.len(),
        after.packets - before.packets,
        after.flows - before.flows
    );
    ensure!(after.flows == before.flows, "{before:?} {after:?}");
    ensure!(after.packets > before.packets, "they went another way");
    undrain(&lab, &balancer, &service, drained)
}

fn undrain(lab: &Lab, balancer: &Balancer<'_>, service: &Service, backend: &str) -> Result<()> {
    let api = Api::new(balancer)?;
    let before = api.flows("web", backend)?;
    balancer.succeed(&["backend", "undrain", "web", backend])?;
    balancer.wait_backend("web", backend, "up")?;
    burst(lab, service.dial(), 600)?;
    let new = api.flows("web", backend)? - before;
    ensure!(new > 100, "only {new} of 600 new flows");
    Ok(())
}

/// A download in the background, which the server makes slow: curl's own
/// limit lets whole downloads of this size pass at once.
struct Download {
    process: Process,
    body: PathBuf,
    headers: PathBuf,
    _directory: Scratch,
}

impl Download {
    fn start(lab: &Lab, service: &Service, port: u16) -> Result<Self> {
        let directory = Scratch::create("download")?;
        let file = |name: &str| directory.path().join(name);
        let (body, headers) = (file("body"), file("headers"));
        let mut command = lab.client(0).namespace().command("curl");
        command.args(["--disable", "--silent", "--show-error", "--fail"]);
        command.args(["--local-port", &port.to_string()]);
        command.args(["--max-time", "30"]);
        command.arg("--dump-header").arg(&headers);
        command.arg("--output").arg(&body);
        command.arg(format!("http://{}{SLOW_DOWNLOAD}", service.dial()));
        Ok(Self {
            process: Process::spawn("curl", command, &file("log"))?,
            body,
            headers,
            _directory: directory,
        })
    }

    /// Waits until some of it is there; the backend that sends it.
    fn wait_begun(&mut self) -> Result<String> {
        let (body, headers) = (self.body.clone(), self.headers.clone());
        self.process.wait_until("a download to begin", LIMIT, || {
            let some = fs::metadata(&body).is_ok_and(|body| body.len() > 0);
            some.then_some(())
        })?;
        let text = fs::read_to_string(headers)?;
        let backend = text
            .lines()
            .find_map(|line| line.strip_prefix("X-Backend: "));
        Ok(backend.context("nobody says who sends it")?.to_owned())
    }

    fn wait_whole(&mut self) -> Result<()> {
        let ended = self.process.wait(Duration::from_secs(30))?;
        ensure!(ended.success(), "curl: {ended}: {}", self.process.log());
        let same = fs::read(&self.body)? == download_pattern(DOWNLOAD_LEN);
        ensure!(same, "a download is damaged");
        Ok(())
    }
}

#[test]
fn drain_outlives_a_restart() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    balancer.succeed(&["backend", "drain", "web", "backend1"])?;
    balancer.kill()?;
    balancer.restart()?;
    burst(&lab, service.dial(), 200)?;
    let backend = Api::new(&balancer)?.backend("web", "backend1")?;
    ensure!(
        backend.state == "draining" && backend.flows == 0,
        "{backend:?}"
    );
    wait_for("the change to be told", LIMIT, || {
        let status = balancer.status().ok()?;
        (status.runtime_changes == ["service web: backend backend1 drains"]).then_some(())
    })
}
