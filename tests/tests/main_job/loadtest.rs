//! `balancer loadtest` from a client's host through the balancer to real
//! servers: what it counts, what it judges, and whom it does not touch.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, binary};
use balancer_tests::lab::Lab;
use balancer_tests::lab::cleanup::Scratch;
use balancer_user::loadtest::report::Report;

use crate::fixture::{Service, balancer, l2, web_servers};

/// A client's host with a list of who may be tested.
struct Tester<'a> {
    lab: &'a Lab,
    socket: PathBuf,
    directory: Scratch,
}

impl<'a> Tester<'a> {
    fn new(lab: &'a Lab, balancer: &Balancer<'_>, allowed: &str) -> Result<Self> {
        let directory = Scratch::create("loadtest")?;
        fs::write(directory.path().join("allow"), allowed)?;
        let socket = balancer.socket();
        Ok(Self {
            lab,
            socket,
            directory,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let program = binary();
        let program = program.to_str().context("a path that is no text")?;
        let mut command = self.lab.client(0).namespace().command(program);
        command.arg("--socket").arg(&self.socket).arg("loadtest");
        command.arg("--allow-file").arg(self.file("allow"));
        command.args(arguments).output().context("cannot run")
    }

    /// Runs one that is to end with that code, and gives its report.
    fn report(&self, arguments: &[&str], code: i32) -> Result<Report> {
        let output = self.run(&[arguments, &["--json"]].concat())?;
        ensure!(output.status.code() == Some(code), "{output:?}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }
}

/// Flows of the only service's backends.
fn flows(balancer: &Balancer<'_>) -> Result<u64> {
    let status = balancer.status()?;
    Ok(status.services[0].backends.iter().map(|it| it.flows).sum())
}

fn verdict<'a>(report: &'a Report, name: &str) -> Result<&'a str> {
    let mut judged = report.verdict.iter();
    let found = judged.find(|it| it.name == name && !it.passed);
    let found = found.with_context(|| format!("{name} is not failed: {:?}", report.verdict))?;
    Ok(&found.seen)
}

#[test]
fn each_flow_is_counted_at_both_ends_and_shares_are_held_against_slots() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let listen = SocketAddr::new(lab.balancer().v4().into(), 9180);
    let text = format!("listen = \"{listen}\"\n\n{}", service.toml());
    let balancer = balancer(&lab, &text)?;
    let tester = Tester::new(&lab, &balancer, &format!("{} 80 # web\n", lab.vip_v4()))?;
    let target = format!("http://{}/", lab.vip_v4());
    let page = tester.file("report.html");
    let page_name = page.to_str().context("a path that is no text")?;

    let made = [
        "--rate",
        "300",
        "--duration",
        "3s",
        "--server-header",
        "server",
    ];
    let report = tester.report(&[&[&*target, "--html", page_name], &made[..]].concat(), 0)?;
    ensure!(
        (report.answered, report.failed, report.skipped) == (900, 0, 0),
        "{report:?}"
    );
    ensure!(
        report.answered_by.values().sum::<u64>() == 900,
        "{report:?}"
    );
    ensure!(report.times.context("no times")?.p50 > 0.0, "{report:?}");
    ensure!(
        report.seconds.iter().map(|it| it.answered).sum::<u64>() == 900,
        "{report:?}"
    );
    ensure!(report.service.as_deref() == Some("web"), "{report:?}");
    ensure!(report.shares.len() == 3, "{report:?}");
    ensure!(
        report.shares.iter().map(|it| it.flows).sum::<u64>() == 900,
        "{report:?}"
    );
    for share in &report.shares {
        // Backends have a third of the slots each, less what a table leaves over.
        ensure!((share.expected - 1.0 / 3.0).abs() < 0.01, "{share:?}");
    }
    let page = fs::read_to_string(page)?;
    ensure!(
        page.contains(&target) && page.contains(">passed</span>"),
        "{page}"
    );

    // Ten requests a connection are a tenth of the flows; by the metrics.
    let before = flows(&balancer)?;
    let metrics = format!("http://{listen}/metrics");
    let by = [
        "--metrics",
        &metrics,
        "--service",
        "web",
        "--requests",
        "10",
    ];
    let report = tester.report(&[&[&*target], &by[..], &made[..4]].concat(), 0)?;
    ensure!((report.answered, report.failed) == (900, 0), "{report:?}");
    ensure!(
        report.shares.iter().map(|it| it.flows).sum::<u64>() == 90,
        "{report:?}"
    );
    ensure!(flows(&balancer)? - before == 90, "{}", flows(&balancer)?);

    // For people.
    let output = tester.run(&[&[&*target], &made[..4]].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        text.contains("900 answered, 0 failed, 0 not made in 3 s"),
        "{text}"
    );
    println!("{text}");

    // Connections alone.
    let target = format!("tcp://{}:80", lab.vip_v4());
    let report = tester.report(&[&[&*target], &made[..4]].concat(), 0)?;
    ensure!((report.answered, report.failed) == (900, 0), "{report:?}");
    ensure!(
        report.shares.iter().map(|it| it.flows).sum::<u64>() == 900,
        "{report:?}"
    );
    Ok(())
}

#[test]
fn what_is_not_good_enough_ends_with_1_and_says_why() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let tester = Tester::new(&lab, &balancer, &format!("{}\n", lab.vip_v4()))?;
    let good = format!("http://{}/", lab.vip_v4());
    let short = ["--rate", "50", "--duration", "1s"];

