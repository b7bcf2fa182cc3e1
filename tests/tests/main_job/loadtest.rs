//! `balancer loadtest` from a client's host through the balancer to real
//! servers: what it counts, what it judges, and whom it does not touch.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, binary};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::{Lab, Node, wait_for};
use balancer_user::loadtest::packets::report::Report as PacketReport;
use balancer_user::loadtest::report::Report;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::LIMIT;
use crate::fixture::{Service, balancer, l2, v4, v6, web_servers};

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
        self.command(arguments)?.output().context("cannot run")
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let program = binary();
        let program = program.to_str().context("a path that is no text")?;
        let mut command = self.lab.client(0).namespace().command(program);
        command.arg("--socket").arg(&self.socket).arg("loadtest");
        command.arg("--allow-file").arg(self.file("allow"));
        command.args(arguments);
        Ok(command)
    }

    /// Runs one that is to end with that code, and gives its report.
    fn report(&self, arguments: &[&str], code: i32) -> Result<Report> {
        self.read(arguments, code)
    }

    /// Sends packets that are all to arrive, whatever a busy machine makes of
    /// their rate: 2,000 a second for 3 seconds.
    fn send(&self, arguments: &[&str]) -> Result<PacketReport> {
        let pace = ["--rate", "2000", "--duration", "3s", "--min-made", "0"];
        let report: PacketReport = self.read(&[arguments, &pace].concat(), 0)?;
        ensure!(report.sent + report.missed == 6000, "{report:?}");
        ensure!(report.sent > 0 && report.lost == Some(0), "{report:?}");
        ensure!(report.counted == Some(report.sent), "{report:?}");
        let all = report.shares.iter().map(|it| it.counted).sum();
        ensure!(report.counted == Some(all), "{report:?}");
        ensure!(report.interface == "eth0", "{report:?}");
        Ok(report)
    }

    fn read<T: DeserializeOwned>(&self, arguments: &[&str], code: i32) -> Result<T> {
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

/// Sockets on all backends that take what comes to a port, and have room for
/// all of it.
fn takers(lab: &Lab, port: u16) -> Result<Vec<UdpSocket>> {
    let taker = |node: &Node| -> Result<UdpSocket> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let socket = node.namespace().run(|| UdpSocket::bind(any))??;
        setsockopt(&socket, RcvBufForce, &(64 << 20))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    lab.backends().iter().map(taker).collect()
}

/// Takes what has come, as whose and how often; the kernel takes none of which
/// a checksum is wrong. All have to be of that length.
fn taken(socket: &UdpSocket, len: usize) -> Result<BTreeMap<SocketAddr, u64>> {
    let (mut buffer, mut taken) = ([0; 2048], BTreeMap::new());
    while let Ok((got, from)) = socket.recv_from(&mut buffer) {
        ensure!(got == len, "{got} bytes from {from}");
        *taken.entry(from).or_default() += 1;
    }
    Ok(taken)
}

/// What servers took is what was sent, flow by flow, and each flow has one.
fn all_taken(takers: &[UdpSocket], len: usize, report: &PacketReport) -> Result<()> {
    let taken = takers.iter().map(|it| taken(it, len));
    let taken: Vec<_> = taken.collect::<Result<_>>()?;
    let counts = taken.iter().flat_map(|it| it.values());
    ensure!(counts.clone().sum::<u64>() == report.sent, "{report:?}");
    // In turn, so no flow has more than one packet more than another.
    let (least, most) = (counts.clone().min(), counts.max());
    ensure!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least <= 1)
    );
    let flows: BTreeSet<_> = taken.iter().flat_map(|it| it.keys()).collect();
    ensure!(flows.len() == 500, "{}", flows.len());
    ensure!(taken.iter().map(BTreeMap::len).sum::<usize>() == 500);
    for (share, taken) in report.shares.iter().zip(&taken) {
        ensure!(share.counted == taken.values().sum::<u64>(), "{report:?}");
        // Six standard deviations of 500 flows on three slots' thirds.
        ensure!((share.expected - 1.0 / 3.0).abs() < 0.01, "{share:?}");
        ensure!((share.seen - share.expected).abs() < 0.13, "{share:?}");
    }
    Ok(())
}

/// Two services of UDP and one of TCP, which nobody probes.
fn packet_services(lab: &Lab, listen: SocketAddr) -> String {
    let udp = |name, address: IpAddr, backends| Service {
        name,
        port: 53,
        protocol: "udp",
        health: "",
        ..Service::web(address, "l2", backends)
    };
    let services = [
        udp("dns", lab.vip_v4().into(), v4(lab.backends())),
        udp("dns6", lab.vip_v6().into(), v6(lab.backends())),
        Service {
            health: "",
            ..Service::web_l2(lab)
        },
    ];
    let text: Vec<String> = services.iter().map(Service::toml).collect();
    format!("listen = \"{listen}\"\n\n{}", text.join("\n"))
}