    let missing = format!("http://{}/no-such-page", lab.vip_v4());
    let report = tester.report(&[&[&*missing], &short[..]].concat(), 1)?;
    ensure!(
        report.failures["status 404, expected 200 to 399"] == 50,
        "{report:?}"
    );
    ensure!(verdict(&report, "requests that failed")? == "100.0 % (50 of 50)");
    let expected = [&[&*missing, "--expect-status", "404"], &short[..]].concat();
    ensure!(tester.report(&expected, 0)?.answered == 50);

    let report = tester.report(&[&[&*good, "--max-p99", "1us"], &short[..]].concat(), 1)?;
    verdict(&report, "99 of 100 took")?;

    // One flow at a time, each of which hangs until its time is up.
    let silent = format!("http://{}:81/", lab.vip_v4());
    let hang = ["--timeout", "400ms", "--most-under-way", "1"];
    let report = tester.report(&[&[&*silent], &hang[..], &short[..]].concat(), 1)?;
    ensure!(
        report.answered == 0 && report.failed > 0 && report.skipped > 0,
        "{report:?}"
    );
    verdict(&report, "requests made, of those due")?;
    Ok(())
}

#[test]
fn nobody_is_tested_who_is_not_in_the_list() -> Result<()> {
    let lab = l2(1)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let target = format!("http://{}/", lab.vip_v4());
    let refused = |tester: &Tester<'_>, part: &str| -> Result<()> {
        let output = tester.run(&[&target, "--duration", "1s"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.contains(part),
            "{output:?}"
        );
        Ok(())
    };
    let other = Tester::new(&lab, &balancer, "198.51.100.0/24\n")?;
    refused(&other, "may not be tested")?;
    let port = Tester::new(&lab, &balancer, &format!("{} 81\n", lab.vip_v4()))?;
    refused(&port, "may not be tested")?;
    let wrong = Tester::new(&lab, &balancer, "198.51.100.0/24\nweb\n")?;
    refused(&wrong, "line 2: `web` is neither an address nor a prefix")?;
    fs::remove_file(other.file("allow"))?;
    refused(&other, "is not there, so nothing may be tested")?;
    let output = other.run(&["ftp://192.0.2.1/"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(flows(&balancer)? == 0);
    Ok(())
}