/// Ctrl-C ends it, and what there is so far is told.
fn interrupt(tester: &Tester<'_>, balancer: &Balancer<'_>, target: &str) -> Result<()> {
    let before = balancer.status()?.services[0].backends[0].packets;
    let mut command = tester.command(&[target, "--duration", "1m", "--json"])?;
    let running = command.stdout(Stdio::piped()).spawn()?;
    wait_for("packets of an endless test", LIMIT, || {
        let packets = balancer.status().ok()?.services[0].backends[0].packets;
        (packets > before).then_some(())
    })?;
    kill(Pid::from_raw(running.id().try_into()?), Signal::SIGINT)?;
    let output = running.wait_with_output()?;
    let report: PacketReport = serde_json::from_slice(&output.stdout)?;
    ensure!(
        output.status.code() == Some(1) && report.interrupted,
        "{report:?}"
    );
    ensure!(report.sent > 0 && report.lost == Some(0), "{report:?}");

    // What was attached is gone.
    let mut ip = tester.lab.client(0).namespace().command("ip");
    let shown = ip.args(["-details", "link", "show", "eth0"]).output()?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    ensure!(
        shown.contains("eth0") && !shown.contains("xdp/id"),
        "{shown}"
    );
    Ok(())
}

#[test]
fn packets_of_the_kernels_generator_all_arrive_and_are_counted() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let takers = takers(&lab, 53)?;
    let listen = SocketAddr::new(lab.balancer().v4().into(), 9180);
    let balancer = balancer(&lab, &packet_services(&lab, listen))?;
    let allowed = format!(
        "{} 53,80\n{} 53\n2001:db8:77::/64\n203.0.113.0/28\n",
        lab.vip_v4(),
        lab.vip_v6()
    );
    let tester = Tester::new(&lab, &balancer, &allowed)?;
    let page = tester.file("report.html");
    let page_name = page.to_str().context("a path that is no text")?;

    let target = format!("udp://{}:53", lab.vip_v4());
    let report = tester.send(&[&target, "--flows", "500", "--html", page_name])?;
    ensure!(
        (report.frame_bytes, report.flows) == (64, 500),
        "{report:?}"
    );
    ensure!(
        report.source == lab.client(0).v4().to_string(),
        "{report:?}"
    );
    all_taken(&takers, 22, &report)?;
    let page = fs::read_to_string(page)?;
    ensure!(page.contains(&target) && page.contains("counted by the balancer"));

    // Over IPv6 by the metrics, from addresses of nobody.
    let target = format!("udp://[{}]:53", lab.vip_v6());
    let metrics = format!("http://{listen}/metrics");
    let by = ["--metrics", &metrics, "--service", "dns6"];
    let from = [
        "--flows",
        "500",
        "--size",
        "1001",
        "--source",
        "2001:db8:77::/120",
    ];
    let report = tester.send(&[&[&*target], &by[..], &from[..]].concat())?;
    ensure!(
        (report.frame_bytes, report.sources) == (1001, 255),
        "{report:?}"
    );
    all_taken(&takers, 939, &report)?;

    // First packets of connections, each of which is a flow.
    let target = format!("syn://{}:80", lab.vip_v4());
    let report = tester.send(&[&target, "--source", "203.0.113.0/28"])?;
    ensure!(
        (report.sources, report.shares.len()) == (14, 3),
        "{report:?}"
    );

    let target = format!("udp://{}:53", lab.vip_v4());
    interrupt(&tester, &balancer, &target)?;

    // For people.
    let output = tester.run(&[
        &target,
        "--flows",
        "500",
        "--duration",
        "1s",
        "--min-made",
        "0",
    ])?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && text.contains("0 lost"),
        "{output:?}"
    );
    println!("{text}");
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
    for target in ["udp", "syn"].map(|it| format!("{it}://{}:80", lab.vip_v4())) {
        let output = other.run(&[&target])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("may not be tested"), "{said}");
        // The target is in the list, and who would be answered is not.
        let port = Tester::new(&lab, &balancer, &format!("{} 80\n", lab.vip_v4()))?;
        let output = port.run(&[&target, "--source", &format!("{}/32", lab.vip_v4())])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{output:?}");
        ensure!(said.contains("no packets may come from"), "{said}");
    }
    let wrong = Tester::new(&lab, &balancer, "198.51.100.0/24\nweb\n")?;
    refused(&wrong, "line 2: `web` is neither an address nor a prefix")?;
    fs::remove_file(other.file("allow"))?;
    refused(&other, "is not there, so nothing may be tested")?;
    let output = other.run(&["ftp://192.0.2.1/"])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    ensure!(flows(&balancer)? == 0);
    Ok(())
}
